"""The SQL of the keys that sign access tokens."""

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from services.auth.models import SigningKey


async def signing_key(session: AsyncSession) -> SigningKey | None:
    """The key that signs now: the newest live one whose time has come."""
    signs = col(SigningKey.live) & (col(SigningKey.signs_from) <= func.clock_timestamp())
    query = select(SigningKey).where(signs).order_by(col(SigningKey.created_at).desc(), col(SigningKey.key_id)).limit(1)
    return (await session.execute(query)).scalar_one_or_none()
