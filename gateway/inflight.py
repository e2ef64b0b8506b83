"""Every request in flight, by the person or agent it runs for, so that a lost right cuts it at once, uploads included.

A request goes on only while its credential still stands and the policy still says yes. That is asked again whenever a
fact about its principal arrives, and at the instant when its right ends by the clock.
"""

import asyncio
import math
import time
from collections.abc import Callable, Container, Iterable, Iterator
from http import HTTPStatus
from typing import Any, Protocol

from chassis.errors import CannotDecide, Problem, TooManyRequests, Unauthenticated
from chassis.projection import HOLD_S, Projection
from contracts.events import SIGNING_KEYS, Fact
from contracts.policy import POLICY, Action
from gateway.answers import AnswerHeldBack
from gateway.authenticate import Credential, NotKnownYet
from gateway.authority import Authority
from gateway.request import network_of
from gateway.standing import FOREVER, NOBODY_STANDING, Standing

SOON_S = 2.0
OWN_DEED_S = 0.5
STALL_S = 300.0
MOST_AT_ONCE = 128
CUT = "cut"
STALE = "cannot-decide"
CLIENT_LEFT = "client-left"
STALLED = "stalled"


class TooManyAtOnce(TooManyRequests):
    """One person or agent, or one source (``network_of``) without a credential, holds as many requests open as one may."""

    title = "Too many of your requests are under way; wait for one of them to end"


class Cuttable(Protocol):
    """A connection that can be ended now."""

    def cut(self) -> None:
        """End it."""


class UpstreamSide(Protocol):
    """The upstream's half of a request in flight."""

    def fail(self, error: BaseException) -> None:
        """End it; whoever waits for it gets ``error``."""


