"""The assembly of a service: its doors, what it hears, its relay and its background work in one process or several."""

import asyncio
import contextlib
import functools
import importlib
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import prometheus_client
import uvicorn
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from fastapi.telemetry import TelemetryConfig
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.exceptions import HTTPException

from chassis import db, deletion, log, patience, tls
from chassis.consumer import Consumer
from chassis.errors import (
    CannotDecide,
    ChangedMeanwhile,
    Conflict,
    NotFound,
    OutOfSpace,
    Problem,
    TooLarge,
    Unprocessable,
    problem_response,
)
from chassis.guard import IDENTITY_HEADER, write_identity
from chassis.hears import Hears
from chassis.outbox import UnitOfWork, unit_of_work
from chassis.relay import Relay
from chassis.renewal import Renewal
from chassis.settings import Settings
from contracts.events import Project
from contracts.policy import API, POLICY, SERVICE, Service
from contracts.roles import Actor, Principal

UNTRACED: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False}  # else each request looks for somebody who listens
OPERATORS = ("/livez", "/readyz", "/metrics")
GATEWAY = "gateway"
RUNNER = "runner"
IDEMPOTENCY_DAYS = 1
DISK_FULL = "53100"
CLOCK_S = 1.0
PURGE_LOOK_S = 5.0
ERASE_LOOK_S = 600.0


class MethodNotAllowed(Problem):
    """The path is there, the method is not."""

    status = 405
    title = "This method does not exist here"


class InternalError(Problem):
    """Something broke; nothing of the request was stored."""

    status = 500
    title = "Something broke on our side; nothing was stored"


@dataclass
class Runtime:
    """What a running service holds. ``extra`` is the service's own, made in its ``lifespan``.

    ``checks`` say what keeps it from being ready, ``warnings`` what somebody should look at although it is.
    """

    settings: Any
    engine: AsyncEngine
    heard: frozenset[str]
    extra: dict[str, Any] = field(default_factory=dict)
    checks: list[Callable[[], list[str]]] = field(default_factory=list)
    warnings: list[Callable[[], list[str]]] = field(default_factory=list)

    def missing(self) -> list[str]:
        """What keeps the service from being ready, in words."""
        return [reason for check in self.checks for reason in check()]


Background = Callable[[Runtime], Awaitable[None]]
Purge = Callable[[Runtime, UnitOfWork, UUID], Awaitable[deletion.Slice]]
Lifespan = Callable[[Runtime], contextlib.AbstractAsyncContextManager[None]]


@dataclass(frozen=True)
class Spec:
    """A service: which doors, what it hears, what runs in the background (each until cancelled, restarted after a failure).

    ``lifespan`` opens what the service holds (clients, keys) and closes it again. ``purge`` removes a slice of a deleted project.
    """

    service: Service
    settings: type[Settings]
    router: APIRouter
    hears: Hears
    background: tuple[Background, ...] = ()
    lifespan: Lifespan | None = None
    purge: Purge | None = None


def load(service: str) -> Spec:
    """The spec in ``services/<service>/app.py``."""
    spec: Spec = importlib.import_module(f"services.{Service(service).value}.app").spec
    return spec


def routes_in(router: APIRouter) -> Iterator[APIRoute]:
    """The routes of a router and of those that it includes."""
    for route in router.routes:
        if isinstance(route, APIRoute):
            yield route
        else:
            yield from routes_in(route.original_router)  # type: ignore[attr-defined]


def create_app(spec: Spec, runtime: Runtime) -> FastAPI:
    """The service's ASGI application."""
    app = FastAPI(title=f"Hortus {spec.service.value}", docs_url=None, redoc_url=None, openapi_url=None, telemetry=UNTRACED)
    app.state.runtime = runtime
    app.router.routes.extend(routes_in(spec.router))  # flat: a router within a router is looked through twice for each request
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    for away in (OperationalError, InterfaceError, db.DatabaseAway, PoolTimeout):
        app.add_exception_handler(away, _database_away)
    app.add_exception_handler(DBAPIError, _database_refused)
    app.add_exception_handler(Exception, _broken)

    @app.get("/livez", include_in_schema=False)
    async def livez() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz", include_in_schema=False)
    async def readyz() -> JSONResponse:
        missing = runtime.missing()
        try:
            async with runtime.engine.connect() as connection:
                ahead = time.time() - (await connection.execute(text("SELECT clock_timestamp()"))).scalar_one().timestamp()
            if abs(ahead) > CLOCK_S:
                missing.append(f"clock: this machine's is {ahead:+.1f} s off the database's")
        except (DBAPIError, OSError, TimeoutError) as error:
            missing.append(f"database: {type(error).__name__}")
        warnings = [warning for check in runtime.warnings for warning in check()]
        return JSONResponse({"ready": not missing, "missing": missing, "warnings": warnings}, 503 if missing else 200)

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(prometheus_client.generate_latest(), media_type=prometheus_client.CONTENT_TYPE_LATEST)

    return app


