"""Leases: taken, renewed, reported on, and what time does to them."""

import asyncio
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from chassis.errors import NotFound
from chassis.outbox import UnitOfWork
from contracts.events import RunState
from services.jobs import domain, repository
from services.jobs.models import Job, Run
from services.jobs.service.agents import calling_agent
from services.jobs.service.ending import BATCH, NO_ROLE, NOT_READABLE, cancel_runs, tell
from services.jobs.service.known import demand, demand_known, is_known

LOOK_S = 0.1
AGAIN_S = 30.0
LATELY = timedelta(minutes=1)
"""Longer than a submission and what is heard meanwhile take until both are committed."""


@dataclass(frozen=True)
class Terms:
    """How leases are given: for how many seconds, and how many of them in a row a run may lose before it gets anywhere."""

    seconds: float
    most: int


async def take_lease(uow: UnitOfWork, csr: str, terms: Terms) -> tuple[Job, Run] | None:
    """Give the oldest waiting run to the calling agent; None when none waits.

    Raises UnknownAgent, CsrRefused, CannotDecide.
    """
    agent_id = await calling_agent(uow, lock=True)  # a withdrawal at this moment comes before the lease, or sees it
    domain.agents.key_of(csr)
    await demand_known(uow)
    taken = await repository.jobs.lease_of_request(uow.session, agent_id, csr)
    if taken is not None:
        return taken
    waiting = await repository.jobs.next_queued(uow.session, uow.now)
    if waiting is None:
        return None
    job, run = waiting
    domain.leases.lease(run, agent_id, csr, uow.now, terms.seconds)
    domain.reading.begin_log(await repository.logs.log(uow.session, run.run_id, lock=True))
    await tell(uow, job, run)
    uow.note(run_id=run.run_id, fencing_token=run.fencing_token)
    uow.project_id = run.project_id
    return job, run


async def read_lease(uow: UnitOfWork, run_id: UUID) -> tuple[Job, Run]:
    """The calling agent's lease. Raises UnknownAgent, NotFound, LeaseLost, and CannotDecide where the run may have to end."""
    agent_id = await calling_agent(uow)
    known = await is_known(uow)
    found = await repository.jobs.run(uow.session, run_id)
    run = domain.leases.lease_is_own(found[1] if found else None, agent_id, None)
    if found is None:
        raise NotFound
    if run.state in domain.runs.HELD:
        demand(known=known)
    return found


async def renew_lease(uow: UnitOfWork, run_id: UUID, fencing_token: int, terms: Terms) -> tuple[Job, Run]:
    """Prolong the calling agent's lease; one whose run ended is shown as it is. Raises UnknownAgent, NotFound, LeaseLost, CannotDecide."""
    agent_id = await calling_agent(uow)
    found = await repository.jobs.run(uow.session, run_id, lock=True)
    run = domain.leases.lease_is_own(found[1] if found else None, agent_id, fencing_token)
    if found is None:
        raise NotFound
    if run.state in domain.runs.HELD:
        await demand_known(uow)
        domain.leases.renew(run, uow.now, terms.seconds)
    return found


async def add_log(uow: UnitOfWork, run_id: UUID, fencing_token: int, offset: int, text: str) -> int:
    """Add to the log of a leased run; returns the next offset. Raises UnknownAgent, NotFound, LeaseLost."""
    await _held(uow, run_id, fencing_token)
    return domain.reading.append(await repository.logs.log(uow.session, run_id, lock=True), offset, text)


async def report(
    uow: UnitOfWork,
    run_id: UUID,
    fencing_token: int,
    state: RunState,
    exit_code: int | None,
    reason: str | None,
    metrics: dict[str, float],
) -> tuple[Job, Run]:
    """Take in how a run stands; the same report twice changes nothing.

    Raises UnknownAgent, NotFound, LeaseLost, RunHasEnded, and CannotDecide for a success, which publishes outputs.
    """
    agent_id = await calling_agent(uow)
    found = await repository.jobs.run(uow.session, run_id, lock=True)
    run = domain.leases.lease_is_own(found[1] if found else None, agent_id, fencing_token)
    if found is None:
        raise NotFound
    if run.state == state and state in domain.runs.ENDED:
        return found
    domain.leases.lease_is_held(run, agent_id, fencing_token, uow.now)
    if state is RunState.SUCCEEDED:
        await demand_known(uow)
    if metrics:
        run.metrics = metrics
    changed = domain.runs.start(run, uow.now) if state is RunState.RUNNING else domain.runs.finish(run, state, exit_code, reason, uow.now)
    if changed:
        await tell(uow, found[0], run)
        uow.note(run_id=run_id, state=state.value)
        uow.project_id = run.project_id
    return found


async def _held(uow: UnitOfWork, run_id: UUID, fencing_token: int) -> tuple[Job, Run]:
    agent_id = await calling_agent(uow)
    found = await repository.jobs.run(uow.session, run_id, lock=True)
    domain.leases.lease_is_held(found[1] if found else None, agent_id, fencing_token, uow.now)
    if found is None:
        raise NotFound
    return found


async def input_folders(uow: UnitOfWork, job: Job) -> list[tuple[UUID, str]]:
    """The names under which a job finds its inputs."""
    return domain.submitting.folders(await repository.heard.datasets(uow.session, job.inputs), job.inputs)


async def wait_for_news(engine: Any, run_id: UUID, seen: int, seconds: float) -> None:
    """Return when something happened to a run since ``seen``, at the latest after ``seconds``; holds no transaction."""
    until = time.monotonic() + seconds
    # Replicas share the database and nothing else, and one short look costs less than a connection that listens for each agent.
    while time.monotonic() < until and await repository.changes.news_of(engine, run_id) == seen:  # noqa: ASYNC110
        await asyncio.sleep(LOOK_S)


async def end_what_is_over(uow: UnitOfWork, terms: Terms, *, whole: bool = True) -> int:
    """Requeue or fail runs whose lease ran out, cancel those whose person may not work or whose project may not read any more; how many.

    The latter are those that were submitted at the moment at which it was heard, which did not see one another. So they are looked for among the
    runs of the last minute alone, and among all of them when the look is a ``whole`` one.
    """
    overdue = await repository.jobs.overdue(uow.session, BATCH)
    for job, run in overdue:
        domain.leases.expire(run, terms.most, uow.now)
        await tell(uow, job, run)
    unentitled = await repository.jobs.unentitled(uow.session, uow.now, BATCH)
    await cancel_runs(uow, unentitled, NO_ROLE)
    unreadable = await repository.jobs.unreadable(uow.session, None if whole else uow.now - LATELY, BATCH)
    await cancel_runs(uow, unreadable, NOT_READABLE)
    return len(overdue) + len(unentitled) + len(unreadable)


async def unannounced(uow: UnitOfWork) -> list[UUID]:
    """Waiting runs to tell the agents of; they count as announced from here on, for half a minute."""
    runs = await repository.jobs.unannounced(uow.session, AGAIN_S, BATCH)
    for run in runs:
        run.announced_at = uow.now
    return [run.run_id for run in runs]
