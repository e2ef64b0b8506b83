"""The SQL of what carries its own proof and counts once: challenges, states, token ids; and of places that come free again."""

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from services.auth.models import Spent


async def is_spent(session: AsyncSession, token_hash: bytes) -> bool:
    """Whether it was used before; for a look ahead of slow work."""
    return (await session.execute(select(Spent).where(col(Spent.token_hash) == token_hash))).scalar_one_or_none() is not None


async def spend(session: AsyncSession, token_hash: bytes, expires_at: datetime) -> bool:
    """Use it up; whether this was the first time. Of two transactions at once, one waits for the other."""
    query = insert(Spent).values(token_hash=token_hash, expires_at=expires_at).on_conflict_do_nothing().returning(col(Spent.token_hash))
    return (await session.execute(query)).scalar_one_or_none() is not None


async def keep(session: AsyncSession, token_hash: bytes, expires_at: datetime) -> None:
    """Use it up until then, also where it was used before."""
    query = insert(Spent).values(token_hash=token_hash, expires_at=expires_at)
    await session.execute(query.on_conflict_do_update(index_elements=[col(Spent.token_hash)], set_={"expires_at": expires_at}))


async def is_kept(session: AsyncSession, token_hashes: Collection[bytes], until: datetime) -> bool:
    """Whether one of them is used up until then or longer."""
    query = select(Spent).where(col(Spent.token_hash).in_(token_hashes), col(Spent.expires_at) >= until)
    return (await session.execute(query.limit(1))).scalar_one_or_none() is not None


async def prune(session: AsyncSession, now: datetime) -> None:
    """Forget what has run out anyway."""
    await session.execute(delete(Spent).where(col(Spent.expires_at) < now))
