"""Turns at a token: whoever wants something signed there waits for one thread, and whoever issues or looks after the keys goes first.

A token may take long for a signature, or never return from one. The thread tells when the call that is under way began, so what is
bounded is the silence of one signature, and how long those take together that are made for one transaction; behind a call that does
not return nobody begins to wait.
"""

import asyncio
import itertools
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import PriorityQueue
from typing import Any, TypeVar, cast

from services.ca.signer import SignerAway

SIGN_S = 2.0
BEHIND_S = 1.0
SMOOTH = 8
END, URGENT, BEHIND = range(3)
HANGS = "a key does not answer"
SLOW = "a key takes too long for all that it is asked for together"

S = TypeVar("S")


class NoRoom(SignerAway):
    """More wait already than a token answers in reasonable time."""

    title = "Too many wait for the issuer's key at this moment"


@dataclass
class _Turn:
    """Calls that are made one by one, others between them; who waits for ``made`` can give it up.

    ``counted``: they tell how fast the token is. One is given up where a call is silent for ``patience_s``, or where all take longer
    together, from when the first of them ``began``.
    """

    calls: Sequence[Callable[[], Any]]
    patience_s: float
    counted: bool = True
    began: float | None = None
    made: "Future[list[Any]]" = field(default_factory=Future)
    so_far: list[Any] = field(default_factory=list)


class Turns:
    """Those at one token. Its thread begins with the first of them, and no process waits for its end: it may hang."""

    def __init__(self) -> None:
        self._waiting: PriorityQueue[tuple[int, int, _Turn]] = PriorityQueue()
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None
        self._began: float | None = None
        self._each_s: float | None = None
        self._behind = 0
        self._closed = False

    @property
    def hanging(self) -> bool:
        """Whether the call that is under way has been silent for so long that whoever came now would wait in vain."""
        return self._silent_s() >= SIGN_S

    def fit(self, within_s: float) -> int:
        """How many signatures the token makes in this time, in seconds, as fast as it has been lately; one, where that is not known yet."""
        return max(1, int(within_s / self._each_s)) if self._each_s else 1

    async def take(self, calls: Sequence[Callable[[], S]], patience_s: float | None = None, *, counted: bool = True) -> list[S]:
        """What calls make, one after the other.

        Raises SignerAway, and makes no more of them, where one is silent for ``patience_s`` (2 s), or all take longer together from when
        the first began: whoever asks for many keeps rows locked meanwhile. How fast the token is, the ``counted`` ones tell: those that
        are one signature each.
        """
        return await self._take(URGENT, _Turn(calls, patience_s or SIGN_S, counted))

    async def take_behind(self, call: Callable[[], S]) -> S:
        """What a call makes when nothing urgent waits.

        Raises SignerAway, and NoRoom where its turn does not come within 1 s, or as many wait like this already as the token makes in
        that time; how many those are is known from the first signature on.
        """
        if self._each_s is not None and self._behind >= self.fit(BEHIND_S):
            raise NoRoom(retry_after=1)
        self._behind += 1
        try:
            [made] = await self._take(BEHIND, _Turn([call], SIGN_S), BEHIND_S)
        finally:
            self._behind -= 1
        return cast("S", made)

    def close(self) -> None:
        """Make no more calls; those who wait are let go."""
        self._closed = True
        self._waiting.put((END, next(self._numbers), _Turn([], 0.0)))

    async def _take(self, rank: int, turn: _Turn, room_s: float = math.inf) -> list[Any]:
        if self._closed:
            raise SignerAway("nothing is signed any more", retry_after=1)
        if self.hanging:
            raise SignerAway(HANGS, retry_after=1)
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="signing", daemon=True)
            self._thread.start()
        made = asyncio.wrap_future(turn.made)
        given_up = time.monotonic() + room_s
        self._waiting.put((rank, next(self._numbers), turn))
        try:
            while not turn.made.done():  # its thread may be ahead of this loop
                left = turn.patience_s - max(self._silent_s(), _since(turn.began))
                room = math.inf if turn.began is not None else given_up - time.monotonic()
                if left <= 0:
                    raise SignerAway(HANGS if self._silent_s() >= turn.patience_s else SLOW, retry_after=1)
                if room <= 0:
                    raise NoRoom(retry_after=1)
                await asyncio.wait({made}, timeout=max(min(left, room), 0.001))
            return await made
        finally:
            turn.made.cancel()

    def _silent_s(self) -> float:
        return _since(self._began)

    def _serve(self) -> None:
        while True:
            rank, _, turn = self._waiting.get()
            if rank == END:
                break
            if not turn.made.cancelled() and self._goes_on(turn):
                self._waiting.put((rank, next(self._numbers), turn))
        while not self._waiting.empty():
            self._waiting.get()[-1].made.cancel()

    def _goes_on(self, turn: _Turn) -> bool:
        """Make a turn's next call; whether there are more of them."""
        self._began = began = time.monotonic()
        turn.began = turn.began or began
        failed: Exception | None = None
        try:
            turn.so_far.append(turn.calls[len(turn.so_far)]())
        except Exception as error:  # noqa: BLE001 - it is raised to whoever waits
            failed = error
        self._began = None
        if failed is None and turn.counted:
            took = min(time.monotonic() - began, SIGN_S)
            self._each_s = took if self._each_s is None else self._each_s + (took - self._each_s) / SMOOTH
        if failed is None and len(turn.so_far) < len(turn.calls):
            return True
        if turn.made.set_running_or_notify_cancel():
            turn.made.set_result(turn.so_far) if failed is None else turn.made.set_exception(failed)
        return False


def _since(moment: float | None) -> float:
    """How long ago that was, in seconds; 0 where it has not come."""
    return 0.0 if moment is None else time.monotonic() - moment
