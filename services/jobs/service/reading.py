"""What people read of jobs, within their budget."""

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from chassis.errors import NotFound
from chassis.outbox import UnitOfWork
from services.jobs import domain, repository
from services.jobs.models import Job, Run
from services.jobs.service.known import demand, is_known


@dataclass(frozen=True)
class Details:
    """A run's small outputs as one reader may see them."""

    job: Job
    run: Run
    shown: bool


@dataclass(frozen=True)
class Excerpt:
    """A part of a log; ``left`` is what remains of the reader's budget, in bytes."""

    text: str
    truncated: bool
    left: int
    state: str


def who_asks(uow: UnitOfWork) -> UUID:
    """The person who asks."""
    if uow.actor.user_id is None:
        raise NotFound
    return uow.actor.user_id


async def list_jobs(uow: UnitOfWork, project_id: UUID, after: UUID | None, limit: int) -> list[tuple[Job, Run]]:
    """A project's jobs, newest first. Raises CannotDecide where one of them may have to end."""
    known = await is_known(uow)
    found = await repository.jobs.jobs(uow.session, project_id, after, limit)
    _demand(known, [run for _, run in found])
    return found


async def read_job(uow: UnitOfWork, project_id: UUID, job_id: UUID) -> Details:
    """A job, with its small outputs as far as the reader's budget allows. Raises NotFound, and CannotDecide where it may have to end."""
    known = await is_known(uow)
    job, run = await job_and_run(uow, project_id, job_id)
    _demand(known, [run])
    uow.shows(domain.runs.run_fact(job, run))  # who reads "succeeded" looks at the outputs next, in another service
    return Details(job, run, shown=await charge_details(uow, job, run))


async def charge_details(uow: UnitOfWork, job: Job, run: Run) -> bool:
    """Whether the reader may see the small outputs; what is new to them is charged."""
    reader = who_asks(uow)
    free = await _reads_freely(uow, job)
    shown = await repository.logs.shown(uow.session, run.run_id, reader)
    budget = None if free else await repository.logs.budget(uow.session, job.project_id, reader, _day(uow))
    used = budget.used if budget else 0
    allowed = domain.reading.read_details(run, shown, budget)
    if budget is not None and (budget.used > used or (not allowed and run.state in domain.runs.ENDED)):
        uow.note(job_id=job.job_id, results_bytes=budget.used - used, budget_used=budget.used, withheld=not allowed)
    return allowed


async def read_log(uow: UnitOfWork, project_id: UUID, job_id: UUID) -> Excerpt:
    """The end of a job's log within the reader's budget. Raises NotFound, LogBudgetUsedUp."""
    job, run = await job_and_run(uow, project_id, job_id)
    reader = who_asks(uow)
    free = await _reads_freely(uow, job)
    shown = await repository.logs.shown(uow.session, run.run_id, reader)
    log = await repository.logs.log(uow.session, run.run_id)
    budget = await repository.logs.budget(uow.session, project_id, reader, _day(uow))
    reading = domain.reading.read_log(log, shown, None if free else budget)
    if reading.charged:
        uow.note(job_id=job_id, log_bytes=reading.charged, budget_used=budget.used)
    truncated = reading.start > log.base or reading.end < log.until
    return Excerpt(
        domain.reading.text_between(log, reading.start, reading.end), truncated, max(0, domain.reading.BUDGET - budget.used), run.state
    )


async def job_and_run(uow: UnitOfWork, project_id: UUID, job_id: UUID, *, lock: bool = False) -> tuple[Job, Run]:
    """A job of the project and its run. Raises NotFound."""
    found = await repository.jobs.job(uow.session, project_id, job_id, lock=lock)
    if found is None:
        raise NotFound
    return found


def _demand(known: bool, runs: Iterable[Run]) -> None:
    """A job is not said to go on where somebody may have lost the right to it when it was read."""
    if any(run.state not in domain.runs.ENDED for run in runs):
        demand(known=known)


async def _reads_freely(uow: UnitOfWork, job: Job) -> bool:
    return domain.reading.reads_freely(job.project_id, uow.actor.role, job.inputs, await repository.heard.origins(uow.session, job.inputs))


def _day(uow: UnitOfWork) -> str:
    return uow.now.date().isoformat()
