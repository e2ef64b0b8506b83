"""The states of a run, and what is said of it."""

from datetime import datetime
from uuid import UUID

from chassis.errors import Conflict
from contracts import events
from contracts.events import RunState
from services.jobs.models import Job, Run

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


def submit(job: Job, run_id: UUID) -> Run:
    """The first and only run of a job: queued."""
    return Run(
        run_id=run_id, job_id=job.job_id, project_id=job.project_id, user_id=job.submitted_by, state=RunState.QUEUED.value, version=1
    )


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
    move(run, RunState.RUNNING)
    run.started_at = now
    return True


def finish(run: Run, state: RunState, exit_code: int | None, reason: str | None, now: datetime) -> bool:
    """The agent says how the run ended; whether that is new. Raises RunHasEnded when it ended otherwise."""
    if run.state == state:
        return False
    move(run, state)
    run.exit_code = exit_code
    run.reason = reason
    end(run, now)
    return True


def cancel(run: Run, reason: str, now: datetime) -> bool:
    """End a run before its time; whether it had not ended already. The agent stays named, so that it hears of it."""
    if run.state in ENDED:
        return False
    move(run, RunState.CANCELLED)
    run.reason = reason
    end(run, now)
    return True


def release(run: Run) -> None:
    """The agent that held the run cannot go on with it: it waits for another one."""
    move(run, RunState.QUEUED)
    run.agent_id = run.csr = run.certificate = run.certificate_id = run.lease_until = run.announced_at = None


def move(run: Run, state: RunState) -> None:
    """Bring a run into a state that its own can be left for, and have its agent hear of it. Raises RunHasEnded."""
    if state not in MOVES[RunState(run.state)]:
        raise RunHasEnded(f"The run has {run.state}." if run.state in ENDED else f"The run is {run.state}.")
    run.state = state.value
    run.news += 1


def end(run: Run, now: datetime) -> None:
    """Note when a run ended; it has no lease any more."""
    run.lease_until = None
    run.ended_at = now


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
