"""The SQL of sessions, and of what is heard about their use."""

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, delete, func, or_, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from chassis.db import fetch
from contracts.events import ACTIVITY
from services.auth.models import Session

_HEARD_TO = text("""SELECT CASE WHEN count(*) = :partitions THEN min(awake_at) END FROM partitions_heard
                    WHERE topic = :topic AND partition < :partitions""")
_USED = text("""WITH used AS (
        SELECT id, least(at, clock_timestamp()) AS at
        FROM unnest(CAST(:ids AS uuid[]), CAST(:ats AS timestamptz[])) AS u (id, at)
    ), seen AS (
        SELECT s.session_id, u.at FROM sessions s JOIN used u ON u.id = s.session_id
        WHERE s.last_used_at < u.at ORDER BY s.session_id FOR NO KEY UPDATE OF s
    ), called AS (
        SELECT k.key_id, u.at FROM api_keys k JOIN used u ON u.id = k.key_id
        WHERE coalesce(k.last_used_at < u.at, true) ORDER BY k.key_id FOR NO KEY UPDATE OF k
    ), keys AS (
        UPDATE api_keys k SET last_used_at = called.at FROM called
        WHERE k.key_id = called.key_id AND coalesce(k.last_used_at < called.at, true)
    )
    UPDATE sessions s SET last_used_at = seen.at FROM seen WHERE s.session_id = seen.session_id AND s.last_used_at < seen.at""")


_COLUMNS = tuple(Session.model_fields)
_PLACES = {name: f"${number}" for number, name in enumerate(_COLUMNS, 1)}
_OPEN = f"""WITH person AS (UPDATE users SET last_sign_in_at = greatest(last_sign_in_at, {_PLACES["created_at"]}) WHERE user_id = {_PLACES["user_id"]})
            INSERT INTO sessions ({", ".join(_COLUMNS)}) VALUES ({", ".join(_PLACES.values())})"""  # noqa: S608 - our columns


async def add(session: AsyncSession, opened: Session) -> None:
    """Store a new session, and for longer than it when its person signed in; their account is locked."""
    await fetch(session, _OPEN, *[getattr(opened, name) for name in _COLUMNS])


async def used(session: AsyncSession, at: Mapping[UUID, datetime]) -> None:
    """Move the last use of sessions and API keys forward, never beyond the database's clock; ids that are neither change nothing."""
    await session.execute(_USED, {"ids": list(at), "ats": list(at.values())})


async def heard_to(session: AsyncSession) -> datetime | None:
    """Until when all use of sessions was heard, on every partition; None while that is not known of each."""
    found: datetime | None = (await session.execute(_HEARD_TO, {"topic": ACTIVITY.name, "partitions": ACTIVITY.partitions})).scalar_one()
    return found


async def session_by_id(session: AsyncSession, session_id: UUID) -> Session | None:
    """A session, locked."""
    query = select(Session).where(col(Session.session_id) == session_id).with_for_update().execution_options(populate_existing=True)
    return (await session.execute(query)).scalar_one_or_none()


async def session_of(session: AsyncSession, user_id: UUID, session_id: UUID) -> Session | None:
    """A person's own session, locked."""
    query = select(Session).where(col(Session.session_id) == session_id, col(Session.user_id) == user_id).with_for_update()
    return (await session.execute(query)).scalar_one_or_none()


async def signed_in_at(session: AsyncSession, user_id: UUID, session_id: UUID) -> datetime | None:
    """When the sign-in was that a person's own session comes from; not locked."""
    query = select(col(Session.created_at)).where(col(Session.session_id) == session_id, col(Session.user_id) == user_id)
    return (await session.execute(query)).scalar_one_or_none()


def _over(now: datetime, unused_since: datetime | None) -> ColumnElement[bool]:
    """What has to end: nothing before ``unused_since`` counts as use any more (None: nothing is known about use)."""
    expired = col(Session.expires_at) <= now
    return expired if unused_since is None else or_(expired, col(Session.last_used_at) <= unused_since)


async def live_sessions(
    session: AsyncSession, user_id: UUID, now: datetime, unused_since: datetime | None, after: UUID | None, limit: int
) -> list[Session]:
    """A person's sessions that have neither ended nor expired, and are not idle, oldest first."""
    query = (
        select(Session)
        .where(col(Session.user_id) == user_id, col(Session.ended_at).is_(None), ~_over(now, unused_since))
        .order_by(col(Session.session_id))
        .limit(limit)
    )
    if after is not None:
        query = query.where(col(Session.session_id) > after)
    return list((await session.execute(query)).scalars())


async def sessions_to_end(session: AsyncSession, now: datetime, unused_since: datetime | None, limit: int) -> list[Session]:
    """Open sessions that are over, locked; those that somebody else is at are left to them."""
    query = select(Session).where(col(Session.ended_at).is_(None), _over(now, unused_since)).order_by(col(Session.session_id))
    return list((await session.execute(query.limit(limit).with_for_update(skip_locked=True))).scalars())


async def next_end(session: AsyncSession, idle: timedelta) -> datetime | None:
    """When the next open session will be over, if nobody uses it."""
    ends = func.least(func.min(col(Session.last_used_at)) + idle, func.min(col(Session.expires_at)))
    found: datetime | None = (await session.execute(select(ends).where(col(Session.ended_at).is_(None)))).scalar_one()
    return found


async def open_sessions(session: AsyncSession, user_id: UUID) -> list[Session]:
    """All of a person's sessions that have not been ended, locked."""
    query = select(Session).where(col(Session.user_id) == user_id, col(Session.ended_at).is_(None)).order_by(col(Session.session_id))
    return list((await session.execute(query.with_for_update().execution_options(populate_existing=True))).scalars())


async def sessions_over_before(session: AsyncSession, before: datetime, limit: int) -> list[Session]:
    """Some sessions that ended or expired before a time, locked; what somebody else holds is left to them."""
    over = func.coalesce(col(Session.ended_at), col(Session.expires_at))
    query = select(Session).where(over < before).order_by(over).limit(limit).with_for_update(skip_locked=True)
    return list((await session.execute(query)).scalars())


async def remove_sessions(session: AsyncSession, sessions: Collection[Session]) -> None:
    """Delete sessions."""
    await session.execute(delete(Session).where(col(Session.session_id).in_([each.session_id for each in sessions])))
