"""The SQL of groups and who is in them."""

from collections import defaultdict
from collections.abc import Collection
from datetime import datetime
from uuid import UUID

from sqlalchemy import Text, Uuid, any_, cast, delete, exists, func, or_, select, text
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from contracts.events import UserStatus
from contracts.roles import ClusterRole
from services.auth.models import Group, GroupMember, RemovedGroup, User
from services.auth.repository import accounts

GROUPS_LOCK = 0x67726F75


async def lock(session: AsyncSession) -> None:
    """Let one transaction at a time change groups, or who is in them; taken before any account is locked."""
    await session.execute(text(f"SELECT pg_advisory_xact_lock({GROUPS_LOCK})"))


async def group(session: AsyncSession, group_id: UUID) -> Group | None:
    """A group by its id."""
    query = select(Group).where(col(Group.group_id) == group_id)
    return (await session.execute(query.execution_options(populate_existing=True))).scalar_one_or_none()


async def name_is_taken(session: AsyncSession, name: str) -> bool:
    """Whether a group has this name, or had it before it was removed."""
    here = exists().where(col(Group.name) == name)
    before = exists().where(col(RemovedGroup.name) == name)
    return bool((await session.execute(select(or_(here, before)))).scalar_one())


async def page(session: AsyncSession, after: UUID | None, limit: int) -> list[Group]:
    """Groups, oldest first."""
    query = select(Group).order_by(col(Group.group_id)).limit(limit)
    if after is not None:
        query = query.where(col(Group.group_id) > after)
    return list((await session.execute(query)).scalars())


async def members(session: AsyncSession, group_id: UUID, after: UUID | None, limit: int) -> list[tuple[UUID, str, bool, bool]]:
    """Who is in a group, by their ids: id, username, whether an administrator and whether a directory put them there."""
    directory = col(GroupMember.by_directory)
    query = (
        select(col(User.user_id), col(User.username), func.bool_or(~directory), func.bool_or(directory))
        .join(GroupMember, col(GroupMember.user_id) == col(User.user_id))
        .where(col(GroupMember.group_id) == group_id)
        .group_by(col(User.user_id), col(User.username))
        .order_by(col(User.user_id))
        .limit(limit)
    )
    if after is not None:
        query = query.where(col(User.user_id) > after)
    return [(row[0], row[1], row[2], row[3]) for row in (await session.execute(query)).all()]


async def member_ids(session: AsyncSession, group_id: UUID) -> set[UUID]:
    """The ids of everybody in a group."""
    return set((await session.execute(select(col(GroupMember.user_id)).where(col(GroupMember.group_id) == group_id))).scalars())


async def standing(session: AsyncSession, group_id: UUID, user_id: UUID) -> set[bool]:
    """How somebody is in a group: by a directory (True), by hand (False), both, or not at all."""
    query = select(col(GroupMember.by_directory)).where(col(GroupMember.group_id) == group_id, col(GroupMember.user_id) == user_id)
    return set((await session.execute(query)).scalars())


async def lock_people(session: AsyncSession, user_ids: Collection[UUID]) -> tuple[dict[UUID, User], list[UUID]]:
    """These accounts and those of the active administrators, locked in one order, and the administrators' ids."""
    administers = (col(User.status) == UserStatus.ACTIVE.value) & col(User.cluster_roles).contains([ClusterRole.ADMINISTRATOR.value])
    wanted = col(User.user_id) == any_(cast(list(user_ids), ARRAY(Uuid)))
    query = select(User).where(or_(wanted, administers)).order_by(col(User.user_id)).with_for_update()
    rows = {row.user_id: row for row in (await session.execute(query.execution_options(populate_existing=True))).scalars()}
    return rows, accounts.who_administer(rows.values())


async def groups_of(session: AsyncSession, user_ids: Collection[UUID]) -> dict[UUID, list[Group]]:
    """The groups that each of these people is in."""
    query = (
        select(col(GroupMember.user_id), Group)
        .join(Group, col(Group.group_id) == col(GroupMember.group_id))
        .where(col(GroupMember.user_id) == any_(cast(list(user_ids), ARRAY(Uuid))))
        .distinct()
    )
    found: dict[UUID, list[Group]] = defaultdict(list)
    for user_id, each in (await session.execute(query)).all():
        found[user_id].append(each)
    return found


async def groups_with(session: AsyncSession, user_id: UUID, group_ids: Collection[UUID]) -> list[Group]:
    """The groups that somebody is in by hand, and these."""
    by_hand = select(col(GroupMember.group_id)).where(col(GroupMember.user_id) == user_id, ~col(GroupMember.by_directory))
    query = select(Group).where(or_(col(Group.group_id).in_(by_hand), col(Group.group_id) == any_(cast(list(group_ids), ARRAY(Uuid)))))
    return list((await session.execute(query)).scalars())


async def vouched_names(session: AsyncSession, user_ids: Collection[UUID]) -> dict[UUID, list[str]]:
    """The names of the groups that a directory or identity provider put each of these people into."""
    query = (
        select(col(GroupMember.user_id), col(Group.name))
        .join(Group, col(Group.group_id) == col(GroupMember.group_id))
        .where(col(GroupMember.user_id) == any_(cast(list(user_ids), ARRAY(Uuid))), col(GroupMember.by_directory))
    )
    found: dict[UUID, list[str]] = defaultdict(list)
    for user_id, name in (await session.execute(query)).all():
        found[user_id].append(name)
    return found


async def called(session: AsyncSession, names: Collection[str]) -> set[UUID]:
    """The groups that directories know by one of these names, in their normal form."""
    query = select(col(Group.group_id)).where(col(Group.external).op("&&")(cast(list(names), ARRAY(Text))))
    return set((await session.execute(query)).scalars())


async def by_directory(session: AsyncSession, user_id: UUID) -> set[UUID]:
    """The groups that a directory put somebody into."""
    query = select(col(GroupMember.group_id)).where(col(GroupMember.user_id) == user_id, col(GroupMember.by_directory))
    return set((await session.execute(query)).scalars())


async def put_in(session: AsyncSession, group_id: UUID, user_id: UUID, *, by_directory: bool) -> None:
    """Put somebody into a group."""
    values = {"group_id": group_id, "user_id": user_id, "by_directory": by_directory}
    await session.execute(insert(GroupMember).values(**values).on_conflict_do_nothing())


async def take_out(session: AsyncSession, group_id: UUID, user_id: UUID | None = None, *, by_directory: bool) -> None:
    """Take somebody out of a group, or all whom a directory (or an administrator) put there."""
    query = delete(GroupMember).where(col(GroupMember.group_id) == group_id, col(GroupMember.by_directory) == by_directory)
    if user_id is not None:
        query = query.where(col(GroupMember.user_id) == user_id)
    await session.execute(query)


async def remove(session: AsyncSession, group: Group, now: datetime) -> None:
    """Remove a group, and everybody from it; its name is kept."""
    session.add(RemovedGroup(name=group.name, removed_at=now))
    await session.execute(delete(Group).where(col(Group.group_id) == group.group_id))
