"""The use cases of jobs: each function is one transaction's work."""

import asyncio
import hashlib
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from chassis import deletion
from chassis.consumer import up_to_date
from chassis.deletion import Slice
from chassis.errors import CannotDecide, NotFound
from chassis.outbox import UnitOfWork
from contracts import events
from contracts.events import MEMBERSHIPS, USERS, CertificateKind, ProjectState, RunState, ShareState, UserStatus
from services.jobs import domain, repository
from services.jobs.models import Agent, Dataset, Job, Member, Person, Project, Run, Share

BATCH = 100
LOOK_S = 0.1
AGAIN_S = 30.0
LOCAL_AGENT = "local"


@dataclass(frozen=True)
class Terms:
    """How leases are given: for how many seconds, and how many of them in a row a run may lose before it gets anywhere."""

    seconds: float
    most: int


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


def _caller(uow: UnitOfWork) -> UUID:
    if uow.actor.user_id is None:
        raise NotFound
    return uow.actor.user_id


async def _tell(uow: UnitOfWork, job: Job, run: Run) -> None:
    """Say that a run moved on, and its job with it."""
    job.version += 1
    run.version += 1
    uow.emit(domain.job_fact(job, run))
    uow.emit(domain.run_fact(job, run))
    await repository.wake(uow.session)


# What people do


async def submit(
    uow: UnitOfWork,
    project_id: UUID,
    *,
    name: str,
    program: str,
    environment: str,
    inputs: list[UUID],
    arguments: list[str],
    wall_seconds: int,
    memory_mib: int,
    cores: int,
) -> Details:
    """Queue a job. Raises NotKnownHereYet, ProjectNotActive, InputNotReadable."""
    caller = _caller(uow)
    await deletion.hold(uow.session, project_id)
    domain.may_work(
        await repository.one(uow.session, Project, project_id),
        await repository.one(uow.session, Person, caller),
        await repository.one(uow.session, Member, project_id, caller),
        uow.now,
    )
    datasets = await repository.datasets(uow.session, inputs)
    domain.inputs_are_readable(project_id, inputs, datasets, await repository.shares_into(uow.session, project_id, inputs))
    job = Job(
        job_id=uow.new_id(),
        project_id=project_id,
        name=name,
        submitted_by=caller,
        program=program,
        environment=environment,
        arguments=arguments,
        inputs=inputs,
        wall_seconds=wall_seconds,
        memory_mib=memory_mib,
        cores=cores,
        output_dataset_id=uow.new_id(),
        submitted_at=uow.now,
        version=1,
    )
    run = domain.submit(job, uow.new_id())
    uow.session.add(job)
    await uow.session.flush()
    uow.session.add(run)
    uow.emit(domain.job_fact(job, run))
    uow.emit(domain.run_fact(job, run))
    program_sha256 = hashlib.sha256(program.encode()).hexdigest()
    uow.note(job_id=job.job_id, run_id=run.run_id, program_sha256=program_sha256, inputs=",".join(map(str, inputs)))
    await repository.wake(uow.session)
    return Details(job, run, shown=True)


async def list_jobs(uow: UnitOfWork, project_id: UUID, after: UUID | None, limit: int) -> list[tuple[Job, Run]]:
    """A project's jobs, newest first."""
    return await repository.jobs(uow.session, project_id, after, limit)


async def read_job(uow: UnitOfWork, project_id: UUID, job_id: UUID) -> Details:
    """A job, with its small outputs as far as the reader's budget allows. Raises NotFound."""
    job, run = await _job(uow, project_id, job_id)
    uow.shows(domain.run_fact(job, run))  # who reads "succeeded" looks at the outputs next, in another service
    return Details(job, run, shown=await _charge_details(uow, job, run))


async def _charge_details(uow: UnitOfWork, job: Job, run: Run) -> bool:
    reader = _caller(uow)
    free = await _reads_freely(uow, job)
    shown = await repository.shown(uow.session, run.run_id, reader)
    budget = None if free else await repository.budget(uow.session, job.project_id, reader, _day(uow))
    used = budget.used if budget else 0
    allowed = domain.read_details(run, shown, budget)
    if budget is not None and (budget.used > used or (not allowed and run.state in domain.ENDED)):
        uow.note(job_id=job.job_id, results_bytes=budget.used - used, budget_used=budget.used, withheld=not allowed)
    return allowed


