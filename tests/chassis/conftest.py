"""A real broker and databases that hold the chassis' tables and one table of effects, for the tests of the chassis."""

import asyncio
import importlib.util
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from uuid_utils.compat import uuid7

from chassis import bus, db, migrate
from chassis.outbox import UnitOfWork, unit_of_work
from chassis.settings import Settings
from compose.local.kafka import Kafka
from compose.local.pki import Pki
from compose.local.postgres import Postgres
from contracts.events import TOPICS, Fact, Membership, Topic
from contracts.roles import Role

EFFECTS = "CREATE TABLE effect (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, key text NOT NULL, version bigint NOT NULL)"
PATIENCE_S = 20.0


def chassis_statements() -> list[str]:
    statements: list[str] = []
    for path in sorted((migrate.MIGRATIONS / "versions").glob("*.py")):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        statements += [statement for statement in module.STATEMENTS.split(";\n") if statement.strip()]
    return statements


@dataclass
class Bus:
    """The broker of the session, and what a service needs to speak over it."""

    kafka: Kafka
    folder: Path
    postgres: Postgres
    count: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def settings(self, service: str, url: str, instance: str = "1", **more: Any) -> Settings:
        return Settings(
            service=service,
            instance=instance,
            tls_dir=self.kafka.home.tls_folder(service),
            kafka=self.kafka.bootstrap,
            state_dir=self.folder,
            database_url=url,
            **more,
        )

    async def database(self) -> str:
        name = f"bus_{next(self.count)}"
        _, url = await asyncio.to_thread(self.postgres.create_database, name, owner="bus_owner", runtime="bus")
        connection = await asyncpg.connect(db.plain_dsn(url))
        for statement in [*chassis_statements(), EFFECTS]:
            await connection.execute(statement)
        await connection.close()
        return url


@dataclass
class Side:
    """One service's settings and database."""

    settings: Settings
    engine: AsyncEngine

    def unit(self, action: str = "test") -> Any:
        return unit_of_work(self.engine, self.settings.service, action)

    async def sql(self, statement: str, **values: Any) -> list[Any]:
        async with self.engine.begin() as connection:
            result = await connection.execute(text(statement), values)
            return list(result.all()) if result.returns_rows else []

    async def tell(self, *facts: Fact) -> None:
        async with self.unit() as uow:
            for fact in facts:
                uow.emit(fact)


@pytest.fixture(scope="session")
def broker(new_home: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Iterator[Bus]:
    home = new_home("kafka")
    pki = Pki.create(home)
    kafka = Kafka(home, pki)
    try:
        kafka.start()
        kafka.apply_catalogue(TOPICS)
        for service in ("projects", "datasets", "auth", "gateway", "audit"):
            pki.issue_service_certificate(service, kafka.home.tls_folder(service))
        yield Bus(kafka, tmp_path_factory.mktemp("state"), postgres)
    finally:
        kafka.stop()


@pytest.fixture
async def side(broker: Bus) -> AsyncIterator[Callable[..., Any]]:
    """Make a side: ``await side("projects")``, or ``await side("projects", beside=other)`` for a replica of it."""
    made: list[Side] = []

    async def make(service: str, instance: str = "1", beside: Side | None = None, **more: Any) -> Side:
        url = beside.settings.database_url if beside else await broker.database()
        settings = broker.settings(service, url, instance, **more)
        made.append(Side(settings, db.engine(url)))
        return made[-1]

    yield make
    for each in made:
        await each.engine.dispose()


def membership(version: int, project: UUID, role: Role | None = Role.DATA_SCIENTIST, user: UUID | None = None) -> Membership:
    return Membership(
        version=version,
        project_id=project,
        user_id=user or UUID(int=7),
        username="bob00000",
        role=role,
        purpose="test",
        starts_at=datetime.now(UTC),
        ends_at=None,
    )


async def effect(fact: Fact, uow: UnitOfWork) -> None:
    """A handler with an effect that would show if it happened twice."""
    await uow.session.execute(text("INSERT INTO effect (key, version) VALUES (:key, :version)"), {"key": fact.key, "version": fact.version})


async def until(condition: Callable[[], Any], seconds: float = PATIENCE_S) -> Any:
    """Wait for a condition (plain or async) to give something true."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        assert asyncio.get_running_loop().time() < deadline, "waited in vain"
        await asyncio.sleep(0.02)


class Tail:
    """Reads a topic from where it ended when the tail was made."""

    def __init__(self, settings: Settings, topic: Topic) -> None:
        self.client = bus.consumer(settings)
        self.topic = topic
        self.records: list[Any] = []

    async def open(self) -> "Tail":
        await self.client.start()
        partitions = [TopicPartition(self.topic.name, number) for number in range(self.topic.partitions)]
        self.client.assign(partitions)
        await self.client.seek_to_end(*partitions)
        for partition in partitions:
            await self.client.position(partition)
        return self

    async def close(self) -> None:
        await self.client.stop()

    async def more(self) -> list[Any]:
        for records in (await self.client.getmany(timeout_ms=100)).values():
            self.records += records
        return self.records

    def facts(self, key: str) -> list[Fact]:
        read = [bus.read(record) for record in self.records]
        return [fact for fact in read if isinstance(fact, Fact) and fact.key == key]

    def positions(self) -> list[tuple[int, int, datetime]]:
        read = [(record.partition, record.offset, bus.read(record)) for record in self.records]
        return [(partition, offset, position.at) for partition, offset, position in read if isinstance(position, bus.Position)]

    async def versions(self, key: str, count: int) -> list[int]:
        async def enough() -> bool:
            await self.more()
            return len(self.facts(key)) >= count

        await until(enough)
        return [fact.version for fact in self.facts(key)]


@pytest.fixture
async def tail(broker: Bus) -> AsyncIterator[Callable[..., Any]]:
    made: list[Tail] = []

    async def make(topic: Topic, service: str = "datasets") -> Tail:
        made.append(await Tail(broker.settings(service, "postgresql+asyncpg://unused"), topic).open())
        return made[-1]

    yield make
    for each in made:
        await each.close()


async def send(producer: AIOKafkaProducer, topic: Topic, key: str, value: bytes, kind: str) -> None:
    """Write a record as a plain producer would, whatever it says."""
    await producer.send_and_wait(
        topic.name, value, key.encode(), headers=bus.headers(kind, str(uuid7()), "/test", key, "2026-01-01T00:00:00+00:00")
    )
