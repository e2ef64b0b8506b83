"""The SQL of registrations."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import delete, func, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from services.auth.models import Registration

OPEN = "open"


async def open_count(session: AsyncSession) -> int:
    """How many requests wait to be decided."""
    return (await session.execute(select(func.count()).where(col(Registration.state) == OPEN))).scalar_one()


async def keep(session: AsyncSession, registration: Registration) -> bool:
    """Keep a request unless one for the same address waits; whether it was kept."""
    new = insert(Registration).values(**registration.model_dump()).on_conflict_do_nothing().returning(col(Registration.registration_id))
    return (await session.execute(new)).scalar_one_or_none() is not None


async def open_registrations(session: AsyncSession, after: UUID | None, limit: int) -> list[Registration]:
    """The requests that wait to be decided, oldest first."""
    query = select(Registration).where(col(Registration.state) == OPEN).order_by(col(Registration.registration_id)).limit(limit)
    if after is not None:
        query = query.where(col(Registration.registration_id) > after)
    return list((await session.execute(query)).scalars())


async def registration(session: AsyncSession, registration_id: UUID) -> Registration | None:
    """A request, locked."""
    query = select(Registration).where(col(Registration.registration_id) == registration_id).with_for_update()
    return (await session.execute(query)).scalar_one_or_none()


async def prune(session: AsyncSession, decided_before: datetime, opened_before: datetime) -> None:
    """Forget requests that were decided, or that nobody decided, long ago: they hold addresses."""
    left = (col(Registration.state) == OPEN) & (col(Registration.created_at) < opened_before)
    await session.execute(delete(Registration).where(or_(col(Registration.decided_at) < decided_before, left)))
