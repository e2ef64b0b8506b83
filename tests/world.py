"""One service in a test: its real application on a real PostgreSQL, with the gateway's and Kafka's places taken by the test.

A test in ``tests/<service>/`` asks for the fixture ``world`` and gets a fresh migrated database and the service's ASGI
application over it (with its ``lifespan``; relay, consumer and background work do not run):

    async def test_a_data_scientist_may_not_offer_a_share(world: World) -> None:
        answer = await world.post(f"/projects/{OURS}/datasets/{MRI}/shares", scientist(OURS), json={"target_project_id": THEIRS})
        assert answer.status_code == 403
        assert reason(answer) == "role-may-not"
        assert await world.said() == []

- ``get/post/patch/put/delete(path, actor, **httpx2 arguments)``: a request below ``/api/v1`` as the gateway would send it;
  ``version=3`` sends ``If-Match: "3"``, ``key="k"`` sends ``Idempotency-Key``, ``jar={…}`` sends cookies. Actors: ``person()``, ``owner(project)``,
  ``scientist(project)``, ``agent(id)``, ``job(run, fencing)`` or ``NOBODY``.
- ``said()``: the facts in the outbox since it was last called (``erased()``: what was taken off its topic); ``recorded()``: the audit records since it was last called.
- ``hear(fact, …)``: the facts arrive over Kafka: encoded, decoded, inbox and handler in the consumer's transaction. Fails
  when one is not applied; ``try_hear`` says how many were done instead (a handler that waits for something leaves 0).
- ``hear_raw(topic, value, …)`` for topics that a service takes as bytes.
- ``hears_until(moment)``: a service that answers strangers by what it heard has heard nothing since.
- ``work()``: a unit of work on the database, committed at the end; ``sql(statement, **values)``: rows of a query.
- ``somebody_waits()``: returns when a transaction waits for a lock, so that a race is played in a known order.
- ``running(work)``: background work of the spec as a context manager.

Service settings of its own: define a fixture ``settings`` (a dict) in the test module or the folder's ``conftest.py`` and
use it there (``@pytest.mark.usefixtures("settings")`` or ``autouse=True``). A second replica on the same database:
``await worlds.open("auth", beside=world)``.
"""

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import httpx2
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import QueuePool
from uuid_utils.compat import uuid7

from chassis import app as chassis_app
from chassis import bus, db, migrate
from chassis.app import Background, Runtime, Spec
from chassis.consumer import Consumer
from chassis.guard import IDENTITY_HEADER, REQUEST_HEADER, write_identity
from chassis.lanes import Lane
from chassis.outbox import UnitOfWork, unit_of_work
from compose.local.postgres import SUPERUSER, Postgres
from contracts.events import FACTS, TOPICS, Fact
from contracts.policy import API
from contracts.roles import NOBODY, Actor, ClusterRole, Principal, Role

OURS = UUID("01900000-0000-7000-8000-000000000001")
THEIRS = UUID("01900000-0000-7000-8000-000000000002")
PROBLEM = "application/problem+json"


def person(
    user_id: UUID | None = None,
    username: str = "ada00000",
    *,
    cluster_roles: Sequence[ClusterRole] = (),
    project_id: UUID | None = None,
    role: Role | None = None,
    projects: dict[UUID, Role] | None = None,
    session_id: UUID | None = None,
    factor_fresh: bool = True,
) -> Actor:
    """A person who signed in a moment ago, as the gateway names them; without an id, somebody new."""
    return Actor(
        principal=Principal.PERSON,
        user_id=user_id or uuid7(),
        username=username,
        session_id=session_id or uuid7(),
        factor_fresh=factor_fresh,
        cluster_roles=frozenset(cluster_roles),
        project_id=project_id,
        role=role,
        projects=projects or {},
    )


def owner(project_id: UUID, user_id: UUID | None = None, username: str = "ada00000") -> Actor:
    """A Data Owner of the project."""
    return person(user_id, username, project_id=project_id, role=Role.DATA_OWNER)


