"""The data plane: one bare ASGI application for both public ports.

Path → policy row → credential → standing → decision → record → forward. Whatever is missing on the way is a refusal.
"""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import uuid_utils

from chassis.errors import CannotDecide, Problem, TooLarge, problem_response
from chassis.guard import refusal
from chassis.log import logger
from chassis.projection import WAIT_S, Projection
from contracts.events import Outcome
from contracts.policy import Decision, Rule, Service
from gateway.answers import SAFETY, Page, handed_out
from gateway.authenticate import NOTHING_SHOWN, Authenticator, Credential, NotKnownYet
from gateway.authority import Authority
from gateway.bodies import Bodies
from gateway.browser import Origins, cookie_line
from gateway.connection import BODILESS, Connection, Headers
from gateway.doors import Doors, MethodNotAllowed
from gateway.forward import Forwarder
from gateway.inflight import CLIENT_LEFT, STALE, STALL_S, Flight, InFlight, Over, TooManyAtOnce
from gateway.ledger import Ledger, Traffic, outcome_of, resource_of
from gateway.measures import Measures
from gateway.protocol import answer_whole
from gateway.request import MalformedRequest, Request, facts_named, network_of
from gateway.spool import SpoolUnavailable
from gateway.standing import NOBODY_STANDING, Standing

log = logger(__name__)
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_STOPPED = "gateway-stopped"
_UPSTREAM_BROKE = "upstream-broke"
_REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
_SUCCESS = range(200, 300)
MOST_WAITING = 32


class GatewayFailed(Problem):
    """Something broke here; the log says what."""

    title = "Something broke on our side"


class Refused(Exception):
    """The policy said no: ``problem`` for the caller, ``reason`` for the record."""

    def __init__(self, decision: Decision) -> None:
        super().__init__(decision.reason)
        self.problem = refusal(decision)
        self.reason = decision.reason.value


