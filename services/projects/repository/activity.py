"""The SQL of the feeds of activity."""

from collections.abc import Collection
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from services.projects.models import Activity


async def page(session: AsyncSession, project_id: UUID, hidden: Collection[str], before: UUID | None, limit: int) -> list[Activity]:
    """What happened in a project without the deeds that are ``hidden``, newest first, from ``before`` on."""
    query = select(Activity).where(col(Activity.project_id) == project_id, col(Activity.deed).not_in(hidden))
    query = query.order_by(col(Activity.activity_id).desc()).limit(limit)
    if before is not None:
        query = query.where(col(Activity.activity_id) < before)
    return list((await session.execute(query)).scalars())
