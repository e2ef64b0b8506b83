"""Datasets offered to other projects."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import or_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import and_, col, select

from chassis.errors import NotFound
from chassis.pages import PageRequest
from contracts.events import ShareState
from services.datasets.models import Dataset, Share

ACCEPTED_ONCE = or_(col(Share.state) == ShareState.ACCEPTED, col(Share.version) > 2)  # noqa: PLR2004 - accepting is version 2, withdrawing then 3
"""Shares that somebody took. An offer that nobody did is its project's own: nothing that becomes of the other one may show in it."""


async def share(session: AsyncSession, share_id: UUID, *, lock: bool = False) -> Share | None:
    """A share of any project: the caller compares."""
    statement = select(Share).where(col(Share.share_id) == share_id)
    return (await session.execute(statement.with_for_update() if lock else statement)).scalar_one_or_none()


async def share_of(session: AsyncSession, project_id: UUID, dataset_id: UUID, share_id: UUID) -> Share:
    """A share of the project's dataset, locked. Raises NotFound."""
    statement = select(Share).where(
        col(Share.share_id) == share_id, col(Share.dataset_id) == dataset_id, col(Share.project_id) == project_id
    )
    found = (await session.execute(statement.with_for_update())).scalar_one_or_none()
    if found is None:
        raise NotFound
    return found


async def open_share(session: AsyncSession, dataset_id: UUID, target_project_id: UUID) -> Share | None:
    """The share of a dataset with a project that is not withdrawn."""
    statement = select(Share).where(
        col(Share.dataset_id) == dataset_id,
        col(Share.target_project_id) == target_project_id,
        col(Share.state) != ShareState.WITHDRAWN,
    )
    return (await session.execute(statement)).scalar_one_or_none()


async def shares_out(session: AsyncSession, project_id: UUID, dataset_id: UUID, page: PageRequest) -> Sequence[tuple[Share, str]]:
    """The shares of the project's dataset with its name, withdrawn ones too, oldest first; up to ``limit + 1``."""
    return await _shares(session, and_(col(Share.project_id) == project_id, col(Share.dataset_id) == dataset_id), page)


async def shares_in(session: AsyncSession, project_id: UUID, page: PageRequest) -> Sequence[tuple[Share, str]]:
    """What is offered to or shared into the project, with the datasets' names; up to ``limit + 1``."""
    return await _shares(session, and_(col(Share.target_project_id) == project_id, col(Share.state) != ShareState.WITHDRAWN), page)


async def _shares(session: AsyncSession, condition: Any, page: PageRequest) -> Sequence[tuple[Share, str]]:
    statement = select(Share, Dataset.name).join(Dataset, col(Dataset.dataset_id) == col(Share.dataset_id)).where(condition)
    after = page.after_id()
    if after is not None:
        statement = statement.where(col(Share.share_id) > after)
    rows = await session.execute(statement.order_by(col(Share.share_id)).limit(page.limit + 1))
    return [(row[0], row[1]) for row in rows]


async def shares_touching(session: AsyncSession, project_id: UUID) -> Sequence[Share]:
    """The shares from a project that are not withdrawn, and those to it that it accepted, locked."""
    statement = select(Share).where(
        or_(col(Share.project_id) == project_id, and_(col(Share.target_project_id) == project_id, ACCEPTED_ONCE)),
        col(Share.state) != ShareState.WITHDRAWN,
    )
    return (await session.execute(statement.order_by(col(Share.share_id)).with_for_update())).scalars().all()
