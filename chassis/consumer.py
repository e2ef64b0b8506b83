"""The consumer: facts heard by a service, fetched and applied partition by partition.

Each partition goes its own way: one that is slow or waits holds up no other, except that a batch of another topic lets those of authority
topics go first. The broker hears of offsets a moment after their effects were committed: what a crash lets come again changes nothing.
"""

import asyncio
import contextlib
import re
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import datetime
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from chassis import bus, inbox, patience
from chassis.hears import Hears
from chassis.inbox import AHEAD_S
from chassis.lanes import Applier, Lane
from chassis.log import logger
from chassis.settings import Settings
from contracts.events import TOPICS

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

Batches = dict[TopicPartition, list[Any]]


class Consumer:
    """Applies what a service hears. Several may run: Kafka gives each its partitions."""

    def __init__(self, settings: Settings, engine: AsyncEngine, hears: Hears) -> None:
        self.settings = settings
        self.engine = engine
        self.hears = hears
        self.service = settings.service
        self.applier = Applier(engine, hears, settings.service, settings.retries)
        self.lanes: dict[TopicPartition, Lane] = {}
        self.error: str | None = "consumer: not connected yet"
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
                await patience.end(self._commit_offsets(client), KafkaError, OSError, TimeoutError)
                await patience.end(client.stop(), KafkaError, OSError, TimeoutError)
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
                slept, lane.pass_number = await inbox.take_over(self.engine, tp, self.settings.sleep_limit_s)
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
                if self.lanes.get(tp) is lane and not lane.at_work and (due := await self._due(client, tp, lane)) is not None:
                    lane.since = time.monotonic()
                    lane.work = asyncio.create_task(due)

    async def _due(self, client: AIOKafkaConsumer, tp: TopicPartition, lane: Lane) -> Coroutine[Any, Any, None] | None:
        """What is to be done about a partition on which nothing is at work. Raises what ended the work before."""
        if lane.work is not None:
            lane.work.result()
        if lane.waiting:
            return self._work(client, tp, lane) if lane.retry_at <= time.monotonic() else None
        if lane.sweep_to is not None and await client.position(tp) >= lane.sweep_to and self.lanes.get(tp) is lane:
            return self.applier.sweep(tp, lane)
        return None

    async def _work(self, client: AIOKafkaConsumer, tp: TopicPartition, lane: Lane) -> None:
        """Apply what waits in a partition, batch by batch, until nothing does or the next record has to be tried again later."""
        while lane.waiting:
            if not lane.topic.authority:
                await self._let_authority_go_first()
            lane.since = time.monotonic()
            records = lane.waiting[:BATCH]
            done = await self.applier.apply(lane, records)
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
        """Say that this service hears its compacted topics, and misses no tombstone; of one that stands still that is not said."""
        async with self.engine.begin() as connection:
            for tp, lane in list(self.lanes.items()):
                if lane.topic.compacted and lane.sweep_to is None and not lane.stands:
                    await inbox.still_awake(connection, tp, self.settings.sleep_limit_s)

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
        await inbox.reached(self.engine, reached)
        for tp, at in reached.items():
            if tp in self.lanes and self.lanes[tp].position == at:
                self.lanes[tp].position = None

    async def _note_heard(self, client: AIOKafkaConsumer) -> None:
        """Of topics taken as bytes, remember as ``awake_at`` until when all was heard: whoever misses something there knows that it was not told.

        The time is read before the ends are asked for, and a partition counts when it was applied up to its end.
        """
        raw = sorted(tp for tp in self.lanes if self.applier.is_raw(tp.topic))
        if not raw:
            return
        at = await inbox.clock(self.engine)
        ends = await client.end_offsets(raw)
        heard = []
        for tp in raw:
            with contextlib.suppress(IllegalStateError):  # it is somebody else's by now
                if await client.position(tp) >= ends[tp] and tp in self.lanes:
                    heard += [tp] if self.lanes[tp].is_past(ends[tp]) else []
        if heard:
            await inbox.heard(self.engine, heard, at)

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
            await self.consumer.stand_down()
            self.consumer.not_assigned = error
