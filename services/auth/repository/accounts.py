"""The SQL of accounts and invitations."""

from collections.abc import Collection
from uuid import UUID

from sqlalchemy import func, or_, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from contracts.events import UserStatus
from contracts.roles import ClusterRole
from services.auth.models import Invitation, User

SET_UP_LOCK = 0x61757468
NAMES_LOCK = 0x6E616D65


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
