"""The SQL of invitations."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from services.projects.models import Invitation, Project


async def of_person(session: AsyncSession, project_id: UUID, user_id: UUID) -> Invitation | None:
    """The invitation that somebody has into a project, locked."""
    query = (
        select(Invitation)
        .where(col(Invitation.project_id) == project_id, col(Invitation.user_id) == user_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return (await session.execute(query)).scalar_one_or_none()


async def own(session: AsyncSession, invitation_id: UUID, user_id: UUID, *, lock: bool = False) -> Invitation | None:
    """An invitation of the person who asks."""
    query = select(Invitation).where(col(Invitation.invitation_id) == invitation_id, col(Invitation.user_id) == user_id)
    if lock:
        query = query.with_for_update().execution_options(populate_existing=True)
    return (await session.execute(query)).scalar_one_or_none()


async def in_project(session: AsyncSession, project_id: UUID, invitation_id: UUID) -> Invitation | None:
    """An invitation into a project, locked."""
    query = (
        select(Invitation)
        .where(col(Invitation.project_id) == project_id, col(Invitation.invitation_id) == invitation_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return (await session.execute(query)).scalar_one_or_none()


async def page_of_project(
    session: AsyncSession, project_id: UUID, after: UUID | None, limit: int, now: datetime
) -> list[tuple[Invitation, str]]:
    """The open invitations into a project, oldest first, each with the project's name."""
    query = (
        select(Invitation, col(Project.name))
        .join(Project, col(Project.project_id) == col(Invitation.project_id))
        .where(col(Invitation.project_id) == project_id, col(Invitation.expires_at) > now)
        .order_by(col(Invitation.invitation_id))
        .limit(limit)
    )
    if after is not None:
        query = query.where(col(Invitation.invitation_id) > after)
    return [(row[0], row[1]) for row in (await session.execute(query)).all()]


async def page_of_person(
    session: AsyncSession, user_id: UUID, after: UUID | None, limit: int, now: datetime
) -> list[tuple[Invitation, str]]:
    """Somebody's open invitations, oldest first, each with its project's name."""
    query = (
        select(Invitation, col(Project.name))
        .join(Project, col(Project.project_id) == col(Invitation.project_id))
        .where(col(Invitation.user_id) == user_id, col(Invitation.expires_at) > now)
        .order_by(col(Invitation.invitation_id))
        .limit(limit)
    )
    if after is not None:
        query = query.where(col(Invitation.invitation_id) > after)
    return [(row[0], row[1]) for row in (await session.execute(query)).all()]


async def all_of_person(session: AsyncSession, user_id: UUID) -> list[Invitation]:
    """Every invitation that somebody has, locked in one order."""
    query = select(Invitation).where(col(Invitation.user_id) == user_id).order_by(col(Invitation.invitation_id)).with_for_update()
    return list((await session.execute(query)).scalars())


async def remove(session: AsyncSession, invitation: Invitation) -> None:
    """Take an invitation out."""
    await session.execute(delete(Invitation).where(col(Invitation.invitation_id) == invitation.invitation_id))


async def expired(session: AsyncSession, limit: int) -> list[Invitation]:
    """Invitations whose time is over by the database's clock, locked."""
    query = (
        select(Invitation)
        .where(col(Invitation.expires_at) <= func.clock_timestamp())
        .order_by(col(Invitation.invitation_id))
        .limit(limit)
        .with_for_update()
    )
    return list((await session.execute(query)).scalars())


async def seconds_to_next_end(session: AsyncSession) -> float | None:
    """How long until the next invitation expires, in seconds; None while there is none."""
    query = select(func.extract("epoch", func.min(Invitation.expires_at) - func.clock_timestamp()))
    seconds = (await session.execute(query)).scalar_one()
    return None if seconds is None else float(seconds)
