"""The rules of jobs: the states of a run, who may take it on, what a job may read, and how much of it people may read."""

import hashlib
import hmac
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from chassis.csr import read_csr
from chassis.errors import CannotDecide, Conflict, Forbidden, NotFound, Unprocessable
from contracts import events
from contracts.events import ProjectState, RunState, ShareState, UserStatus
from contracts.roles import Role, counts
from services.jobs.models import Agent, Budget, Dataset, Job, Log, Member, Person, Project, Run, Share, Shown

LOG_KEPT = 64 * 1024
BUDGET = 64 * 1024
KEPT_FOR_DETAILS = 4 * 1024
ENROLMENT = timedelta(hours=24)
PROGRESS = timedelta(hours=1)

MOVES: dict[RunState, frozenset[RunState]] = {
    RunState.QUEUED: frozenset({RunState.LEASED, RunState.CANCELLED}),
    RunState.LEASED: frozenset({RunState.QUEUED, RunState.RUNNING, RunState.FAILED, RunState.CANCELLED}),
    RunState.RUNNING: frozenset({RunState.QUEUED, RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED}),
    RunState.SUCCEEDED: frozenset(),
    RunState.FAILED: frozenset(),
    RunState.CANCELLED: frozenset(),
}
HELD = frozenset({RunState.LEASED, RunState.RUNNING})
LIVE = HELD | {RunState.QUEUED}
ENDED = frozenset(RunState) - LIVE


class RunHasEnded(Conflict):
    """The run is in a state that it cannot leave in the wanted direction."""

    title = "The run cannot do this any more"


class LeaseLost(Conflict):
    """LEASE_IS_HELD: the caller does not hold the run's lease with this fencing token."""

    title = "The lease of this run is not yours any more"


class UnknownAgent(Forbidden):
    """The certificate is an agent's, and the agent was withdrawn."""

    title = "This agent was withdrawn"


class InputNotReadable(Unprocessable):
    """INPUTS_ARE_READABLE: an input is not of the project and not shared into it, or does not exist."""

    title = "An input is not a dataset that this project can read"


class NotKnownHereYet(CannotDecide):
    """The gateway knows of a project, an account or a role of which this service has not heard yet."""

    title = "What this rests on has not arrived here yet"


class ProjectNotActive(Conflict):
    """The project is archived or being deleted."""

    title = "The project is archived or being deleted: it takes no jobs"


class LogBudgetUsedUp(Forbidden):
    """LOG_BUDGET_LEFT: the person's budget of small outputs in this project is used up for the day."""

    title = "Your budget of logs and small results in this project is used up for today"


class EnrolmentTokenRefused(Forbidden):
    """ENROLMENT_TOKEN_IS_OPEN: the token is not known, or was used with another key."""

    title = "This enrolment token cannot be used"


# The life of a run


def submit(job: Job, run_id: UUID) -> Run:
    """The first and only run of a job: queued."""
    return Run(
        run_id=run_id, job_id=job.job_id, project_id=job.project_id, user_id=job.submitted_by, state=RunState.QUEUED.value, version=1
    )


def lease(run: Run, agent_id: UUID, csr: str, now: datetime, seconds: float) -> None:
    """Give a queued run to an agent with the next fencing token. Raises RunHasEnded."""
    _move(run, RunState.LEASED)
    run.agent_id = agent_id
    run.fencing_token += 1
    run.csr = csr
    run.certificate = run.certificate_id = None
    run.lease_until = now + timedelta(seconds=seconds)
    run.started_at = None
    run.metrics = {}


def renew(run: Run, now: datetime, seconds: float) -> None:
    """Prolong a lease that is still held; one that ran out is lost. Raises LeaseLost."""
    if run.lease_until is None or run.lease_until <= now:
        raise LeaseLost
    run.lease_until = now + timedelta(seconds=seconds)


def certify(run: Run, fact: events.Certificate) -> bool:
    """Take over the certificate of the present lease; whether it was for it."""
    if run.state not in HELD or fact.fencing_token != run.fencing_token or not fact.live:
        return False
    run.certificate = fact.chain
    run.certificate_id = fact.certificate_id
    run.news += 1
    return True


