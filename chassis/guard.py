"""Doors: every route of a service names its action, is decided again, and commits before it answers.

``doors(service)`` gives a router whose routes run in this order: read the identity header (the peer is the gateway, its
certificate said so), decide, wait for the facts named in ``Hortus-After``, read the body, open the transaction when the route asks for
it, run the route, commit, answer. A failed commit is a failure, never a success that was already sent. A change whose caller
has left by then is not made: the gateway cuts a request whose right is lost, however long a lock or a pool keeps it waiting here.
"""

import asyncio
import base64
import functools
import hashlib
import json
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.routing import APIRoute
from pydantic import ValidationError
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from chassis import db, idempotency
from chassis.arguments import found_here
from chassis.errors import (
    PROBLEM_RESPONSE,
    CallerLeft,
    CannotDecide,
    ChangedMeanwhile,
    FactorTooOld,
    Forbidden,
    NotFound,
    PreconditionFailed,
    PreconditionRequired,
    Problem,
    Unauthenticated,
    Unprocessable,
)
from chassis.idempotency import Answer, AnsweredBefore, Claim
from chassis.outbox import Caller, UnitOfWork, facts_header, read_facts_header
from chassis.together import Asking, Once, Together
from contracts.events import Outcome
from contracts.policy import API, POLICY, Action, Decision, Service, Who, decide
from contracts.roles import NOBODY, Actor, Principal

I = TypeVar("I")  # noqa: E741 - an item
R = TypeVar("R")
IDENTITY_HEADER = "Hortus-Identity"
REQUEST_HEADER = "Hortus-Request"
FACTS_HEADER = "Hortus-Facts"
AFTER_HEADER = "Hortus-After"
AFTER_WAIT_S = 1.0
AFTER_LOOK_S = 0.02
READING = frozenset({"GET", "HEAD"})


class NotSignedIn(Unauthenticated):
    """A door for people who signed in."""


class NotAMember(NotFound):
    """The caller may not know whether the project exists."""

    slug = "not-a-member"


class RoleMayNot(Forbidden):
    """The caller's role does not allow it."""

    title = "Your role does not allow this"


class WrongPrincipal(Forbidden):
    """The door is not for this kind of caller."""

    title = "This door is not for this kind of caller"


class SessionNeeded(Forbidden):
    """A project certificate or an API key does not open the door."""

    title = "This needs a sign-in: a project certificate or an API key is not enough"


class ScopeMissing(Forbidden):
    """The API key was not made for this action."""

    title = "The API key was not made for this"


_APPLIED = text("""SELECT bool_and(coalesce(i.version, 0) >= w.version)
                   FROM unnest(CAST(:topics AS text[]), CAST(:keys AS text[]), CAST(:versions AS bigint[])) AS w(topic, key, version)
                   LEFT JOIN inbox i USING (topic, key)""")


REFUSALS = (NotSignedIn, NotAMember, RoleMayNot, WrongPrincipal, SessionNeeded, ScopeMissing, FactorTooOld)


def refusal(decision: Decision) -> Problem:
    """The problem for a refusal by the policy."""
    by_reason: dict[str, type[Problem]] = {kind.slug: kind for kind in REFUSALS}
    kind = by_reason.get(decision.reason.value, RoleMayNot)
    if kind is NotAMember:
        return NotFound()
    return kind()


def write_identity(actor: Actor) -> str:
    """The identity header's value."""
    return base64.urlsafe_b64encode(actor.model_dump_json(exclude_defaults=True).encode()).rstrip(b"=").decode()


def read_identity(value: str | None) -> Actor:
    """The actor in an identity header; nobody without one. Raises Unauthenticated when it cannot be read."""
    if not value:
        return NOBODY
    try:
        return Actor.model_validate_json(base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)))
    except (ValueError, ValidationError) as error:
        raise Unauthenticated from error


def peer_certificate(request: Request) -> bytes | None:
    """The certificate (DER) that the connection shows, which the handshake accepted."""
    der: bytes | None = request.scope.get("extensions", {}).get("tls", {}).get("der")
    return der


def left(request: Request) -> bool:
    """Whether the connection has ended, so that nobody waits for the answer."""
    return "gone" in request.scope.get("extensions", {}).get("tls", ())


