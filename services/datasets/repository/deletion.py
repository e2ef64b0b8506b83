"""What a deleted project leaves."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import delete, func, or_
from sqlalchemy import select as sa_select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from services.datasets.models import Dataset, DatasetKey, File, Member, Origin, Run, Share, Staged
from services.datasets.repository.shares import ACCEPTED_ONCE


def _own(project_id: UUID) -> Any:
    return sa_select(col(Dataset.dataset_id)).where(col(Dataset.project_id) == project_id)


async def drop_keys(session: AsyncSession, project_id: UUID) -> int:
    """Delete the keys of a project's datasets, also of those that runs were to make: from then on the bytes are noise; how many."""
    made = sa_select(col(Run.output_dataset_id)).where(col(Run.project_id) == project_id)
    own = or_(col(DatasetKey.dataset_id).in_(_own(project_id)), col(DatasetKey.dataset_id).in_(made))
    return len((await session.execute(delete(DatasetKey).where(own).returning(col(DatasetKey.dataset_id)))).all())


async def some_files(session: AsyncSession, project_id: UUID, limit: int) -> Sequence[File | Staged]:
    """Some versions of files of a project."""
    return (await session.execute(sa_select(File).where(col(File.dataset_id).in_(_own(project_id))).limit(limit))).scalars().all()


async def some_staged(session: AsyncSession, project_id: UUID, limit: int) -> Sequence[File | Staged]:
    """Some outputs that runs of a project staged, locked: they may be swept at this moment."""
    runs = sa_select(col(Run.run_id)).where(col(Run.project_id) == project_id)
    found = sa_select(Staged).where(col(Staged.run_id).in_(runs)).limit(limit)
    return (await session.execute(found.with_for_update())).scalars().all()


async def remove_rows(session: AsyncSession, rows: Sequence[File | Staged]) -> str:
    """Delete versions of files, or staged outputs; the name of what they are."""
    table = type(rows[0])
    await session.execute(delete(table).where(col(table.file_id).in_([row.file_id for row in rows])))
    return "files" if table is File else "staged_outputs"


async def some_datasets(session: AsyncSession, project_id: UUID, limit: int) -> Sequence[Dataset]:
    """Some datasets of a project, locked."""
    found = sa_select(Dataset).where(col(Dataset.project_id) == project_id).order_by(col(Dataset.dataset_id)).limit(limit)
    return (await session.execute(found.with_for_update())).scalars().all()


async def remove_datasets(session: AsyncSession, dataset_ids: Sequence[UUID]) -> int:
    """Delete datasets, which hold no files any more, and their shares; how many of those."""
    shares = await session.execute(delete(Share).where(col(Share.dataset_id).in_(dataset_ids)).returning(col(Share.share_id)))
    count = len(shares.all())
    await session.execute(delete(Dataset).where(col(Dataset.dataset_id).in_(dataset_ids)))
    return count


async def forget_of_project(session: AsyncSession, project_id: UUID) -> dict[str, int]:
    """Delete what was shared into a project, and what was heard of its runs and members; how many of what."""
    into = delete(Share).where(col(Share.target_project_id) == project_id, ACCEPTED_ONCE)
    shared_in = await session.execute(into.returning(col(Share.share_id)))
    runs = await session.execute(delete(Run).where(col(Run.project_id) == project_id).returning(col(Run.run_id)))
    members = await session.execute(delete(Member).where(col(Member.project_id) == project_id).returning(col(Member.user_id)))
    return {"shares": len(shared_in.all()), "runs": len(runs.all()), "memberships": len(members.all())}


async def kept_of_project(session: AsyncSession, project_id: UUID) -> dict[str, int]:
    """What stays of a project: that its datasets were its own."""
    origins = sa_select(func.count()).select_from(Origin).where(col(Origin.project_id) == project_id)
    return {"origins": (await session.execute(origins)).scalar_one()}
