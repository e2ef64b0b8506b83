"""The consumer: facts heard by a service, each applied at most once per version, in one transaction with its effects.

The inbox holds the last version applied of every aggregate, so it stays as small as what it describes. Each partition goes its own
way: one that is slow or waits holds up no other, except that a batch of another topic lets those of authority topics go first. A batch
is one transaction; when it fails, its facts are applied one by one. A poison fact goes to the dead-letter topic through the outbox, before
it is skipped. On topics that are never skipped (the authority topics among them) the partition stops instead. The broker hears of
offsets a moment after their effects were committed: what a crash lets come again changes nothing.
"""

import asyncio
import contextlib
import functools
import json
import re
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID, uuid5

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from prometheus_client import Counter
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from chassis import bus, patience
from chassis.db import fetch, is_away, look
from chassis.log import logger
from chassis.outbox import NOTIFY, UnitOfWork, unit_of_work
from chassis.projection import FRESH_S
from chassis.settings import Settings
from contracts.events import TOPICS, Fact, Topic

log = logger(__name__)
BATCH = 200
FIRST_S = 0.5
LONG_S = 10.0
RETRY_S = 0.05
AWAKE_S = 30.0
HEARD_S = 2.0
PACE_S = 0.002
OFFSETS_S = 0.25
POSITIONS_S = 0.15
STALE_S = 2.0
AHEAD_S = 0.8  # as far as clocks may be apart
DEAD_LETTERS = UUID("0b1f6f0e-6d53-5d6e-9f5c-9a1d3f0d2c11")
APPLIED = Counter("hortus_consumer_applied_total", "Facts applied", ["topic"])
DEAD = Counter("hortus_consumer_dead_total", "Facts put aside as dead letters", ["topic"])

F = TypeVar("F", bound=Fact)
Batches = dict[TopicPartition, list[Any]]
Handler = Callable[[Any, UnitOfWork], Awaitable[None]]
RawHandler = Callable[[Sequence["RawRecord"], UnitOfWork], Awaitable[None]]
Eraser = Callable[[str, UnitOfWork], Awaitable[None]]


class NotYetKnown(Exception):
    """A fact refers to something that this service has not heard of yet: wait, without counting it as a failure."""

    def __init__(self, topic: str, key: object) -> None:
        super().__init__(f"{topic}:{key}")