def may(action: Action) -> Any:
    """The guard of a door: decides again with the same table as the gateway. A refused request opens no transaction."""

    async def guard(request: Request) -> Actor:
        actor = read_identity(request.headers.get(IDENTITY_HEADER))
        named = request.path_params.get("project_id")
        if named is not None and actor.project_id is not None and str(actor.project_id) != str(named):
            raise Unauthenticated("The identity speaks of another project.")
        decision = decide(actor, action)
        if not decision.allowed:
            raise refusal(decision)
        request.state.actor = actor
        request.state.action = action
        if actor.principal is not Principal.NOBODY:  # strangers could hold all connections to the database that way
            await _after(request)
        return actor

    guard.action = action  # type: ignore[attr-defined]
    return Depends(guard)


async def _after(request: Request) -> None:
    """Wait until this service has applied the facts that the caller has seen, of those topics that it hears."""
    value = request.headers.get(AFTER_HEADER)
    if not value:
        return
    try:
        wanted = read_facts_header(value)
    except ValueError as error:
        raise Unprocessable(f"{AFTER_HEADER} cannot be read.") from error
    heard = request.app.state.runtime.heard
    places = [(topic, key, version) for (topic, key), version in wanted.items() if topic in heard]
    if not places:
        return
    values = {"topics": [p[0] for p in places], "keys": [p[1] for p in places], "versions": [p[2] for p in places]}
    deadline = time.monotonic() + AFTER_WAIT_S
    while True:
        async with request.app.state.runtime.engine.connect() as connection:
            if (await connection.execute(_APPLIED, values)).scalar_one():
                return
        if time.monotonic() >= deadline:
            raise CannotDecide("What you did just now has not arrived here yet.", retry_after=1)
        await asyncio.sleep(AFTER_LOOK_S)


async def _actor(request: Request) -> Actor:
    actor: Actor = request.state.actor
    return actor


CurrentActor = Annotated[Actor, Depends(_actor)]


async def _uow(request: Request) -> UnitOfWork:
    state = request.state
    if getattr(state, "uow", None) is None:
        runtime = request.app.state.runtime
        session = db.session(runtime.engine)
        request_id = request.headers.get(REQUEST_HEADER, "")
        uow = UnitOfWork(session, runtime.settings.service, state.actor, state.action, request_id, request.headers.get("traceparent", ""))
        state.uow = uow
        await uow.begin()
        await _take_key(request, uow)
    made: UnitOfWork = state.uow
    return made


Uow = Annotated[UnitOfWork, Depends(_uow)]
OpenUow = Callable[[], Awaitable[UnitOfWork]]


async def _later(request: Request) -> OpenUow:
    return functools.partial(_uow, request)


LaterUow = Annotated[OpenUow, Depends(_later)]
"""For doors with slow work before their transaction, which then holds no connection of the pool: ``uow = await later()``."""


class Shared:
    """For doors whose requests may share a transaction with others of the same moment (``chassis.together``)."""

    def __init__(self, request: Request) -> None:
        self._request = request

    def answering(self, show: Callable[[R], Response]) -> Asking[I, R, Response]:
        """Ask for an item, and answer with what ``show`` makes of the result, which is kept where the request has an Idempotency-Key."""
        return functools.partial(self._ask, show)

    async def _ask(self, show: Callable[[R], Response], together: Together[I, R], item: I) -> Response:
        request, headers = self._request, self._request.headers
        made: list[Response] = []

        def answer(uow: UnitOfWork, result: R) -> Answer:
            made[:] = [show(result)]
            _complete(made[0], uow)
            return _kept(made[0], uow)

        claim = await _key(request)
        gone = functools.partial(left, request)
        caller = Caller(request.state.actor, headers.get(REQUEST_HEADER, ""), headers.get("traceparent", ""), gone)
        request.state.told, result = await together.ask(caller, item, Once(claim, answer) if claim else None)
        return made[0] if made else show(result)


async def _shared(request: Request) -> Shared:
    return Shared(request)


SharedUow = Annotated[Shared, Depends(_shared)]