def start(run: Run, now: datetime) -> bool:
    """The program starts; whether it had not before. Raises RunHasEnded."""
    if run.state == RunState.RUNNING:
        return False
    _move(run, RunState.RUNNING)
    run.started_at = now
    return True


def finish(run: Run, state: RunState, exit_code: int | None, reason: str | None, now: datetime) -> bool:
    """The agent says how the run ended; whether that is new. Raises RunHasEnded when it ended otherwise."""
    if run.state == state:
        return False
    _move(run, state)
    run.exit_code = exit_code
    run.reason = reason
    _end(run, now)
    return True


def cancel(run: Run, reason: str, now: datetime) -> bool:
    """End a run before its time; whether it had not ended already. The agent stays named, so that it hears of it."""
    if run.state in ENDED:
        return False
    _move(run, RunState.CANCELLED)
    run.reason = reason
    _end(run, now)
    return True


def expire(run: Run, most_leases: int, now: datetime) -> None:
    """A lease ran out: the run waits for another agent, or fails when that happened ``most_leases`` times in a row before it got anywhere.

    What ran for an hour is no program that takes its machine away: a long job outlives any number of restarts.
    """
    got_somewhere = run.started_at is not None and now - run.started_at >= PROGRESS
    run.lost = 0 if got_somewhere else run.lost + 1
    if run.lost >= most_leases:
        _move(run, RunState.FAILED)
        run.reason = f"The machine that ran it could not be reached any more, {most_leases} times in a row before it had run for an hour."
        _end(run, now)
        return
    release(run)


def release(run: Run) -> None:
    """The agent that held the run cannot go on with it: it waits for another one."""
    _move(run, RunState.QUEUED)
    run.agent_id = run.csr = run.certificate = run.certificate_id = run.lease_until = run.announced_at = None


def _move(run: Run, state: RunState) -> None:
    if state not in MOVES[RunState(run.state)]:
        raise RunHasEnded(f"The run has {run.state}." if run.state in ENDED else f"The run is {run.state}.")
    run.state = state.value
    run.news += 1


def _end(run: Run, now: datetime) -> None:
    run.lease_until = None
    run.ended_at = now


def lease_is_held(run: Run | None, agent_id: UUID | None, fencing_token: int, now: datetime) -> Run:
    """Condition.LEASE_IS_HELD, to change something: the agent's own lease, with this token, not run out. Raises LeaseLost."""
    run = lease_is_own(run, agent_id, fencing_token)
    if run.state not in HELD or run.lease_until is None or run.lease_until <= now:
        raise LeaseLost(f"The run is {run.state}.")
    return run


def lease_is_own(run: Run | None, agent_id: UUID | None, fencing_token: int | None) -> Run:
    """Condition.LEASE_IS_HELD, to look: the agent's newest lease, also after the run ended, so that it hears why. Raises LeaseLost."""
    if run is None:
        raise NotFound
    if agent_id is None or run.agent_id != agent_id or (fencing_token is not None and run.fencing_token != fencing_token):
        raise LeaseLost
    return run


def job_fact(job: Job, run: Run) -> events.Job:
    """The job as other services know it."""
    return events.Job(
        job_id=job.job_id,
        version=job.version,
        project_id=job.project_id,
        name=job.name,
        submitted_by=job.submitted_by,
        state=RunState(run.state),
        inputs=tuple(job.inputs),
        output_dataset_id=job.output_dataset_id,
        submitted_at=job.submitted_at,
    )


def last_facts(job: Job, run: Run) -> tuple[events.Job, events.Run]:
    """What is said of a job that goes with its project: no names, no inputs, no request."""
    job.version += 1
    run.version += 1
    gone: dict[str, object] = {"inputs": ()}
    return (
        job_fact(job, run).model_copy(update={**gone, "name": "", "deleted": True}),
        run_fact(job, run).model_copy(update={**gone, "output_name": "", "csr": None}),
    )


def run_fact(job: Job, run: Run) -> events.Run:
    """The run as other services know it."""
    return events.Run(
        run_id=run.run_id,
        version=run.version,
        job_id=run.job_id,
        project_id=run.project_id,
        user_id=run.user_id,
        state=RunState(run.state),
        agent_id=run.agent_id,
        fencing_token=run.fencing_token,
        csr=run.csr if run.state in HELD else None,
        inputs=tuple(job.inputs),
        output_dataset_id=job.output_dataset_id,
        output_name=job.name,
    )