async def read_log(uow: UnitOfWork, project_id: UUID, job_id: UUID) -> Excerpt:
    """The end of a job's log within the reader's budget. Raises NotFound, LogBudgetUsedUp."""
    job, run = await _job(uow, project_id, job_id)
    reader = _caller(uow)
    free = await _reads_freely(uow, job)
    shown = await repository.shown(uow.session, run.run_id, reader)
    log = await repository.log(uow.session, run.run_id)
    budget = await repository.budget(uow.session, project_id, reader, _day(uow))
    reading = domain.read_log(log, shown, None if free else budget)
    if reading.charged:
        uow.note(job_id=job_id, log_bytes=reading.charged, budget_used=budget.used)
    truncated = reading.start > log.base or reading.end < log.until
    return Excerpt(domain.text_between(log, reading.start, reading.end), truncated, max(0, domain.BUDGET - budget.used), run.state)


async def cancel(uow: UnitOfWork, project_id: UUID, job_id: UUID) -> Details:
    """End a job before its time; one that has ended stays as it is. Raises NotFound."""
    job, run = await _job(uow, project_id, job_id, lock=True)
    await _cancel(uow, [(job, run)], "A member of the project cancelled it.")
    uow.note(job_id=job_id)
    return Details(job, run, shown=await _charge_details(uow, job, run))


async def _job(uow: UnitOfWork, project_id: UUID, job_id: UUID, *, lock: bool = False) -> tuple[Job, Run]:
    found = await repository.job(uow.session, project_id, job_id, lock=lock)
    if found is None:
        raise NotFound
    return found


async def _reads_freely(uow: UnitOfWork, job: Job) -> bool:
    return domain.reads_freely(job.project_id, uow.actor.role, job.inputs, await repository.origins(uow.session, job.inputs))


def _day(uow: UnitOfWork) -> str:
    return uow.now.date().isoformat()


# Agents


async def announce_agent(uow: UnitOfWork, name: str) -> tuple[Agent, str]:
    """Announce an agent; the token that enrols it is returned this once."""
    token = f"agent_{secrets.token_urlsafe(32)}"
    agent = _new_agent(uow, name, domain.token_hash(token))
    agent.enrol_before = uow.now + domain.ENROLMENT
    uow.conceal()
    uow.note(agent_id=agent.agent_id)
    return agent, token


async def know_local_agent(uow: UnitOfWork, token_sha256: bytes) -> None:
    """Announce the agent on this machine, whose token the set-up made."""
    if await repository.agent_of_token(uow.session, token_sha256) is None:
        _new_agent(uow, LOCAL_AGENT, token_sha256)


def _new_agent(uow: UnitOfWork, name: str, token_sha256: bytes) -> Agent:
    agent = Agent(agent_id=uow.new_id(), name=name, token_sha256=token_sha256, created_at=uow.now, version=1)
    uow.session.add(agent)
    uow.emit(domain.agent_fact(agent))
    return agent


async def withdraw_agent(uow: UnitOfWork, agent_id: UUID) -> None:
    """An agent counts no longer: its certificate ends, and its runs wait for another. Safe to repeat. Raises NotFound."""
    agent = await repository.agent(uow.session, agent_id, lock=True)
    if agent is None:
        raise NotFound
    if not domain.withdraw(agent):
        return
    uow.emit(domain.agent_fact(agent))
    uow.note(agent_id=agent_id)
    for job, run in await repository.held_by(uow.session, agent_id):
        domain.release(run)
        await _tell(uow, job, run)


async def list_agents(uow: UnitOfWork, after: UUID | None, limit: int) -> list[Agent]:
    """The agents, oldest first."""
    return await repository.agents(uow.session, after, limit)


async def enrol(uow: UnitOfWork, token: str, csr: str) -> Agent:
    """Bind an enrolment token to a key and ask for its certificate. Raises EnrolmentTokenRefused, CsrRefused."""
    hashed = domain.token_hash(token)
    agent = await repository.agent_of_token(uow.session, hashed)
    if domain.enrol(agent, hashed, domain.key_of(csr), csr, uow.now) and agent is not None:
        uow.emit(domain.agent_fact(agent))
        uow.note(agent_id=agent.agent_id)
    if agent is None:
        raise domain.EnrolmentTokenRefused
    return agent


