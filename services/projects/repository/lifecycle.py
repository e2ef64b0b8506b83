"""The SQL of projects' lives."""

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from contracts.events import ProjectState
from services.projects.models import Project

ENDS = (col(Project.state) == ProjectState.ACTIVE, col(Project.ends_at).is_not(None))


async def ended(session: AsyncSession, limit: int) -> list[Project]:
    """Active projects whose end has come by the database's clock, locked."""
    query = (
        select(Project)
        .where(*ENDS, col(Project.ends_at) <= func.clock_timestamp())
        .order_by(col(Project.project_id))
        .limit(limit)
        .with_for_update()
    )
    return list((await session.execute(query)).scalars())


async def seconds_to_next_end(session: AsyncSession) -> float | None:
    """How long until the next project ends, in seconds; None while none has an end."""
    query = select(func.extract("epoch", func.min(Project.ends_at) - func.clock_timestamp())).where(*ENDS)
    seconds = (await session.execute(query)).scalar_one()
    return None if seconds is None else float(seconds)
