"""How everybody hears that something happened to runs."""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlmodel import col

from chassis import changes
from services.jobs.models import Run

CHANNEL = "runs"


async def news_of(engine: AsyncEngine, run_id: UUID) -> int | None:
    """How often something happened to a run that its agent should hear of; read in a transaction of its own."""
    async with engine.connect() as connection:
        return (await connection.execute(select(col(Run.news)).where(col(Run.run_id) == run_id))).scalar_one_or_none()


async def wake(session: AsyncSession) -> None:
    """Tell every replica, with the commit, that something happened to runs."""
    await changes.wake(session, CHANNEL)
