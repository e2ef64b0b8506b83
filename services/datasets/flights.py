"""Transfers in flight that rest on something which can end: each is cut when its permission ends, on every replica.

Whoever changes a share, a run, a membership or a project says ``NOTIFY flights`` in its transaction. Every process listens, and asks
again at least twice a second anyway; when it cannot ask, it cuts everything (fail closed).
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import asyncpg
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from chassis.errors import CannotDecide
from chassis.log import logger
from services.datasets.models import FLIGHTS, RunRead, Transfer, Upload

log = logger(__name__)
LOOK_S = 0.3
ANSWER_S = 1.0

StillAllowed = Callable[[frozenset[Transfer]], Awaitable[frozenset[Transfer]]]


class Flight:
    """One transfer in flight. ``waits`` is what an upload waits in for its next piece.

    ``unknown``: it is cut because nobody can say whether it may go on.
    """

    def __init__(self, transfer: Transfer) -> None:
        self.transfer = transfer
        self.cut = asyncio.Event()
        self.waits: asyncio.Timeout | None = None
        self.unknown = False

    def end(self) -> None:
        """Cut it, also while nothing comes."""
        self.cut.set()
        if self.waits is not None:
            self.waits.reschedule(asyncio.get_running_loop().time())


class Flights:
    """The transfers in flight of this process. ``still`` says which of some are allowed at this moment."""

    def __init__(self, dsn: str, still: StillAllowed) -> None:
        self._dsn = dsn
        self._still = still
        self._flights: set[Flight] = set()
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._flights)

    @contextlib.contextmanager
    def enter(self, transfer: Transfer) -> Iterator[Flight]:
        """Be in the registry for as long as bytes flow."""
        flight = Flight(transfer)
        self._flights.add(flight)
        try:
            yield flight
        finally:
            self._flights.discard(flight)

    async def guarded(self, upload: Upload, pieces: AsyncIterator[bytes], refusal: type[Exception]) -> AsyncIterator[bytes]:
        """The pieces of an upload. Raises ``refusal`` when it is cut, or CannotDecide when nobody can say whether it has to be."""
        with self.enter(upload) as flight:
            while not flight.cut.is_set():
                try:
                    async with asyncio.timeout(None) as flight.waits:
                        piece = await anext(pieces, None)
                except TimeoutError:
                    if flight.cut.is_set():
                        break
                    raise
                flight.waits = None
                if piece is None:
                    return
                yield piece
        raise CannotDecide(retry_after=1) if flight.unknown else refusal

    async def watch(self) -> None:
        """Cut what is no longer allowed, until cancelled."""
        while True:
            connection = None
            try:
                connection = await asyncpg.connect(self._dsn, timeout=5)
                await connection.add_listener(FLIGHTS, self._notified)
                while not connection.is_closed():
                    await self._look()
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                log.warning("not listening for ended permissions, asking instead", error=type(error).__name__)
                await self._look()
            finally:
                if connection is not None:
                    connection.terminate()
            await asyncio.sleep(0)

    def _notified(self, *_: object) -> None:
        self._wake.set()

    async def _look(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_S):
                await self._wake.wait()
        self._wake.clear()
        if not self._flights:
            return
        flights = list(self._flights)
        try:
            async with asyncio.timeout(ANSWER_S):
                allowed = await self._still(frozenset(flight.transfer for flight in flights))
        except Exception as error:  # noqa: BLE001 - whoever cannot know who may do what, now, refuses
            log.error("cannot know whether transfers in flight are allowed: all are cut", error=type(error).__name__, count=len(flights))
            allowed = frozenset()
            for flight in flights:
                flight.unknown = True
        for flight in flights:
            if flight.transfer not in allowed:
                flight.end()


class GuardedStream(StreamingResponse):
    """A stream that ends early when its flight is cut, also while the reader does not read."""

    def __init__(self, flights: Flights, read: RunRead, content: Any, **arguments: Any) -> None:
        super().__init__(content, **arguments)
        self._flights = flights
        self._read = read

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the bytes. A cut one returns before its end, and the server then closes the connection."""
        with self._flights.enter(self._read) as flight:
            sending = asyncio.ensure_future(super().__call__(scope, receive, send))
            cut = asyncio.ensure_future(flight.cut.wait())
            try:
                await asyncio.wait({sending, cut}, return_when=asyncio.FIRST_COMPLETED)
                if sending.done():
                    sending.result()
                else:
                    log.warning("transfer cut", run_id=str(self._read.run_id), dataset_id=str(self._read.dataset_id))
            finally:
                cut.cancel()
                sending.cancel()
                await asyncio.gather(sending, cut, return_exceptions=True)
