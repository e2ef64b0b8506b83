"""The SQL of one-time links."""

from collections.abc import Collection
from datetime import datetime
from uuid import UUID

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from services.auth.models import Link, ResetAsk, User
from services.auth.repository import accounts


async def replace(session: AsyncSession, link: Link) -> None:
    """Keep a link; the one before, for the same person and purpose, is void."""
    await session.execute(delete(Link).where(col(Link.user_id) == link.user_id, col(Link.purpose) == link.purpose))
    session.add(link)


async def link_by_token(session: AsyncSession, token_hash: bytes, *, lock: bool = False) -> tuple[Link | None, User | None]:
    """A link by its token's hash, with its account; ``lock`` takes both, the account first."""
    query = select(Link).where(col(Link.token_hash) == token_hash)
    found = (await session.execute(query)).scalar_one_or_none()
    if found is None:
        return None, None
    user = await accounts.user(session, found.user_id, lock=lock)
    if lock:
        found = (await session.execute(query.with_for_update().execution_options(populate_existing=True))).scalar_one_or_none()
    return found, user


async def link_of(session: AsyncSession, user_id: UUID, purpose: str) -> Link | None:
    """A person's newest link for a purpose."""
    query = select(Link).where(col(Link.user_id) == user_id, col(Link.purpose) == purpose)
    return (await session.execute(query)).scalar_one_or_none()


async def forget_links(session: AsyncSession, user_id: UUID, purposes: Collection[str]) -> None:
    """Make a person's open links for these purposes void."""
    await session.execute(delete(Link).where(col(Link.user_id) == user_id, col(Link.purpose).in_(purposes)))


async def keep_ask(session: AsyncSession, ask: ResetAsk, most: int) -> None:
    """Keep somebody's wish for a new password, unless about ``most`` wait already."""
    if (await session.execute(select(func.count()).select_from(ResetAsk))).scalar_one() < most:
        session.add(ask)


async def next_ask(session: AsyncSession) -> ResetAsk | None:
    """The oldest wish for a new password that no other transaction holds, locked."""
    query = select(ResetAsk).order_by(col(ResetAsk.created_at), col(ResetAsk.ask_id)).limit(1).with_for_update(skip_locked=True)
    return (await session.execute(query)).scalar_one_or_none()


async def prune(session: AsyncSession, now: datetime) -> None:
    """Forget links that are too old."""
    await session.execute(delete(Link).where(col(Link.expires_at) < now))