# Who may submit, and over what


def may_work(project: Project | None, person: Person | None, member: Member | None, now: datetime) -> None:
    """Demand what a job rests on, in this service's own knowledge. Raises NotKnownHereYet, ProjectNotActive."""
    if project is None or person is None or not member_counts(member, now):
        raise NotKnownHereYet(retry_after=1)
    if person.status != UserStatus.ACTIVE:
        raise NotKnownHereYet(retry_after=1)
    if project.state != ProjectState.ACTIVE:
        raise ProjectNotActive


def member_counts(member: Member | None, now: datetime) -> bool:
    """Whether a membership gives a role at this instant."""
    return member is not None and counts(member.role, member.starts_at, member.ends_at, now)


def inputs_are_readable(project_id: UUID, wanted: Sequence[UUID], datasets: Collection[Dataset], shares: Collection[Share]) -> None:
    """Condition.INPUTS_ARE_READABLE: each input is the project's own, or an accepted share brings it there. Raises InputNotReadable."""
    known = {dataset.dataset_id: dataset for dataset in datasets if not dataset.deleted}
    shared = {share.dataset_id for share in shares if share.state == ShareState.ACCEPTED and share.target_project_id == project_id}
    for dataset_id in wanted:
        dataset = known.get(dataset_id)
        if dataset is None or (dataset.project_id != project_id and dataset_id not in shared):
            raise InputNotReadable(f"{dataset_id} is not a dataset that this project can read.")


def folders(datasets: Iterable[Dataset], order: Sequence[UUID]) -> list[tuple[UUID, str]]:
    """For each input the name of its folder inside a job: the dataset's, told apart by the end of its id where two are alike."""
    names = {dataset.dataset_id: _folder(dataset.name) for dataset in datasets}
    made = []
    for dataset_id in order:
        name = names.get(dataset_id, str(dataset_id))
        alike = [other for other in order if other != dataset_id and names.get(other, "").casefold() == name.casefold()]
        made.append((dataset_id, f"{name}~{dataset_id.hex[-8:]}" if alike or name == "inputs.json" else name))
    return made


def _folder(name: str) -> str:
    plain = "".join("_" if character in "/\\~" or not character.isprintable() else character for character in name)
    while len(plain.encode()) > 200:  # noqa: PLR2004  file systems take 255 bytes
        plain = plain[:-1]
    return plain.strip(". ") or "input"


# What people may read of a run


def reads_freely(project_id: UUID, role: Role | None, inputs: Collection[UUID], datasets: Collection[Dataset]) -> bool:
    """Whether nothing in a run's small outputs is foreign to its reader: a Data Owner, and all origins in their own project."""
    if role is not Role.DATA_OWNER:
        return False
    homes = {dataset.dataset_id: dataset for dataset in datasets}
    origins = {origin for dataset_id in inputs if dataset_id in homes for origin in homes[dataset_id].origins} | set(inputs)
    return all(origin in homes and homes[origin].project_id == project_id for origin in origins)


@dataclass(frozen=True)
class Reading:
    """What may be shown of a log: bytes from ``start`` to ``end``, ``charged`` of them new to the reader."""

    start: int
    end: int
    charged: int


def read_log(log: Log, shown: Shown, budget: Budget | None) -> Reading:
    """Condition.LOG_BUDGET_LEFT: the newest bytes of a log that the budget allows, with what was shown before; the latter is free.

    A few KiB of each day's budget are kept for metrics and exit codes. Without ``budget`` there is no bound. Raises
    LogBudgetUsedUp when there is something new, nothing of it may be shown, and nothing was shown before.
    """
    first = log.until - len(log.kept)
    seen_from, seen_until = max(shown.log_from, first), max(shown.log_until, first)
    unseen = log.until - seen_until
    left = unseen if budget is None else max(0, BUDGET - KEPT_FOR_DETAILS - budget.used)
    if unseen <= left:
        reading = Reading(min(seen_until, seen_from), log.until, unseen)
    elif left > 0:
        reading = Reading(log.until - left, log.until, left)
    elif seen_from < seen_until:
        return Reading(seen_from, seen_until, 0)
    else:
        raise LogBudgetUsedUp
    shown.log_from, shown.log_until = reading.start, reading.end
    if budget is not None:
        budget.used += reading.charged
    return reading


