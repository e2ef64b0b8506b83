"""The projection on the real broker: an acknowledged revocation is known within a second, or nothing is decided."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from uuid_utils.compat import uuid7

from chassis import bus, patience
from chassis.errors import CannotDecide
from chassis.projection import Projection
from chassis.relay import Relay
from contracts.events import MEMBERSHIPS, SESSIONS, Fact, Session
from tests.chassis.conftest import Bus, Side, membership, send, until

Make = Callable[..., Any]


def session(version: int) -> Session:
    now = datetime.now(UTC)
    return Session(version=version, session_id=uuid7(), user_id=uuid7(), live=True, factor_at=now, expires_at=now + timedelta(hours=1))


@pytest.fixture
async def relayed(side: Make) -> AsyncIterator[Side]:
    projects: Side = await side("projects")
    task = asyncio.create_task(Relay(projects.settings).run())
    yield projects
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def projection(broker: Bus) -> AsyncIterator[Projection]:
    made = Projection(broker.settings("gateway", "postgresql+asyncpg://unused"), [MEMBERSHIPS])
    await made.start()
    yield made
    await made.stop()


async def test_a_projection_is_fresh_only_while_the_relay_says_so(side: Make, projection: Projection) -> None:
    assert not projection.is_fresh()
    projects: Side = await side("projects")
    relay = asyncio.create_task(Relay(projects.settings).run())
    await until(projection.is_fresh)
    assert projection.missing() == []
    relay.cancel()
    await asyncio.gather(relay, return_exceptions=True)
    stopped = time.monotonic()
    await until(lambda: not projection.is_fresh())
    assert time.monotonic() - stopped < 1.3
    assert any("no fresh position on memberships" in reason for reason in projection.missing())
    with pytest.raises(CannotDecide):
        await projection.fresh(timeout=0.2)


async def test_an_acknowledged_change_is_known_within_a_second(relayed: Side, projection: Projection) -> None:
    await until(projection.is_fresh)
    heard: list[tuple[Fact | None, Fact]] = []
    projection.on_change(lambda old, new: heard.append((old, new)))
    project = uuid7()
    await relayed.tell(membership(1, project))
    assert await projection.reached({("memberships", membership(1, project).key): 1})
    await relayed.tell(membership(2, project, role=None))
    acknowledged = time.monotonic()
    await until(lambda: projection.get(MEMBERSHIPS, membership(1, project).key).role is None)
    assert time.monotonic() - acknowledged < 1.0
    assert [new.version for _, new in heard if new.key == membership(1, project).key] == [1, 2]


async def test_a_version_that_does_not_come_is_waited_for_no_longer_than_asked(relayed: Side, projection: Projection) -> None:
    await until(projection.is_fresh)
    assert not await projection.reached({("memberships", "nobody"): 1}, timeout=0.2)


async def test_with_the_broker_paused_during_a_revocation_nothing_is_allowed_and_all_heals(
    relayed: Side, projection: Projection, broker: Bus
) -> None:
    project = uuid7()
    key = membership(1, project).key
    await relayed.tell(membership(1, project))
    assert await projection.reached({("memberships", key): 1}, timeout=5)
    await until(projection.is_fresh)
    stale_allows = 0
    broker.kafka.pause()
    try:
        await relayed.tell(membership(2, project, role=None))
        revoked = time.monotonic()
        while time.monotonic() - revoked < 2.5:
            allowed = projection.is_fresh() and projection.get(MEMBERSHIPS, key).role is not None
            stale_allows += allowed and time.monotonic() - revoked > 1.0
            await asyncio.sleep(0.02)
        assert not projection.is_fresh()
    finally:
        broker.kafka.resume()
    await until(lambda: projection.is_fresh() and projection.get(MEMBERSHIPS, key).role is None)
    assert stale_allows == 0


async def test_a_projection_goes_on_after_a_broker_that_was_away_for_longer_than_the_library_asks(
    broker: Bus, relayed: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = bus.consumer

    def impatient(*arguments: Any, **options: Any) -> Any:
        made = real(*arguments, **options)
        made._request_timeout_ms = 2000
        return made

    monkeypatch.setattr(bus, "consumer", impatient)
    monkeypatch.setattr(patience, "LAST_S", 0.5)
    projection = Projection(broker.settings("gateway", "postgresql+asyncpg://unused"), [MEMBERSHIPS])
    await projection.start()
    await until(projection.is_fresh)
    await asyncio.to_thread(broker.kafka.kill)
    await until(lambda: projection.error == "Kafka: KafkaTimeoutError")
    monkeypatch.setattr(bus, "consumer", real)
    await asyncio.to_thread(broker.kafka.start)
    await until(projection.is_fresh, 60)
    await projection.stop()


async def test_what_a_service_erased_is_known_no_more_neither_here_nor_after_a_cold_start(side: Make, broker: Bus) -> None:
    auth: Side = await side("auth")
    relay = asyncio.create_task(Relay(auth.settings).run())
    projections = [Projection(broker.settings("gateway", "postgresql+asyncpg://unused"), [SESSIONS]) for _ in range(2)]
    warm, cold = projections
    gone: list[Fact] = []
    warm.on_erased(gone.append)
    live = session(1)
    ended = live.model_copy(update={"version": 2, "live": False})
    try:
        await warm.start()
        await auth.tell(live)
        await auth.tell(ended)
        await until(lambda: warm.is_fresh() and warm.get(SESSIONS, live.key) == ended)
        async with auth.unit() as uow:
            uow.erase(ended)
        await until(lambda: warm.get(SESSIONS, live.key) is None)
        assert gone == [ended]
        await cold.start()
        await until(cold.is_fresh)
        assert cold.get(SESSIONS, live.key) is None
    finally:
        for each in projections:
            await each.stop()
        relay.cancel()
        await asyncio.gather(relay, return_exceptions=True)


async def test_a_projection_that_starts_cold_reads_everything_before_it_is_fresh(relayed: Side, broker: Bus) -> None:
    projects = [uuid7() for _ in range(50)]
    await relayed.tell(*[membership(1, project) for project in projects])
    committed = time.time()
    cold = Projection(broker.settings("gateway", "postgresql+asyncpg://unused"), [MEMBERSHIPS])
    await cold.start()
    try:
        await until(lambda: cold.is_fresh() and min(cold.knowledge.positions.values()) > committed)
        assert all(cold.get(MEMBERSHIPS, membership(1, project).key) for project in projects)
    finally:
        await cold.stop()


async def test_one_partition_that_stands_still_stops_decisions_and_is_named_and_all_heals(
    side: Make, projection: Projection, broker: Bus
) -> None:
    """A transaction that nobody ends hides all that comes after it in its partition, as a hanging writer's would."""
    projects: Side = await side("projects")
    relay = Relay(projects.settings)
    relay.state = []
    leading = asyncio.create_task(relay.run())
    hanging = bus.producer(projects.settings, "relay.projects.state")
    try:
        await until(projection.is_fresh)
        await hanging.start()
        await hanging.begin_transaction()
        await hanging.send_and_wait(MEMBERSHIPS.name, b"{}", b"nobody", partition=0)
        await until(lambda: projection.missing() == ["no fresh position on memberships[0]"])
        with pytest.raises(CannotDecide):
            await projection.fresh(timeout=0.2)
        await hanging.abort_transaction()
        await until(projection.is_fresh)
    finally:
        await hanging.stop()
        leading.cancel()
        await asyncio.gather(leading, return_exceptions=True)


