"""The relay on the real broker: nothing committed is lost, nothing leaves out of order, and one relay leads."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
from aiokafka.errors import KafkaError, ProducerFenced
from sqlalchemy.ext.asyncio import AsyncSession
from uuid_utils.compat import uuid7

from chassis import bus, db, outbox
from chassis.errors import ChangedMeanwhile
from chassis.outbox import UnitOfWork
from chassis.relay import TIDY_AFTER, Relay
from contracts.events import MEMBERSHIPS, PROJECTS, TOPICS, AuditRecord, Project, ProjectState
from contracts.roles import NOBODY
from tests.chassis.conftest import Side, Tail, membership, until

Make = Callable[..., Any]


@asynccontextmanager
async def relaying(side: Side, relay: Relay | None = None) -> AsyncIterator[Relay]:
    relay = relay or Relay(side.settings)
    task = asyncio.create_task(relay.run())
    try:
        yield relay
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_committed_fact_reaches_its_topic_with_its_envelope(side: Make, tail: Make) -> None:
    projects: Side = await side("projects")
    topic: Tail = await tail(MEMBERSHIPS)
    project = uuid7()
    async with relaying(projects):
        await projects.tell(membership(1, project))
        assert await topic.versions(membership(1, project).key, 1) == [1]

        async def forgotten() -> bool:
            return await projects.sql("SELECT 1 FROM outbox") == []

        await until(forgotten)
    record = next(r for r in topic.records if r.key.decode().startswith(str(project)))
    headers = dict(record.headers)
    assert headers["ce_type"] == b"membership.v1"
    assert headers["ce_source"] == b"/projects"
    assert headers["ce_specversion"] == b"1.0"


async def test_the_queue_that_a_relay_emptied_is_cleared_away(side: Make) -> None:
    projects: Side = await side("projects")
    for _ in range(TIDY_AFTER // 500):
        await projects.tell(*[membership(1, uuid7()) for _ in range(500)])
    async with relaying(projects):

        async def cleared() -> bool:
            return bool(await projects.sql("SELECT 1 FROM pg_stat_user_tables WHERE relname = 'outbox' AND vacuum_count > 0"))

        await until(cleared)
    assert await projects.sql("SELECT 1 FROM outbox") == []


def project(project_id: UUID, version: int) -> Project:
    return Project(version=version, project_id=project_id, name="n", description="", state=ProjectState.ACTIVE)


async def test_an_erased_aggregate_ends_with_a_tombstone_and_leaves_nothing_behind(side: Make, tail: Make) -> None:
    projects: Side = await side("projects")
    topic: Tail = await tail(PROJECTS)
    last = project(uuid7(), 2)
    async with projects.unit() as uow:
        uow.erase(last)
    async with projects.unit() as uow:
        uow.emit(last)
    await projects.tell(project(last.project_id, 1))  # the order of ids says nothing
    other = project(uuid7(), 1)
    await projects.tell(other)
    async with relaying(projects):

        async def forgotten() -> bool:
            return await projects.sql("SELECT 1 FROM outbox") == []

        await until(forgotten)
    await topic.versions(other.key, 1)
    mine = [record for record in topic.records if record.key.decode() == last.key]
    assert [json.loads(record.value)["version"] for record in mine[:-1]] == [1, 2]
    assert mine[-1].value is None
    assert [tuple(row) for row in await projects.sql("SELECT key, version FROM heads")] == [(other.key, 1)]


async def test_a_change_and_an_erasure_that_meet_are_not_both_stored(side: Make) -> None:
    projects: Side = await side("projects")
    last = project(uuid7(), 1)
    await projects.tell(last)
    async with projects.unit() as uow:
        uow.erase(last)
    with pytest.raises(ChangedMeanwhile):
        await projects.tell(project(last.project_id, 2))


def test_what_services_hear_on_authority_topics_is_not_erased() -> None:
    uow = UnitOfWork(AsyncSession(), "projects", NOBODY, "test", "r")
    with pytest.raises(ValueError, match="memberships"):
        uow.erase(membership(2, uuid7(), role=None))


async def test_a_rolled_back_fact_never_leaves(side: Make, tail: Make) -> None:
    projects: Side = await side("projects")
    topic: Tail = await tail(MEMBERSHIPS)
    lost, kept = uuid7(), uuid7()
    async with relaying(projects):

        async def breaks() -> None:
            async with projects.unit() as uow:
                uow.emit(membership(1, lost))
                raise RuntimeError

        with pytest.raises(RuntimeError):
            await breaks()
        await projects.tell(membership(1, kept))
        await topic.versions(membership(1, kept).key, 1)
    assert topic.facts(membership(1, lost).key) == []


async def test_what_was_committed_when_the_process_died_is_published_by_the_next(side: Make, tail: Make) -> None:
    projects: Side = await side("projects")
    topic: Tail = await tail(MEMBERSHIPS)
    project = uuid7()
    await projects.tell(membership(1, project), membership(2, project))
    async with relaying(projects):
        assert await topic.versions(membership(1, project).key, 2) == [1, 2]


async def test_a_crash_after_publishing_and_before_remembering_repeats_and_loses_nothing(side: Make, tail: Make) -> None:
    class Dying(Relay):
        async def _mark(self, connection: Any, rows: list[Any]) -> None:
            if rows:
                raise OSError("the process dies here")
            await super()._mark(connection, rows)

    projects: Side = await side("projects")
    topic: Tail = await tail(MEMBERSHIPS)
    project = uuid7()
    key = membership(1, project).key
    async with relaying(projects, Dying(projects.settings)):
        await projects.tell(membership(1, project))
        await topic.versions(key, 1)
    assert await projects.sql("SELECT version FROM outbox") == [(1,)]
    async with relaying(projects):
        await projects.tell(membership(2, project))

        async def second_came() -> bool:
            await topic.more()
            return topic.facts(key)[-1].version == 2

        await until(second_came)
    versions = [fact.version for fact in topic.facts(key)]
    assert versions.count(1) >= 2
    assert versions == sorted(versions)


async def test_two_transactions_on_one_aggregate_that_commit_in_the_other_order_leave_in_order(side: Make, tail: Make) -> None:
    projects: Side = await side("projects")
    topic: Tail = await tail(MEMBERSHIPS)
    project = uuid7()
    key = membership(1, project).key
    async with relaying(projects) as relay:
        await until(lambda: relay.leading)
        async with db.session(projects.engine) as session:
            slow = UnitOfWork(session, "projects", NOBODY, "test", "")
            await slow.begin()
            slow.emit(membership(1, project))
            await outbox._leave(session, [slow])
            await projects.tell(membership(2, project))
            committed_at = (await projects.sql("SELECT clock_timestamp()"))[0][0]
            before = len(topic.positions())

            looks: set[Any] = set()

            async def looked_thrice() -> bool:
                await topic.more()
                seen = await projects.sql(
                    "SELECT query_start FROM pg_stat_activity WHERE query LIKE 'SELECT o.id%' AND query_start > :at", at=committed_at
                )
                looks.update(row[0] for row in seen)
                return len(looks) >= 3

            await until(looked_thrice)
            await topic.more()
            assert topic.facts(key) == []
            assert [at for _, _, at in topic.positions()[before:] if at > committed_at] == []
            await session.commit()
        assert await topic.versions(key, 2) == [1, 2]

        async def positions_again() -> bool:
            await topic.more()
            return any(at > committed_at for _, _, at in topic.positions())

        await until(positions_again)


async def test_positions_come_to_every_partition_and_never_go_back(side: Make, tail: Make) -> None:
    projects: Side = await side("projects")
    topic: Tail = await tail(MEMBERSHIPS)
    async with relaying(projects):

        async def enough() -> bool:
            await topic.more()
            return len(topic.positions()) >= 20

        await until(enough)
    for partition in range(MEMBERSHIPS.partitions):
        times = [at for number, _, at in topic.positions() if number == partition]
        assert len(times) >= 5
        assert times == sorted(times)
        assert max((b - a).total_seconds() for a, b in pairwise(times)) < 1.0


async def test_a_relay_that_was_paused_is_fenced_when_it_wakes(side: Make, tail: Make) -> None:
    first: Side = await side("projects")
    second: Side = await side("projects", instance="2", beside=first)
    topic: Tail = await tail(MEMBERSHIPS)
    project = uuid7()
    key = membership(1, project).key
    program = "import asyncio, sys; from chassis.relay import Relay; from chassis.settings import Settings; asyncio.run(Relay(Settings.model_validate_json(sys.argv[1])).run())"
    described = first.settings.model_dump_json()
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, described, stderr=asyncio.subprocess.DEVNULL)
    try:
        await first.tell(membership(1, project))
        await topic.versions(key, 1)
        holder = (await first.sql("SELECT holder FROM relay_lease"))[0][0]
        async with relaying(second) as relay:
            assert not relay.leading
            os.kill(process.pid, signal.SIGSTOP)
            await until(lambda: relay.leading)
            await first.tell(membership(2, project))
            await topic.versions(key, 2)
            os.kill(process.pid, signal.SIGCONT)
            await first.tell(membership(3, project), membership(4, project))
            versions = await topic.versions(key, 4)
            assert sorted(set(versions)) == [1, 2, 3, 4]
            assert versions == sorted(versions)

            async def woke_and_waits() -> bool:
                asking = await first.sql(
                    "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'UPDATE relay_lease%' AND pid <> pg_backend_pid()"
                )
                return bool(asking[0][0] >= 2)

            await until(woke_and_waits)
            assert (await first.sql("SELECT holder FROM relay_lease"))[0][0] == relay.holder != holder
            await topic.more()
            for partition in range(MEMBERSHIPS.partitions):
                times = [at for number, _, at in topic.positions() if number == partition]
                assert times == sorted(times), "a fenced relay's position came through"
    finally:
        process.kill()
        await process.wait()


async def test_what_an_overtaken_relay_still_holds_in_its_hands_never_comes_through(side: Make, tail: Make) -> None:
    """It has read the outbox and the time, and is held up right before it publishes: a pause that no lease can see."""
    first: Side = await side("projects", lease_s=0.5)
    second: Side = await side("projects", instance="2", beside=first, lease_s=0.5)
    topic: Tail = await tail(MEMBERSHIPS)
    project = uuid7()
    key = membership(1, project).key
    holds, go_on, ended = asyncio.Event(), asyncio.Event(), []

    class HeldUp(Relay):
        async def _publish_transaction(self, producer: Any, rows: list[Any], partitions: list[tuple[str, int]], at: Any) -> None:
            if any(row["key"] == key for row in rows):
                holds.set()
                await go_on.wait()
                try:
                    await super()._publish_transaction(producer, rows, partitions, at)
                except KafkaError as error:
                    ended.append(type(error))
                    raise
            await super()._publish_transaction(producer, rows, partitions, at)

        async def _keep_lease(self) -> None:
            await asyncio.Event().wait()  # it is held up as a whole, and does not notice that its lease ran out

    async with relaying(first, HeldUp(first.settings)) as overtaken:
        await until(lambda: overtaken.leading)
        await first.tell(membership(1, project))
        await holds.wait()
        async with relaying(second) as successor:
            await until(lambda: successor.leading)
            await second.tell(membership(2, project, role=None))
            assert await topic.versions(key, 2) == [1, 2]
            go_on.set()
            await until(lambda: ended)
            assert ended[0] is ProducerFenced
            await second.tell(membership(3, project))
            assert await topic.versions(key, 3) == [1, 2, 3]
            for partition in range(MEMBERSHIPS.partitions):
                times = [at for number, _, at in topic.positions() if number == partition]
                assert times == sorted(times)


async def test_when_the_leader_is_killed_another_relay_goes_on(side: Make, tail: Make) -> None:
    first: Side = await side("projects")
    second: Side = await side("projects", instance="2", beside=first)
    topic: Tail = await tail(PROJECTS)
    project = uuid7()

    def fact(version: int) -> Project:
        return Project(version=version, project_id=project, name="n", description="", state=ProjectState.ACTIVE)

    async with relaying(second) as standby:
        async with relaying(first) as leader:
            await until(lambda: leader.leading or standby.leading)
            await first.tell(fact(1))
            await topic.versions(str(project), 1)
        await first.tell(fact(2))

        async def second_came() -> bool:
            await topic.more()
            return topic.facts(str(project))[-1].version == 2

        await until(second_came)
        versions = [heard.version for heard in topic.facts(str(project))]
        assert versions == sorted(versions)
        assert standby.leading


async def test_audit_records_are_numbered_densely_whoever_leads(side: Make, tail: Make) -> None:
    first: Side = await side("projects")
    second: Side = await side("projects", instance="2", beside=first)
    topic: Tail = await tail(TOPICS["audit.projects"], "audit")
    count = 0
    for leader in (first, second, first):
        async with relaying(leader):
            for _ in range(5):
                await first.tell(membership(1, uuid7()))
                count += 1

            async def published(wanted: int = count) -> bool:
                return len({AuditRecord.model_validate_json(record.value).number for record in await topic.more()}) >= wanted

            await until(published)
    records = [AuditRecord.model_validate_json(record.value) for record in topic.records]
    assert sorted({record.number for record in records}) == list(range(1, count + 1))
    assert all(record.source == "projects" and record.outcome == "allowed" for record in records)


async def test_another_services_topic_cannot_be_written(broker: Any) -> None:
    from aiokafka.errors import TopicAuthorizationFailedError  # noqa: PLC0415

    producer = bus.producer(broker.settings("datasets", "postgresql+asyncpg://unused"))
    await producer.start()
    try:
        with pytest.raises(TopicAuthorizationFailedError):
            await producer.send_and_wait(MEMBERSHIPS.name, b"{}", b"k")
    finally:
        await producer.stop()
