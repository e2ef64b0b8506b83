"""The SQL of API keys."""

from collections.abc import Collection
from datetime import datetime
from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from services.auth.models import ApiKey


async def key_of(session: AsyncSession, user_id: UUID, key_id: UUID) -> ApiKey | None:
    """A person's own key, locked."""
    query = select(ApiKey).where(col(ApiKey.key_id) == key_id, col(ApiKey.user_id) == user_id).with_for_update()
    return (await session.execute(query)).scalar_one_or_none()


async def live_keys(session: AsyncSession, user_id: UUID, now: datetime, after: UUID | None, limit: int) -> list[ApiKey]:
    """A person's keys that have neither ended nor expired, oldest first."""
    query = (
        select(ApiKey)
        .where(col(ApiKey.user_id) == user_id, col(ApiKey.ended_at).is_(None), col(ApiKey.expires_at) > now)
        .order_by(col(ApiKey.key_id))
        .limit(limit)
    )
    if after is not None:
        query = query.where(col(ApiKey.key_id) > after)
    return list((await session.execute(query)).scalars())


async def open_keys(session: AsyncSession, user_id: UUID) -> list[ApiKey]:
    """All of a person's keys that have not ended, expired ones too, locked."""
    query = (
        select(ApiKey).where(col(ApiKey.user_id) == user_id, col(ApiKey.ended_at).is_(None)).order_by(col(ApiKey.key_id)).with_for_update()
    )
    return list((await session.execute(query)).scalars())


async def expired_keys(session: AsyncSession, now: datetime, limit: int) -> list[ApiKey]:
    """Some keys that expired and have not ended, locked; what somebody else holds is left to them."""
    query = (
        select(ApiKey)
        .where(col(ApiKey.ended_at).is_(None), col(ApiKey.expires_at) <= now)
        .order_by(col(ApiKey.expires_at))
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return list((await session.execute(query)).scalars())


async def keys_ended_before(session: AsyncSession, before: datetime, limit: int) -> list[ApiKey]:
    """Some keys that ended before a time, locked; what somebody else holds is left to them."""
    query = (
        select(ApiKey).where(col(ApiKey.ended_at) < before).order_by(col(ApiKey.ended_at)).limit(limit).with_for_update(skip_locked=True)
    )
    return list((await session.execute(query)).scalars())


async def keys_of_project(session: AsyncSession, project_id: UUID, limit: int) -> list[ApiKey]:
    """Some keys that are bound to a project, locked."""
    query = select(ApiKey).where(col(ApiKey.project_id) == project_id).order_by(col(ApiKey.key_id)).limit(limit).with_for_update()
    return list((await session.execute(query)).scalars())


async def open_keys_of_project(session: AsyncSession, project_id: UUID) -> list[ApiKey]:
    """All keys that are bound to a project and have not ended, locked."""
    query = select(ApiKey).where(col(ApiKey.project_id) == project_id, col(ApiKey.ended_at).is_(None)).order_by(col(ApiKey.key_id))
    return list((await session.execute(query.with_for_update())).scalars())


async def remove_keys(session: AsyncSession, keys: Collection[ApiKey]) -> None:
    """Delete keys."""
    await session.execute(delete(ApiKey).where(col(ApiKey.key_id).in_([key.key_id for key in keys])))