def direct_paths(service: Service) -> frozenset[str]:
    """The paths of a service's doors for other services: whoever comes there comes itself, by its own certificate."""
    return frozenset(API + rule.path for rule in POLICY.values() if rule.service is service and rule.who == SERVICE)


class OperatorsOnly:
    """Lets the runner's identity reach the operators' doors and nothing else, and services the ``direct`` paths (ASGI middleware).

    For everybody else the gateway comes, and says for whom. At a direct path what is said of that counts for nothing: the peer is who asks.
    """

    def __init__(self, app: Any, domain: str, direct: frozenset[str] = frozenset()) -> None:
        self.app = app
        self.gateway = tls.service_identity(domain, GATEWAY)
        self.operators = {self.gateway, tls.service_identity(domain, RUNNER)}
        self.direct = direct
        self.peers = {tls.service_identity(domain, name): name for name in (*Service, GATEWAY)}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "http":
            path, peer = scope["path"], scope.get("extensions", {}).get("tls", {}).get("peer")
            if path in self.direct and peer in self.peers:
                actor = Actor(principal=Principal.SERVICE, service=self.peers[peer])
                scope = {**scope, "headers": [*_without_identity(scope["headers"]), (_IDENTITY, write_identity(actor).encode())]}
            elif path in self.direct or peer not in self.operators or (peer != self.gateway and path not in OPERATORS):
                await problem_response(NotFound())(scope, receive, send)
                return
        await self.app(scope, receive, send)


_IDENTITY = IDENTITY_HEADER.lower().encode()


def _without_identity(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in headers if name.lower() != _IDENTITY]


async def _problem(_request: Request, error: Exception) -> Response:
    return problem_response(error if isinstance(error, Problem) else InternalError())


async def _invalid(_request: Request, error: Exception) -> Response:
    found: list[dict[str, object]] = []
    if isinstance(error, RequestValidationError):
        found = [
            {"at": ".".join(str(part) for part in each["loc"]), "problem": each["msg"].removeprefix("Value error, ")}
            for each in error.errors()[:20]
        ]
    first = f"{found[0]['at']}: {found[0]['problem']}." if found else ""
    return problem_response(Unprocessable(first, errors=found))


async def _http(_request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    known: dict[int, type[Problem]] = {400: Unprocessable, 404: NotFound, 405: MethodNotAllowed, 413: TooLarge}
    return problem_response(known.get(status, InternalError)())


async def _database_away(_request: Request, error: Exception) -> Response:
    log.logger(__name__).error("database away", error=type(error).__name__)
    return problem_response(CannotDecide("The database does not answer.", retry_after=1))


async def _database_refused(_request: Request, error: Exception) -> Response:
    """A value that the database cannot hold (a NUL in a text, a number out of range), two changes that met, or no room on its disk."""
    if db.is_away(error):
        return await _database_away(_request, error)
    state = getattr(getattr(error, "orig", None), "sqlstate", "") or ""
    if state == DISK_FULL:
        return problem_response(OutOfSpace())
    if state.startswith("40"):
        return problem_response(ChangedMeanwhile())
    if state.startswith("22"):
        return problem_response(Unprocessable("A value cannot be stored."))
    if state.startswith("23"):
        return problem_response(Conflict())
    return await _broken(_request, error)


async def _broken(_request: Request, error: Exception) -> Response:
    log.logger(__name__).error("request failed", exc_info=error)
    return problem_response(InternalError())


async def _again(work: Background, runtime: Runtime) -> None:
    await patience.for_ever(lambda: work(runtime), getattr(work, "__name__", "work"))


async def _forget_answers(runtime: Runtime) -> None:
    """Kept answers to Idempotency-Keys are forgotten after a day."""
    while True:
        async with unit_of_work(runtime.engine, runtime.settings.service, "idempotency.forget") as uow:
            await uow.session.execute(
                text("DELETE FROM idempotency WHERE created_at < now() - :days * interval '1 day'"), {"days": IDEMPOTENCY_DAYS}
            )
        await asyncio.sleep(3600)


async def purge_projects(spec: Spec, runtime: Runtime) -> None:
    """Purge what projects that are deleted left here: when their facts come, and looking again from time to time."""
    purge = spec.purge
    if purge is None:
        return
    told = asyncio.Event()
    consumer: Consumer | None = runtime.extra.get("consumer")
    if consumer is not None:
        consumer.applier.on_applied.append(lambda fact: told.set() if isinstance(fact, Project) else None)
    while True:
        told.clear()
        while await deletion.purge_slice(runtime.engine, spec.service, functools.partial(purge, runtime)):
            pass
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PURGE_LOOK_S):
                await told.wait()


