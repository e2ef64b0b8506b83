"""Telling how runs move on, and ending them."""

from collections.abc import Iterable

from chassis.outbox import UnitOfWork
from services.jobs import domain, repository
from services.jobs.models import Job, Run

BATCH = 100
NO_ROLE = "The person who submitted it has no role in the project any more."
NOT_READABLE = "An input is not shared with the project any more."


async def tell(uow: UnitOfWork, job: Job, run: Run) -> None:
    """Say that a run moved on, and its job with it."""
    job.version += 1
    run.version += 1
    uow.emit(domain.runs.job_fact(job, run))
    uow.emit(domain.runs.run_fact(job, run))
    await repository.changes.wake(uow.session)


async def cancel_runs(uow: UnitOfWork, runs: Iterable[tuple[Job, Run]], reason: str) -> None:
    """End runs before their time, and say so of those that had not ended."""
    for job, run in runs:
        if domain.runs.cancel(run, reason, uow.now):
            await tell(uow, job, run)
