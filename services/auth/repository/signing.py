"""The SQL of the keys that sign access tokens."""

from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from chassis.db import fetch
from services.auth.models import SigningKey

SIGNS = """SELECT key_id, sealed FROM signing_keys WHERE live AND signs_from <= clock_timestamp()
            ORDER BY signs_from DESC, key_id DESC LIMIT 1"""


class Signs(NamedTuple):
    """The key that signs: its id, and its private half under the master key."""

    key_id: str
    sealed: bytes


async def signing_key(session: AsyncSession) -> Signs | None:
    """The key that signs now: the newest live one whose time has come."""
    rows = await fetch(session, SIGNS)
    return Signs(*rows[0]) if rows else None


async def live_keys(session: AsyncSession) -> list[SigningKey]:
    """All keys that verify, locked."""
    query = select(SigningKey).where(col(SigningKey.live)).order_by(col(SigningKey.key_id)).with_for_update()
    return list((await session.execute(query.execution_options(populate_existing=True))).scalars())


async def key(session: AsyncSession, key_id: str) -> SigningKey | None:
    """A key by its id."""
    return (await session.execute(select(SigningKey).where(col(SigningKey.key_id) == key_id))).scalar_one_or_none()


async def keys(session: AsyncSession, after: str, limit: int) -> list[SigningKey]:
    """All keys in the order in which they were made, those that were withdrawn too."""
    query = select(SigningKey).where(col(SigningKey.key_id) > after).order_by(col(SigningKey.key_id)).limit(limit)
    return list((await session.execute(query)).scalars())
