"""The SQL of accounts that come from directories and identity providers."""

import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Collection
from datetime import datetime
from uuid import UUID

from sqlalchemy import Uuid, any_, cast, exists, func, or_, select, text, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlmodel import col

from contracts.events import UserStatus
from services.auth.models import ApiKey, Group, GroupMember, Session, User

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


async def vouch(session: AsyncSession, user_ids: Collection[UUID], before: datetime) -> None:
    """A directory showed these people; who were vouched for since ``before`` are left as they are, for many are shown every few minutes.

    So are those whom somebody else holds: no account is waited for out of order.
    """
    shown = col(User.user_id) == any_(cast(list(user_ids), ARRAY(Uuid)))
    old = or_(col(User.vouched_at).is_(None), col(User.vouched_at) < before)
    free = select(col(User.user_id)).where(shown, old).with_for_update(skip_locked=True)
    await session.execute(update(User).where(col(User.user_id).in_(free)).values(vouched_at=func.clock_timestamp()))


async def with_something(session: AsyncSession) -> list[User]:
    """Active people of identity providers and directories who have open API keys, or are in groups by their word.

    Of directories also those who have open sessions, or whom a passkey alone lets in.
    """
    keys = exists().where(col(ApiKey.user_id) == col(User.user_id), col(ApiKey.ended_at).is_(None))
    groups = exists().where(col(GroupMember.user_id) == col(User.user_id), col(GroupMember.by_directory))
    sessions = exists().where(col(Session.user_id) == col(User.user_id), col(Session.ended_at).is_(None))
    more = (col(User.source) == "ldap") & (sessions | col(User.gone_at).is_(None))
    query = select(User).where(col(User.source) != "local", col(User.status) == UserStatus.ACTIVE.value, keys | groups | more)
    return list((await session.execute(query.order_by(col(User.user_id)))).scalars())


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
