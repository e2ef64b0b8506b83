"""The SQL of the keys that sign access tokens."""

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from services.auth.models import SigningKey

_SIGNS = (
    select(SigningKey)
    .where(col(SigningKey.live) & (col(SigningKey.signs_from) <= func.clock_timestamp()))
    .order_by(col(SigningKey.signs_from).desc(), col(SigningKey.key_id).desc())
    .limit(1)
)


async def signing_key(session: AsyncSession) -> SigningKey | None:
    """The key that signs now: the newest live one whose time has come."""
    return (await session.execute(_SIGNS)).scalar_one_or_none()


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
