"""What was heard of people, memberships, projects, datasets and shares."""

from collections.abc import Collection, Sequence
from typing import TypeVar
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from chassis import db
from contracts.events import ShareState
from services.jobs.models import Dataset, Share, Table

T = TypeVar("T", bound=Table)


async def one(session: AsyncSession, table: type[T], *key: UUID) -> T | None:
    """A row of what this service knows of others, by its key."""
    return await session.get(table, key if len(key) > 1 else key[0])


async def put(session: AsyncSession, row: Table) -> None:
    """Store what another service said, over what it said before."""
    await db.put(session, row)


async def forget(session: AsyncSession, table: type[T], *key: UUID) -> None:
    """Delete what another service erased."""
    row = await one(session, table, *key)
    if row is not None:
        await session.delete(row)
        await session.flush()


async def datasets(session: AsyncSession, ids: Collection[UUID]) -> Sequence[Dataset]:
    """What is known of datasets."""
    return (await session.execute(select(Dataset).where(col(Dataset.dataset_id).in_(ids)))).scalars().all()


async def origins(session: AsyncSession, ids: Collection[UUID]) -> Sequence[Dataset]:
    """Datasets and those that their bytes came from."""
    found = await datasets(session, ids)
    further = {origin for dataset in found for origin in dataset.origins} - {dataset.dataset_id for dataset in found}
    return [*found, *(await datasets(session, further))] if further else found


async def shares_into(session: AsyncSession, project_id: UUID, datasets_wanted: Collection[UUID]) -> Sequence[Share]:
    """The accepted shares that bring datasets into a project."""
    query = select(Share).where(
        col(Share.target_project_id) == project_id, col(Share.dataset_id).in_(datasets_wanted), col(Share.state) == ShareState.ACCEPTED
    )
    return (await session.execute(query)).scalars().all()