async def take_lease(uow: UnitOfWork, csr: str, terms: Terms) -> tuple[Job, Run] | None:
    """Give the oldest waiting run to the calling agent; None when none waits.

    Raises UnknownAgent, CsrRefused, CannotDecide.
    """
    agent_id = await _agent(uow, lock=True)  # a withdrawal at this moment comes before the lease, or sees it
    domain.key_of(csr)
    await _who_may_work_is_known(uow)
    taken = await repository.lease_of_request(uow.session, agent_id, csr)
    if taken is not None:
        return taken
    waiting = await repository.next_queued(uow.session, uow.now)
    if waiting is None:
        return None
    job, run = waiting
    domain.lease(run, agent_id, csr, uow.now, terms.seconds)
    domain.begin_log(await repository.log(uow.session, run.run_id, lock=True))
    await _tell(uow, job, run)
    uow.note(run_id=run.run_id, fencing_token=run.fencing_token)
    uow.project_id = run.project_id
    return job, run


async def read_lease(uow: UnitOfWork, run_id: UUID) -> tuple[Job, Run]:
    """The calling agent's lease. Raises UnknownAgent, NotFound, LeaseLost."""
    agent_id = await _agent(uow)
    found = await repository.run(uow.session, run_id)
    domain.lease_is_own(found[1] if found else None, agent_id, None)
    if found is None:
        raise NotFound
    return found


async def renew_lease(uow: UnitOfWork, run_id: UUID, fencing_token: int, terms: Terms) -> tuple[Job, Run]:
    """Prolong the calling agent's lease; one whose run ended is shown as it is. Raises UnknownAgent, NotFound, LeaseLost, CannotDecide."""
    agent_id = await _agent(uow)
    found = await repository.run(uow.session, run_id, lock=True)
    run = domain.lease_is_own(found[1] if found else None, agent_id, fencing_token)
    if found is None:
        raise NotFound
    if run.state in domain.HELD:
        await _who_may_work_is_known(uow)
        domain.renew(run, uow.now, terms.seconds)
    return found


async def add_log(uow: UnitOfWork, run_id: UUID, fencing_token: int, offset: int, text: str) -> int:
    """Add to the log of a leased run; returns the next offset. Raises UnknownAgent, NotFound, LeaseLost."""
    await _held(uow, run_id, fencing_token)
    return domain.append(await repository.log(uow.session, run_id, lock=True), offset, text)


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
    agent_id = await _agent(uow)
    found = await repository.run(uow.session, run_id, lock=True)
    run = domain.lease_is_own(found[1] if found else None, agent_id, fencing_token)
    if found is None:
        raise NotFound
    if run.state == state and state in domain.ENDED:
        return found
    domain.lease_is_held(run, agent_id, fencing_token, uow.now)
    if state is RunState.SUCCEEDED:
        await _who_may_work_is_known(uow)
    if metrics:
        run.metrics = metrics
    changed = domain.start(run, uow.now) if state is RunState.RUNNING else domain.finish(run, state, exit_code, reason, uow.now)
    if changed:
        await _tell(uow, found[0], run)
        uow.note(run_id=run_id, state=state.value)
        uow.project_id = run.project_id
    return found


async def _who_may_work_is_known(uow: UnitOfWork) -> None:
    """What was heard of accounts and memberships is young enough to go by: the gateway knows the agent, not for whom it works. Raises CannotDecide."""
    if not await up_to_date(uow.session, (USERS, MEMBERSHIPS)):
        raise CannotDecide("Who may work is not known at this moment.", retry_after=1)


async def _held(uow: UnitOfWork, run_id: UUID, fencing_token: int) -> tuple[Job, Run]:
    agent_id = await _agent(uow)
    found = await repository.run(uow.session, run_id, lock=True)
    domain.lease_is_held(found[1] if found else None, agent_id, fencing_token, uow.now)
    if found is None:
        raise NotFound
    return found


async def _agent(uow: UnitOfWork, *, lock: bool = False) -> UUID:
    if uow.actor.agent_id is None:
        raise domain.UnknownAgent
    agent = await repository.agent(uow.session, uow.actor.agent_id, lock=lock)
    if agent is None or not agent.live:
        raise domain.UnknownAgent
    return agent.agent_id