def scientist(project_id: UUID, user_id: UUID | None = None, username: str = "bob00000") -> Actor:
    """A Data Scientist of the project."""
    return person(user_id, username, project_id=project_id, role=Role.DATA_SCIENTIST)


def stranger(project_id: UUID, user_id: UUID | None = None) -> Actor:
    """Somebody signed in who is no member of the project in the path."""
    return person(user_id, "eve00000", project_id=project_id)


def administrator(user_id: UUID | None = None) -> Actor:
    """An administrator of the installation."""
    return person(user_id, "root0000", cluster_roles=[ClusterRole.ADMINISTRATOR])


def auditor(user_id: UUID | None = None) -> Actor:
    """An auditor of the installation."""
    return person(user_id, "audit000", cluster_roles=[ClusterRole.AUDITOR])


def agent(agent_id: UUID | None = None) -> Actor:
    """A node agent."""
    return Actor(principal=Principal.AGENT, agent_id=agent_id or uuid7(), certificate_id="a1")


def job(run_id: UUID, fencing_token: int = 1, project_id: UUID | None = None, user_id: UUID | None = None) -> Actor:
    """A running job with its certificate."""
    return Actor(
        principal=Principal.JOB,
        run_id=run_id,
        fencing_token=fencing_token,
        project_id=project_id,
        user_id=user_id,
        certificate_id="b2",
    )


def reason(answer: httpx2.Response) -> str:
    """The slug of a problem; checks that the answer is one."""
    assert answer.headers["content-type"] == PROBLEM, answer.text
    body = answer.json()
    assert body["status"] == answer.status_code
    slug: str = answer.headers["Hortus-Reason"]
    assert body["type"] == f"urn:hortus:problem:{slug}"
    return slug


