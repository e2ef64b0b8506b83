"""The SQL of passkeys."""

from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from services.auth.models import Passkey, User


async def passkeys(session: AsyncSession, user_id: UUID) -> list[Passkey]:
    """A person's passkeys, oldest first."""
    query = select(Passkey).where(col(Passkey.user_id) == user_id).order_by(col(Passkey.passkey_id))
    return list((await session.execute(query)).scalars())


async def passkey(session: AsyncSession, credential_id: bytes, *, lock: bool = False) -> Passkey | None:
    """A passkey by its credential's id, whoever's it is."""
    query = select(Passkey).where(col(Passkey.credential_id) == credential_id)
    if lock:
        query = query.with_for_update().execution_options(populate_existing=True)
    return (await session.execute(query)).scalar_one_or_none()


async def owner(session: AsyncSession, credential_id: bytes) -> User | None:
    """The account that a credential belongs to."""
    query = select(User).join(Passkey, col(Passkey.user_id) == col(User.user_id)).where(col(Passkey.credential_id) == credential_id)
    return (await session.execute(query)).scalar_one_or_none()


async def remove(session: AsyncSession, passkey: Passkey) -> None:
    """Remove one passkey."""
    await session.delete(passkey)


async def remove_all(session: AsyncSession, user_id: UUID) -> None:
    """Remove a person's passkeys."""
    await session.execute(delete(Passkey).where(col(Passkey.user_id) == user_id))
