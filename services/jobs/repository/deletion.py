"""What a deleted project leaves."""

from collections.abc import Collection
from uuid import UUID

from sqlalchemy import ColumnElement, delete, literal, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from services.jobs.models import Budget, Dataset, Job, Log, Member, Run, Share, Shown, Table


async def remove_jobs(session: AsyncSession, job_ids: Collection[UUID], run_ids: Collection[UUID]) -> int:
    """Delete jobs with their runs and what those left; how many logs there were."""
    logs = (await session.execute(delete(Log).where(col(Log.run_id).in_(run_ids)).returning(col(Log.run_id)))).all()
    for table, column, ids in ((Shown, Shown.run_id, run_ids), (Run, Run.run_id, run_ids), (Job, Job.job_id, job_ids)):
        await session.execute(delete(table).where(col(column).in_(ids)))
    return len(logs)


async def forget_of_project(session: AsyncSession, project_id: UUID) -> dict[str, int]:
    """Delete what was said of a project, and what people read in it; how many of what."""
    lent = col(Share.dataset_id).in_(select(col(Dataset.dataset_id)).where(col(Dataset.project_id) == project_id))
    conditions: dict[str, tuple[type[Table], ColumnElement[bool]]] = {
        "budgets": (Budget, col(Budget.project_id) == project_id),
        "memberships": (Member, col(Member.project_id) == project_id),
        "shares": (Share, or_(col(Share.target_project_id) == project_id, lent)),
        "datasets": (Dataset, col(Dataset.project_id) == project_id),
    }
    counted = {}
    for name, (table, condition) in conditions.items():
        gone = await session.execute(delete(table).where(condition).returning(literal(1)))
        counted[name] = len(gone.all())
    return counted
