"""The SQL of sessions."""

from collections.abc import Collection
from datetime import datetime
from uuid import UUID

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from services.auth.models import Session


async def session_of(session: AsyncSession, user_id: UUID, session_id: UUID) -> Session | None:
    """A person's own session, locked."""
    query = select(Session).where(col(Session.session_id) == session_id, col(Session.user_id) == user_id).with_for_update()
    return (await session.execute(query)).scalar_one_or_none()


async def live_sessions(session: AsyncSession, user_id: UUID, now: datetime, after: UUID | None, limit: int) -> list[Session]:
    """A person's sessions that have neither ended nor expired, oldest first."""
    query = (
        select(Session)
        .where(col(Session.user_id) == user_id, col(Session.ended_at).is_(None), col(Session.expires_at) > now)
        .order_by(col(Session.session_id))
        .limit(limit)
    )
    if after is not None:
        query = query.where(col(Session.session_id) > after)
    return list((await session.execute(query)).scalars())


async def open_sessions(session: AsyncSession, user_id: UUID, now: datetime) -> list[Session]:
    """All of a person's sessions that still count, locked."""
    query = (
        select(Session)
        .where(col(Session.user_id) == user_id, col(Session.ended_at).is_(None), col(Session.expires_at) > now)
        .order_by(col(Session.session_id))
        .with_for_update()
    )
    return list((await session.execute(query)).scalars())


async def sessions_over_before(session: AsyncSession, before: datetime, limit: int) -> list[Session]:
    """Some sessions that ended or expired before a time, locked; what somebody else holds is left to them."""
    over = func.coalesce(col(Session.ended_at), col(Session.expires_at))
    query = select(Session).where(over < before).order_by(over).limit(limit).with_for_update(skip_locked=True)
    return list((await session.execute(query)).scalars())


async def remove_sessions(session: AsyncSession, sessions: Collection[Session]) -> None:
    """Delete sessions."""
    await session.execute(delete(Session).where(col(Session.session_id).in_([each.session_id for each in sessions])))
