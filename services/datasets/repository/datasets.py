"""Datasets, their origins and their keys."""

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import exists, or_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import and_, col, select

from chassis.pages import PageRequest
from contracts.events import ShareState
from services.datasets.models import Dataset, DatasetKey, Origin, Share


def _shared_into(project_id: UUID | Any) -> Any:
    return exists().where(
        and_(
            col(Share.dataset_id) == col(Dataset.dataset_id),
            col(Share.target_project_id) == project_id,
            col(Share.state) == ShareState.ACCEPTED,
        )
    )


async def visible(session: AsyncSession, project_id: UUID, dataset_id: UUID, *, lock: bool = False) -> tuple[Dataset | None, bool]:
    """A dataset and whether an accepted share brings it into the project; ``lock`` holds it until the end of the transaction."""
    statement = select(Dataset, _shared_into(project_id)).where(col(Dataset.dataset_id) == dataset_id)
    if lock:
        statement = statement.with_for_update(of=Dataset)
    row = (await session.execute(statement)).one_or_none()
    return (row[0], bool(row[1])) if row else (None, False)


async def datasets(session: AsyncSession, project_id: UUID, page: PageRequest) -> Sequence[Dataset]:
    """The project's datasets, own and shared in, oldest first; up to ``limit + 1``."""
    statement = select(Dataset).where(or_(col(Dataset.project_id) == project_id, _shared_into(project_id)))
    after = page.after_id()
    if after is not None:
        statement = statement.where(col(Dataset.dataset_id) > after)
    statement = statement.order_by(col(Dataset.dataset_id)).limit(page.limit + 1)
    return (await session.execute(statement)).scalars().all()


async def by_id(session: AsyncSession, dataset_ids: Iterable[UUID]) -> dict[UUID, Dataset]:
    """Datasets of any project, for the origins of what a run made of them."""
    rows = await session.execute(select(Dataset).where(col(Dataset.dataset_id).in_(list(dataset_ids))))
    return {dataset.dataset_id: dataset for dataset in rows.scalars()}


async def name_taken(session: AsyncSession, project_id: UUID, key: str) -> bool:
    """Whether the project has a dataset whose name compares as ``key``."""
    found = await session.execute(select(Dataset.dataset_id).where(col(Dataset.project_id) == project_id, col(Dataset.name_key) == key))
    return found.first() is not None


async def name_keys(session: AsyncSession, project_id: UUID) -> set[str]:
    """What the names of the project's datasets compare as."""
    return set((await session.execute(select(Dataset.name_key).where(col(Dataset.project_id) == project_id))).scalars())


async def remember_origin(session: AsyncSession, dataset_id: UUID, project_id: UUID) -> None:
    """Note for ever to which project a dataset belongs."""
    await session.execute(insert(Origin).values(dataset_id=dataset_id, project_id=project_id).on_conflict_do_nothing())


async def homes(session: AsyncSession, origins: Iterable[UUID]) -> dict[UUID, UUID]:
    """The projects of origins."""
    rows = await session.execute(select(Origin).where(col(Origin.dataset_id).in_(list(origins))))
    return {origin.dataset_id: origin.project_id for origin in rows.scalars()}


async def dataset_key(session: AsyncSession, dataset_id: UUID) -> bytes | None:
    """The wrapped key of a dataset."""
    return (await session.execute(select(DatasetKey.wrapped).where(col(DatasetKey.dataset_id) == dataset_id))).scalar_one_or_none()


async def keep_dataset_key(session: AsyncSession, dataset_id: UUID, wrapped: bytes) -> None:
    """Store a dataset's key unless it has one."""
    await session.execute(insert(DatasetKey).values(dataset_id=dataset_id, wrapped=wrapped).on_conflict_do_nothing())