def text_between(log: Log, start: int, end: int) -> str:
    """The log's text from ``start`` to ``end``; characters that a cut divided are left out."""
    first = log.until - len(log.kept)
    return log.kept[max(0, start - first) : max(0, end - first)].decode(errors="ignore")


def read_details(run: Run, shown: Shown, budget: Budget | None) -> bool:
    """Condition.LOG_BUDGET_LEFT: whether metrics, exit code and reason may be shown; what the reader has not seen is charged.

    With a budget they are shown once the run has ended: metrics that change while it runs would be charged at each look.
    """
    said = json.dumps([run.metrics, run.exit_code, run.reason], sort_keys=True).encode()
    if said == b"[{}, null, null]" or budget is None:
        return True
    if run.state not in ENDED:
        return False
    digest = hashlib.sha256(said).digest()
    if shown.details == digest:
        return True
    if budget.used + len(said) > BUDGET:
        return False
    budget.used += len(said)
    shown.details = digest
    return True


def append(log: Log, offset: int, text: str) -> int:
    """Add what the present lease wrote at ``offset`` of its own log; returns the next offset.

    A repeated part changes nothing; after a gap only what follows it is kept.
    """
    data = text.replace("\0", "\ufffd").encode(errors="replace")
    known = log.until - log.base
    if offset > known:
        log.kept = b""
        log.until = log.base + offset
    else:
        data = data[known - offset :]
    log.until += len(data)
    log.kept = (log.kept + data)[-LOG_KEPT:]
    return log.until - log.base


def begin_log(log: Log) -> None:
    """A new lease writes from the start; what an earlier one wrote is gone."""
    log.base = log.until
    log.kept = b""


# Agents


def token_hash(token: str) -> bytes:
    """What is kept of an enrolment token."""
    return hashlib.sha256(token.encode()).digest()


def key_of(csr: str) -> bytes:
    """SHA-256 of the public key of a request that ca will answer. Raises CsrRefused."""
    key = read_csr(csr).public_key
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def enrol(agent: Agent | None, token: bytes, key: bytes, csr: str, now: datetime) -> bool:
    """Condition.ENROLMENT_TOKEN_IS_OPEN: bind a token to the first key that shows it; whether a new certificate is asked for.

    The same key may ask again: with the request it sent before it waits, with a new one it gets a new certificate.
    Raises EnrolmentTokenRefused.
    """
    if agent is None or not agent.live or not hmac.compare_digest(agent.token_sha256, token):
        raise EnrolmentTokenRefused
    if agent.key_sha256 is None and agent.enrol_before is not None and agent.enrol_before <= now:
        raise EnrolmentTokenRefused("Nobody used it in time; announce the agent again.")
    if agent.key_sha256 is not None and not hmac.compare_digest(agent.key_sha256, key):
        raise EnrolmentTokenRefused
    if agent.csr == csr:
        return False
    agent.key_sha256 = key
    agent.csr = csr
    agent.chain = agent.certificate_id = None
    agent.version += 1
    return True


def withdraw(agent: Agent) -> bool:
    """The agent counts no longer, for ever; whether it did before."""
    if not agent.live:
        return False
    agent.live = False
    agent.csr = agent.chain = agent.certificate_id = None
    agent.version += 1
    return True


def certify_agent(agent: Agent, fact: events.Certificate) -> None:
    """Take over an agent's new certificate, or forget the present one when it was revoked."""
    if fact.live and agent.live:
        agent.chain = fact.chain
        agent.certificate_id = fact.certificate_id
    elif agent.certificate_id == fact.certificate_id:
        agent.chain = agent.certificate_id = None


def agent_fact(agent: Agent) -> events.Agent:
    """The agent as ca knows it."""
    return events.Agent(agent_id=agent.agent_id, version=agent.version, name=agent.name, csr=agent.csr, live=agent.live)
