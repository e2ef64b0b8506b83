"""The SQL of passwords and second factors."""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from services.auth.models import Credential


async def credential(session: AsyncSession, user_id: UUID, *, lock: bool = False) -> Credential | None:
    """What an account signs in with."""
    query = select(Credential).where(col(Credential.user_id) == user_id)
    if lock:
        query = query.with_for_update().execution_options(populate_existing=True)
    return (await session.execute(query)).scalar_one_or_none()
