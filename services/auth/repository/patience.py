"""The SQL of failed tries."""

from collections.abc import Collection
from datetime import timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from services.auth.models import Attempts


async def attempts(session: AsyncSession, names: Collection[bytes]) -> list[Attempts]:
    """The failures in a row that are counted under these names."""
    return list((await session.execute(select(Attempts).where(col(Attempts.name).in_(names)))).scalars())


async def lock_attempts(session: AsyncSession, names: Collection[bytes]) -> dict[bytes, Attempts]:
    """The same, locked, made where there were none; everybody locks in one order, so nobody waits in a circle."""
    new = [{"name": name, "failures": 0, "next_at": func.now(), "seen_at": func.now()} for name in sorted(names)]
    query = insert(Attempts).values(new)
    taken = query.on_conflict_do_update(index_elements=["name"], set_={"name": query.excluded.name}).returning(Attempts)
    rows = await session.execute(taken, execution_options={"populate_existing": True})
    return {row.name: row for row in rows.scalars()}


async def forget_attempts(session: AsyncSession, older_than: timedelta) -> None:
    """Forget failures after a time of quiet; those that somebody counts at this moment are none of them."""
    old = select(col(Attempts.name)).where(col(Attempts.seen_at) < func.now() - older_than).with_for_update(skip_locked=True)
    await session.execute(delete(Attempts).where(col(Attempts.name).in_(old)))
