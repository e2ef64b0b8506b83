"""Logs, and what people have read of runs."""

from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from services.jobs.models import Budget, Log, Shown


async def log(session: AsyncSession, run_id: UUID, *, lock: bool = False) -> Log:
    """A run's log; an empty one is made when there is none."""
    await session.execute(insert(Log).values(run_id=run_id, base=0, until=0, kept=b"").on_conflict_do_nothing())
    query = select(Log).where(col(Log.run_id) == run_id)
    return (await session.execute(query.with_for_update() if lock else query)).scalar_one()


async def shown(session: AsyncSession, run_id: UUID, user_id: UUID) -> Shown:
    """What a person has read of a run, locked."""
    await session.execute(insert(Shown).values(run_id=run_id, user_id=user_id, log_from=0, log_until=0).on_conflict_do_nothing())
    query = select(Shown).where(col(Shown.run_id) == run_id, col(Shown.user_id) == user_id)
    return (await session.execute(query.with_for_update())).scalar_one()


async def budget(session: AsyncSession, project_id: UUID, user_id: UUID, day: str) -> Budget:
    """A person's budget in a project on a day, locked."""
    place = {"project_id": project_id, "user_id": user_id, "day": day}
    await session.execute(insert(Budget).values(**place, used=0).on_conflict_do_nothing())
    query = select(Budget).where(col(Budget.project_id) == project_id, col(Budget.user_id) == user_id, col(Budget.day) == day)
    return (await session.execute(query.with_for_update())).scalar_one()


async def forget_reading(session: AsyncSession, user_id: UUID) -> None:
    """Delete what an erased person has read."""
    for table in (Shown, Budget):
        await session.execute(delete(table).where(col(table.user_id) == user_id))