@dataclass(frozen=True)
class RawRecord:
    """A record as it lies on the topic; ``at`` is the broker's time in milliseconds since 1970."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes
    at: int


@dataclass
class Hears:
    """What a service hears: one handler for each fact, and batch handlers for topics that are stored as they are.

    ``dated``: it decides about people whom no gateway looks up, by what it heard on these authority topics, so the positions
    that it has come to are stored, and ``up_to_date`` says whether they are young enough.
    """

    service: str
    dated: tuple[Topic, ...] = ()
    handlers: dict[str, Handler] = field(default_factory=dict)
    topics: dict[str, Topic] = field(default_factory=dict)
    erasers: dict[str, Eraser] = field(default_factory=dict)
    raw_prefix: str | None = None
    raw_handler: RawHandler | None = None

    def on(self, fact: type[F]) -> Callable[[Callable[[F, UnitOfWork], Awaitable[None]]], Callable[[F, UnitOfWork], Awaitable[None]]]:
        """Register the handler of a fact. The catalogue must name this service as a reader of its topic."""

        def register(handler: Callable[[F, UnitOfWork], Awaitable[None]]) -> Callable[[F, UnitOfWork], Awaitable[None]]:
            if self.service not in fact.topic.readers:
                raise ValueError(f"{self.service} is no reader of {fact.topic.name}")
            self.handlers[fact.type] = handler
            self.topics[fact.topic.name] = fact.topic
            return handler

        return register

    def erased(self, topic: Topic) -> Callable[[Eraser], Eraser]:
        """Register what to do when an aggregate was erased from a compacted topic, now or while this service slept."""

        def register(eraser: Eraser) -> Eraser:
            self.erasers[topic.name] = eraser
            return eraser

        return register

    def raw(self, prefix: str) -> Callable[[RawHandler], RawHandler]:
        """Register a batch handler for every topic that starts with ``prefix``; it must itself be safe to repeat."""

        def register(handler: RawHandler) -> RawHandler:
            self.raw_prefix = prefix
            self.raw_handler = handler
            return handler

        return register


# Takes the aggregates' rows, in the order of their keys, says which version of each was passed before, and passes those of this batch.
_TAKE = """INSERT INTO inbox (topic, key, version, partition, pass)
           SELECT $1, k, v, $4, $5 FROM unnest($2::text[], $3::bigint[]) AS n(k, v)
           ON CONFLICT (topic, key) DO UPDATE SET version = greatest(inbox.version, excluded.version), pass = excluded.pass,
               partition = excluded.partition
           RETURNING key, coalesce(old.version, 0) AS passed"""
_AWAKE = text("""INSERT INTO partitions_heard (topic, partition, awake_at) VALUES (:topic, :partition, clock_timestamp())
                 ON CONFLICT (topic, partition) DO UPDATE SET awake_at = excluded.awake_at""")
_CLOCK = text("SELECT clock_timestamp()")
_HEARD = text("""INSERT INTO partitions_heard (topic, partition, awake_at) SELECT t, p, :at
                 FROM unnest(CAST(:topics AS text[]), CAST(:partitions AS integer[])) AS h(t, p)
                 ON CONFLICT (topic, partition) DO UPDATE SET awake_at = greatest(partitions_heard.awake_at, excluded.awake_at)""")
# What is lost of this in a crash comes again with the next position, so nothing waits for the disk.
_REACHED = """UPDATE partitions_heard AS h SET position_at = n.at
              FROM unnest($1::text[], $2::integer[], $3::timestamptz[]) AS n(topic, partition, at), set_config('synchronous_commit', 'off', true)
              WHERE h.topic = n.topic AND h.partition = n.partition"""
# An infinite one is no relay's: who runs a service without the others says so that it misses nothing.
_UP_TO_DATE = """SELECT count(*) = $2 AND coalesce(bool_and(position_at > clock_timestamp() - $3 * interval '1 second'
                     AND (position_at < clock_timestamp() + $4 * interval '1 second' OR position_at = 'infinity')), false) AS young
                 FROM partitions_heard WHERE topic = ANY($1::text[]) AND position_at IS NOT NULL"""
_SLEPT = text("""SELECT coalesce((SELECT clock_timestamp() - awake_at > :limit * interval '1 second' FROM partitions_heard
                 WHERE topic = :topic AND partition = :partition), false)""")
_NEXT_PASS = text("UPDATE partitions_heard SET pass = pass + 1 WHERE topic = :topic AND partition = :partition RETURNING pass")
_PASS = text("SELECT pass FROM partitions_heard WHERE topic = :topic AND partition = :partition")
_UNSEEN = text("SELECT key FROM inbox WHERE topic = :topic AND partition = :partition AND pass < :pass ORDER BY key FOR UPDATE")
_FORGET = text("DELETE FROM inbox WHERE topic = :topic AND key = ANY(CAST(:keys AS text[]))")
_DEAD_LETTER = text("""INSERT INTO outbox (topic, key, version, type, event_id, at, actor, traceparent, payload)
                       VALUES (:topic, :key, 1, 'dead-letter.v1', :id, now(), :service, '', :payload) ON CONFLICT DO NOTHING""")


@dataclass
class Lane:
    """One assigned partition: what was fetched and is not done with, what is at work on it and since when, and the sweep it is in, if any.

    ``failures`` is how often its next record failed, and ``retry_at`` when to try again.
    ``offset`` is where the next record lies, as long as the broker was not told, and ``position`` the newest one that was come
    to, as long as it is not stored; ``reached`` is the time that it says, as long as there was none that of taking over.
    ``trouble`` is set while a fact that is never skipped cannot be read or applied: the partition stands still until it can.
    """

    topic: Topic
    waiting: list[Any] = field(default_factory=list)
    work: asyncio.Task[None] | None = None
    since: float = 0.0
    failures: int = 0
    trouble: str | None = None
    retry_at: float = 0.0
    pass_number: int = 0
    sweep_to: int | None = None
    offset: int | None = None
    position: datetime | None = None
    reached: float = field(default_factory=time.time)

    @property
    def at_work(self) -> bool:
        """Whether something is being done about it."""
        return self.work is not None and not self.work.done()


async def up_to_date(database: AsyncSession | AsyncEngine, topics: Iterable[Topic]) -> bool:
    """Whether a service whose ``Hears`` dates these topics has applied all that was committed there more than a second ago.

    What is read after this has all of that: in the same transaction, or outside of any. Positions are times of the writers' clocks: where
    one lies ahead of this database's by more than clocks may differ, an old one would look young for just as long, and nothing is known.
    """
    partitions = {topic.name: topic.partitions for topic in topics}
    ask = functools.partial(fetch, database) if isinstance(database, AsyncSession) else functools.partial(look, database)
    rows = await ask(_UP_TO_DATE, list(partitions), sum(partitions.values()), FRESH_S, AHEAD_S)
    return bool(rows[0]["young"])


class Consumer:
    """Applies what a service hears. Several may run: Kafka gives each its partitions."""

    def __init__(self, settings: Settings, engine: AsyncEngine, hears: Hears) -> None:
        self.settings = settings
        self.engine = engine
        self.hears = hears
        self.service = settings.service
        self.lanes: dict[TopicPartition, Lane] = {}
        self.error: str | None = "consumer: not connected yet"
        self.on_applied: list[Callable[[Fact], None]] = []
        self.not_assigned: Exception | None = None
        self._anew = False
        self._came_on = asyncio.Event()

    def missing(self) -> list[str]:
        """What keeps the consumer from being ready, partition by partition."""
        missing = [self.error] if self.error else []
        now, clock = time.monotonic(), time.time()
        for tp, lane in self.lanes.items():
            place = f"{tp.topic}[{tp.partition}]"
            if lane.trouble:
                missing.append(f"consumer: {lane.trouble}")
            if lane.at_work and now - lane.since > LONG_S:
                missing.append(f"consumer: {place} has been at one batch for {now - lane.since:.0f} s")
            if lane.topic in self.hears.dated and clock - lane.reached > STALE_S:
                missing.append(f"consumer: no fresh position on {place}")
            if lane.topic in self.hears.dated and lane.reached - clock > AHEAD_S:
                missing.append(f"consumer: positions on {place} are {lane.reached - clock:.1f} s ahead of this clock")
        return missing

    def take_over_anew(self) -> None:
        """Join the group again, so that partitions whose ``awake_at`` was set back are read from their beginning."""
        self._anew = True

    async def run(self) -> None:
        """Hear until cancelled; reconnects by itself."""
        if not self.hears.topics and not self.hears.raw_prefix:
            self.error = None
            return
        pause = 0.1
        while True:
            client = self._client()
            self.not_assigned = None
            try:
                await client.start()
                self.error = None
                pause = 0.1
                notes = [
                    asyncio.create_task(note)
                    for note in (
                        _every(OFFSETS_S, lambda: self._commit_offsets(client)),  # noqa: B023 - ends before the next client
                        _every(HEARD_S, lambda: self._note_heard(client)),  # noqa: B023 - the same
                        _every(AWAKE_S, self._note_awake),
                        self._keep_positions(),
                    )
                ]
                try:
                    await self._hear(client, notes)
                finally:
                    await _end(notes)
            except (OSError, KafkaError, DBAPIError, TimeoutError) as error:
                self.error = f"consumer: {type(error).__name__}"
                log.warning("consumer interrupted", error=repr(error))
            except Exception as error:
                # Whatever broke: a service that stopped hearing would still look alive.
                self.error = f"consumer: {type(error).__name__}"
                log.error("consumer failed", exc_info=error)
            finally:
                await _end([lane.work for lane in self.lanes.values() if lane.work is not None])
                for leave in (lambda: self._commit_offsets(client), client.stop):  # noqa: B023 - called at once
                    with contextlib.suppress(KafkaError, OSError, TimeoutError):
                        async with asyncio.timeout(5):
                            await leave()
                self.lanes.clear()
            await patience.pause(pause)
            pause = min(pause * 2, 2.0)

    def _client(self) -> AIOKafkaConsumer:
        client = bus.consumer(self.settings, group=self.service)
        if self.hears.raw_prefix:
            names = [re.escape(self.hears.raw_prefix) + ".*", *(f"{re.escape(name)}$" for name in self.hears.topics)]
            client.subscribe(pattern="^(" + "|".join(names) + ")", listener=_Listener(self, client))
        else:
            client.subscribe(list(self.hears.topics), listener=_Listener(self, client))
        return client

    async def assigned(self, client: AIOKafkaConsumer, partitions: Sequence[TopicPartition]) -> None:
        """Take over partitions; one that slept longer than tombstones live is read from its beginning and swept.

        It counts as asleep until the sweep is done: a process that ends before leaves the whole work to the next one.
        """
        await self.stand_down()
        for tp in partitions:
            topic = TOPICS.get(tp.topic) or next((t for t in TOPICS.values() if t.per_instance and tp.topic.startswith(t.name + "-")), None)
            if topic is None:
                raise LookupError(tp.topic)
            lane = Lane(topic)
            if topic.compacted:
                place = {"topic": tp.topic, "partition": tp.partition}
                async with self.engine.begin() as connection:
                    slept = (await connection.execute(_SLEPT, {**place, "limit": self.settings.sleep_limit_s})).scalar_one()
                    if not slept:
                        await connection.execute(_AWAKE, place)
                    lane.pass_number = (await connection.execute(_NEXT_PASS if slept else _PASS, place)).scalar_one()
                if slept:
                    log.warning("slept past compaction: reading from the beginning", topic=tp.topic, partition=tp.partition)
                    lane.sweep_to = (await client.end_offsets([tp]))[tp]
                    await client.seek_to_beginning(tp)
            self.lanes[tp] = lane

    async def stand_down(self) -> None:
        """Let go of all partitions; what is under way is undone."""
        works = [lane.work for lane in self.lanes.values() if lane.work is not None]
        self.lanes.clear()
        await _end(works)

    async def _hear(self, client: AIOKafkaConsumer, notes: Sequence[asyncio.Task[None]]) -> None:
        paced = 0.0
        self._anew = False
        while not self._anew:
            if self.not_assigned is not None:
                raise self.not_assigned
            for note in notes:
                if note.done():
                    note.result()
            await asyncio.sleep(paced - time.monotonic())
            waits = any(lane.waiting and not lane.at_work for lane in self.lanes.values())
            # All that was fetched is taken out: what is left in the library's hands would keep it from fetching anything else.
            batches = await client.getmany(timeout_ms=50 if waits else 250)
            paced = time.monotonic() + PACE_S
            for tp, records in self._known(client, batches).items():
                self.lanes[tp].waiting += records
                if len(self.lanes[tp].waiting) > BATCH:
                    client.pause(tp)
            for tp, lane in list(self.lanes.items()):
                if not lane.at_work and (due := await self._due(client, tp, lane)) is not None:
                    lane.since = time.monotonic()
                    lane.work = asyncio.create_task(due)

    async def _due(self, client: AIOKafkaConsumer, tp: TopicPartition, lane: Lane) -> Coroutine[Any, Any, None] | None:
        """What is to be done about a partition on which nothing is at work. Raises what ended the work before."""
        if lane.work is not None:
            lane.work.result()
        if lane.waiting:
            return self._work(client, tp, lane) if lane.retry_at <= time.monotonic() else None
        if lane.sweep_to is not None and await client.position(tp) >= lane.sweep_to and tp in self.lanes:
            return self._sweep(tp, lane)
        return None

    async def _work(self, client: AIOKafkaConsumer, tp: TopicPartition, lane: Lane) -> None:
        """Apply what waits in a partition, batch by batch, until nothing does or the next record has to be tried again later."""
        while lane.waiting:
            if not lane.topic.authority:
                await self._let_authority_go_first()
            lane.since = time.monotonic()
            records = lane.waiting[:BATCH]
            done = await self._apply(lane, records)
            if done:
                lane.offset = records[done - 1].offset + 1
                if lane.topic in self.hears.dated and (position := _newest_position(records[:done])):
                    lane.position = position
                    lane.reached = position.timestamp()
                    self._came_on.set()
                del lane.waiting[:done]
            if done < len(records):
                lane.retry_at = time.monotonic() + RETRY_S * min(2**lane.failures, 40)
                return
            if len(lane.waiting) <= BATCH:
                with contextlib.suppress(IllegalStateError):  # it is somebody else's by now
                    client.resume(tp)

    async def _let_authority_go_first(self) -> None:
        """Wait for the authority topics' partitions, but for none that has been at one batch for long."""
        late = time.monotonic() - FIRST_S
        first = [lane.work for lane in self.lanes.values() if lane.topic.authority and lane.work is not None and lane.since > late]
        if first:
            await asyncio.wait(first, timeout=FIRST_S)

    async def _note_awake(self) -> None:
        """Say that this service hears its compacted topics, and misses no tombstone."""
        async with self.engine.begin() as connection:
            for tp, lane in list(self.lanes.items()):
                if lane.topic.compacted and lane.sweep_to is None:
                    await connection.execute(_AWAKE, {"topic": tp.topic, "partition": tp.partition})

    async def _keep_positions(self) -> None:
        while True:
            await self._came_on.wait()
            self._came_on.clear()
            await self._note_positions()
            await asyncio.sleep(POSITIONS_S)

    async def _note_positions(self) -> None:
        """Store how far each dated partition was applied; only after the effects before it were committed."""
        reached = {tp: lane.position for tp, lane in sorted(self.lanes.items()) if lane.position is not None and lane.sweep_to is None}
        if not reached:
            return
        await look(self.engine, _REACHED, [tp.topic for tp in reached], [tp.partition for tp in reached], [*reached.values()])
        for tp, at in reached.items():
            if tp in self.lanes and self.lanes[tp].position == at:
                self.lanes[tp].position = None

    async def _note_heard(self, client: AIOKafkaConsumer) -> None:
        """Of topics taken as bytes, remember as ``awake_at`` until when all was heard: whoever misses something there knows that it was not told.

        The time is read before the ends are asked for, and a partition counts when it was applied up to its end.
        """
        raw = sorted(tp for tp in self.lanes if self._is_raw(tp.topic))
        if not raw:
            return
        async with self.engine.connect() as connection:
            at = (await connection.execute(_CLOCK)).scalar_one()
        ends = await client.end_offsets(raw)
        heard = []
        for tp in raw:
            with contextlib.suppress(IllegalStateError):  # it is somebody else's by now
                if await client.position(tp) >= ends[tp] and tp in self.lanes and not self.lanes[tp].waiting:
                    heard.append(tp)
        if heard:
            values = {"at": at, "topics": [tp.topic for tp in heard], "partitions": [tp.partition for tp in heard]}
            async with self.engine.begin() as connection:
                await connection.execute(_HEARD, values)

    def _known(self, client: AIOKafkaConsumer, batches: Batches) -> Batches:
        """The batches of partitions that are taken over; the others, which came too early, will be given again.

        The library gives out records of a partition while its listener still takes it over.
        """
        for tp in [tp for tp in batches if tp not in self.lanes]:
            with contextlib.suppress(IllegalStateError):  # it is somebody else's by now
                client.seek(tp, batches[tp][0].offset)
        return {tp: records for tp, records in batches.items() if tp in self.lanes}

    async def _commit_offsets(self, client: AIOKafkaConsumer) -> None:
        """Say how far each partition is done with; what is repeated because this came too late changes nothing."""
        held = client.assignment()
        offsets = {tp: lane.offset for tp, lane in self.lanes.items() if lane.offset is not None and tp in held}
        if not offsets:
            return
        try:
            await client.commit(offsets)
        except (CommitFailedError, IllegalStateError):
            log.info("partitions went to another consumer, which repeats what was not committed")
            return
        for tp, offset in offsets.items():
            if tp in self.lanes and self.lanes[tp].offset == offset:
                self.lanes[tp].offset = None

    async def _apply(self, lane: Lane, records: Sequence[Any]) -> int:
        """Apply records in order; how many of them are done with."""
        try:
            await self._transaction(lane, records)
        except Exception as error:
            if is_away(error):
                raise
            log.debug("batch failed, going one by one", error=repr(error))
        else:
            lane.failures = 0
            lane.trouble = None
            return len(records)
        for count, record in enumerate(records):
            if not await self._apply_one(lane, record):
                return count
        return len(records)

    async def _apply_one(self, lane: Lane, record: Any) -> bool:
        """Apply one record; False when it has to be tried again later."""
        place = f"{record.topic}[{record.partition}]@{record.offset}"
        try:
            await self._transaction(lane, [record])
        except NotYetKnown as wait:
            log.debug("waits for what is not known yet", place=place, waits_for=str(wait))
            return False
        except Exception as error:
            if is_away(error):
                raise
            lane.failures += 1
            log.warning("fact could not be applied", place=place, failures=lane.failures, error=repr(error))
            if lane.topic.authority or lane.topic.never_skipped or self._is_raw(record.topic):
                lane.trouble = f"stands still at {place}"
                return False
            if lane.failures < self.settings.retries:
                return False
            await self._put_aside(record, error)
        lane.failures = 0
        lane.trouble = None
        return True

    def _is_raw(self, topic: str) -> bool:
        return self.hears.raw_prefix is not None and topic.startswith(self.hears.raw_prefix)

    async def _transaction(self, lane: Lane, records: Sequence[Any]) -> None:
        first = records[0]
        if self._is_raw(first.topic) and self.hears.raw_handler is not None:
            async with unit_of_work(self.engine, self.service, f"hear.{lane.topic.name}") as uow:
                raw = [RawRecord(r.topic, r.partition, r.offset, r.key, r.value or b"", r.timestamp) for r in records]
                await self.hears.raw_handler(raw, uow)
            return
        read = [(record.key.decode(), bus.read(record)) for record in records]
        heard = [(key, said) for key, said in read if not isinstance(said, bus.Position)]
        if not heard:
            return
        newest = dict.fromkeys(sorted({key for key, _ in heard}), 0)
        for key, fact in heard:
            newest[key] = max(newest[key], fact.version if fact is not None else 0)
        place = (first.topic, list(newest), list(newest.values()), first.partition, lane.pass_number)
        async with unit_of_work(self.engine, self.service, f"hear.{lane.topic.name}") as uow:
            passed: dict[str, int] = {row["key"]: row["passed"] for row in await fetch(uow.session, _TAKE, *place)}
            for key, fact in heard:
                if fact is None:  # the aggregate was erased
                    await self._erase(uow, first.topic, key)
                elif fact.version > passed[key]:
                    await self._handle(uow, fact)
                passed[key] = max(fact.version, passed[key]) if fact is not None else 0
            if gone := [key for key, version in passed.items() if not version]:
                await uow.session.execute(_FORGET, {"topic": first.topic, "keys": gone})
        APPLIED.labels(first.topic).inc(len(heard))
        for fact in [fact for _, fact in heard if fact is not None]:
            for told in self.on_applied:
                told(fact)

    async def _handle(self, uow: UnitOfWork, fact: Fact) -> None:
        handler = self.hears.handlers.get(fact.type)
        if handler is not None:
            await handler(fact, uow)

    async def _erase(self, uow: UnitOfWork, topic: str, key: str) -> None:
        eraser = self.hears.erasers.get(topic)
        if eraser is not None:
            await eraser(key, uow)

    async def _put_aside(self, record: Any, error: Exception) -> None:
        """Write to the outbox where the fact lies and what went wrong, not what it says; an alarm hangs on the counter and on the log."""
        log.error("dead letter", topic=record.topic, partition=record.partition, offset=record.offset, error=repr(error))
        DEAD.labels(record.topic).inc()
        letter = {
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "key": (record.key or b"").decode(errors="replace"),
            "error": type(error).__name__,
        }
        async with self.engine.begin() as connection:
            letter_id = uuid5(DEAD_LETTERS, f"{self.service} {record.topic} {record.partition} {record.offset}")  # put aside once
            values = {
                "topic": f"dead.{self.service}",
                "key": str(letter_id),
                "id": letter_id,
                "service": self.service,
                "payload": json.dumps(letter),
            }
            await connection.execute(_DEAD_LETTER, values)
            await connection.execute(NOTIFY, {"topics": values["topic"]})

    async def _sweep(self, tp: TopicPartition, lane: Lane) -> None:
        """After a full re-read: what was known and was not met again has been erased meanwhile."""
        lane.sweep_to = None
        where = {"topic": tp.topic, "partition": tp.partition, "pass": lane.pass_number}
        async with unit_of_work(self.engine, self.service, f"sweep.{tp.topic}") as uow:
            gone = list((await uow.session.execute(_UNSEEN, where)).scalars())
            for key in gone:
                await self._erase(uow, tp.topic, key)
            await uow.session.execute(_FORGET, {**where, "keys": gone})
            await uow.session.execute(_AWAKE, where)
        log.warning("swept", topic=tp.topic, partition=tp.partition, erased=len(gone))


async def _every(seconds: float, note: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(seconds)
        await note()


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _newest_position(records: Sequence[Any]) -> datetime | None:
    """The last position among records that were applied."""
    for record in reversed(records):
        if record.key == bus.POSITION_KEY and isinstance(said := bus.read(record), bus.Position):
            return said.at
    return None


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, consumer: Consumer, client: AIOKafkaConsumer) -> None:
        self.consumer = consumer
        self.client = client

    async def on_partitions_revoked(self, _revoked: object) -> None:
        """Nobody works on what may be somebody else's in a moment: what was not committed is undone, and what was is repeated for nothing."""
        await self.consumer.stand_down()

    async def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        try:
            await self.consumer.assigned(self.client, sorted(assigned))
        except Exception as error:  # noqa: BLE001 - the library would only log it, and pass by facts that nobody applied
            self.consumer.lanes.clear()
            self.consumer.not_assigned = error
