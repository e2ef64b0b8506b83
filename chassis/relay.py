"""The relay: one process of a service publishes its outbox, in commit order per aggregate.

One relay leads by a lease on the database's clock. Authority topics are written in Kafka transactions under a fixed
``transactional.id``: a relay that was paused, lost its lease and wakes up is fenced by its successor. Whenever one is due it
writes to each partition of the authority topics "all that was committed before T is before this record"; T is read from
the database before the outbox is, and no position is written while anything committed had to be held back.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, ProducerFenced
from prometheus_client import Counter, Gauge
from uuid_utils.compat import uuid7

from chassis import bus, patience
from chassis.audit import canonical
from chassis.db import plain_dsn
from chassis.log import logger
from chassis.outbox import CHANNEL
from chassis.settings import Settings
from contracts.events import TOPICS, AuditRecord, Topic

log = logger(__name__)
BATCH = 1000
TIDY_AFTER = 2000
PACE_S = 0.02
RECORDS_PACE_S = 0.1
PUBLISHED = Counter("hortus_relay_published_total", "Facts published", ["topic"])
HELD_BACK = Gauge("hortus_relay_held_back", "Committed facts that wait for an earlier version", ["lane"])
LEADING = Gauge("hortus_relay_leading", "1 while this process leads")

_TAKE = """UPDATE relay_lease SET holder = $1, until = clock_timestamp() + $2 * interval '1 second'
           WHERE holder = $1 OR until < clock_timestamp() RETURNING true"""
_KEEP = """UPDATE relay_lease SET until = clock_timestamp() + $2 * interval '1 second'
           WHERE holder = $1 AND until > clock_timestamp() RETURNING true"""
_RELEASE = "UPDATE relay_lease SET until = '-infinity' WHERE holder = $1"
_PENDING = """SELECT o.id, o.topic, o.key, o.version, o.type, o.event_id, o.at, o.actor, o.traceparent, o.payload,
                  coalesce((SELECT h.version FROM heads h WHERE h.topic = o.topic AND h.key = o.key), 0) AS head
              FROM outbox o WHERE o.topic = ANY($1) ORDER BY o.id LIMIT $2"""
_ADVANCE = """WITH forgotten AS (DELETE FROM outbox WHERE id = ANY($4))
              INSERT INTO heads (topic, key, version) SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[])
              ON CONFLICT (topic, key) DO UPDATE SET version = greatest(heads.version, excluded.version)"""
_ERASE = """WITH forgotten AS (DELETE FROM outbox WHERE id = ANY($3))
            DELETE FROM heads h USING unnest($1::text[], $2::text[]) AS gone (topic, key) WHERE h.topic = gone.topic AND h.key = gone.key"""
_CLOCK = "SELECT clock_timestamp()"
_LOCK_COUNTER = "SELECT last FROM audit_counter FOR UPDATE"
_NUMBER = """WITH fresh AS (SELECT id, row_number() OVER (ORDER BY id) AS n FROM audit_outbox WHERE number IS NULL ORDER BY id LIMIT $1),
             taken AS (UPDATE audit_counter SET last = last + (SELECT count(*) FROM fresh) RETURNING last - (SELECT count(*) FROM fresh) AS base)
             UPDATE audit_outbox a SET number = taken.base + fresh.n FROM fresh, taken WHERE a.id = fresh.id"""
_NUMBERED = "SELECT id, number, record FROM audit_outbox WHERE number IS NOT NULL ORDER BY number LIMIT $1"
_TIDY = "VACUUM (SKIP_LOCKED, TRUNCATE OFF) outbox, audit_outbox"
_FORGET_RECORDS = "DELETE FROM audit_outbox WHERE id = ANY($1)"


class LeaseLost(Exception):
    """Another relay leads now."""


def in_order(rows: Iterable[Any]) -> tuple[list[Any], list[Any]]:
    """Split pending rows into those to publish and those to hold back: version n+1 never goes before n.

    A version at or below the head was published before a crash and is only forgotten: it is in the first list, too, since
    publishing it again is harmless. Rows keep the order of their ids, except that versions of one aggregate ascend.
    """
    by_key: dict[tuple[str, str], list[Any]] = {}
    for row in rows:
        by_key.setdefault((row["topic"], row["key"]), []).append(row)
    ready: list[Any] = []
    held: list[Any] = []
    for versions in by_key.values():
        versions.sort(key=lambda row: row["version"])
        expected = versions[0]["head"] + 1
        for row in versions:
            if row["version"] <= expected:
                ready.append(row)
                expected = max(expected, row["version"] + 1)
            else:
                held.append(row)
    return ready, held


@dataclass(frozen=True)
class Look:
    """What one look at the outbox leads to.

    ``drained``: nothing that was committed before it stays behind. ``full``: there is more to do at once.
    """

    ready: list[Any]
    held: list[Any]
    drained: bool
    full: bool


def look(rows: Sequence[Any], most: int) -> Look:
    """What to do about pending rows, of which a look takes at most ``most``."""
    ready, held = in_order(rows)
    return Look(ready, held, drained=len(rows) < most and not held, full=len(rows) == most and bool(ready))


class Relay:
    """Publishes the outbox and the audit records of one service while it leads."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.service = settings.service
        self.holder = f"{settings.service}-{settings.instance}-{uuid7()}"
        own = [topic for topic in TOPICS.values() if topic.owner == settings.service]
        self.authority = [topic for topic in own if topic.authority]
        self.state = [topic for topic in own if topic.compacted and not topic.authority]
        self.plain = [topic.name for topic in own if not topic.compacted and not topic.name.startswith("audit.")]
        self.leading = False
        self.error: str | None = None
        self._fenced = {topic.name: "authority" if topic.authority else "state" for topic in own if topic.compacted}
        self._forgotten = 0
        self._wake = {name: asyncio.Event() for name in ("authority", "state", "plain")}

    def missing(self) -> list[str]:
        """What keeps the relay from being ready; a relay that waits for its turn is ready."""
        return [self.error] if self.error else []

    async def run(self) -> None:
        """Lead whenever nobody else does, until cancelled."""
        pause = 0.1
        while True:
            try:
                await patience.attempt(self._lead())
                pause = 0.1
            except (OSError, KafkaError, asyncpg.PostgresError, asyncpg.InterfaceError, LeaseLost, TimeoutError) as error:
                self.error = f"relay: {type(error).__name__}"
                log.warning("relay interrupted", error=repr(error))
                pause = min(pause * 2, 2.0)
            except Exception as error:
                # Whatever broke: a relay that ended would leave the service silent, and looking well.
                self.error = f"relay: {type(error).__name__}"
                log.error("relay failed", exc_info=error)
                pause = min(pause * 2, 2.0)
            finally:
                self.leading = False
                LEADING.set(0)
            await patience.pause(pause)

    async def _lead(self) -> None:
        connection = await asyncpg.connect(plain_dsn(self.settings.database_url))
        try:
            while not await connection.fetchval(_TAKE, self.holder, self.settings.lease_s):
                self.error = None
                await asyncio.sleep(self.settings.lease_s / 4)
            await connection.add_listener(CHANNEL, self._notified)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep_lease())
                tasks.create_task(self._fenced_loop("authority", self.authority, f"relay.{self.service}", positions=True))
                tasks.create_task(self._fenced_loop("state", self.state, f"relay.{self.service}.state", positions=False))
                tasks.create_task(self._plain_loop())
                tasks.create_task(self._tidy_loop())
                self._now_leading()
        except* LeaseLost as group:
            raise LeaseLost from group
        except* (OSError, KafkaError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as group:
            raise group.exceptions[0] from group
        finally:
            with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await connection.execute(_RELEASE, self.holder)
            await connection.close(timeout=2)

    def _notified(self, *notice: object) -> None:
        for name in {"plain", *(self._fenced.get(topic, "plain") for topic in str(notice[-1]).split())}:
            self._wake[name].set()  # plain always: each commit leaves a record, too

    async def _keep_lease(self) -> None:
        connection = await asyncpg.connect(plain_dsn(self.settings.database_url))
        try:
            while True:
                if not await connection.fetchval(_KEEP, self.holder, self.settings.lease_s, timeout=self.settings.lease_s):
                    raise LeaseLost
                await asyncio.sleep(self.settings.lease_s / 4)
        finally:
            await connection.close(timeout=2)

    async def _fenced_loop(self, name: str, topics: list[Topic], transactional_id: str, *, positions: bool) -> None:
        """Publish compacted topics in transactions: what a relay sends that was overtaken must never become the newest state.

        With ``positions``, and when one is due, a pass that drained the outbox says so in every partition.
        """
        if not topics:
            return
        producer = bus.producer(self.settings, transactional_id)
        connection = await asyncpg.connect(plain_dsn(self.settings.database_url))
        partitions = [(topic.name, number) for topic in topics for number in range(topic.partitions)]
        names = [topic.name for topic in topics]
        wake = self._wake[name]
        pause = self.settings.position_s if positions else 1.0
        try:
            await producer.start()
            due = 0.0
            while True:
                paced = time.monotonic() + PACE_S
                wake.clear()
                is_due = positions and time.monotonic() >= due
                seen = await self._pass(name, producer, connection, names, partitions if is_due else [])
                if not positions or (is_due and seen.drained):
                    due = time.monotonic() + pause
                if not seen.full:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(max(0.0, due - time.monotonic()) if not seen.held else self.settings.position_s):
                            await wake.wait()
                    await asyncio.sleep(paced - time.monotonic())
        except ProducerFenced as error:
            raise LeaseLost from error
        finally:
            await _close(producer, connection)

    async def _pass(
        self, name: str, producer: AIOKafkaProducer, connection: asyncpg.Connection, topics: list[str], partitions: list[tuple[str, int]]
    ) -> Look:
        """Publish what is due, and say in ``partitions`` until when that is all.

        The order is the protocol: the time, then the outbox, then one transaction, then what is forgotten. Whatever was committed
        before that time is in it, or it says nothing of that time.
        """
        at = await connection.fetchval(_CLOCK)
        seen = look(await connection.fetch(_PENDING, topics, BATCH), BATCH)
        HELD_BACK.labels(name).set(len(seen.held))
        if seen.held:
            first = seen.held[0]
            log.error("facts held back: an earlier version is missing", first=f"{first['topic']}:{first['key']}:{first['version']}")
        place = partitions if seen.drained else []
        if seen.ready or place:
            await self._publish_transaction(producer, seen.ready, place, at)
            await self._mark(connection, seen.ready)
        return seen

    async def _publish_transaction(
        self, producer: AIOKafkaProducer, rows: list[Any], partitions: list[tuple[str, int]], at: datetime
    ) -> None:
        """Facts and positions in one transaction; any failure ends this relay's turn, and the next one starts afresh."""
        await producer.begin_transaction()
        sent = [await self._send(producer, row) for row in rows]
        for topic, partition in partitions:
            made = bus.headers(bus.POSITION, str(uuid7()), f"/{self.service}", "position", at.isoformat())
            value = bus.position_record(at)
            sent.append(await producer.send(topic, value, bus.POSITION_KEY, partition=partition, headers=made))
        await asyncio.gather(*sent)
        await producer.commit_transaction()

    async def _plain_loop(self) -> None:
        producer = bus.producer(self.settings)
        connection = await asyncpg.connect(plain_dsn(self.settings.database_url))
        wake = self._wake["plain"]
        try:
            await producer.start()
            while True:
                paced = time.monotonic() + RECORDS_PACE_S
                wake.clear()
                rows = await connection.fetch(_PENDING, self.plain, BATCH)
                ready, held = in_order(rows)
                if ready:
                    await asyncio.gather(*[await self._send(producer, row) for row in ready])
                    await self._mark(connection, ready)
                recorded = await self._publish_records(producer, connection)
                if len(rows) < BATCH and recorded < BATCH:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(self.settings.position_s if held else 1.0):
                            await wake.wait()
                    await asyncio.sleep(paced - time.monotonic())
        finally:
            await _close(producer, connection)

    async def _tidy_loop(self) -> None:
        """Clear away what was forgotten: each pass walks over the dead entries of the outbox, and autovacuum comes once a minute."""
        connection = await asyncpg.connect(plain_dsn(self.settings.database_url))
        try:
            while True:
                await asyncio.sleep(1.0)
                if self._forgotten >= TIDY_AFTER:
                    self._forgotten = 0
                    await connection.execute(_TIDY)
        finally:
            await connection.close(timeout=2)

    async def _publish_records(self, producer: AIOKafkaProducer, connection: asyncpg.Connection) -> int:
        async with connection.transaction():
            await connection.execute(_LOCK_COUNTER)
            await connection.execute(_NUMBER, BATCH)
        rows = await connection.fetch(_NUMBERED, BATCH)
        topic = f"audit.{self.service}"
        sent = []
        for row in rows:
            record = AuditRecord.model_validate({**json.loads(row["record"]), "number": row["number"]})
            made = bus.headers("audit.v1", str(record.record_id), f"/{self.service}", str(record.record_id), record.at.isoformat())
            sent.append(await producer.send(topic, canonical(record), str(record.record_id).encode(), partition=0, headers=made))
        if rows:
            await asyncio.gather(*sent)
            await connection.execute(_FORGET_RECORDS, [row["id"] for row in rows])
            self._forgotten += len(rows)
        return len(rows)

    async def _send(self, producer: AIOKafkaProducer, row: Any) -> Any:
        event_id: UUID = row["event_id"]
        made = bus.headers(
            row["type"], str(event_id), f"/{self.service}", row["key"], row["at"].isoformat(), row["actor"], row["traceparent"]
        )
        PUBLISHED.labels(row["topic"]).inc()
        value = None if row["payload"] is None else row["payload"].encode()  # None: a tombstone
        return await producer.send(row["topic"], value, row["key"].encode(), headers=made)

    async def _mark(self, connection: asyncpg.Connection, rows: list[Any]) -> None:
        if not rows:
            return
        newest = {(row["topic"], row["key"]): row for row in rows}
        places = sorted(place for place, row in newest.items() if row["payload"] is not None)
        erased = sorted(newest.keys() - set(places))
        ids: dict[tuple[str, str], list[int]] = {place: [] for place in newest}
        for row in rows:
            ids[row["topic"], row["key"]].append(row["id"])
        await connection.execute(
            _ADVANCE,
            [topic for topic, _ in places],
            [key for _, key in places],
            [newest[place]["version"] for place in places],
            [row_id for place in places for row_id in ids[place]],
        )
        if erased:
            await connection.execute(
                _ERASE, [topic for topic, _ in erased], [key for _, key in erased], [row_id for place in erased for row_id in ids[place]]
            )
        self._forgotten += len(rows)

    def _now_leading(self) -> None:
        self.leading = True
        self.error = None
        LEADING.set(1)
        log.info("relay leads")


async def _close(producer: AIOKafkaProducer, connection: asyncpg.Connection) -> None:
    await patience.end(producer.stop(), KafkaError, OSError, TimeoutError)
    await connection.close(timeout=2)
