"""The SQL of failed tries."""

from collections.abc import Collection
from datetime import datetime, timedelta

from sqlalchemy import column, delete, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from services.auth.models import TIME, Attempts

_NEXT = text("SELECT max(next_at), clock_timestamp() FROM attempts WHERE name = ANY(CAST(:names AS bytea[]))")
_TAKE = (
    select(Attempts, column("now", TIME))
    .from_statement(
        text("""INSERT INTO attempts (name, failures, next_at, seen_at) SELECT n, 0, now(), now() FROM unnest(CAST(:names AS bytea[])) AS n
                ON CONFLICT (name) DO UPDATE SET name = excluded.name
                RETURNING name, failures, next_at, seen_at, clock_timestamp() AS now""")
    )
    .execution_options(populate_existing=True)
)


async def next_try(session: AsyncSession, names: Collection[bytes]) -> tuple[datetime | None, datetime]:
    """When the next try is allowed by what is counted under these names (None: nothing is), and the database's clock."""
    row = (await session.execute(_NEXT, {"names": list(names)})).one()
    return row[0], row[1]


async def lock_attempts(session: AsyncSession, names: Collection[bytes]) -> tuple[dict[bytes, Attempts], datetime]:
    """What is counted under these names, locked, made where there was nothing, and the database's clock after waiting for it.

    Everybody locks in one order, so nobody waits in a circle.
    """
    rows = (await session.execute(_TAKE, {"names": sorted(names)})).all()
    return {row[0].name: row[0] for row in rows}, max(row[1] for row in rows)


async def forget_attempts(session: AsyncSession, older_than: timedelta) -> None:
    """Forget failures after a time of quiet; those that somebody counts at this moment, or waits for, are none of them."""
    last = func.greatest(col(Attempts.seen_at), col(Attempts.next_at))
    old = select(col(Attempts.name)).where(last < func.now() - older_than).with_for_update(skip_locked=True)
    await session.execute(delete(Attempts).where(col(Attempts.name).in_(old)))
