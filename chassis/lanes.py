"""The facts of one partition, applied: each at most once per version, in one transaction with its effects.

A batch is one transaction; when it fails, its facts are applied one by one. A poison fact goes to the dead-letter topic through the outbox,
before it is skipped. On topics that are never skipped (the authority topics among them) the partition stops instead.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from operator import itemgetter
from typing import Any
from uuid import UUID

from aiokafka import TopicPartition
from prometheus_client import Counter
from sqlalchemy.ext.asyncio import AsyncEngine

from chassis import bus, deletion, inbox
from chassis.db import is_away
from chassis.dead_letters import put_aside
from chassis.hears import Hears, NotYetKnown, RawRecord
from chassis.log import logger
from chassis.outbox import UnitOfWork, unit_of_work
from contracts.events import PROJECTS, Fact, Topic

log = logger(__name__)
APPLIED = Counter("hortus_consumer_applied_total", "Facts applied", ["topic"])


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

    @property
    def stands(self) -> bool:
        """Whether records wait in it and nothing is being done about them at this moment."""
        return bool(self.waiting) and not self.at_work

    def is_past(self, offset: int) -> bool:
        """Whether, of what was fetched, nothing before ``offset`` is left to do."""
        return not self.waiting or self.waiting[0].offset >= offset


class Applier:
    """Applies what a service hears; ``on_applied`` is called with each fact after its commit, and must not block.

    ``retries`` is how often a poison fact is tried before it is put aside.
    """

    def __init__(self, engine: AsyncEngine, hears: Hears, service: str, retries: int) -> None:
        self.engine = engine
        self.hears = hears
        self.service = service
        self.retries = retries
        self.on_applied: list[Callable[[Fact], None]] = []

    async def apply(self, lane: Lane, records: Sequence[Any]) -> int:
        """Apply records in order; how many of them are done with."""
        try:
            await self.transaction(lane, records)
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
            await self.transaction(lane, [record])
        except NotYetKnown as wait:
            log.debug("waits for what is not known yet", place=place, waits_for=str(wait))
            return False
        except Exception as error:
            if is_away(error):
                raise
            lane.failures += 1
            log.warning("fact could not be applied", place=place, failures=lane.failures, error=repr(error))
            if lane.topic.authority or lane.topic.never_skipped or self.is_raw(record.topic):
                lane.trouble = f"stands still at {place}"
                return False
            if lane.failures < self.retries:
                return False
            await put_aside(self.engine, self.service, record, error)
        lane.failures = 0
        lane.trouble = None
        return True

    def is_raw(self, topic: str) -> bool:
        """Whether a topic is taken as bytes."""
        return self.hears.raw_prefix is not None and topic.startswith(self.hears.raw_prefix)

    async def transaction(self, lane: Lane, records: Sequence[Any]) -> None:
        """Apply records of one partition together with all of their effects, or none.

        Facts have an order by key alone, so the keys come in the order in which others lock many rows.
        """
        first = records[0]
        if self.is_raw(first.topic) and self.hears.raw_handler is not None:
            async with unit_of_work(self.engine, self.service, f"hear.{lane.topic.name}") as uow:
                raw = [RawRecord(r.topic, r.partition, r.offset, r.key, r.value or b"", r.timestamp) for r in records]
                await self.hears.raw_handler(raw, uow)
            return
        read = [(record.key.decode(), bus.read(record)) for record in records]
        heard = sorted([(key, said) for key, said in read if not isinstance(said, bus.Position)], key=itemgetter(0))
        if not heard:
            return
        newest: dict[str, int] = {}
        for key, fact in heard:
            newest[key] = max(newest.get(key, 0), fact.version if fact is not None else 0)
        tp = TopicPartition(first.topic, first.partition)
        async with unit_of_work(self.engine, self.service, f"hear.{lane.topic.name}") as uow:
            passed = await inbox.take(uow.session, tp, newest, lane.pass_number)
            await _hold_projects(uow, [fact for key, fact in heard if fact is not None and fact.version > passed[key]])
            for key, fact in heard:
                if fact is None:  # the aggregate was erased
                    await self._erase(uow, first.topic, key)
                elif fact.version > passed[key]:
                    await self._handle(uow, fact)
                passed[key] = max(fact.version, passed[key]) if fact is not None else 0
            if gone := [key for key, version in passed.items() if not version]:
                await inbox.forget(uow.session, first.topic, gone)
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

    async def sweep(self, tp: TopicPartition, lane: Lane) -> None:
        """After a full re-read: what was known and was not met again has been erased meanwhile."""
        async with unit_of_work(self.engine, self.service, f"sweep.{tp.topic}") as uow:
            gone = await inbox.unseen(uow.session, tp, lane.pass_number)
            for key in gone:
                await self._erase(uow, tp.topic, key)
            await inbox.forget(uow.session, tp.topic, gone)
            await inbox.awake(uow.session, tp)
        lane.sweep_to = None  # not before: who notes meanwhile that it is heard must still find it asleep
        log.warning("swept", topic=tp.topic, partition=tp.partition, erased=len(gone))


async def _hold_projects(uow: UnitOfWork, facts: Sequence[Fact]) -> None:
    """Ask once for a batch what its handlers would ask for each fact: whether its project is being deleted."""
    named = [getattr(fact, "project_id", None) for fact in facts if fact.topic is not PROJECTS]
    projects: set[UUID] = {project_id for project_id in named if project_id is not None}
    if projects:
        await deletion.hold_all(uow.session, projects)
