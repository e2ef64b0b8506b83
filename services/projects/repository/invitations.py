"""The SQL of invitations."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from services.projects.models import Invitation, Project


async def one(
    session: AsyncSession,
    *,
    invitation_id: UUID | None = None,
    project_id: UUID | None = None,
    user_id: UUID | None = None,
    lock: bool = False,
) -> Invitation | None:
    """The invitation that fits all that is named of these: at least its project or its person, and at most one fits."""
    query = select(Invitation).where(*_these(project_id, user_id))
    if invitation_id is not None:
        query = query.where(col(Invitation.invitation_id) == invitation_id)
    if lock:
        query = query.with_for_update().execution_options(populate_existing=True)
    return (await session.execute(query)).scalar_one_or_none()


async def page(
    session: AsyncSession,
    after: UUID | None,
    limit: int,
    now: datetime,
    *,
    project_id: UUID | None = None,
    user_id: UUID | None = None,
) -> list[tuple[Invitation, str]]:
    """The open invitations into a project, or of a person, oldest first, each with its project's name."""
    query = (
        select(Invitation, col(Project.name))
        .join(Project, col(Project.project_id) == col(Invitation.project_id))
        .where(*_these(project_id, user_id), col(Invitation.expires_at) > now)
        .order_by(col(Invitation.invitation_id))
        .limit(limit)
    )
    if after is not None:
        query = query.where(col(Invitation.invitation_id) > after)
    return [(row[0], row[1]) for row in (await session.execute(query)).all()]


def _these(project_id: UUID | None, user_id: UUID | None) -> list[ColumnElement[bool]]:
    """Those of a project, of a person, or both; never all there are. Raises ValueError."""
    if project_id is None and user_id is None:
        raise ValueError("neither a project nor a person is named")
    named = ((Invitation.project_id, project_id), (Invitation.user_id, user_id))
    return [col(column) == value for column, value in named if value is not None]


async def all_of_person(session: AsyncSession, user_id: UUID) -> list[Invitation]:
    """Every invitation that somebody has, locked in one order."""
    query = select(Invitation).where(col(Invitation.user_id) == user_id).order_by(col(Invitation.invitation_id)).with_for_update()
    return list((await session.execute(query)).scalars())


async def remove(session: AsyncSession, invitation: Invitation) -> None:
    """Take an invitation out."""
    await session.execute(delete(Invitation).where(col(Invitation.invitation_id) == invitation.invitation_id))


async def expired(session: AsyncSession, limit: int) -> list[Invitation]:
    """Invitations whose time is over by the database's clock, by project, locked."""
    query = (
        select(Invitation)
        .where(col(Invitation.expires_at) <= func.clock_timestamp())
        .order_by(col(Invitation.project_id), col(Invitation.invitation_id))
        .limit(limit)
        .with_for_update()
    )
    return list((await session.execute(query)).scalars())


async def seconds_to_next_end(session: AsyncSession) -> float | None:
    """How long until the next invitation expires, in seconds; None while there is none."""
    query = select(func.extract("epoch", func.min(Invitation.expires_at) - func.clock_timestamp()))
    seconds = (await session.execute(query)).scalar_one()
    return None if seconds is None else float(seconds)