async def input_folders(uow: UnitOfWork, job: Job) -> list[tuple[UUID, str]]:
    """The names under which a job finds its inputs."""
    return domain.folders(await repository.datasets(uow.session, job.inputs), job.inputs)


async def wait_for_news(engine: Any, run_id: UUID, seen: int, seconds: float) -> None:
    """Return when something happened to a run since ``seen``, at the latest after ``seconds``; holds no transaction."""
    until = time.monotonic() + seconds
    # Replicas share the database and nothing else, and one short look costs less than a connection that listens for each agent.
    while time.monotonic() < until and await repository.news_of(engine, run_id) == seen:  # noqa: ASYNC110
        await asyncio.sleep(LOOK_S)


# What time does


async def end_what_is_over(uow: UnitOfWork, terms: Terms) -> int:
    """Requeue or fail runs whose lease ran out, cancel those whose person may not work any more; how many it was."""
    overdue = await repository.overdue(uow.session, BATCH)
    for job, run in overdue:
        domain.expire(run, terms.most, uow.now)
        await _tell(uow, job, run)
    unentitled = await repository.unentitled(uow.session, uow.now, BATCH)
    await _cancel(uow, unentitled, "The person who submitted it has no role in the project any more.")
    return len(overdue) + len(unentitled)


async def unannounced(uow: UnitOfWork) -> list[UUID]:
    """Waiting runs to tell the agents of; they count as announced from here on, for half a minute."""
    runs = await repository.unannounced(uow.session, AGAIN_S, BATCH)
    for run in runs:
        run.announced_at = uow.now
    return [run.run_id for run in runs]


async def _cancel(uow: UnitOfWork, runs: Iterable[tuple[Job, Run]], reason: str) -> None:
    for job, run in runs:
        if domain.cancel(run, reason, uow.now):
            await _tell(uow, job, run)


# What other services say


async def know_person(uow: UnitOfWork, fact: events.User) -> None:
    """An account changed; the runs of one that is not active end."""
    await repository.put(uow.session, Person(user_id=fact.user_id, status=fact.status.value))
    if fact.status is not UserStatus.ACTIVE:
        runs = await repository.live_runs_of_person(uow.session, fact.user_id)
        await _cancel(uow, runs, "The account of the person who submitted it is not active.")


async def forget_person(uow: UnitOfWork, user_id: UUID) -> None:
    """An account was erased."""
    await repository.forget(uow.session, Person, user_id)
    await repository.forget_reading(uow.session, user_id)
    await _cancel(uow, await repository.live_runs_of_person(uow.session, user_id), "The person who submitted it was erased.")


async def know_member(uow: UnitOfWork, fact: events.Membership) -> None:
    """A role changed; the runs of somebody without one end. One in a project that is gone is not kept."""
    if await deletion.is_gone(uow.session, fact.project_id):
        return
    member = Member(
        project_id=fact.project_id,
        user_id=fact.user_id,
        role=fact.role.value if fact.role else None,
        starts_at=fact.starts_at,
        ends_at=fact.ends_at,
    )
    await repository.put(uow.session, member)
    if not domain.member_counts(member, uow.now):
        runs = await repository.live_runs_of_member(uow.session, fact.project_id, fact.user_id)
        await _cancel(uow, runs, "The person who submitted it has no role in the project any more.")
    uow.collect(_wake, member)


async def _wake(uow: UnitOfWork, _members: list[Member]) -> None:
    """Once for all memberships of a batch."""
    await repository.wake(uow.session)


async def forget_member(uow: UnitOfWork, project_id: UUID, user_id: UUID) -> None:
    """A membership was erased."""
    await repository.forget(uow.session, Member, project_id, user_id)
    runs = await repository.live_runs_of_member(uow.session, project_id, user_id)
    await _cancel(uow, runs, "The person who submitted it has no role in the project any more.")


async def know_project(uow: UnitOfWork, fact: events.Project) -> None:
    """A project changed; the runs of one that is not active end."""
    await repository.put(uow.session, Project(project_id=fact.project_id, state=fact.state.value))
    await deletion.follow(uow, fact, _close)
    if fact.state is ProjectState.ARCHIVED:
        await _cancel(uow, await repository.live_runs_in_project(uow.session, fact.project_id), "The project was archived.")


async def _close(uow: UnitOfWork, project_id: UUID) -> None:
    await _cancel(uow, await repository.live_runs_in_project(uow.session, project_id), "The project is being deleted.")


