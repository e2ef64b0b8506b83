"""The SQL of failed tries."""

from collections.abc import Collection
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from chassis.db import fetch
from services.auth.models import Attempts

_NEXT = "SELECT max(next_at) AS next_at, clock_timestamp() AS now FROM attempts WHERE name = ANY($1::bytea[])"
_TAKE = """INSERT INTO attempts (name, failures, next_at, seen_at) SELECT n, 0, now(), now() FROM unnest($1::bytea[]) AS n
           ON CONFLICT (name) DO UPDATE SET name = excluded.name
           RETURNING name, failures, next_at, seen_at, clock_timestamp() AS now"""
_KEEP = """UPDATE attempts a SET failures = k.failures, next_at = k.next_at, seen_at = k.seen_at
           FROM unnest($1::bytea[], $2::int[], $3::timestamptz[], $4::timestamptz[]) AS k (name, failures, next_at, seen_at)
           WHERE a.name = k.name"""
_FORGET = """DELETE FROM attempts WHERE name IN (
                 SELECT name FROM attempts WHERE greatest(seen_at, next_at) < now() - $1::interval FOR UPDATE SKIP LOCKED)"""
_DROP = "DELETE FROM attempts WHERE name = ANY($1::bytea[])"


async def next_try(session: AsyncSession, names: Collection[bytes]) -> tuple[datetime | None, datetime]:
    """When the next try is allowed by what is counted under these names (None: nothing is), and the database's clock."""
    (row,) = await fetch(session, _NEXT, list(names))
    return row["next_at"], row["now"]


async def lock_attempts(session: AsyncSession, names: Collection[bytes]) -> tuple[dict[bytes, Attempts], datetime]:
    """What is counted under these names, locked, made where there was nothing, and the database's clock after waiting for it.

    Everybody locks in one order, so nobody waits in a circle. What changes is for ``keep_attempts``.
    """
    rows = await fetch(session, _TAKE, sorted(names))
    taken = {name: Attempts(name, failures, next_at, seen_at) for name, failures, next_at, seen_at, _ in rows}
    return taken, max(row["now"] for row in rows)


async def keep_attempts(session: AsyncSession, changed: Collection[Attempts]) -> None:
    """Store counts that were locked before."""
    columns = [(each.name, each.failures, each.next_at, each.seen_at) for each in changed]
    await fetch(session, _KEEP, *map(list, zip(*columns, strict=True)))


async def drop_attempts(session: AsyncSession, names: Collection[bytes]) -> None:
    """Forget counts that were locked before."""
    await fetch(session, _DROP, list(names))


async def forget_attempts(session: AsyncSession, older_than: timedelta) -> None:
    """Forget failures after a time of quiet; those that somebody counts at this moment, or waits for, are none of them."""
    await fetch(session, _FORGET, older_than)