async def test_a_fact_that_cannot_be_read_stops_decisions_until_its_aggregate_is_said_anew_also_after_a_cold_start(
    relayed: Side, projection: Projection, broker: Bus
) -> None:
    await until(projection.is_fresh)
    project = uuid7()
    said = membership(2, project)
    cold = Projection(broker.settings("gateway", "postgresql+asyncpg://unused"), [MEMBERSHIPS])
    writer = bus.producer(relayed.settings)
    await writer.start()
    try:
        await send(writer, MEMBERSHIPS, said.key, b"{", said.type)
        await until(lambda: not projection.is_fresh())
        (reason,) = projection.missing()
        assert reason.startswith("an authority fact cannot be read: memberships[")
        await relayed.tell(membership(1, project))
        await until(projection.is_fresh)
        assert projection.get(MEMBERSHIPS, said.key).version == 1
        await send(writer, MEMBERSHIPS, said.key, b"{", said.type)
        await until(lambda: not projection.is_fresh())
        await relayed.tell(said)
        await until(projection.is_fresh)
        await cold.start()
        await until(cold.is_fresh)
        assert cold.get(MEMBERSHIPS, said.key) == projection.get(MEMBERSHIPS, said.key) == said
    finally:
        await cold.stop()
        await writer.stop()


async def test_a_clock_that_is_as_late_as_the_bus_makes_nothing_fresh_and_with_the_right_one_all_heals(
    side: Make, projection: Projection, broker: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relays that stood still are simplest: what they said last is as old as this clock is behind."""
    projects: Side = await side("projects")
    leading = asyncio.create_task(Relay(projects.settings).run())
    cold = Projection(broker.settings("gateway", "postgresql+asyncpg://unused"), [MEMBERSHIPS])
    right = time.time
    try:
        await until(projection.is_fresh)
        leading.cancel()
        await asyncio.gather(leading, return_exceptions=True)
        newest = min(projection.knowledge.positions.values())
        await until(lambda: right() - newest > 3.0)
        behind = right() - newest
        monkeypatch.setattr(time, "time", lambda: right() - behind)
        await cold.start()
        await until(lambda: len(cold.knowledge.positions) == MEMBERSHIPS.partitions)
        assert not cold.is_fresh()
        assert any("no fresh position" in reason for reason in cold.missing())
        leading = asyncio.create_task(Relay(projects.settings).run())
        await until(lambda: any("behind the databases' clock" in reason for reason in cold.missing()))
        assert not cold.is_fresh()
        monkeypatch.undo()
        await until(cold.is_fresh)
        assert cold.missing() == []
    finally:
        await cold.stop()
        leading.cancel()
        await asyncio.gather(leading, return_exceptions=True)
