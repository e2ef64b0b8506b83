"""All the SQL of projects. Reads of memberships name their project."""

from collections.abc import Awaitable, Callable, Collection
from datetime import datetime
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from chassis import changes
from contracts.events import ProjectState, UserStatus
from contracts.roles import Role
from services.projects.models import Membership, Person, Project

CHANNEL = "memberships"
Wait = Callable[[AsyncSession], Awaitable[float | None]]


async def project(session: AsyncSession, project_id: UUID, *, lock: bool = False) -> Project | None:
    """A project by its id; ``lock`` makes every other change in it wait."""
    query = select(Project).where(col(Project.project_id) == project_id)
    if lock:
        query = query.with_for_update().execution_options(populate_existing=True)
    return (await session.execute(query)).scalar_one_or_none()


async def name_is_taken(session: AsyncSession, name_key: str) -> bool:
    """Whether a project has this name already."""
    query = select(func.count()).select_from(Project).where(col(Project.name_key) == name_key)
    return (await session.execute(query)).scalar_one() > 0


async def projects_of(
    session: AsyncSession, user_id: UUID, among: Collection[UUID], after: UUID | None, limit: int, now: datetime
) -> list[tuple[Project, Membership]]:
    """The projects in which a person has a role now, oldest first, of those whose ids are ``among``."""
    query = (
        select(Project, Membership)
        .join(Membership, col(Membership.project_id) == col(Project.project_id))
        .where(
            col(Membership.user_id) == user_id,
            col(Project.project_id).in_(among),
            col(Membership.role).is_not(None),
            col(Membership.starts_at) <= now,
            col(Membership.ends_at).is_(None) | (col(Membership.ends_at) > now),
        )
        .order_by(col(Project.project_id))
        .limit(limit)
    )
    if after is not None:
        query = query.where(col(Project.project_id) > after)
    return [(row[0], row[1]) for row in (await session.execute(query)).all()]


async def projects_with(session: AsyncSession, user_id: UUID) -> list[Project]:
    """The projects in which a person has a role, now, later, or until an end that was not said yet, locked in one order."""
    held = select(col(Membership.project_id)).where(col(Membership.user_id) == user_id, col(Membership.role).is_not(None))
    query = select(Project).where(col(Project.project_id).in_(held)).order_by(col(Project.project_id)).with_for_update()
    return list((await session.execute(query.execution_options(populate_existing=True))).scalars())


async def membership(session: AsyncSession, project_id: UUID, user_id: UUID, *, lock: bool = False) -> Membership | None:
    """A person's row in a project, also when they left."""
    query = select(Membership).where(col(Membership.project_id) == project_id, col(Membership.user_id) == user_id)
    if lock:
        query = query.with_for_update().execution_options(populate_existing=True)
    return (await session.execute(query)).scalar_one_or_none()


async def members(session: AsyncSession, project_id: UUID, after: UUID | None, limit: int, now: datetime) -> list[Membership]:
    """Who has a role in a project, now or later, by their ids."""
    query = (
        select(Membership)
        .where(
            col(Membership.project_id) == project_id,
            col(Membership.role).is_not(None),
            col(Membership.ends_at).is_(None) | (col(Membership.ends_at) > now),
        )
        .order_by(col(Membership.user_id))
        .limit(limit)
    )
    if after is not None:
        query = query.where(col(Membership.user_id) > after)
    return list((await session.execute(query)).scalars())


async def opened_by(session: AsyncSession, user_id: UUID, *, lock: bool = False) -> list[Membership]:
    """What somebody is by break-glass, in one order."""
    query = (
        select(Membership)
        .where(col(Membership.user_id) == user_id, col(Membership.role).is_not(None), col(Membership.break_glass_id).is_not(None))
        .order_by(col(Membership.project_id))
    )
    if lock:
        query = query.with_for_update().execution_options(populate_existing=True)
    return list((await session.execute(query)).scalars())


async def everybody(session: AsyncSession, project_id: UUID) -> list[tuple[Membership, Person | None]]:
    """The memberships of a project, each with its person where auth has named them."""
    query = (
        select(Membership, Person)
        .outerjoin(Person, col(Person.user_id) == col(Membership.user_id))
        .where(col(Membership.project_id) == project_id, col(Membership.role).is_not(None))
    )
    return [(row[0], row[1]) for row in (await session.execute(query)).all()]


async def others(session: AsyncSession, project_id: UUID, user_id: UUID) -> list[tuple[Membership, Person | None]]:
    """The memberships of everybody else in a project, each with its person where auth has named them."""
    return [(member, person) for member, person in await everybody(session, project_id) if member.user_id != user_id]


async def without_owner(session: AsyncSession) -> int:
    """How many projects nobody owns who can act, of those that are not deleted: the same rule as ``domain.projects.has_owner``."""
    owners = (
        select(Membership)
        .outerjoin(Person, col(Person.user_id) == col(Membership.user_id))
        .where(
            col(Membership.project_id) == col(Project.project_id),
            col(Membership.role) == Role.DATA_OWNER,
            col(Membership.starts_at) <= func.clock_timestamp(),
            col(Membership.ends_at).is_(None),
            col(Membership.by_group).is_(None),
            func.coalesce(col(Person.status), UserStatus.ACTIVE) == UserStatus.ACTIVE,
        )
    )
    query = select(func.count()).select_from(Project)
    query = query.where(col(Project.state).in_((ProjectState.ACTIVE, ProjectState.ARCHIVED)), ~owners.exists())
    return int((await session.execute(query)).scalar_one())


async def person(session: AsyncSession, username: str) -> Person | None:
    """Somebody by their username."""
    return (await session.execute(select(Person).where(col(Person.username) == username))).scalar_one_or_none()


async def person_by_id(session: AsyncSession, user_id: UUID, *, lock: bool = False, hold: bool = False) -> Person | None:
    """Somebody by their id; locked, or held as they are until the transaction ends."""
    query = select(Person).where(col(Person.user_id) == user_id)
    if lock or hold:
        query = query.with_for_update(read=hold)
    return (await session.execute(query)).scalar_one_or_none()


async def ended(session: AsyncSession, limit: int) -> list[Membership]:
    """Memberships whose end has come by the database's clock and was not said yet, locked."""
    query = (
        select(Membership)
        .where(col(Membership.role).is_not(None), col(Membership.ends_at) <= func.clock_timestamp())
        .order_by(col(Membership.project_id), col(Membership.user_id))
        .limit(limit)
        .with_for_update()
    )
    return list((await session.execute(query)).scalars())


async def seconds_to_next_end(session: AsyncSession) -> float | None:
    """How long until the next membership ends, in seconds; None while none has an end."""
    query = select(func.extract("epoch", func.min(Membership.ends_at) - func.clock_timestamp())).where(
        col(Membership.role).is_not(None), col(Membership.ends_at).is_not(None)
    )
    seconds = (await session.execute(query)).scalar_one()
    return None if seconds is None else float(seconds)


async def wake(session: AsyncSession) -> None:
    """Tell every replica, with the commit, that an end may have moved."""
    await changes.wake(session, CHANNEL)
