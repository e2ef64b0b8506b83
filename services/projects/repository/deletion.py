"""The SQL of projects' deletions."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import Uuid, any_, delete, literal, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from contracts.roles import Role
from services.projects.models import Activity, Deletion, DeletionPart, Membership, Project, Table

KEPT = frozenset({Project.__tablename__, Deletion.__tablename__, DeletionPart.__tablename__})


async def deletion(session: AsyncSession, project_id: UUID, *, lock: bool = False) -> Deletion | None:
    """The deletion of a project, if it was asked for."""
    query = select(Deletion).where(col(Deletion.project_id) == project_id)
    if lock:
        query = query.with_for_update().execution_options(populate_existing=True)
    return (await session.execute(query)).scalar_one_or_none()


async def parts(session: AsyncSession, *project_ids: UUID) -> Sequence[DeletionPart]:
    """What the services have said of the deletions of these projects."""
    query = select(DeletionPart).where(col(DeletionPart.project_id).in_(project_ids)).order_by(col(DeletionPart.service))
    return (await session.execute(query.execution_options(populate_existing=True))).scalars().all()


async def owners(session: AsyncSession, project_id: UUID, now: datetime) -> Sequence[UUID]:
    """Who is a Data Owner of a project now."""
    query = select(col(Membership.user_id)).where(
        col(Membership.project_id) == project_id,
        col(Membership.role) == Role.DATA_OWNER,
        col(Membership.starts_at) <= now,
        col(Membership.ends_at).is_(None) | (col(Membership.ends_at) > now),
    )
    return (await session.execute(query)).scalars().all()


async def memberships(session: AsyncSession, project_id: UUID) -> Sequence[Membership]:
    """All memberships of a project, also those that ended."""
    query = select(Membership).where(col(Membership.project_id) == project_id).order_by(col(Membership.user_id))
    return (await session.execute(query)).scalars().all()


async def forget(session: AsyncSession, project_id: UUID) -> dict[str, int]:
    """Delete what every table that names projects holds of this one, but for the memory that it was deleted; how many rows of each.

    The activity feed comes last: whoever writes into it holds a row of another table, without the project, and is waited for there.
    """
    counted = {}
    tables = list(reversed(Table.metadata.sorted_tables))
    tables.sort(key=lambda table: table.name == Activity.__tablename__)
    for table in tables:
        if table.name not in KEPT and "project_id" in table.c:
            gone = await session.execute(delete(table).where(table.c.project_id == project_id).returning(table.c.project_id))
            counted[table.name] = len(gone.all())
    return counted


async def under_way(session: AsyncSession) -> Sequence[Deletion]:
    """The deletions that are not finished."""
    return (await session.execute(select(Deletion).where(col(Deletion.erased_at).is_(None)))).scalars().all()


async def erasures(session: AsyncSession, seen_by: UUID | None, after: UUID | None, limit: int) -> Sequence[Deletion]:
    """Deletions, oldest project first: all, or the finished ones that a person may see."""
    query = select(Deletion).order_by(col(Deletion.project_id)).limit(limit)
    if seen_by is not None:
        query = query.where(col(Deletion.document).is_not(None), literal(seen_by, Uuid()) == any_(col(Deletion.owners)))
    if after is not None:
        query = query.where(col(Deletion.project_id) > after)
    return (await session.execute(query)).scalars().all()
