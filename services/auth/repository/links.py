"""The SQL of one-time links."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from services.auth.models import Link, User
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


async def forget_links(session: AsyncSession, user_id: UUID, purpose: str) -> None:
    """Make a person's open links for a purpose void."""
    await session.execute(delete(Link).where(col(Link.user_id) == user_id, col(Link.purpose) == purpose))


async def prune(session: AsyncSession, now: datetime) -> None:
    """Forget links that are too old."""
    await session.execute(delete(Link).where(col(Link.expires_at) < now))
