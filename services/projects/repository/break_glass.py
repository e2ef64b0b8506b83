"""The SQL of break-glass."""

from collections.abc import Collection
from datetime import datetime
from uuid import UUID

from sqlalchemy import and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from services.projects.models import BreakGlass, Membership, Project

ITS_MEMBERSHIP = and_(
    col(Membership.project_id) == col(BreakGlass.project_id),
    col(Membership.user_id) == col(BreakGlass.user_id),
    col(Membership.break_glass_id) == col(BreakGlass.break_glass_id),
)


async def project_named(session: AsyncSession, name_key: str) -> UUID | None:
    """The id of the project with this name, in the form in which it is unique."""
    return (await session.execute(select(col(Project.project_id)).where(col(Project.name_key) == name_key))).scalar_one_or_none()


async def one(session: AsyncSession, break_glass_id: UUID, project_id: UUID | None = None, *, lock: bool = False) -> BreakGlass | None:
    """A break-glass by its id, in one project or in any."""
    query = select(BreakGlass).where(col(BreakGlass.break_glass_id) == break_glass_id)
    if project_id is not None:
        query = query.where(col(BreakGlass.project_id) == project_id)
    if lock:
        query = query.with_for_update().execution_options(populate_existing=True)
    return (await session.execute(query)).scalar_one_or_none()


async def is_unreviewed(session: AsyncSession, project_id: UUID, user_id: UUID) -> bool:
    """Whether something that somebody opened in a project has no review yet."""
    query = select(col(BreakGlass.break_glass_id)).where(
        col(BreakGlass.project_id) == project_id, col(BreakGlass.user_id) == user_id, col(BreakGlass.reviewed_at).is_(None)
    )
    return (await session.execute(query.limit(1))).first() is not None


async def page(
    session: AsyncSession, project_id: UUID | None, before: UUID | None, limit: int, *, reviewed: bool | None = None
) -> list[BreakGlass]:
    """Every break-glass, or those that are ``reviewed`` or not, in one project or in all, newest first, from ``before`` on."""
    query = select(BreakGlass).order_by(col(BreakGlass.break_glass_id).desc()).limit(limit)
    if project_id is not None:
        query = query.where(col(BreakGlass.project_id) == project_id)
    if reviewed is not None:
        query = query.where(col(BreakGlass.reviewed_at).is_not(None) == reviewed)
    if before is not None:
        query = query.where(col(BreakGlass.break_glass_id) < before)
    return list((await session.execute(query)).scalars())


async def counted_in(session: AsyncSession, project_ids: Collection[UUID], reviewer: UUID, now: datetime) -> dict[UUID, tuple[int, int]]:
    """How many are open in each of these projects, and how many are over and have no review that ``reviewer`` could give."""
    is_open = and_(col(BreakGlass.ended_at).is_(None), col(BreakGlass.ends_at) > now)
    by_another = and_(col(BreakGlass.user_id) != reviewer, col(BreakGlass.appointed_id).is_distinct_from(reviewer))
    query = (
        select(col(BreakGlass.project_id), func.count().filter(is_open), func.count().filter(~is_open, by_another))
        .where(col(BreakGlass.project_id).in_(project_ids), col(BreakGlass.reviewed_at).is_(None))
        .group_by(col(BreakGlass.project_id))
    )
    found = {row[0]: (int(row[1]), int(row[2])) for row in (await session.execute(query)).all()}
    return dict.fromkeys(project_ids, (0, 0)) | found


async def over(session: AsyncSession) -> BreakGlass | None:
    """One that is over by the database's clock, or whose membership was taken away, and of which it was not said yet; locked."""
    query = (
        select(BreakGlass)
        .where(
            col(BreakGlass.ended_at).is_(None),
            or_(col(BreakGlass.ends_at) <= func.clock_timestamp(), ~select(Membership).where(ITS_MEMBERSHIP).exists()),
        )
        .order_by(col(BreakGlass.ends_at))
        .limit(1)
        .with_for_update()
    )
    return (await session.execute(query)).scalar_one_or_none()


async def overdue(session: AsyncSession) -> BreakGlass | None:
    """One whose review is missing by the database's clock, and of which it was not said yet; locked."""
    query = (
        select(BreakGlass)
        .where(
            col(BreakGlass.reviewed_at).is_(None),
            col(BreakGlass.reported_at).is_(None),
            col(BreakGlass.ended_at).is_not(None),
            col(BreakGlass.review_due_at) <= func.clock_timestamp(),
        )
        .order_by(col(BreakGlass.review_due_at))
        .limit(1)
        .with_for_update()
    )
    return (await session.execute(query)).scalar_one_or_none()


async def unreported(session: AsyncSession, project_id: UUID) -> list[BreakGlass]:
    """What is open or waits for its review in a project, and of which it was not said that none came; locked."""
    query = (
        select(BreakGlass)
        .where(col(BreakGlass.project_id) == project_id, col(BreakGlass.reviewed_at).is_(None), col(BreakGlass.reported_at).is_(None))
        .order_by(col(BreakGlass.user_id), col(BreakGlass.break_glass_id))  # as memberships are locked elsewhere
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return list((await session.execute(query)).scalars())


async def seconds_to_next_end(session: AsyncSession) -> float | None:
    """How long until the next one ends, in seconds; None while none is open."""
    query = select(func.extract("epoch", func.min(BreakGlass.ends_at) - func.clock_timestamp())).where(col(BreakGlass.ended_at).is_(None))
    seconds = (await session.execute(query)).scalar_one()
    return None if seconds is None else float(seconds)


async def seconds_to_next_report(session: AsyncSession) -> float | None:
    """How long until the next review is overdue, in seconds; None while all are there or reported."""
    query = select(func.extract("epoch", func.min(BreakGlass.review_due_at) - func.clock_timestamp())).where(
        col(BreakGlass.reviewed_at).is_(None), col(BreakGlass.reported_at).is_(None), col(BreakGlass.ended_at).is_not(None)
    )
    seconds = (await session.execute(query)).scalar_one()
    return None if seconds is None else float(seconds)


async def counted(session: AsyncSession) -> tuple[int, int]:
    """How many are open now, and how many have waited too long for their review."""
    query = select(
        func.count().filter(col(BreakGlass.ended_at).is_(None)),
        func.count().filter(col(BreakGlass.reported_at).is_not(None), col(BreakGlass.reviewed_at).is_(None)),
    ).select_from(BreakGlass)
    row = (await session.execute(query)).one()
    return int(row[0]), int(row[1])
