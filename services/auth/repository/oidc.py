"""The SQL of people and sessions that an identity provider vouches for."""

from collections.abc import Collection
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from chassis.db import fetch
from services.auth.models import Session, User

LOCKS = 0x6F696463
_HOLD = "SELECT pg_advisory_xact_lock_shared($1, k) FROM unnest($2::int[]) AS k"
_ALONE = "SELECT pg_advisory_xact_lock($1, k) FROM unnest($2::int[]) AS k"


def _is(provider: str, subject: str) -> ColumnElement[bool]:
    """The account of a provider's subject; a directory may have the provider's name."""
    return (col(User.source) == "oidc") & (col(User.provider) == provider) & (col(User.external_id) == subject)


async def lock_sign_outs(session: AsyncSession, names: Collection[bytes], *, alone: bool) -> None:
    """Let nobody sign out under these names until the transaction ends; ``alone``: nor anybody's sign-in by them go on.

    Before any account is locked, and by everybody in one order, so nobody waits in a circle.
    """
    places = sorted({int.from_bytes(name[:4], signed=True) for name in names})
    await fetch(session, _ALONE if alone else _HOLD, LOCKS, places)


async def user_of(session: AsyncSession, provider: str, subject: str) -> User | None:
    """The account of a provider's subject, not locked: their groups come first."""
    return (await session.execute(select(User).where(_is(provider, subject)))).scalar_one_or_none()


async def sessions_of(
    session: AsyncSession, provider: str, subject: str | None, provider_session: str | None, now: datetime
) -> list[Session]:
    """The open sessions that a provider vouched for, of a subject, of one of its own sessions, or of both.

    They are locked, their people first, so that who is signing in meanwhile, or handing a sign-in over, is not missed.
    """
    query = select(Session).where(col(Session.provider) == provider, col(Session.ended_at).is_(None), col(Session.expires_at) > now)
    if provider_session is not None:
        query = query.where(col(Session.provider_session) == provider_session)
    people = select(User).where(col(User.user_id).in_(query.with_only_columns(col(Session.user_id))))
    if subject is not None:
        people = select(User).where(_is(provider, subject))
    locked = await session.execute(people.order_by(col(User.user_id)).with_for_update().execution_options(populate_existing=True))
    query = query.where(col(Session.user_id).in_([user.user_id for user in locked.scalars()])).order_by(col(Session.session_id))
    return list((await session.execute(query.with_for_update().execution_options(populate_existing=True))).scalars())


async def session_at_provider(session: AsyncSession, user_id: UUID, session_id: UUID) -> Session | None:
    """A person's own open session that a provider vouched for."""
    query = select(Session).where(
        col(Session.session_id) == session_id,
        col(Session.user_id) == user_id,
        col(Session.provider).is_not(None),
        col(Session.ended_at).is_(None),
    )
    return (await session.execute(query)).scalar_one_or_none()
