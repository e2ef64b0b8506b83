"""The SQL of groups and who is in them."""

from collections.abc import Collection
from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from services.auth.models import Group, GroupMember


async def groups(session: AsyncSession) -> list[Group]:
    """All groups, locked against changes until the transaction ends."""
    query = select(Group).order_by(col(Group.group_id)).with_for_update(read=True)
    return list((await session.execute(query)).scalars())


async def groups_of(session: AsyncSession, user_id: UUID) -> list[Group]:
    """The groups that somebody is in, by hand or by a directory."""
    members = select(col(GroupMember.group_id)).where(col(GroupMember.user_id) == user_id)
    return list((await session.execute(select(Group).where(col(Group.group_id).in_(members)))).scalars())


async def set_by_directory(session: AsyncSession, user_id: UUID, group_ids: Collection[UUID]) -> None:
    """Make these the groups that somebody is in by a directory; those by hand stay."""
    by_directory = (col(GroupMember.user_id) == user_id) & col(GroupMember.by_directory)
    await session.execute(delete(GroupMember).where(by_directory, col(GroupMember.group_id).not_in(group_ids)))
    there = set((await session.execute(select(col(GroupMember.group_id)).where(by_directory))).scalars())
    session.add_all(GroupMember(group_id=each, user_id=user_id, by_directory=True) for each in group_ids if each not in there)
    await session.flush()