class Over(Exception):
    """The request was ended from outside; ``reason`` goes into its record."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Flight:
    """One request in flight.

    ``key`` is the person or agent that it runs for, or where who shows no credential comes from. ``over`` is None, or why it was
    ended; ``deadline`` is for a client that gives or takes no more (loop's time); ``quiet`` says that
    no byte of a body or of an answer is under way, so that a cut request can still be told why. ``lost`` is the fact that took
    the right away while a service works on a change: the change itself may have said it (signing out, leaving a project).
    ``done`` says that the service has made the change.
    ``subject`` is the session or API key that it uses; getting another token is no use of a session.
    """

    __slots__ = (
        "action",
        "bytes_in",
        "bytes_out",
        "changes",
        "client",
        "credential",
        "deadline",
        "done",
        "key",
        "lost",
        "over",
        "project_id",
        "quiet",
        "seen",
        "standing",
        "subject",
        "timer",
        "upstream",
    )

    def __init__(
        self, client: Cuttable, peer: str, credential: Credential, action: Action, project_id: str | None, standing: Standing
    ) -> None:
        self.client = client
        self.credential = credential
        self.key = standing.principal or f"from {network_of(peer)}"
        self.action = action
        self.project_id = project_id
        self.standing = standing
        self.upstream: UpstreamSide | None = None
        rule = POLICY[action]
        self.done = False
        self.changes = rule.method != "GET"
        self.lost: Fact | None = None
        self.over: str | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.deadline = 0.0
        self.quiet = True
        self.bytes_in = 0
        self.bytes_out = 0
        self.seen = 0
        self.subject = None if action is Action.SESSION_REFRESH else standing.subject

    def end(self, reason: str) -> None:
        """End both halves now; a client that only waits for an answer keeps its connection and gets a refusal."""
        if self.over is not None:
            return
        self.over = reason
        if reason != CLIENT_LEFT and not self.quiet:
            self.client.cut()
        if self.upstream is not None:
            self.upstream.fail(Over(reason))

    def answered(self, status: int, facts: Container[tuple[str, str]]) -> None:
        """The service answered with ``status`` and emitted ``facts``, by (topic, key).

        An answer goes out although the right to ask is lost only when it was this request that took the right away.
        """
        self.done = self.changes and HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES
        if self.lost is not None and (self.lost.topic.name, self.lost.key) not in facts:
            self.end(CUT)
        elif self.lost is not None and self.timer is not None:
            self.timer.cancel()
        self.check()

    @property
    def held_back(self) -> bool:
        """Whether it was done, and ended because it became unknown who may be told."""
        return self.done and self.over == STALE

    def undecided(self) -> Problem:
        """What a caller is told whose request was ended although the right to ask it is there again."""
        return AnswerHeldBack(retry_after=1) if self.done else CannotDecide("Your rights have just changed.", retry_after=1)

    def client_left(self) -> None:
        """The client closed its connection."""
        self.end(CLIENT_LEFT)

    def check(self) -> None:
        """Raise Over when the request was ended from outside."""
        if self.over is not None:
            raise Over(self.over)


class InFlight:
    """The registry. ``projection``: what is known of who may do what.

    ``on_cut`` is told how many requests a lost right has just ended, ``on_use`` which session or API key is used.
    """

    def __init__(self, authority: Authority, projection: Projection, on_cut: Callable[[int], None], on_use: Callable[[str], None]) -> None:
        self._authority = authority
        self._projection = projection
        self._fresh_at = math.inf
        self._flights: dict[str, set[Flight]] = {}
        self._on_cut = on_cut
        self._on_use = on_use

    def __len__(self) -> int:
        return sum(len(flights) for flights in self._flights.values())

    def __iter__(self) -> Iterator[Flight]:
        for flights in list(self._flights.values()):
            yield from list(flights)

    def enter(self, flight: Flight) -> None:
        """Register a request, in the same turn of the event loop in which its standing was found. Raises TooManyAtOnce.

        One caller must not be able to take all the connections to a service from the others.
        """
        key = flight.key
        found = self._flights.get(key)
        if found is None:
            self._flights[key] = {flight}
        elif len(found) >= MOST_AT_ONCE:
            raise TooManyAtOnce(retry_after=1)
        else:
            found.add(flight)
        if flight.subject is not None:
            self._on_use(flight.subject)
        if flight.standing.until != FOREVER and flight.standing.until - time.time() < SOON_S:
            self._watch_clock(flight)

    def leave(self, flight: Flight) -> None:
        """The request is over."""
        key = flight.key
        found = self._flights[key]
        found.discard(flight)
        if not found:
            del self._flights[key]
        if flight.timer is not None:
            flight.timer.cancel()

    def heard(self, _old: Fact | None, new: Fact) -> None:
        """A fact changed: review every request that it may speak about."""
        about: Any = new
        if new.topic is SIGNING_KEYS:
            self._review_those([flight for flight in self if flight.credential.signed_by == about.key_id], new)
        for name in ("user_id", "agent_id"):
            key = getattr(about, name, None)
            if key is not None:
                self._review_all(str(key), new)

    def _review_all(self, key: str, cause: Fact) -> None:
        flights = self._flights.get(key)
        if flights:
            self._review_those(list(flights), cause)

    def _review_those(self, flights: Iterable[Flight], cause: Fact) -> None:
        cut = sum(self._review(flight, cause) for flight in flights)
        if cut:
            self._on_cut(cut)

    def _review(self, flight: Flight, cause: Fact | None = None) -> bool:
        """Cut the request unless it may go on; whether it was cut. ``cause`` is the fact that asks for the review."""
        if flight.over is not None or flight.lost is not None or flight.standing is NOBODY_STANDING:
            return False
        try:
            later = self._authority.standing(flight.credential, flight.project_id, time.time())
        except (Unauthenticated, NotKnownYet):
            return self._lose(flight, cause)
        if later is not flight.standing:
            if not flight.standing.holds(later, flight.action):
                return self._lose(flight, cause)
            flight.standing = later
            if later.until - time.time() < SOON_S:
                self._watch_clock(flight)
        return False

    def _lose(self, flight: Flight, cause: Fact | None) -> bool:
        """End the request, or wait a moment for the answer that tells whether it did this itself; whether it was ended.

        When the right was lost is not known, only that it was less than a second ago: the wait ends within that second.
        """
        wait = min(OWN_DEED_S, self._projection.knowledge.left(time.time(), time.monotonic()))
        if cause is not None and flight.changes and POLICY[flight.action].max_body is not None and flight.quiet and wait > 0.0:
            flight.lost = cause
            if flight.timer is not None:
                flight.timer.cancel()
            flight.timer = asyncio.get_running_loop().call_later(wait, flight.end, CUT)
            return False
        flight.end(CUT)
        return True

    def _watch_clock(self, flight: Flight) -> None:
        if flight.timer is not None:
            flight.timer.cancel()
        left = max(0.0, flight.standing.until - time.time())
        flight.timer = asyncio.get_running_loop().call_later(left, self._instant, flight)

    def _instant(self, flight: Flight) -> None:
        flight.timer = None
        if time.time() < flight.standing.until:
            self._watch_clock(flight)
        elif self._review(flight):
            self._on_cut(1)

    def sweep(self, now: float) -> None:
        """Once a second: set precise timers for what ends soon, and end what stands still. ``now`` is the loop's time.

        Whose transfer moves is using their session, however long it takes. Where it is not known for longer who may do what, transfers end,
        also those that wait for a client: what is buffered would go out as soon as it takes more.
        """
        wall = time.time()
        if self._projection.is_fresh():
            self._fresh_at = now
        stale = now - self._fresh_at > HOLD_S
        for flight in self:
            if stale and not flight.quiet and flight.standing is not NOBODY_STANDING:
                flight.end(STALE)
            moved = flight.bytes_in + flight.bytes_out
            if moved != flight.seen and flight.subject is not None:
                flight.seen = moved
                self._on_use(flight.subject)
            if flight.timer is None and flight.lost is None and flight.standing.until - wall < SOON_S:
                self._watch_clock(flight)
            if 0.0 < flight.deadline < now:
                flight.end(STALLED)
