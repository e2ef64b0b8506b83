"""The SQL of sessions and failed sign-ins."""

from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from services.auth.models import Attempts, Session


async def attempts(session: AsyncSession, name: bytes) -> Attempts | None:
    """The failures in a row for a name."""
    return (await session.execute(select(Attempts).where(col(Attempts.name) == name))).scalar_one_or_none()


async def lock_attempts(session: AsyncSession, name: bytes) -> Attempts:
    """The failures in a row for a name, locked; made where there were none."""
    new = {"name": name, "failures": 0, "next_at": func.now(), "seen_at": func.now()}
    await session.execute(insert(Attempts).values(**new).on_conflict_do_nothing())
    query = select(Attempts).where(col(Attempts.name) == name).with_for_update().execution_options(populate_existing=True)
    return (await session.execute(query)).scalar_one()


async def forget_attempts(session: AsyncSession, older_than: timedelta) -> None:
    """Forget failures after a time of quiet."""
    await session.execute(delete(Attempts).where(col(Attempts.seen_at) < func.now() - older_than))


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