async def _erase_later(runtime: Runtime) -> None:
    """What was erased with a project a day ago goes from its topics."""
    while True:
        while await deletion.erase_due(runtime.engine, Service(runtime.settings.service)):
            pass
        await asyncio.sleep(ERASE_LOOK_S)


@contextlib.asynccontextmanager
async def running(spec: Spec, settings: Settings, only: str | None = None) -> AsyncIterator[Runtime]:
    """Everything of a service except its HTTP server; ``only`` is ``api``, ``events`` or None for both."""
    runtime = Runtime(settings, db.engine(settings.database_url, settings.connections), frozenset(spec.hears.topics))
    tasks: list[asyncio.Task[None]] = []
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(runtime.engine.dispose)
        if spec.lifespan is not None:
            await stack.enter_async_context(spec.lifespan(runtime))
        if only in (None, "events"):
            relay = Relay(settings)
            consumer = Consumer(settings, runtime.engine, spec.hears)
            runtime.extra |= {"relay": relay, "consumer": consumer}
            runtime.checks += [relay.missing, consumer.missing]
            tasks += [asyncio.create_task(relay.run(), name="relay"), asyncio.create_task(consumer.run(), name="consumer")]
            tasks += [asyncio.create_task(_again(work, runtime), name="background") for work in (*spec.background, _forget_answers)]
            if spec.purge is not None:
                purging = functools.partial(purge_projects, spec)
                tasks += [asyncio.create_task(_again(work, runtime), name="background") for work in (purging, _erase_later)]
        try:
            yield runtime
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def serve(spec: Spec, settings: Settings, only: str | None = None) -> None:
    """Run a service until SIGTERM or SIGINT; requests in flight are drained for 5 s."""
    async with running(spec, settings, only) as runtime:
        direct = direct_paths(spec.service)
        peers = {GATEWAY, RUNNER} | (set(Service) if direct else set())
        accepted = {tls.service_identity(settings.trust_domain, name) for name in peers}
        domain = settings.trust_domain
        server = https_server(OperatorsOnly(create_app(spec, runtime), domain, direct), settings, tls.protocol(accepted))
        log.logger(__name__).info("starting", listen=settings.listen)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, server.stop)
        async with renewed(settings, runtime):
            await server.serve()


@contextlib.asynccontextmanager
async def renewed(settings: Settings, runtime: Runtime) -> AsyncIterator[None]:
    """Keep the process's certificate young meanwhile, and say so when it grows old."""
    renewal = Renewal(settings)
    runtime.checks.append(renewal.missing)
    runtime.warnings.append(renewal.warnings)
    keeping = asyncio.create_task(patience.for_ever(renewal.run, "renewal"), name="renewal")
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


class Server(uvicorn.Server):
    """A server that only ends its own work when it is told to: giving up the lease and leaving the group come afterwards."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone: the library would repeat them, and the process would be gone at once."""
        yield

    def stop(self) -> None:
        """Begin to drain."""
        self.should_exit = True


def https_server(app: Any, settings: Any, protocol: type, *, host: str = "", port: int = 0, context: Any = None) -> Server:
    """A uvicorn server over mutual TLS on the process's own listener, or on the one given."""
    config = uvicorn.Config(
        app,
        host=host or settings.host,
        port=port or settings.port,
        http=protocol,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=5,
        timeout_keep_alive=75,
        h11_max_incomplete_event_size=64 * 1024,
    )
    config.load()
    config.ssl = context or tls.server_context(settings.tls_dir)
    return Server(config)


def main(service: str, only: str | None = None) -> None:
    """The process of a service."""
    import uvloop  # noqa: PLC0415 - tools that import this module for its types need no event loop

    spec = load(service)
    settings = spec.settings()
    patience.collect_less()
    log.set_up(settings.service, settings.instance, settings.log_level)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve(spec, settings, only))
