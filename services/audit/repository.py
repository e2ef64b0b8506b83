"""All the SQL of audit: additions and reads, nothing else. A source is written by one transaction at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import and_, func, literal, or_, select, text, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from services.audit.models import Gap, Head, Link, Odd, Range, Record, Source, Table, Unreadable

GAPS_SHOWN = 100
_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:source, 0))")
_CHAINS = text("""SELECT s.source, coalesce(l.number, 0) AS last, l.chain,
                         (SELECT count(*) FROM records r WHERE r.source = s.source AND r.number > coalesce(l.number, 0)) AS waiting
                  FROM sources s
                  LEFT JOIN LATERAL (SELECT number, chain FROM links WHERE source = s.source ORDER BY number DESC LIMIT 1) l ON true
                  ORDER BY s.source""")
_MISSING = text("""SELECT before + 1 AS first, number - 1 AS last,
                          (SELECT min(g.seen_at) FROM gaps g
                           WHERE g.source = :source AND g.first <= t.before + 1 AND g.last >= t.number - 1) AS since
                   FROM (SELECT number, lag(number, 1, CAST(:head AS bigint)) OVER (ORDER BY number) AS before
                         FROM records WHERE source = :source AND number > :head) t
                   WHERE number > before + 1 ORDER BY number LIMIT :most""")


@dataclass(frozen=True)
class Filter:
    """Which records to list; None matches all. ``actor`` is an id or a username."""

    source: str | None = None
    actor: str | None = None
    action: str | None = None
    outcome: str | None = None
    project_id: UUID | None = None


@dataclass(frozen=True)
class Missing:
    """Numbers that are missing before others that are there, and since when that is known."""

    first: int
    last: int
    since: datetime


@dataclass(frozen=True)
class Chain:
    """The state of a source's chain; ``waiting`` records lie behind a gap and are not linked yet."""

    source: str
    head: Head
    waiting: int
    gaps: Sequence[Missing]


async def lock(session: AsyncSession, source: str) -> None:
    """Be the only transaction that adds to a source, until it ends."""
    await session.execute(_LOCK, {"source": source})


async def leaves(session: AsyncSession, source: str, numbers: Sequence[int]) -> dict[int, bytes]:
    """The leaves stored under these numbers of a source."""
    found = select(col(Record.number), col(Record.leaf)).where(col(Record.source) == source, col(Record.number).in_(numbers))
    return {row.number: row.leaf for row in await session.execute(found)}


async def highest(session: AsyncSession, source: str) -> int:
    """The highest number stored of a source; 0 when there is none."""
    found = select(func.coalesce(func.max(col(Record.number)), 0)).where(col(Record.source) == source)
    number: int = (await session.execute(found)).scalar_one()
    return number


async def head(session: AsyncSession, source: str) -> Head:
    """The newest link of a source."""
    found = select(col(Link.number), col(Link.chain)).where(col(Link.source) == source).order_by(col(Link.number).desc()).limit(1)
    row = (await session.execute(found)).first()
    return Head(row.number, row.chain) if row else Head()


async def leaves_after(session: AsyncSession, source: str, number: int, limit: int) -> Sequence[tuple[int, bytes]]:
    """Numbers and leaves of a source after ``number``, ascending."""
    found = select(col(Record.number), col(Record.leaf)).where(col(Record.source) == source, col(Record.number) > number)
    return [(row.number, row.leaf) for row in await session.execute(found.order_by(col(Record.number)).limit(limit))]


async def add_source(session: AsyncSession, source: str, now: datetime) -> None:
    """Remember that a source writes."""
    await _add_new(session, Source(source=source, seen_at=now))


async def add_records(session: AsyncSession, rows: Sequence[Record]) -> None:
    """Store records."""
    await _add(session, rows)


async def add_links(session: AsyncSession, source: str, heads: Sequence[Head]) -> None:
    """Add links to a source's chain."""
    await _add(session, [Link(source=source, number=each.number, chain=each.chain) for each in heads])


async def add_gaps(session: AsyncSession, source: str, ranges: Sequence[Range], now: datetime) -> None:
    """Put gaps on record."""
    await _add(session, [Gap(source=source, first=each.first, last=each.last, seen_at=now) for each in ranges])


async def add_odd(session: AsyncSession, row: Odd) -> bool:
    """Store a record that cannot stand in the chain; whether it was not stored before."""
    return await _add_new(session, row)


async def add_unreadable(session: AsyncSession, row: Unreadable) -> bool:
    """Store what cannot be read; whether it was not stored before."""
    return await _add_new(session, row)


async def records(
    session: AsyncSession, wanted: Filter, after: tuple[object, ...] | None, limit: int
) -> Sequence[tuple[Record, bytes | None]]:
    """Records with their links, oldest first: by number within one source, by time over all; one more than ``limit``."""
    found = select(Record, col(Link.chain)).join(
        Link, and_(col(Link.source) == col(Record.source), col(Link.number) == col(Record.number)), isouter=True
    )
    if wanted.source is not None:
        found = found.where(col(Record.source) == wanted.source)
    if wanted.actor is not None:
        found = found.where(or_(col(Record.actor) == wanted.actor, col(Record.username) == wanted.actor))
    if wanted.action is not None:
        found = found.where(col(Record.action) == wanted.action)
    if wanted.outcome is not None:
        found = found.where(col(Record.outcome) == wanted.outcome)
    if wanted.project_id is not None:
        found = found.where(col(Record.project_id) == wanted.project_id)
    by_time = (col(Record.at), col(Record.source), col(Record.number))
    order = by_time if wanted.source is None else (col(Record.number),)
    if after is not None:
        found = found.where(tuple_(*order) > after)
    return [(row[0], row[1]) for row in await session.execute(found.order_by(*order).limit(limit + 1))]


async def chains(session: AsyncSession) -> Sequence[Chain]:
    """The state of every source's chain, with its first 100 gaps."""
    states = []
    for row in (await session.execute(_CHAINS)).all():
        missing: Sequence[Missing] = []
        if row.waiting:
            found = await session.execute(_MISSING, {"source": row.source, "head": row.last, "most": GAPS_SHOWN})
            missing = [Missing(each.first, each.last, each.since) for each in found]
        states.append(Chain(row.source, Head(row.last, row.chain) if row.last else Head(), row.waiting, missing))
    return states


async def _add(session: AsyncSession, rows: Sequence[Table]) -> None:
    if rows:
        await session.execute(insert(type(rows[0])), [row.model_dump() for row in rows])


async def _add_new(session: AsyncSession, row: Table) -> bool:
    added = insert(type(row)).values(row.model_dump()).on_conflict_do_nothing().returning(literal(True))  # noqa: FBT003 - what a new row says
    return (await session.execute(added)).first() is not None