@dataclass(frozen=True)
class Record:
    """A record as the Kafka client gives it."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]
    timestamp: int = 0


_offsets = itertools.count()


def record_of(fact: Fact) -> Record:
    """A fact as it lies on its topic."""
    headers = bus.headers(fact.type, str(uuid7()), f"/{fact.topic.owner}", fact.key, "2026-01-01T00:00:00+00:00")
    return Record(fact.topic.name, 0, next(_offsets), fact.key.encode(), fact.model_dump_json().encode(), headers)


class Databases:
    """Clean databases: one migrated template for each service, copied when none that was given back is at hand.

    A database that is given back is emptied to what its migrations put there; one that cannot be emptied is dropped. Pools are given back, too: to
    connect, and to parse and plan each statement anew, would take longer than most tests. They belong to the event loop that this was made in.
    """

    def __init__(self, postgres: Postgres) -> None:
        self.postgres = postgres
        self._templates: dict[str, str] = {}
        self._empty: dict[str, str] = {}
        self._clean: dict[str, list[str]] = {}
        self._count = itertools.count(1)
        self._loop = asyncio.get_running_loop()
        self._pools: dict[tuple[str, int], list[AsyncEngine]] = {}
        self._cleaners: dict[str, asyncpg.Connection] = {}

    async def template(self, service: str) -> str:
        """The migrated database of a service that fresh ones are copied from; its name."""
        if service not in self._templates:
            name = f"template_{service}"
            _, owner_url = await asyncio.to_thread(self.postgres.create_database, name, owner=f"{service}_owner", runtime=service)
            await asyncio.to_thread(migrate.migrate, service, owner_url)
            self._empty[service] = await self._emptying(name)
            self._templates[service] = name
        return self._templates[service]

    async def fresh(self, service: str) -> tuple[str, str]:
        """A clean database; its name and the address for the service's own role."""
        template = await self.template(service)
        if self._clean.get(service):
            name = self._clean[service].pop()
        else:
            name = f"test_{service}_{next(self._count)}"
            await self._execute("postgres", f"CREATE DATABASE {name} TEMPLATE {template} OWNER {service}_owner")
        password = await asyncio.to_thread(self.postgres.home.secret, f"postgres/{service}")
        return name, self.postgres.url(service, password, name)

    async def give_back(self, service: str, name: str) -> None:
        """Empty a database for another test."""
        try:
            await self._clean_up(name, self._empty[service])
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
            await self._execute("postgres", f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            raise
        self._clean.setdefault(service, []).append(name)

    def pool(self, url: str, connections: int) -> AsyncEngine:
        """A pool on a database, as new; one that was given back, where there is one."""
        kept = self._pools.get((url, connections)) if self._is_at_home() else None
        return kept.pop() if kept else db.engine(url, connections)

    async def give_pool_back(self, pool: AsyncEngine, url: str, connections: int) -> None:
        """Keep a pool for another test, or close it where a connection was lost. Fails where one is still held: nobody gives it back any more."""
        held = cast(QueuePool, pool.pool).checkedout()
        if held == 0 and self._is_at_home() and await _as_new(pool):
            self._pools.setdefault((url, connections), []).append(pool)
        else:
            await pool.dispose()
        assert held == 0, f"{held} connections of the pool are still held"

    async def close(self) -> None:
        """Close what was kept."""
        for pool in itertools.chain(*self._pools.values()):
            await pool.dispose()
        for cleaner in self._cleaners.values():
            await cleaner.close()

    def _is_at_home(self) -> bool:
        return asyncio.get_running_loop() is self._loop

    async def _clean_up(self, name: str, statements: str) -> None:
        if not self._is_at_home():
            await self._execute(name, statements)
            return
        cleaner = self._cleaners.pop(name, None) or await asyncpg.connect(self._dsn(name))
        try:
            await cleaner.execute(statements)
        except BaseException:
            cleaner.terminate()  # it may be in the middle of them
            raise
        self._cleaners[name] = cleaner

    async def _emptying(self, name: str) -> str:
        """The statements that bring a database back to what its migrations left."""
        connection = await asyncpg.connect(self._dsn(name))
        try:
            rows = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename !~ '_version$'")
            tables = [str(row[0]) for row in rows]
            counters = await connection.fetch("SELECT sequencename FROM pg_sequences WHERE schemaname = 'public'")
            # Truncating takes 20 times as long, because it makes new files; as a replica, rows go in any order.
            statements = ["SET LOCAL lock_timeout = '5s'", "SET LOCAL session_replication_role = replica"]
            statements += [f"DELETE FROM {table}" for table in tables] + [f"SELECT setval('{row[0]}', 1, false)" for row in counters]
            for table in tables:
                seeds = await connection.fetchval(f"SELECT json_agg(t)::text FROM {table} t")
                if seeds is not None:
                    literal = seeds.replace("'", "''")
                    statements.append(f"INSERT INTO {table} SELECT * FROM json_populate_recordset(NULL::{table}, '{literal}')")
        finally:
            await connection.close()
        return "; ".join(["BEGIN", *statements, "COMMIT"])

    async def analyze(self, url: str) -> None:
        """Let the planner know what is in a database, as PostgreSQL does by itself after a while."""
        await self._execute(urlsplit(url).path[1:], "ANALYZE")

    async def _execute(self, database: str, statements: str) -> None:
        connection = await asyncpg.connect(self._dsn(database))
        try:
            await connection.execute(statements)
        finally:
            await connection.close()

    def _dsn(self, database: str) -> str:
        user, password = SUPERUSER, self.postgres.home.secret(f"postgres/{SUPERUSER}")
        return db.plain_dsn(self.postgres.url(user, password, database))


async def _as_new(pool: AsyncEngine) -> bool:
    """Bring what lies in a pool back to how a connection begins; False where not all of it is there."""
    try:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(cast(QueuePool, pool.pool).checkedin()):
                raw = await (await stack.enter_async_context(pool.connect())).get_raw_connection()
                await cast(asyncpg.Connection, raw.driver_connection).reset()
    except (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        return False
    return True


class World:
    """A service, ready to be asked and told; see the module's docstring."""

    def __init__(self, spec: Spec, runtime: Runtime, database_url: str) -> None:
        self.spec = spec
        self.runtime = runtime
        self.database_url = database_url
        self.app = chassis_app.create_app(spec, runtime)
        forgetful = CookieJar(DefaultCookiePolicy(allowed_domains=[]))  # a test says which cookies it sends
        self.client = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=self.app), base_url="https://service", cookies=forgetful)
        self.consumer = Consumer(runtime.settings, runtime.engine, spec.hears)
        self._said_to = 0
        self._recorded_to = 0

    async def request(
        self,
        method: str,
        path: str,
        actor: Actor = NOBODY,
        *,
        version: int | None = None,
        key: str | None = None,
        jar: Mapping[str, str] | None = None,
        **arguments: Any,
    ) -> httpx2.Response:
        """Send a request as the gateway forwards it; ``path`` is below the API's prefix."""
        headers = {IDENTITY_HEADER: write_identity(actor), REQUEST_HEADER: str(uuid7())}
        if version is not None:
            headers["If-Match"] = f'"{version}"'
        if key is not None:
            headers["Idempotency-Key"] = key
        if jar:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in jar.items())
        headers |= arguments.pop("headers", {})
        return await self.client.request(method, API + path, headers=headers, **arguments)

    async def get(self, path: str, actor: Actor = NOBODY, **arguments: Any) -> httpx2.Response:
        """GET."""
        return await self.request("GET", path, actor, **arguments)

    async def post(self, path: str, actor: Actor = NOBODY, **arguments: Any) -> httpx2.Response:
        """POST."""
        return await self.request("POST", path, actor, **arguments)

    async def put(self, path: str, actor: Actor = NOBODY, **arguments: Any) -> httpx2.Response:
        """PUT."""
        return await self.request("PUT", path, actor, **arguments)

    async def patch(self, path: str, actor: Actor = NOBODY, **arguments: Any) -> httpx2.Response:
        """PATCH."""
        return await self.request("PATCH", path, actor, **arguments)

    async def delete(self, path: str, actor: Actor = NOBODY, **arguments: Any) -> httpx2.Response:
        """DELETE."""
        return await self.request("DELETE", path, actor, **arguments)

    async def said(self) -> list[Fact]:
        """The facts told since this was last asked, in the order they were written."""
        rows = await self.sql("SELECT id, type, payload FROM outbox WHERE id > :after ORDER BY id", after=self._said_to)
        self._said_to = rows[-1].id if rows else self._said_to
        return [FACTS[row.type].model_validate_json(row.payload) for row in rows if row.payload is not None]

    async def erased(self) -> list[tuple[str, str, int]]:
        """The aggregates that were erased from their topics: topic, key, and the version that says so."""
        rows = await self.sql("SELECT topic, key, version FROM outbox WHERE payload IS NULL ORDER BY id")
        return [(row.topic, row.key, row.version) for row in rows]

    async def recorded(self) -> list[dict[str, Any]]:
        """The audit records written since this was last asked."""
        rows = await self.sql("SELECT id, record FROM audit_outbox WHERE id > :after ORDER BY id", after=self._recorded_to)
        self._recorded_to = rows[-1].id if rows else self._recorded_to
        return [row.record if isinstance(row.record, dict) else json.loads(row.record) for row in rows]

    async def hear(self, *facts: Fact) -> None:
        """Let facts arrive, each in a batch of its own; all must be applied."""
        done = await self.try_hear(*facts)
        assert done == len(facts), f"{facts[done]!r} was not applied"

    async def try_hear(self, *facts: Fact) -> int:
        """Let facts arrive; how many were done with before the first that has to wait."""
        for count, fact in enumerate(facts):
            if await self.consumer.applier.apply(Lane(fact.topic), [record_of(fact)]) != 1:
                return count
        return len(facts)

    async def hear_raw(self, topic: str, *values: bytes, base: str = "") -> int:
        """Let records with these bytes arrive in one batch on a topic taken as bytes; how many are done with.

        ``base`` is the catalogue's name of the topic where each writing process has its own (``audit.gateway``).
        """
        records = [Record(topic, 0, next(_offsets), None, value, (), 0) for value in values]
        return await self.consumer.applier.apply(Lane(TOPICS[base or topic]), records)

    async def hears_until(self, moment: str) -> None:
        """Until when the service has heard everything on the topics that it dates; in a fresh world that never ends."""
        for topic in self.spec.hears.dated:
            await self.sql(
                """INSERT INTO partitions_heard (topic, partition, awake_at, position_at)
                   SELECT :topic, n, now(), CAST(CAST(:moment AS text) AS timestamptz) FROM generate_series(0, :last) n
                   ON CONFLICT (topic, partition) DO UPDATE SET position_at = excluded.position_at""",
                topic=topic.name,
                last=topic.partitions - 1,
                moment=moment,
            )

    @contextlib.asynccontextmanager
    async def work(self, actor: Actor = NOBODY, action: str = "test") -> AsyncIterator[UnitOfWork]:
        """A unit of work, committed at the end."""
        async with unit_of_work(self.runtime.engine, self.spec.service.value, action, actor) as uow:
            yield uow

    async def sql(self, statement: str, **values: Any) -> Sequence[Any]:
        """Run a statement in a transaction of its own; its rows, if it gives any."""
        async with self.runtime.engine.begin() as connection:
            result = await connection.execute(text(statement), values)
            return result.all() if result.returns_rows else []

    async def somebody_waits(self, count: int = 1) -> None:
        """Return when as many transactions wait for locks that others hold; fails when they do not."""
        async with asyncio.timeout(20):
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            while (await self.sql(waiting))[0][0] < count:
                await asyncio.sleep(0.01)

    async def now(self) -> datetime:
        """The database's clock."""
        value: datetime = (await self.sql("SELECT clock_timestamp()"))[0][0]
        return value

    @contextlib.asynccontextmanager
    async def running(self, work: Background) -> AsyncIterator[asyncio.Task[None]]:
        """Background work while the block runs; what breaks in it is raised at the end."""

        async def go() -> None:
            await work(self.runtime)

        task = asyncio.create_task(go())
        try:
            yield task
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


