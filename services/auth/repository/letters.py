"""The SQL of letters that wait to be sent."""

from uuid import UUID

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from services.auth.models import Letter


async def due_letter(session: AsyncSession) -> Letter | None:
    """The letter that has waited longest of those that are due, locked; letters that others hold are passed over."""
    now = func.clock_timestamp()
    query = select(Letter).where(col(Letter.next_at) <= now).order_by(col(Letter.next_at), col(Letter.letter_id)).limit(1)
    return (await session.execute(query.with_for_update(skip_locked=True))).scalar_one_or_none()


async def remove_letter(session: AsyncSession, letter_id: UUID) -> None:
    """Forget a letter."""
    await session.execute(delete(Letter).where(col(Letter.letter_id) == letter_id))


async def forget_letters(session: AsyncSession, user_id: UUID) -> None:
    """Forget what was written to a person and not sent yet."""
    await session.execute(delete(Letter).where(col(Letter.user_id) == user_id))
