"""The SQL of groups' roles in projects."""

from collections.abc import Collection
from datetime import datetime
from uuid import UUID

from sqlalchemy import Uuid, any_, cast, delete, select, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from services.projects.models import GroupRole, Membership, Person, Project

GROUPS_LOCK = 0x67726F75


async def lock(session: AsyncSession) -> None:
    """Let one transaction at a time work out who is a member by a group; taken before any project is locked."""
    await session.execute(text(f"SELECT pg_advisory_xact_lock({GROUPS_LOCK})"))


async def group_role(session: AsyncSession, project_id: UUID, group_role_id: UUID) -> GroupRole | None:
    """A group's role by its id."""
    query = select(GroupRole).where(col(GroupRole.project_id) == project_id, col(GroupRole.group_role_id) == group_role_id)
    return (await session.execute(query)).scalar_one_or_none()


async def of_group(session: AsyncSession, project_id: UUID, group: str) -> GroupRole | None:
    """The role that a group has or had in a project."""
    query = select(GroupRole).where(col(GroupRole.project_id) == project_id, col(GroupRole.group_name) == group)
    return (await session.execute(query)).scalar_one_or_none()


async def in_project(session: AsyncSession, project_id: UUID) -> list[GroupRole]:
    """All groups' roles in a project, also those whose time is over."""
    return list((await session.execute(select(GroupRole).where(col(GroupRole.project_id) == project_id))).scalars())


async def page(session: AsyncSession, project_id: UUID, after: UUID | None, limit: int, now: datetime) -> list[GroupRole]:
    """The groups' roles that count in a project, oldest first."""
    query = (
        select(GroupRole)
        .where(col(GroupRole.project_id) == project_id, col(GroupRole.ends_at).is_(None) | (col(GroupRole.ends_at) > now))
        .order_by(col(GroupRole.group_role_id))
        .limit(limit)
    )
    if after is not None:
        query = query.where(col(GroupRole.group_role_id) > after)
    return list((await session.execute(query)).scalars())


async def remove(session: AsyncSession, project_id: UUID, group_role_id: UUID) -> None:
    """Take a group's role out."""
    await session.execute(delete(GroupRole).where(col(GroupRole.project_id) == project_id, col(GroupRole.group_role_id) == group_role_id))


async def people_in(session: AsyncSession, group: str) -> list[Person]:
    """Everybody in a group, as auth last said."""
    return list((await session.execute(select(Person).where(col(Person.groups).contains([group])))).scalars())


async def people_of_project(session: AsyncSession, project_id: UUID) -> list[Person]:
    """Everybody in the groups that have or had a role in a project."""
    given = select(GroupRole).where(col(GroupRole.project_id) == project_id, col(GroupRole.group_name) == any_(col(Person.groups)))
    return list((await session.execute(select(Person).where(given.exists()))).scalars())


async def memberships_of(session: AsyncSession, project_id: UUID, user_ids: Collection[UUID]) -> dict[UUID, Membership]:
    """The rows of these people in a project, locked in one order."""
    query = (
        select(Membership)
        .where(col(Membership.project_id) == project_id, col(Membership.user_id) == any_(cast(list(user_ids), ARRAY(Uuid))))
        .order_by(col(Membership.user_id))
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return {row.user_id: row for row in (await session.execute(query)).scalars()}


async def projects_of_groups(session: AsyncSession, groups: Collection[str]) -> list[Project]:
    """The projects in which one of these groups has or had a role, locked in one order."""
    given = select(col(GroupRole.project_id)).where(col(GroupRole.group_name).in_(groups))
    query = select(Project).where(col(Project.project_id).in_(given)).order_by(col(Project.project_id)).with_for_update()
    return list((await session.execute(query.execution_options(populate_existing=True))).scalars())