class Plane:
    """Serves every request from outside. ``pages`` are what the gateway answers itself, by path."""

    def __init__(
        self,
        *,
        projection: Projection,
        authority: Authority,
        authenticator: Authenticator,
        forwarder: Forwarder,
        in_flight: InFlight,
        ledger: Ledger,
        pages: Mapping[bytes, Page],
        origins: Origins,
        measures: Measures,
    ) -> None:
        self._doors = Doors()
        self._projection = projection
        self._authority = authority
        self._authenticator = authenticator
        self._forwarder = forwarder
        self._in_flight = in_flight
        self._ledger = ledger
        self._spool = ledger.spool
        self._pages = pages
        self._origins = origins
        self._measures = measures
        self._bodies = Bodies()
        self._waiting: dict[str, int] = {}
        self._loop = asyncio.get_running_loop()

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one request (ASGI)."""
        began = time.perf_counter()
        request = Request(scope)
        status = 0
        try:
            request.read(scope)
            status = await self._serve(request, receive, send)
        except Refused as refused:
            status = await self._refuse(request, refused.problem, refused.reason, send)
        except Problem as problem:
            status = await self._refuse(request, problem, problem.slug, send)
        except Exception:
            log.exception("request failed", action=request.access.action)
            status = await self._broke(request, send)
        finally:
            request.client.flight = None
            door = request.door
            self._measures.answered(door.rule.service if door else "gateway", status, time.perf_counter() - began)

    async def _serve(self, request: Request, receive: Receive, send: Send) -> int:
        if not self._spool.accepts:
            raise SpoolUnavailable(retry_after=1)
        page = self._pages.get(request.raw_path)
        if page is not None:
            return await self._show(request, page, send)
        door, values = self._doors.find(request.method, request.raw_path)
        access = request.access
        request.door, request.values = door, values
        access.action = door.action.value
        access.resource = resource_of(door.ids, values)
        self._origins.demand_own(request)
        project_id = access.project_id = values[door.project] if door.project is not None else None
        credential = await self._credential(request)
        if credential is NOTHING_SHOWN:
            standing = NOBODY_STANDING
        else:
            standing = await self._standing(request, credential, project_id)
            access.is_known(standing.record, keeps_address=door.rule.service is Service.AUTH)
        decision = standing.decide(door.action)
        if not decision.allowed:
            raise Refused(decision)
        if door.rule.carries_bytes and self._spool.error is not None:
            raise SpoolUnavailable(retry_after=1)
        limit = door.rule.max_body
        if limit is not None and request.length is not None and request.length > limit:
            raise TooLarge(f"This door takes {limit} bytes.")
        flight = Flight(request.client, request.peer, credential, door.action, project_id, standing)
        request.client.flight = flight
        self._in_flight.enter(flight)
        try:
            return await self._forward(request, door.rule, flight, receive, send)
        except Over as over:
            if flight.quiet and over.reason != CLIENT_LEFT:
                return await self._refuse(request, self._lost(flight), over.reason, send)
            self._record(request, Outcome.FAILED, over.reason, None, flight)
            return 0
        except asyncio.CancelledError:
            self._record(request, Outcome.FAILED, _STOPPED, None, flight)
            request.client.cut()
            raise
        finally:
            self._in_flight.leave(flight)

    async def _credential(self, request: Request) -> Credential:
        """What the caller shows; a signing key that is on its way is waited for. Raises CannotDecide or Unauthenticated."""
        try:
            return self._authenticator.credential(request.authorization, request.der)
        except NotKnownYet as unknown:
            await self._projection.fresh()
            if not await self._arrival(request, unknown, WAIT_S):
                await self._projection.fresh()
        try:
            return self._authenticator.credential(request.authorization, request.der)
        except NotKnownYet as unknown:
            raise unknown.refusal from None

    async def _standing(self, request: Request, credential: Credential, project_id: str | None) -> Standing:
        """The caller's standing by fresh knowledge. No pause between the look at freshness and the look-up.

        Raises CannotDecide, or Unauthenticated when the credential does not count.
        """
        projection = self._projection
        if (wanted := request.wanted()) and not await projection.reached(wanted):
            raise CannotDecide("What Hortus-After names is not known here yet.", retry_after=1)
        deadline = 0.0
        while True:
            if not projection.is_fresh():
                await projection.fresh()
            try:
                return self._authority.standing(credential, project_id, time.time())
            except NotKnownYet as unknown:
                deadline = deadline or self._loop.time() + WAIT_S
                if not await self._arrival(request, unknown, deadline - self._loop.time()) and projection.is_fresh():
                    raise unknown.refusal from None

    async def _arrival(self, request: Request, unknown: NotKnownYet, seconds: float) -> bool:
        """Wait for what a credential rests on; whether it has come. Raises TooManyAtOnce.

        Anybody can make up credentials that have to be waited for, so one source has few of them waiting.
        """
        waiting, source = self._waiting, network_of(request.peer)
        if waiting.get(source, 0) >= MOST_WAITING:
            raise TooManyAtOnce(retry_after=1)
        waiting[source] = waiting.get(source, 0) + 1
        try:
            return await self._projection.until(lambda: self._projection.knowledge.version(unknown.topic, unknown.key) > 0, seconds)
        finally:
            waiting[source] -= 1
            if not waiting[source]:
                del waiting[source]

    async def _forward(self, request: Request, rule: Rule, flight: Flight, receive: Receive, send: Send) -> int:
        def begin(connection: Connection) -> None:
            stale = not self._knows(flight)
            if stale or flight.over is not None:
                connection.close()
            flight.check()
            if stale:
                raise CannotDecide("The newest permissions are not known at this moment.", retry_after=1)
            flight.upstream = connection

        body = b""
        if request.has_body and rule.max_body is not None:
            body = await self._bodies.whole(flight, receive, rule.max_body)
            if request.chunked:
                body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
            await self._still_fresh(flight)
        streams = request.has_body and rule.max_body is None
        if rule.service is Service.AUTH:
            request.forwarded.append(b"hortus-source: %b\r\n" % request.peer.encode("ascii"))
        if rule.cookies:
            request.forwarded.append(cookie_line(request))
        head = b"%bhortus-identity: %b\r\n%b\r\n%b" % (b"".join(request.forwarded), flight.standing.header, request.trace, body)
        connection = await self._forwarder.exchange(
            rule.service,
            request.line,
            head,
            repeatable=request.method in _REPEATABLE,
            head=request.method == "HEAD",
            streams=streams,
            begin=begin,
        )
        pump: asyncio.Task[None] | None = None
        try:
            if streams:
                flight.quiet = False
                pump = self._loop.create_task(self._pump(request, flight, connection, receive))
                await connection.head()
            return await self._answer(request, rule, flight, connection, send)
        finally:
            if pump is not None and not pump.done():
                pump.cancel()
            _let_go(flight, connection)

    async def _pump(self, request: Request, flight: Flight, connection: Connection, receive: Receive) -> None:
        """Carry a body without a limit to the service as fast as it takes it; a failure ends the exchange."""
        try:
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    flight.client_left()
                    return
                data: bytes = message["body"]
                more: bool = message["more_body"]
                flight.bytes_in += len(data)
                await self._still_fresh(flight)
                if request.chunked:
                    framed = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
                    data = framed if more else framed + b"0\r\n\r\n"
                if data:
                    await connection.write(data)
                if not more:
                    connection.finish()
                    flight.quiet = True
                    return
        except (Problem, Over) as error:
            connection.fail(error)

    async def _still_fresh(self, flight: Flight) -> None:
        """Bytes move only while it is known who may do what; a pause in that knowledge is a pause of the transfer."""
        if self._knows(flight):
            return
        try:
            await self._projection.fresh()
        except CannotDecide:
            flight.end(STALE)
        flight.check()

    def _knows(self, flight: Flight) -> bool:
        """Whether it is known now who may do what, as far as this request rests on it."""
        return flight.standing is NOBODY_STANDING or self._projection.is_fresh()

    async def _answer(self, request: Request, rule: Rule, flight: Flight, connection: Connection, send: Send) -> int:
        """Hand the service's answer to the client and record it."""
        status = connection.status
        headers, facts, said = handed_out(connection.headers, cookies=rule.cookies, cacheable=rule.cacheable)
        flight.answered(status, facts_named(facts) if facts is not None else ())
        waits = facts is not None and status in _SUCCESS and not await self._projection.reached(facts_named(facts))
        if waits:
            status = 202
        opened = rule.carries_bytes and status in _SUCCESS
        if opened:
            await self._spool.durable(self._record(request, Outcome.OPENED, "allowed", status, None))
        outcome, reason = (Outcome.CLOSED, "allowed") if opened else outcome_of(status, said)
        digest = hashlib.sha256() if opened else None
        try:
            if not waits:
                # A change that is made and not yet in force is said to be so, also while nothing can be decided.
                await self._still_fresh(flight)
            if not connection.complete and not opened:
                await connection.small(headers)
            flight.check()
            flight.quiet = False
            if connection.complete:
                await self._whole(flight, connection, send, status, headers, digest)
            else:
                await send({"type": "http.response.start", "status": status, "headers": headers})
                await self._stream(flight, connection, send, digest)
            flight.check()
        except (Over, Problem) as error:
            if flight.quiet:
                raise
            reason = error.reason if isinstance(error, Over) else _UPSTREAM_BROKE
            outcome = Outcome.FAILED
            if reason != CLIENT_LEFT:
                request.client.cut()
        self._record(request, outcome, reason, status, flight, digest.hexdigest() if digest else None)
        return status

    async def _whole(self, flight: Flight, connection: Connection, send: Send, status: int, headers: Headers, digest: Any) -> None:
        """Send an answer that is all there. A client that takes its time over it holds no connection to the service."""
        data = connection.take()
        if connection.sent:
            _let_go(flight, connection)
        if digest is not None:
            digest.update(data)
        flight.bytes_out = len(data)
        if not any(name == b"content-length" for name, _ in headers) and status not in BODILESS:
            headers.append((b"content-length", b"%d" % len(data)))
        flight.deadline = self._loop.time() + STALL_S
        await answer_whole(send, status, headers, data)

    async def _stream(self, flight: Flight, connection: Connection, send: Send, digest: Any) -> None:
        """Carry the body as it arrives; while the client takes nothing, nothing more is read from the service."""
        while data := await connection.read():
            await self._still_fresh(flight)
            flight.check()
            if digest is not None:
                digest.update(data)
            flight.deadline = self._loop.time() + STALL_S
            await send({"type": "http.response.body", "body": data, "more_body": True})
            flight.bytes_out += len(data)
        flight.deadline = 0.0
        flight.check()
        await send({"type": "http.response.body", "body": b""})

    def _lost(self, flight: Flight) -> Problem:
        """What a caller is told whose right was lost while their request waited for its answer."""
        if flight.held_back:
            return flight.undecided()
        try:
            decision = self._authority.standing(flight.credential, flight.project_id, time.time()).decide(flight.action)
        except NotKnownYet as unknown:
            return unknown.refusal
        except Problem as refused:
            return refused
        return flight.undecided() if decision.allowed else refusal(decision)

    async def _show(self, request: Request, page: Page, send: Send) -> int:
        request.access.action = page.action
        if request.method != "GET":
            raise MethodNotAllowed(["GET"])
        await self._credential(request)
        if page.known:
            await self._projection.fresh()
        body = page.body()
        self._record(request, Outcome.ALLOWED, "allowed", page.status, None)
        await answer_whole(send, page.status, page.headers(len(body)), body)
        return page.status

    async def _refuse(self, request: Request, problem: Problem, reason: str, send: Send) -> int:
        """Answer with a problem document, and record it."""
        response = problem_response(problem)
        outcome = Outcome.REFUSED if problem.status < 500 else Outcome.FAILED  # noqa: PLR2004 - RFC 9110
        if self._spool.accepts:
            self._record(request, outcome, reason, problem.status, request.client.flight)
        else:
            self._measures.unrecorded()
        headers = [*response.raw_headers, *SAFETY]
        if isinstance(problem, MethodNotAllowed):
            headers.append((b"allow", problem.allowed.encode()))
        # Where a head can be read in two ways, nobody knows where the next request begins.
        close = request.expects or isinstance(problem, MalformedRequest)
        await answer_whole(send, problem.status, headers, bytes(response.body), close=close)
        return problem.status

    async def _broke(self, request: Request, send: Send) -> int:
        flight = request.client.flight
        if flight is None or flight.quiet:
            return await self._refuse(request, GatewayFailed(), GatewayFailed.slug, send)
        self._record(request, Outcome.FAILED, GatewayFailed.slug, None, flight)
        request.client.cut()
        return 0

    def _record(
        self, request: Request, outcome: Outcome, reason: str, status: int | None, flight: Flight | None, sha256: str | None = None
    ) -> int:
        traffic = Traffic(flight.bytes_in, flight.bytes_out, sha256) if flight is not None else Traffic()
        return self._ledger.record(str(uuid_utils.uuid7()), request.access, outcome, reason, status, traffic)


def _let_go(flight: Flight, connection: Connection) -> None:
    """Give the connection to the service back, once."""
    if flight.upstream is not None:
        flight.upstream = None
        connection.release()