async def purge(uow: UnitOfWork, project_id: UUID) -> Slice:
    """Remove some of what a deleted project left: its jobs, and in the end what was said of it."""
    found = await repository.jobs(uow.session, project_id, None, BATCH)
    if not found:
        return Slice(await repository.forget_of_project(uow.session, project_id), more=False)
    lasts = [fact for job, run in found for fact in domain.last_facts(job, run)]
    for fact in lasts:
        uow.emit(fact)
    await uow.session.flush()
    await deletion.erase_later(uow, lasts)
    logs = await repository.remove_jobs(uow.session, [job.job_id for job, _ in found], [run.run_id for _, run in found])
    return Slice({"jobs": len(found), "runs": len(found), "logs": logs}, more=True)


async def forget_project(uow: UnitOfWork, project_id: UUID) -> None:
    """A project was erased."""
    await repository.forget(uow.session, Project, project_id)
    await _cancel(uow, await repository.live_runs_in_project(uow.session, project_id), "The project was closed.")


async def know_dataset(uow: UnitOfWork, fact: events.Dataset) -> None:
    """A dataset changed; runs over a deleted one end. One of a project that is gone is not kept."""
    if await deletion.is_gone(uow.session, fact.project_id):
        await forget_dataset(uow, fact.dataset_id)
        return
    dataset = Dataset(
        dataset_id=fact.dataset_id, project_id=fact.project_id, name=fact.name, origins=list(fact.origins), deleted=fact.deleted
    )
    await repository.put(uow.session, dataset)
    if fact.deleted:
        await _end_unreadable(uow, fact.dataset_id)


async def forget_dataset(uow: UnitOfWork, dataset_id: UUID) -> None:
    """A dataset was erased."""
    await repository.forget(uow.session, Dataset, dataset_id)
    await _end_unreadable(uow, dataset_id)


async def know_share(uow: UnitOfWork, fact: events.Share) -> None:
    """A share changed; runs that it alone allowed end with it. One from or to a project that is gone is not kept."""
    for project_id in sorted({fact.project_id, fact.target_project_id}):
        if await deletion.is_gone(uow.session, project_id):
            await repository.forget(uow.session, Share, fact.share_id)
            await _end_unreadable(uow, fact.dataset_id)
            return
    share = Share(share_id=fact.share_id, dataset_id=fact.dataset_id, target_project_id=fact.target_project_id, state=fact.state.value)
    await repository.put(uow.session, share)
    if fact.state is not ShareState.ACCEPTED:
        await _end_unreadable(uow, fact.dataset_id)


async def forget_share(uow: UnitOfWork, share_id: UUID) -> None:
    """A share was erased."""
    share = await repository.one(uow.session, Share, share_id)
    if share is not None:
        await repository.forget(uow.session, Share, share_id)
        await _end_unreadable(uow, share.dataset_id)


async def _end_unreadable(uow: UnitOfWork, dataset_id: UUID) -> None:
    """Cancel the live runs over a dataset that their project cannot read any more."""
    datasets = await repository.datasets(uow.session, [dataset_id])
    for job, run in await repository.live_runs_over(uow.session, dataset_id):
        shares = await repository.shares_into(uow.session, job.project_id, [dataset_id])
        try:
            domain.inputs_are_readable(job.project_id, [dataset_id], datasets, shares)
        except domain.InputNotReadable:
            await _cancel(uow, [(job, run)], "An input is not shared with the project any more.")


async def know_certificate(uow: UnitOfWork, fact: events.Certificate) -> None:
    """A certificate was issued or revoked: of an agent, or of a run's lease. A revoked one ends the run that held it."""
    if fact.kind is CertificateKind.AGENT and fact.agent_id is not None:
        agent = await repository.agent(uow.session, fact.agent_id, lock=True)
        if agent is not None:
            domain.certify_agent(agent, fact)
    elif fact.kind is CertificateKind.JOB and fact.run_id is not None:
        found = await repository.run(uow.session, fact.run_id, lock=True)
        if found is None:
            return
        if domain.certify(found[1], fact):
            await repository.wake(uow.session)
        elif not fact.live and found[1].certificate_id == fact.certificate_id:
            await _cancel(uow, [found], "Its certificate was revoked.")
