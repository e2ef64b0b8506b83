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

from chassis import db
from chassis.arguments import found_here
from chassis.errors import (
    PROBLEM_RESPONSE,
    CallerLeft,
    CannotDecide,
    ChangedMeanwhile,
    Conflict,
    FactorTooOld,
    Forbidden,
    NotFound,
    PreconditionFailed,
    PreconditionRequired,
    Problem,
    Unauthenticated,
    Unprocessable,
)
from chassis.outbox import Caller, UnitOfWork, facts_header, read_facts_header
from chassis.together import Together
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


class KeyReused(Unprocessable):
    """One Idempotency-Key, two different requests."""

    title = "This Idempotency-Key was used for another request"
    slug = "idempotency-key-reused"


class AnswerWasSecret(Conflict):
    """The request was carried out before; its answer held a secret that is shown once."""

    title = "This was done before, and its answer is shown only once"


_IDEMPOTENCY_CLAIM = text("""INSERT INTO idempotency (owner, key, fingerprint) VALUES (:owner, :key, :fingerprint)
                             ON CONFLICT DO NOTHING RETURNING true""")
_IDEMPOTENCY_READ = text("SELECT fingerprint, status, body, headers FROM idempotency WHERE owner = :owner AND key = :key")
_IDEMPOTENCY_STORE = text("""UPDATE idempotency SET status = :status, body = :body, headers = CAST(:headers AS jsonb)
                             WHERE owner = :owner AND key = :key""")
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


class _Replayed(Exception):
    def __init__(self, response: Response) -> None:
        self.response = response


async def _uow(request: Request) -> UnitOfWork:
    state = request.state
    if getattr(state, "uow", None) is None:
        runtime = request.app.state.runtime
        session = db.session(runtime.engine)
        request_id = request.headers.get(REQUEST_HEADER, "")
        uow = UnitOfWork(session, runtime.settings.service, state.actor, state.action, request_id, request.headers.get("traceparent", ""))
        state.uow = uow
        await uow.begin()
        await _claim_key(request, uow)
    made: UnitOfWork = state.uow
    return made


Uow = Annotated[UnitOfWork, Depends(_uow)]
OpenUow = Callable[[], Awaitable[UnitOfWork]]


async def _later(request: Request) -> OpenUow:
    return functools.partial(_uow, request)


LaterUow = Annotated[OpenUow, Depends(_later)]
"""For doors with slow work before their transaction, which then holds no connection of the pool: ``uow = await later()``."""


class Shared:
    """For doors whose requests may share a transaction with others of the same moment (``chassis.together``).

    A request with an Idempotency-Key has one of its own, which also keeps the answer.
    """

    def __init__(self, request: Request) -> None:
        self._request = request

    async def __call__(self, together: Together[I, R], item: I) -> R:
        """What ``together`` does for an item. Raises the problem that it ends with."""
        request = self._request
        if "Idempotency-Key" in request.headers:
            [found] = await together.work([await _uow(request)], [item])
            if isinstance(found, Problem):
                raise found
            return found
        headers = request.headers
        gone = functools.partial(left, request)
        caller = Caller(request.state.actor, headers.get(REQUEST_HEADER, ""), headers.get("traceparent", ""), gone)
        request.state.told, result = await together.ask(caller, item)
        return result


async def _shared(request: Request) -> Shared:
    return Shared(request)


SharedUow = Annotated[Shared, Depends(_shared)]


async def _claim_key(request: Request, uow: UnitOfWork) -> None:
    """Take the Idempotency-Key of a creating POST, or answer what was answered before."""
    key = request.headers.get("Idempotency-Key")
    if key is None or request.method != "POST" or uow.actor.principal is not Principal.PERSON:
        return
    rule = POLICY[request.state.action]
    if rule.secret or Who.NOBODY in rule.who:
        return  # bodies with passwords leave no hash here that could be guessed against; nobody creates anything at doors for everybody
    if not 1 <= len(key) <= 128:  # noqa: PLR2004 - a bound on what is stored
        raise Unprocessable("An Idempotency-Key has 1 to 128 characters.")
    fingerprint = hashlib.sha256(request.url.path.encode() + b"\n" + await request.body()).hexdigest()
    place = {"owner": str(uow.actor.user_id), "key": key}
    if (await uow.session.execute(_IDEMPOTENCY_CLAIM, {**place, "fingerprint": fingerprint})).scalar() is not None:
        request.state.idempotency = place
        return
    row = (await uow.session.execute(_IDEMPOTENCY_READ, place)).one()
    if row.fingerprint != fingerprint:
        raise KeyReused
    if row.body is None:
        raise AnswerWasSecret
    raise _Replayed(Response(row.body, row.status, headers={**row.headers, "Idempotency-Replayed": "true"}))


async def _keep_answer(request: Request, uow: UnitOfWork, response: Response) -> None:
    place = getattr(request.state, "idempotency", None)
    if place is None:
        return
    headers = {name: value for name, value in response.headers.items() if name in ("content-type", "etag", FACTS_HEADER.lower())}
    body = None if uow.concealed else bytes(response.body)
    await uow.session.execute(_IDEMPOTENCY_STORE, {**place, "status": response.status_code, "body": body, "headers": json.dumps(headers)})


class Door(APIRoute):
    """A route that decides before it reads, and commits before it answers."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Ask the guard, before FastAPI looks at the body, then let its handler run in the request's transaction."""
        (guard,) = (each.dependency for each in self.dependencies if hasattr(each.dependency, "action"))
        self.dependant.dependencies = [each for each in self.dependant.dependencies if each.call is not guard]
        handler = found_here(self, super().get_route_handler())

        async def handle(request: Request) -> Response:
            request.state.uow = None
            request.state.told = None
            try:
                await guard(request)  # type: ignore[misc]
                response = await handler(request)
                uow: UnitOfWork | None = request.state.uow
                _tag(response)
                told: UnitOfWork | None = uow or request.state.told
                if told is not None and (named := [fact for part in told.parts for fact in part.facts + part.rests_on]):
                    response.headers[FACTS_HEADER] = facts_header(named, told.actor.user_id)
                if uow is not None:
                    await _keep_answer(request, uow, response)
                    _wanted_still(request, uow)
                    await uow.commit()
            except _Replayed as replayed:
                return replayed.response
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
