"""Versions of files, and the blobs that they need."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from chassis.pages import PageRequest
from services.datasets.models import File, Staged


async def current_file(session: AsyncSession, dataset_id: UUID, path: str) -> File | None:
    """The newest version of a file."""
    statement = select(File).where(col(File.dataset_id) == dataset_id, col(File.path) == path, col(File.current))
    return (await session.execute(statement)).scalar_one_or_none()


async def files(session: AsyncSession, dataset_id: UUID, page: PageRequest, *, derived: bool) -> Sequence[File]:
    """The newest versions of a dataset's files by path, with or without those that a run derived; up to ``limit + 1``."""
    statement = select(File).where(col(File.dataset_id) == dataset_id, col(File.current))
    if not derived:
        statement = statement.where(col(File.origins) == [dataset_id])
    if page.after is not None:
        statement = statement.where(col(File.path) > page.after_text())
    return (await session.execute(statement.order_by(col(File.path)).limit(page.limit + 1))).scalars().all()


async def blobs_in_use(session: AsyncSession, names: Sequence[str]) -> set[str]:
    """Which of some blobs belong to a file or to a staged output."""
    used: set[str] = set()
    for column in (File.blob, Staged.blob):
        used.update(name for name in (await session.execute(select(column).where(col(column).in_(names)))).scalars() if name)
    return used