class Worlds:
    """Opens worlds and closes them at the end of a test."""

    def __init__(self, databases: Databases, folder: Path) -> None:
        self.databases = databases
        self.folder = folder
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def open(self, service: str, *, beside: World | None = None, **settings: Any) -> World:
        """A service over a fresh database, or over the database of the world ``beside``; ``settings`` are the service's own."""
        spec = chassis_app.load(service)
        if beside is None:
            name, url = await self.databases.fresh(service)
            self._stack.push_async_callback(self.databases.give_back, service, name)
        else:
            url = beside.database_url
        given: dict[str, Any] = {
            "service": service,
            "tls_dir": self.folder,
            "kafka": "localhost:1",
            "state_dir": self.folder,
            "database_url": url,
            "connections": 10,
            **settings,
        }
        made = spec.settings(**given)
        runtime = Runtime(made, self.databases.pool(url, made.connections), frozenset(spec.hears.topics))
        self._stack.push_async_callback(self.databases.give_pool_back, runtime.engine, url, made.connections)
        if spec.lifespan is not None:
            await self._stack.enter_async_context(spec.lifespan(runtime))
        world = World(spec, runtime, url)
        await world.hears_until("infinity")
        self._stack.push_async_callback(world.client.aclose)
        return world

    async def close(self) -> None:
        """Close what was opened, newest first."""
        await self._stack.aclose()
