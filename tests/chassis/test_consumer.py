"""The consumer on the real broker: each version has its effect once, whatever crashes, repeats or cannot be read."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from sqlalchemy import text
from uuid_utils.compat import uuid7

from chassis import bus, db, inbox
from chassis import consumer as consumer_module
from chassis.consumer import Consumer
from chassis.hears import Hears, NotYetKnown, RawRecord
from chassis.inbox import up_to_date
from chassis.lanes import Applier, Lane
from chassis.outbox import UnitOfWork
from chassis.relay import Relay
from contracts.events import (
    ACTIVITY,
    BREAK_GLASS,
    MEMBERSHIPS,
    PROJECTS,
    PURGED,
    TOPICS,
    USERS,
    BreakGlass,
    Fact,
    Membership,
    Project,
    ProjectState,
    Session,
    Topic,
    User,
    UserStatus,
)
from tests.chassis.conftest import Bus, Side, effect, membership, send, until
from tests.world import record_of

Make = Callable[..., Any]


def hears(*facts: type[Fact]) -> Hears:
    made = Hears("datasets")
    for fact in facts or (Membership, Project):
        made.on(fact)(effect)
    return made


@asynccontextmanager
async def consuming(consumer: Consumer) -> AsyncIterator[Consumer]:
    task = asyncio.create_task(consumer.run())
    try:
        await until(lambda: consumer.error is None and consumer.lanes)
        yield consumer
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def writer(broker: Bus) -> AsyncIterator[AIOKafkaProducer]:
    producer = bus.producer(broker.settings("projects", "postgresql+asyncpg://unused"))
    await producer.start()
    yield producer
    await producer.stop()


def break_glass(opened: UUID, version: int) -> BreakGlass:
    now = datetime.now(UTC)
    return BreakGlass(
        version=version,
        break_glass_id=opened,
        project_id=opened,
        user_id=opened,
        owners=(),
        opened_at=now,
        ends_at=now,
        ended_at=None,
        review_due_at=now,
        reviewed_at=None,
        verdict=None,
        unreviewed=False,
    )


def project_fact(project: UUID, version: int) -> Project:
    return Project(version=version, project_id=project, name="n", description="", state=ProjectState.ACTIVE)


async def say(writer: AIOKafkaProducer, *facts: Fact) -> None:
    for fact in facts:
        await send(writer, fact.topic, fact.key, fact.model_dump_json().encode(), fact.type)


async def effects(side: Side, key: str) -> list[int]:
    return [row[0] for row in await side.sql("SELECT version FROM effect WHERE key = :key ORDER BY id", key=key)]


async def until_applied(side: Side, key: str, version: int) -> list[int]:
    async def there() -> bool:
        return bool(await side.sql("SELECT 1 FROM inbox WHERE key = :key AND version >= :version", key=key, version=version))

    await until(there)
    return await effects(side, key)


async def test_reordered_and_repeated_facts_have_their_effect_once(side: Make, writer: AIOKafkaProducer) -> None:
    datasets: Side = await side("datasets")
    project = uuid7()
    async with consuming(Consumer(datasets.settings, datasets.engine, hears())):
        await say(writer, *[project_fact(project, version) for version in (1, 1, 3, 2, 3, 4, 1)])
        await say(writer, project_fact(project, 5))
        assert await until_applied(datasets, str(project), 5) == [1, 3, 4, 5]


async def test_a_batch_goes_by_key_and_each_keys_facts_keep_their_order(side: Make) -> None:
    datasets: Side = await side("datasets")
    one, two = uuid7(), uuid7()
    facts = [project_fact(two, 1), project_fact(one, 1), project_fact(two, 2), project_fact(one, 2)]
    applier = Applier(datasets.engine, hears(), "datasets", retries=5)
    assert await applier.apply(Lane(PROJECTS), [record_of(fact) for fact in facts]) == 4
    rows = await datasets.sql("SELECT key, version FROM effect ORDER BY id")
    assert [tuple(row) for row in rows] == [(str(one), 1), (str(one), 2), (str(two), 1), (str(two), 2)]


async def test_a_crash_between_effect_and_offset_changes_nothing_twice(side: Make, writer: AIOKafkaProducer) -> None:
    class Dying(Applier):
        async def apply(self, lane: Any, records: Any) -> int:
            await super().apply(lane, records)
            raise asyncio.CancelledError

    datasets: Side = await side("datasets")
    project = uuid7()
    dying = Consumer(datasets.settings, datasets.engine, hears())
    dying.applier = Dying(datasets.engine, dying.hears, "datasets", retries=5)
    task = asyncio.create_task(dying.run())
    await until(lambda: dying.lanes)
    await say(writer, project_fact(project, 1))
    await until(task.done)
    assert await effects(datasets, str(project)) == [1]
    async with consuming(Consumer(datasets.settings, datasets.engine, hears())):
        await say(writer, project_fact(project, 2))
        assert await until_applied(datasets, str(project), 2) == [1, 2]


async def test_hearing_costs_the_same_however_much_was_heard_before(side: Make, writer: AIOKafkaProducer) -> None:
    datasets: Side = await side("datasets")
    many = 20_000
    fill = "INSERT INTO inbox (topic, key, version, partition) SELECT 'projects', gen_random_uuid()::text, 1, 0 FROM generate_series(1, :n)"
    async with consuming(Consumer(datasets.settings, datasets.engine, hears())):

        async def hear(number: int) -> None:
            for _ in range(number):
                fact = project_fact(uuid7(), 1)
                await say(writer, fact)
                await until(lambda: effects(datasets, fact.key))  # noqa: B023 - awaited here

        await hear(20)  # so that the database settles on its plans while there is little to look at
        await datasets.sql(fill, n=many)
        await hear(20)
    await datasets.engine.dispose()  # a connection that ends has told its statistics
    looked = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'inbox' AND n_tup_ins >= :n"

    async def told() -> bool:
        return bool(await datasets.sql(looked, n=many + 40))

    await until(told)
    assert (await datasets.sql(looked, n=many))[0][0] < many


async def test_an_effect_that_fails_leaves_no_trace_and_is_tried_again(side: Make, writer: AIOKafkaProducer) -> None:
    failures: list[int] = []
    made = Hears("datasets")

    @made.on(Project)
    async def twice_wrong(fact: Project, uow: UnitOfWork) -> None:
        await effect(fact, uow)
        if fact.version == 2 and len(failures) < 3:
            failures.append(fact.version)
            raise ValueError

    datasets: Side = await side("datasets")
    project = uuid7()
    async with consuming(Consumer(datasets.settings, datasets.engine, made)):
        await say(writer, *[project_fact(project, version) for version in (1, 2, 3)])
        assert await until_applied(datasets, str(project), 3) == [1, 2, 3]
    assert len(failures) == 3


async def test_a_poison_fact_is_put_aside_after_bounded_tries_and_the_rest_goes_on(side: Make, writer: AIOKafkaProducer) -> None:
    auth: Side = await side("auth", retries=3)
    opened = uuid7()
    made = Hears("auth")
    made.on(BreakGlass)(effect)
    async with consuming(Consumer(auth.settings, auth.engine, made)) as consumer:
        await say(writer, break_glass(opened, 1))
        await send(writer, BREAK_GLASS, str(opened), b'{"version": "nonsense"}', "break-glass.v1")
        await say(writer, break_glass(opened, 2))
        assert await until_applied(auth, str(opened), 2) == [1, 2]
        assert consumer.missing() == []
    letters = [json.loads(row[0]) for row in await auth.sql("SELECT payload FROM outbox WHERE topic = 'dead.auth'")]
    assert [(letter["topic"], letter["key"]) for letter in letters] == [("break-glass", str(opened))]


async def test_what_a_deletion_waits_for_is_tried_until_it_can_be_applied_and_never_put_aside(
    side: Make, writer: AIOKafkaProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_module, "RETRY_S", 0.001)
    datasets: Side = await side("datasets", retries=5)
    tries: list[int] = []
    made = Hears("datasets")

    @made.on(Project)
    async def no_room(fact: Project, uow: UnitOfWork) -> None:
        await effect(fact, uow)
        tries.append(fact.version)
        if len(tries) <= 10:
            raise ValueError("the disk is full")

    fact = project_fact(uuid7(), 1)
    async with consuming(Consumer(datasets.settings, datasets.engine, made)) as consumer:
        await say(writer, fact)
        await until(lambda: any("stands still at projects" in reason for reason in consumer.missing()))
        assert await until_applied(datasets, fact.key, 1) == [1]
        await until(lambda: consumer.missing() == [])
    assert len(tries) == 11
    assert await datasets.sql("SELECT 1 FROM outbox") == []


def test_what_decisions_and_deletions_rest_on_is_never_skipped() -> None:
    assert PROJECTS.never_skipped
    assert all(said.topic.never_skipped for said in PURGED.values())
    assert not BREAK_GLASS.never_skipped


async def test_an_unreadable_fact_on_an_authority_topic_stops_its_partition_and_readiness(side: Make, broker: Bus) -> None:
    writer = bus.producer(broker.settings("auth", "postgresql+asyncpg://unused"))
    await writer.start()
    datasets: Side = await side("datasets", retries=2)
    user = uuid7()
    own = Hears("datasets")
    own.on(User)(effect)
    async with consuming(Consumer(datasets.settings, datasets.engine, own)) as consumer:
        await send(writer, USERS, str(user), b"not json", "user.v1")
        await say(writer, User(version=2, user_id=user, username="bob00000", status=UserStatus.BLOCKED, cluster_roles=frozenset()))
        await until(lambda: any("stands still at users" in reason for reason in consumer.missing()))
        failures = max(lane.failures for lane in consumer.lanes.values())
        await until(lambda: max(lane.failures for lane in consumer.lanes.values()) > failures + 2)
        assert await effects(datasets, str(user)) == []
        assert await datasets.sql("SELECT 1 FROM outbox") == []
    await writer.stop()
    await skip_to_end(broker, "datasets", USERS.name)


async def test_a_partition_that_stood_still_is_ready_again_when_its_fact_can_be_applied(side: Make, broker: Bus) -> None:
    writer = bus.producer(broker.settings("auth", "postgresql+asyncpg://unused"))
    await writer.start()
    datasets: Side = await side("datasets", retries=2)
    user = uuid7()
    own = Hears("datasets")
    healthy = False

    @own.on(User)
    async def needs_room(fact: User, uow: UnitOfWork) -> None:
        if not healthy:
            raise ValueError(fact.version)
        await effect(fact, uow)

    async with consuming(Consumer(datasets.settings, datasets.engine, own)) as consumer:
        await say(writer, User(version=1, user_id=user, username="bob00000", status=UserStatus.ACTIVE, cluster_roles=frozenset()))
        await until(lambda: any("stands still at users" in reason for reason in consumer.missing()))
        healthy = True
        assert await until_applied(datasets, str(user), 1) == [1]
        await until(lambda: consumer.missing() == [])
        assert {lane.failures for lane in consumer.lanes.values()} == {0}
    await writer.stop()


async def skip_to_end(broker: Bus, group: str, topic: str) -> None:
    """Move a group behind what a test left on a topic on purpose."""
    client = bus.consumer(broker.settings(group, "postgresql+asyncpg://unused"), group=group)
    client.subscribe([topic])
    await client.start()
    await until(client.assignment)
    ends = await client.end_offsets(client.assignment())
    await client.commit(dict(ends))
    await client.stop()


async def test_a_fact_that_refers_to_something_unknown_waits_uncounted_and_blocks_no_other_partition(
    side: Make, writer: AIOKafkaProducer
) -> None:
    datasets: Side = await side("datasets", retries=1)
    known: set[str] = set()
    tries = 0
    made = Hears("datasets")

    @made.on(Project)
    async def needs_something(fact: Project, uow: UnitOfWork) -> None:
        nonlocal tries
        if fact.description == "waits" and "it" not in known:
            tries += 1
            raise NotYetKnown("memberships", "it")
        await effect(fact, uow)

    waiting = project_fact(uuid7(), 1).model_copy(update={"description": "waits"})
    async with consuming(Consumer(datasets.settings, datasets.engine, made)):
        await say(writer, waiting)
        await until(lambda: tries >= 5)
        others = [project_fact(uuid7(), 1) for _ in range(12)]
        await say(writer, *others)

        async def some_went_on() -> bool:
            return bool(await datasets.sql("SELECT 1 FROM effect"))

        await until(some_went_on)
        assert await effects(datasets, waiting.key) == []
        known.add("it")
        assert await until_applied(datasets, waiting.key, 1) == [1]
        for other in others:
            assert await until_applied(datasets, other.key, 1) == [1]
    assert await datasets.sql("SELECT 1 FROM outbox") == []


class Held:
    """A handler that does not come to its end with the facts of one aggregate, or of all, until it may go on."""

    def __init__(self, key: str | None = None) -> None:
        self.key = key
        self.began = asyncio.Event()
        self.go_on = asyncio.Event()

    async def __call__(self, fact: Fact, uow: UnitOfWork) -> None:
        await effect(fact, uow)
        if self.key in (None, fact.key):
            self.began.set()
            await self.go_on.wait()


async def put(writer: AIOKafkaProducer, partition: int, fact: Fact) -> None:
    """Write a fact into a partition."""
    headers = bus.headers(fact.type, str(uuid7()), "/test", fact.key, "2026-01-01T00:00:00+00:00")
    await writer.send_and_wait(fact.topic.name, fact.model_dump_json().encode(), fact.key.encode(), partition=partition, headers=headers)


def lanes_of(consumer: Consumer, topic: Topic) -> list[Lane]:
    return [lane for lane in consumer.lanes.values() if lane.topic is topic]


async def test_a_partition_that_waits_for_what_it_cannot_have_holds_up_no_other(
    side: Make, writer: AIOKafkaProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_module, "LONG_S", 0.1)
    datasets: Side = await side("datasets")
    stuck, other = project_fact(uuid7(), 1), project_fact(uuid7(), 1)
    held = Held(stuck.key)
    made = Hears("datasets")
    made.on(Project)(held)
    async with consuming(Consumer(datasets.settings, datasets.engine, made)) as consumer:
        await put(writer, 0, stuck)
        await asyncio.wait_for(held.began.wait(), 20)
        await put(writer, 1, other)
        assert await until_applied(datasets, other.key, 1) == [1]
        await until(lambda: any(reason.startswith("consumer: projects[0] has been at one batch") for reason in consumer.missing()))
        assert await effects(datasets, stuck.key) == []
        held.go_on.set()
        assert await until_applied(datasets, stuck.key, 1) == [1]
        await until(lambda: consumer.missing() == [])


async def test_what_authority_topics_say_goes_first(side: Make, writer: AIOKafkaProducer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_module, "FIRST_S", 60.0)
    datasets: Side = await side("datasets")
    held = Held()
    made = Hears("datasets")
    made.on(Membership)(held)
    made.on(Project)(effect)
    lost, project = membership(1, uuid7()), project_fact(uuid7(), 1)
    async with consuming(Consumer(datasets.settings, datasets.engine, made)) as consumer:
        await say(writer, lost)
        await asyncio.wait_for(held.began.wait(), 20)
        await say(writer, project)
        [work] = await until(lambda: [lane.work for lane in lanes_of(consumer, PROJECTS) if lane.at_work])
        await asyncio.wait([work], timeout=0.3)
        assert await effects(datasets, project.key) == []
        held.go_on.set()
        assert await until_applied(datasets, project.key, 1) == [1]
        assert await until_applied(datasets, lost.key, 1) == [1]


async def test_an_authority_partition_that_is_long_at_it_holds_up_no_other_either(side: Make, writer: AIOKafkaProducer) -> None:
    datasets: Side = await side("datasets")
    held = Held()
    made = Hears("datasets")
    made.on(Membership)(held)
    made.on(Project)(effect)
    async with consuming(Consumer(datasets.settings, datasets.engine, made)):
        await say(writer, membership(1, uuid7()))
        await asyncio.wait_for(held.began.wait(), 20)
        for _ in range(3):
            project = project_fact(uuid7(), 1)
            await say(writer, project)
            assert await until_applied(datasets, project.key, 1) == [1]
        held.go_on.set()


async def test_more_than_a_batch_is_applied_in_order_although_fetching_pauses(
    side: Make, writer: AIOKafkaProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_module, "BATCH", 3)
    datasets: Side = await side("datasets")
    project = uuid7()
    held = Held()
    made = Hears("datasets")
    made.on(Project)(held)
    async with consuming(Consumer(datasets.settings, datasets.engine, made)) as consumer:
        await put(writer, 0, project_fact(project, 1))
        await asyncio.wait_for(held.began.wait(), 20)
        for version in range(2, 21):
            await put(writer, 0, project_fact(project, version))
        await until(lambda: any(len(lane.waiting) > 3 for lane in lanes_of(consumer, PROJECTS)))
        held.go_on.set()
        assert await until_applied(datasets, str(project), 20) == list(range(1, 21))


async def test_what_is_under_way_when_partitions_go_round_is_undone_and_done_once_by_whoever_has_it_then(
    side: Make, writer: AIOKafkaProducer
) -> None:
    one: Side = await side("datasets")
    two: Side = await side("datasets", instance="2", beside=one)
    held = Held()
    made = Hears("datasets")
    made.on(Project)(held)
    fact = project_fact(uuid7(), 1)
    async with consuming(Consumer(one.settings, one.engine, made)):
        await say(writer, fact)
        await asyncio.wait_for(held.began.wait(), 20)
        held.began.clear()
        held.key = "nobody's"
        async with consuming(Consumer(two.settings, two.engine, hears(Project))):
            assert await until_applied(one, fact.key, 1) == [1]


async def test_a_consumer_that_slept_past_compaction_reads_anew_and_sweeps_what_was_erased(side: Make, writer: AIOKafkaProducer) -> None:
    datasets: Side = await side("datasets")
    kept, gone = uuid7(), uuid7()
    erased: list[str] = []
    made = hears(Project)

    @made.erased(PROJECTS)
    async def erase(key: str, uow: UnitOfWork) -> None:
        erased.append(key)

    async with consuming(Consumer(datasets.settings, datasets.engine, made)):
        await say(writer, project_fact(kept, 1))
        await until_applied(datasets, str(kept), 1)
    partition = (await datasets.sql("SELECT partition FROM inbox WHERE key = :key", key=str(kept)))[0][0]
    await datasets.sql(
        "INSERT INTO inbox (topic, key, version, partition) VALUES ('projects', :key, 4, :partition)", key=str(gone), partition=partition
    )
    await datasets.sql("UPDATE partitions_heard SET awake_at = awake_at - interval '2 days'")
    await say(writer, project_fact(kept, 2))
    async with consuming(Consumer(datasets.settings, datasets.engine, made)):
        assert await until_applied(datasets, str(kept), 2) == [1, 2]

        async def swept() -> bool:
            return not await datasets.sql("SELECT 1 FROM inbox WHERE key = :key", key=str(gone))

        await until(swept)
    assert str(gone) in erased
    assert str(kept) not in erased
    assert await datasets.sql("SELECT 1 FROM inbox WHERE key = :key", key=str(gone)) == []


async def test_what_is_erased_while_a_consumer_is_awake_is_forgotten_and_a_repetition_ends_the_same_way(
    side: Make, writer: AIOKafkaProducer
) -> None:
    datasets: Side = await side("datasets")
    gone, kept = project_fact(uuid7(), 1), project_fact(uuid7(), 1)
    made = hears(Project)

    @made.erased(PROJECTS)
    async def erase(key: str, uow: UnitOfWork) -> None:
        await uow.session.execute(text("DELETE FROM effect WHERE key = :key"), {"key": key})

    async def known() -> list[str]:
        return [row[0] for row in await datasets.sql("SELECT key FROM inbox ORDER BY key")]

    consumer = Consumer(datasets.settings, datasets.engine, made)
    tombstone = replace(record_of(gone), value=None)
    for _ in range(2):
        records = [record_of(gone), record_of(kept), tombstone]
        assert await consumer.applier.apply(Lane(PROJECTS), records) == len(records)
        assert await effects(datasets, gone.key) == []
        assert await effects(datasets, kept.key) == [1]
        assert await known() == [kept.key]
    async with consuming(consumer):
        await say(writer, gone)
        await until_applied(datasets, gone.key, 1)
        await writer.send_and_wait(PROJECTS.name, None, gone.key.encode())

        async def erased() -> bool:
            return gone.key not in await known()

        await until(erased)
    assert await effects(datasets, gone.key) == []


async def test_a_short_sleep_re_reads_nothing(side: Make, writer: AIOKafkaProducer) -> None:
    datasets: Side = await side("datasets")
    first, second = uuid7(), uuid7()
    async with consuming(Consumer(datasets.settings, datasets.engine, hears(Project))):
        await say(writer, project_fact(first, 1))
        await until_applied(datasets, str(first), 1)
    await datasets.sql("UPDATE inbox SET version = 0 WHERE key = :key", key=str(first))
    async with consuming(Consumer(datasets.settings, datasets.engine, hears(Project))):
        await say(writer, project_fact(second, 1))
        await until_applied(datasets, str(second), 1)
    assert await effects(datasets, str(first)) == [1]


async def test_what_was_set_back_to_asleep_is_read_anew_while_running_and_again_after_an_interrupted_reading(
    side: Make, writer: AIOKafkaProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets: Side = await side("datasets")
    kept = uuid7()
    set_back = "UPDATE partitions_heard SET awake_at = 'epoch'"
    running = Consumer(datasets.settings, datasets.engine, hears(Project))
    async with consuming(running):
        await say(writer, project_fact(kept, 1))
        await until_applied(datasets, str(kept), 1)
        await datasets.sql("DELETE FROM inbox")
        await datasets.sql(set_back)
        running.take_over_anew()
        await until_applied(datasets, str(kept), 1)
        await until(lambda: _awake(datasets))
    assert await effects(datasets, str(kept)) == [1, 1]
    await datasets.sql(set_back)
    interrupted = Consumer(datasets.settings, datasets.engine, hears(Project))
    monkeypatch.setattr(interrupted.applier, "sweep", _never)
    async with consuming(interrupted):
        await until(lambda: interrupted.lanes)
    assert not await _awake(datasets), "a reading that did not reach its end is due again"


async def test_a_partition_that_sleeps_is_woken_by_its_sweep_alone(side: Make, writer: AIOKafkaProducer) -> None:
    datasets: Side = await side("datasets")
    gone = uuid7()
    async with consuming(Consumer(datasets.settings, datasets.engine, hears(Project))):
        await say(writer, project_fact(gone, 1))
        await until_applied(datasets, str(gone), 1)
    await datasets.sql("UPDATE partitions_heard SET awake_at = 'epoch'")
    await datasets.sql(
        "INSERT INTO inbox (topic, key, version, partition) SELECT topic, 'erased meanwhile', 1, partition FROM inbox LIMIT 1"
    )
    made, sweeping, goes_on = hears(Project), asyncio.Event(), asyncio.Event()

    @made.erased(PROJECTS)
    async def erase(_key: str, _uow: UnitOfWork) -> None:
        sweeping.set()
        await goes_on.wait()

    consumer = Consumer(datasets.settings, datasets.engine, made)
    async with consuming(consumer):
        await asyncio.wait_for(sweeping.wait(), 20)
        await consumer._note_awake()
        asleep = "SELECT count(*) FROM partitions_heard WHERE awake_at = 'epoch'"
        assert (await datasets.sql(asleep))[0][0], "while it is swept it counts as asleep"
        goes_on.set()
        await until(lambda: _awake(datasets))
        await datasets.sql("UPDATE partitions_heard SET awake_at = 'epoch'")
        await consumer._note_awake()
        assert not await _awake(datasets), "who was put to sleep to be read anew is not woken by who hears on"


async def test_a_late_writer_takes_no_aggregate_out_of_a_later_pass(side: Make) -> None:
    datasets: Side = await side("datasets")
    place = TopicPartition(PROJECTS.name, 0)
    for number in (2, 1):
        async with datasets.unit() as uow:
            await inbox.take(uow.session, place, {"met": 1}, number)
    async with datasets.unit() as uow:
        assert await inbox.unseen(uow.session, place, 2) == []


async def _never(*_: object) -> None:
    await asyncio.Event().wait()


async def _awake(side: Side) -> bool:
    return bool((await side.sql("SELECT bool_and(awake_at > now() - interval '1 day') FROM partitions_heard"))[0][0])


async def test_facts_that_come_while_a_partition_is_still_being_taken_over_are_not_passed_by(side: Make, writer: AIOKafkaProducer) -> None:
    class Late(Consumer):
        early = asyncio.Event()

        def _known(self, client: Any, batches: Any) -> Any:
            if any(tp not in self.lanes for tp in batches):
                self.early.set()
            return super()._known(client, batches)

        async def assigned(self, client: Any, partitions: Any) -> None:
            self.lanes.clear()
            await asyncio.wait_for(self.early.wait(), 20)
            await super().assigned(client, partitions)

    datasets: Side = await side("datasets")
    projects = [uuid7() for _ in range(10)]
    await say(writer, *[project_fact(project, 1) for project in projects])
    async with consuming(Late(datasets.settings, datasets.engine, hears(Project))):
        for project in projects:
            assert await until_applied(datasets, str(project), 1) == [1]


async def test_two_consumers_share_the_work_and_a_rebalance_repeats_no_effect(side: Make, writer: AIOKafkaProducer) -> None:
    one: Side = await side("datasets")
    two: Side = await side("datasets", instance="2", beside=one)
    projects = [uuid7() for _ in range(30)]
    async with consuming(Consumer(one.settings, one.engine, hears(Project))) as first:
        await say(writer, *[project_fact(project, 1) for project in projects])
        async with consuming(Consumer(two.settings, two.engine, hears(Project))) as second:
            await until(lambda: len(first.lanes) == len(second.lanes) == 1)
            await say(writer, *[project_fact(project, 2) for project in projects])
            for project in projects:
                assert await until_applied(one, str(project), 2) == [1, 2]
        await say(writer, *[project_fact(project, 3) for project in projects])
        for project in projects:
            assert await until_applied(one, str(project), 3) == [1, 2, 3]


def test_only_readers_named_in_the_catalogue_hear_a_topic() -> None:
    with pytest.raises(ValueError, match="no reader"):
        Hears("datasets").on(Session)(effect)


def test_every_dead_letter_topic_has_its_owner() -> None:
    assert all(TOPICS[f"dead.{service}"].owner == service for service in ("auth", "datasets", "search"))


@pytest.mark.parametrize("known", [False, True])
async def test_a_consumer_that_lost_its_partition_and_goes_on_repeats_no_effect(side: Make, known: bool) -> None:
    """Two of one group have the same fact in hand at once: the second waits for the first, and sees what it did."""
    datasets: Side = await side("datasets")
    project = uuid7()
    holds, go_on = asyncio.Event(), asyncio.Event()
    slow = Hears("datasets")

    @slow.on(Project)
    async def held_up(fact: Project, uow: UnitOfWork) -> None:
        await effect(fact, uow)
        holds.set()
        await go_on.wait()

    def record(version: int) -> Any:
        fact = project_fact(project, version)
        made = bus.headers(fact.type, str(uuid7()), "/projects", fact.key, "2026-11-23T00:00:00+00:00")
        return SimpleNamespace(
            topic=PROJECTS.name, partition=0, offset=version, key=fact.key.encode(), value=fact.model_dump_json().encode(), headers=made
        )

    zombie, heir = Consumer(datasets.settings, datasets.engine, slow), Consumer(datasets.settings, datasets.engine, hears())
    if known:
        await heir.applier.transaction(Lane(PROJECTS), [record(1)])
    first = asyncio.create_task(zombie.applier.transaction(Lane(PROJECTS), [record(2)]))
    await holds.wait()
    second = asyncio.create_task(heir.applier.transaction(Lane(PROJECTS), [record(2), record(3)]))

    async def waits() -> bool:
        return bool(await datasets.sql("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"))

    await until(waits)
    go_on.set()
    await asyncio.gather(first, second)
    assert await effects(datasets, str(project)) == [*([1] if known else []), 2, 3]


async def test_of_topics_taken_as_bytes_it_is_known_until_when_all_was_heard(
    side: Make, broker: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_module, "HEARD_S", 0.1)
    auth: Side = await side("auth")
    told = asyncio.Event()
    held = asyncio.Event()

    async def hear(records: Sequence[RawRecord], uow: UnitOfWork) -> None:
        told.set()
        await held.wait()

    listens = Hears("auth")
    listens.raw(ACTIVITY.name)(hear)

    async def heard() -> list[Any]:
        found = await auth.sql("SELECT partition, awake_at FROM partitions_heard WHERE topic = 'activity' ORDER BY partition")
        return [row.awake_at for row in found] if [row.partition for row in found] == [0, 1] else []

    producer = bus.producer(broker.settings("gateway", "postgresql+asyncpg://unused"))
    await producer.start()
    try:
        async with consuming(Consumer(auth.settings, auth.engine, listens)):
            first = await until(heard)

            async def later() -> bool:
                return all(new > old for new, old in zip(await heard(), first, strict=True))

            await until(later)
            await producer.send_and_wait(ACTIVITY.name, b"{}", partition=0)
            await asyncio.wait_for(told.wait(), 10)
            written = (await auth.sql("SELECT clock_timestamp()"))[0][0]
            stood = await heard()
            assert stood[0] < written
            held.set()

            async def all_of_it() -> bool:
                return bool(min(await heard()) > written)

            await until(all_of_it)
    finally:
        await producer.stop()


DATED = Hears("datasets", dated=(MEMBERSHIPS,))
STORE = """INSERT INTO partitions_heard (topic, partition, awake_at, position_at) VALUES ('memberships', :partition, now(), now() + :ahead)
           ON CONFLICT (topic, partition) DO UPDATE SET position_at = excluded.position_at"""


@pytest.mark.parametrize(("ahead", "known"), [(-0.2, True), (0.3, True), (5.0, False), (-1.5, False)])
async def test_a_position_that_lies_ahead_of_the_own_clock_makes_nothing_young(side: Make, ahead: float, known: bool) -> None:
    datasets: Side = await side("datasets")
    await datasets.sql(STORE, partition=0, ahead=timedelta(0))
    assert not await up_to_date(datasets.engine, [MEMBERSHIPS])
    await datasets.sql(STORE, partition=0, ahead=timedelta(0))
    await datasets.sql(STORE, partition=1, ahead=timedelta(seconds=ahead))
    assert await up_to_date(datasets.engine, [MEMBERSHIPS]) is known


async def test_a_position_is_stored_as_it_came_although_a_later_one_stood_there(side: Make) -> None:
    datasets: Side = await side("datasets")
    await datasets.sql(STORE, partition=0, ahead=timedelta(hours=1))
    consumer = Consumer(datasets.settings, datasets.engine, DATED)
    place, at = TopicPartition("memberships", 0), datetime.now(UTC)
    consumer.lanes[place] = Lane(MEMBERSHIPS, position=at)
    await consumer._note_positions()
    assert [row.position_at for row in await datasets.sql("SELECT position_at FROM partitions_heard")] == [at]
    assert consumer.lanes[place].position is None


async def test_a_service_says_where_it_does_not_know_the_newest(side: Make) -> None:
    datasets: Side = await side("datasets")
    consumer = Consumer(datasets.settings, datasets.engine, DATED)
    consumer.error = None
    now = time.time()
    ages = {("memberships", 0): 0.0, ("memberships", 1): 10.0, ("users", 0): 10.0}
    for (topic, partition), age in ages.items():
        consumer.lanes[TopicPartition(topic, partition)] = Lane(TOPICS[topic], reached=now - age)
    assert consumer.missing() == ["consumer: no fresh position on memberships[1]"]
    consumer.lanes[TopicPartition("memberships", 1)].reached = now + 60
    [reason] = consumer.missing()
    assert re.fullmatch(r"consumer: positions on memberships\[1\] are \d+\.\d s ahead of this clock", reason)


async def test_who_answers_strangers_knows_until_when_all_was_heard(side: Make) -> None:
    """What cannot be applied, and what is not said any more, ends in not knowing."""
    broken = asyncio.Event()
    made = Hears("datasets", dated=(MEMBERSHIPS,))

    @made.on(Membership)
    async def heard(_fact: Membership, _uow: UnitOfWork) -> None:
        if broken.is_set():
            raise ValueError

    projects, datasets = await side("projects"), await side("datasets")

    async def knows() -> bool:
        async with db.session(datasets.engine) as session:
            return await up_to_date(session, [MEMBERSHIPS])

    async def knows_not() -> bool:
        return not await knows()

    assert not await knows()
    relay = asyncio.create_task(Relay(projects.settings).run())
    try:
        async with consuming(Consumer(datasets.settings, datasets.engine, made)) as consumer:
            await until(knows)
            await until(lambda: consumer.missing() == [])
            broken.set()
            await projects.tell(membership(1, uuid7()))
            await until(knows_not)
            broken.clear()
            await until(knows)
            relay.cancel()
            await until(knows_not)
            await until(lambda: any("no fresh position on memberships" in reason for reason in consumer.missing()))
    finally:
        relay.cancel()
        await asyncio.gather(relay, return_exceptions=True)
