"""All the SQL of auth."""

import contextlib
from collections.abc import AsyncIterator, Collection
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import delete, func, or_, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlmodel import col

from contracts.events import UserStatus
from contracts.roles import ClusterRole
from services.auth.models import Attempts, Credential, Invitation, Session, SigningKey, User

SET_UP_LOCK = 0x61757468
NAMES_LOCK = 0x6E616D65
Engine = AsyncEngine


@contextlib.asynccontextmanager
async def reading(engine: Engine) -> AsyncIterator[AsyncSession]:
    """A short look at the database before slow work; it holds no connection afterwards."""
    async with AsyncSession(engine, expire_on_commit=False) as session:
        yield session


async def clock(session: AsyncSession) -> datetime:
    """The database's clock at this moment, for decisions after waiting for a lock."""
    now: datetime = (await session.execute(select(func.clock_timestamp()))).scalar_one()
    return now


async def lock_set_up(session: AsyncSession) -> None:
    """Let one replica at a time set up, until the transaction ends."""
    await session.execute(text(f"SELECT pg_advisory_xact_lock({SET_UP_LOCK})"))


async def lock_names(session: AsyncSession) -> None:
    """Let one transaction at a time give out usernames."""
    await session.execute(text(f"SELECT pg_advisory_xact_lock({NAMES_LOCK})"))


async def user(session: AsyncSession, user_id: UUID, *, lock: bool = False) -> User | None:
    """An account by its id."""
    query = select(User).where(col(User.user_id) == user_id)
    if lock:
        query = query.with_for_update().execution_options(populate_existing=True)
    return (await session.execute(query)).scalar_one_or_none()


async def user_named(session: AsyncSession, name: str) -> User | None:
    """An account by its username or its address, both in their normal form."""
    query = select(User).where(or_(col(User.username) == name, col(User.email) == name))
    return (await session.execute(query)).scalar_one_or_none()


async def user_with_email(session: AsyncSession, email: str) -> User | None:
    """An account by its address, locked."""
    return (await session.execute(select(User).where(col(User.email) == email).with_for_update())).scalar_one_or_none()


async def users(session: AsyncSession, after: UUID | None, limit: int) -> list[User]:
    """Accounts in the order in which they were made."""
    query = select(User).order_by(col(User.user_id)).limit(limit)
    if after is not None:
        query = query.where(col(User.user_id) > after)
    return list((await session.execute(query)).scalars())


async def taken_usernames(session: AsyncSession, names: Collection[str]) -> set[str]:
    """Which of these usernames somebody has."""
    return set((await session.execute(select(col(User.username)).where(col(User.username).in_(names)))).scalars())


async def user_and_administrators(session: AsyncSession, user_id: UUID) -> tuple[User | None, list[UUID]]:
    """An account and the ids of the active administrators, all locked in one order."""
    administers = (col(User.status) == UserStatus.ACTIVE.value) & col(User.cluster_roles).contains([ClusterRole.ADMINISTRATOR.value])
    query = select(User).where(or_(col(User.user_id) == user_id, administers)).order_by(col(User.user_id)).with_for_update()
    rows = list((await session.execute(query.execution_options(populate_existing=True))).scalars())
    found = next((row for row in rows if row.user_id == user_id), None)
    active = [row.user_id for row in rows if row.status == UserStatus.ACTIVE and ClusterRole.ADMINISTRATOR in row.cluster_roles]
    return found, active


async def has_administrator(session: AsyncSession) -> bool:
    """Whether somebody has ever become an active administrator; then one always stays."""
    query = select(func.count()).where(
        col(User.status) == UserStatus.ACTIVE.value, col(User.cluster_roles).contains([ClusterRole.ADMINISTRATOR.value])
    )
    return (await session.execute(query)).scalar_one() > 0


async def invitation_of(session: AsyncSession, user_id: UUID) -> Invitation | None:
    """The open invitation of an account, locked."""
    return (await session.execute(select(Invitation).where(col(Invitation.user_id) == user_id).with_for_update())).scalar_one_or_none()


async def first_invitation(session: AsyncSession) -> Invitation | None:
    """The first administrator's invitation, locked."""
    return (await session.execute(select(Invitation).where(col(Invitation.first)).with_for_update())).scalar_one_or_none()


async def invitation_by_token(session: AsyncSession, token_hash: bytes, *, lock: bool = False) -> tuple[Invitation | None, User | None]:
    """An invitation by its token's hash, with its account; ``lock`` takes both, the account first."""
    found = (await session.execute(select(Invitation).where(col(Invitation.token_hash) == token_hash))).scalar_one_or_none()
    if found is None:
        return None, None
    invited = await user(session, found.user_id, lock=lock)
    if lock:
        query = select(Invitation).where(col(Invitation.token_hash) == token_hash).with_for_update()
        found = (await session.execute(query.execution_options(populate_existing=True))).scalar_one_or_none()
    return found, invited


async def credential(session: AsyncSession, user_id: UUID, *, lock: bool = False) -> Credential | None:
    """What an account signs in with."""
    query = select(Credential).where(col(Credential.user_id) == user_id)
    if lock:
        query = query.with_for_update().execution_options(populate_existing=True)
    return (await session.execute(query)).scalar_one_or_none()


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


async def signing_key(session: AsyncSession) -> SigningKey | None:
    """The key that signs now: the newest live one."""
    query = select(SigningKey).where(col(SigningKey.live)).order_by(col(SigningKey.created_at).desc(), col(SigningKey.key_id)).limit(1)
    return (await session.execute(query)).scalar_one_or_none()
