"""What was heard, as the database keeps it: which version of each aggregate was passed, and how far each partition was come to."""

import functools
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime

from aiokafka import TopicPartition
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

from chassis.db import fetch, look
from chassis.projection import FRESH_S
from contracts.events import Topic

AHEAD_S = 0.8  # as far as clocks may be apart

# Takes the aggregates' rows, in the order of their keys, says which version of each was passed before, and passes those of this batch.
_TAKE = """INSERT INTO inbox (topic, key, version, partition, pass)
           SELECT $1, k, v, $4, $5 FROM unnest($2::text[], $3::bigint[]) AS n(k, v)
           ON CONFLICT (topic, key) DO UPDATE SET version = greatest(inbox.version, excluded.version), pass = greatest(inbox.pass, excluded.pass),
               partition = excluded.partition
           RETURNING key, coalesce(old.version, 0) AS passed"""
_AWAKE = text("""INSERT INTO partitions_heard (topic, partition, awake_at) VALUES (:topic, :partition, clock_timestamp())
                 ON CONFLICT (topic, partition) DO UPDATE SET awake_at = excluded.awake_at""")
_STILL_AWAKE = text("""UPDATE partitions_heard SET awake_at = clock_timestamp() WHERE topic = :topic AND partition = :partition
                       AND awake_at >= clock_timestamp() - :limit * interval '1 second'""")
_CLOCK = "SELECT clock_timestamp() AS now"
_HEARD = """INSERT INTO partitions_heard (topic, partition, awake_at) SELECT t, p, $1 FROM unnest($2::text[], $3::integer[]) AS h(t, p)
            ON CONFLICT (topic, partition) DO UPDATE SET awake_at = greatest(partitions_heard.awake_at, excluded.awake_at)"""
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


async def take(session: AsyncSession, tp: TopicPartition, versions: Mapping[str, int], pass_number: int) -> dict[str, int]:
    """Take the rows of aggregates, and let versions be passed; which were before, by key. ``versions`` are in the order of their keys."""
    rows = await fetch(session, _TAKE, tp.topic, list(versions), list(versions.values()), tp.partition, pass_number)
    return {row["key"]: row["passed"] for row in rows}


async def forget(session: AsyncSession, topic: str, keys: Collection[str]) -> None:
    """Forget aggregates that were erased."""
    await session.execute(_FORGET, {"topic": topic, "keys": list(keys)})


async def take_over(engine: AsyncEngine, tp: TopicPartition, limit: float) -> tuple[bool, int]:
    """Whether nobody heard a partition for longer than ``limit`` seconds, and the number of the pass through it; it is heard from now on.

    One that slept counts as asleep until ``awake`` is said of it.
    """
    place = {"topic": tp.topic, "partition": tp.partition}
    async with engine.begin() as connection:
        slept = bool((await connection.execute(_SLEPT, {**place, "limit": limit})).scalar_one())
        if not slept:
            await awake(connection, tp)
        number: int = (await connection.execute(_NEXT_PASS if slept else _PASS, place)).scalar_one()
    return slept, number


async def awake(connection: AsyncConnection | AsyncSession, tp: TopicPartition) -> None:
    """Say that a partition is being heard, and no tombstone missed."""
    await connection.execute(_AWAKE, {"topic": tp.topic, "partition": tp.partition})


async def still_awake(connection: AsyncConnection, tp: TopicPartition, limit: float) -> None:
    """Say that a partition is heard on; one that sleeps, or was put to sleep to be read anew, is not woken by this."""
    await connection.execute(_STILL_AWAKE, {"topic": tp.topic, "partition": tp.partition, "limit": limit})


async def unseen(session: AsyncSession, tp: TopicPartition, pass_number: int) -> list[str]:
    """The aggregates of a partition that were not met in this pass, locked."""
    values = {"topic": tp.topic, "partition": tp.partition, "pass": pass_number}
    return list((await session.execute(_UNSEEN, values)).scalars())


async def clock(engine: AsyncEngine) -> datetime:
    """The database's clock."""
    now: datetime = (await look(engine, _CLOCK))[0]["now"]
    return now


async def heard(engine: AsyncEngine, partitions: Collection[TopicPartition], at: datetime) -> None:
    """Remember that all was heard that stood in partitions at a time."""
    await look(engine, _HEARD, at, [tp.topic for tp in partitions], [tp.partition for tp in partitions])


async def reached(engine: AsyncEngine, positions: Mapping[TopicPartition, datetime]) -> None:
    """Store the positions that partitions were applied up to."""
    await look(engine, _REACHED, [tp.topic for tp in positions], [tp.partition for tp in positions], [*positions.values()])


async def up_to_date(database: AsyncSession | AsyncEngine, topics: Iterable[Topic]) -> bool:
    """Whether a service whose ``Hears`` dates these topics has applied all that was committed there more than a second ago.

    What is read after this has all of that: in the same transaction, or outside of any. Positions are times of the writers' clocks: where
    one lies ahead of this database's by more than clocks may differ, an old one would look young for just as long, and nothing is known.
    """
    partitions = {topic.name: topic.partitions for topic in topics}
    ask = functools.partial(fetch, database) if isinstance(database, AsyncSession) else functools.partial(look, database)
    rows = await ask(_UP_TO_DATE, list(partitions), sum(partitions.values()), FRESH_S, AHEAD_S)
    return bool(rows[0]["young"])