async def _key(request: Request) -> Claim | None:
    """The Idempotency-Key of a creating POST, and what it is for."""
    key, actor = request.headers.get("Idempotency-Key"), request.state.actor
    if key is None or request.method != "POST" or actor.principal is not Principal.PERSON:
        return None
    rule = POLICY[request.state.action]
    if rule.secret or Who.NOBODY in rule.who:
        return None  # bodies with passwords leave no hash here to guess against; nobody creates anything at doors for everybody
    if not 1 <= len(key) <= 128:  # noqa: PLR2004 - a bound on what is stored
        raise Unprocessable("An Idempotency-Key has 1 to 128 characters.")
    return Claim(str(actor.user_id), key, hashlib.sha256(request.url.path.encode() + b"\n" + await request.body()).hexdigest())


async def _take_key(request: Request, uow: UnitOfWork) -> None:
    claim = await _key(request)
    if claim is not None:
        [end] = await idempotency.claim(uow.session, [claim])
        if end is not None:
            raise end
        request.state.claim = claim


def _kept(response: Response, uow: UnitOfWork) -> Answer:
    """What is kept of an answer that is complete."""
    headers = {name: value for name, value in response.headers.items() if name in ("content-type", "etag", FACTS_HEADER.lower())}
    return Answer(response.status_code, headers, None if uow.concealed else bytes(response.body))


def _complete(response: Response, told: UnitOfWork | None) -> None:
    """Say which version is shown, and which facts were told."""
    _tag(response)
    if told is not None and (named := [fact for part in told.parts for fact in part.facts + part.rests_on]):
        response.headers[FACTS_HEADER] = facts_header(named, told.actor.user_id)


class Door(APIRoute):
    """A route that decides before it reads, and commits before it answers."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Ask the guard, before FastAPI looks at the body, then let its handler run in the request's transaction."""
        (guard,) = (each.dependency for each in self.dependencies if hasattr(each.dependency, "action"))
        self.dependant.dependencies = [each for each in self.dependant.dependencies if each.call is not guard]
        handler = found_here(self, super().get_route_handler())

        async def handle(request: Request) -> Response:
            request.state.uow = request.state.told = request.state.claim = None
            try:
                await guard(request)  # type: ignore[misc]
                response = await handler(request)
                uow: UnitOfWork | None = request.state.uow
                _complete(response, uow or request.state.told)
                if uow is not None:
                    if request.state.claim is not None:
                        await idempotency.keep(uow.session, [(request.state.claim, _kept(response, uow))])
                    _wanted_still(request, uow)
                    await uow.commit()
            except AnsweredBefore as before:
                return Response(before.body, before.status, headers={**before.headers, "Idempotency-Replayed": "true"})
            except IntegrityError as error:
                raise ChangedMeanwhile from error
            finally:
                if request.state.uow is not None:
                    await request.state.uow.session.close()
            return response

        return handle


def _wanted_still(request: Request, uow: UnitOfWork) -> None:
    """A change that waited while the gateway cut it is not made; a refused try is counted, whether somebody hears of it or not.

    Raises CallerLeft.
    """
    if request.method not in READING and uow.outcome is Outcome.ALLOWED and left(request):
        raise CallerLeft


def _tag(response: Response) -> None:
    """``ETag`` of a single resource: its version."""
    content = getattr(response, "body", b"")
    if not content or response.headers.get("content-type") != "application/json" or "etag" in response.headers:
        return
    body = json.loads(bytes(content))
    version = body.get("version") if isinstance(body, dict) else None
    if isinstance(version, int):
        response.headers["ETag"] = f'"{version}"'


def doors(service: Service) -> APIRouter:
    """The router of a service: its doors lie below the API's prefix, and each refuses with a problem document."""
    router = APIRouter(prefix=API, route_class=Door, responses={"default": PROBLEM_RESPONSE})
    router.tags = [service.value]
    return router


async def _if_match(if_match: Annotated[str | None, Header()] = None) -> int:
    if if_match is None:
        raise PreconditionRequired
    try:
        return int(if_match.strip().removeprefix("W/").strip('"'))
    except ValueError as error:
        raise PreconditionFailed from error


IfMatch = Annotated[int, Depends(_if_match)]


def expect(version: int, current: int) -> None:
    """Refuse an update of another version than the caller read (RFC 9110 section 13.1.1)."""
    if version != current:
        raise PreconditionFailed(f"The resource has version {current}.")


def action_of(route: APIRoute) -> Action | None:
    """The action that a route's guard names, or None."""
    actions = [getattr(dependency.dependency, "action", None) for dependency in route.dependencies]
    named = [action for action in actions if action is not None]
    return named[0] if len(named) == 1 else None
