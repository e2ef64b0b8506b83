"""The SQL of accounts that come from directories and identity providers."""

import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlmodel import col

from services.auth.models import Group, GroupMember, User

SYNC_LOCK = 0x6C646170


@contextlib.asynccontextmanager
async def alone(engine: AsyncEngine) -> AsyncIterator[bool]:
    """Whether this process is the only one that compares accounts with the directory, for as long as the block runs."""
    async with engine.connect() as connection:
        plain = await connection.execution_options(isolation_level="AUTOCOMMIT")
        mine = bool((await plain.execute(text(f"SELECT pg_try_advisory_lock({SYNC_LOCK})"))).scalar_one())
        try:
            yield mine
        finally:
            if mine:
                await plain.execute(text(f"SELECT pg_advisory_unlock({SYNC_LOCK})"))


async def user_of(session: AsyncSession, provider: str, external_id: str) -> User | None:
    """The account of somebody at a provider."""
    query = select(User).where(col(User.provider) == provider, col(User.external_id) == external_id)
    return (await session.execute(query)).scalar_one_or_none()


async def users_of(session: AsyncSession, source: str, provider: str) -> list[User]:
    """All accounts that come from a provider."""
    query = select(User).where(col(User.source) == source, col(User.provider) == provider).order_by(col(User.user_id))
    return list((await session.execute(query)).scalars())


async def groups_by_directory(session: AsyncSession, provider: str) -> dict[UUID, set[UUID]]:
    """The groups that each of a provider's people was put into by it."""
    query = (
        select(col(GroupMember.user_id), col(GroupMember.group_id))
        .join(User, col(User.user_id) == col(GroupMember.user_id))
        .where(col(User.provider) == provider, col(GroupMember.by_directory))
    )
    found: dict[UUID, set[UUID]] = defaultdict(set)
    for user_id, group_id in (await session.execute(query)).all():
        found[user_id].add(group_id)
    return found


async def groups_with_names(session: AsyncSession) -> list[Group]:
    """The groups that directories know by a name."""
    query = select(Group).where(col(Group.external) != [])
    return list((await session.execute(query)).scalars())
