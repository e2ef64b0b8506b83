"""The SQL of failed tries."""

from collections.abc import Collection
from datetime import datetime, timedelta

from sqlalchemy import bindparam, delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from services.auth.models import Attempts

_NEXT = select(func.max(col(Attempts.next_at)), func.clock_timestamp()).where(col(Attempts.name).in_(bindparam("names", expanding=True)))


async def next_try(session: AsyncSession, names: Collection[bytes]) -> tuple[datetime | None, datetime]:
    """When the next try is allowed by what is counted under these names (None: nothing is), and the database's clock."""
    row = (await session.execute(_NEXT, {"names": list(names)})).one()
    return row[0], row[1]


async def lock_attempts(session: AsyncSession, names: Collection[bytes]) -> tuple[dict[bytes, Attempts], datetime]:
    """What is counted under these names, locked, made where there was nothing, and the database's clock after waiting for it.

    Everybody locks in one order, so nobody waits in a circle.
    """
    new = [{"name": name, "failures": 0, "next_at": func.now(), "seen_at": func.now()} for name in sorted(names)]
    query = insert(Attempts).values(new)
    taken = query.on_conflict_do_update(index_elements=["name"], set_={"name": query.excluded.name}).returning(
        Attempts, func.clock_timestamp()
    )
    rows = (await session.execute(taken, execution_options={"populate_existing": True})).all()
    return {row[0].name: row[0] for row in rows}, max(row[1] for row in rows)


async def forget_attempts(session: AsyncSession, older_than: timedelta) -> None:
    """Forget failures after a time of quiet; those that somebody counts at this moment are none of them."""
    old = select(col(Attempts.name)).where(col(Attempts.seen_at) < func.now() - older_than).with_for_update(skip_locked=True)
    await session.execute(delete(Attempts).where(col(Attempts.name).in_(old)))
