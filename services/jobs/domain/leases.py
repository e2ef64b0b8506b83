"""Who holds a run, for how long, and what becomes of it when they are gone."""

from datetime import datetime, timedelta
from uuid import UUID

from chassis.errors import Conflict, NotFound
from contracts.events import RunState
from services.jobs.domain.runs import HELD, end, move, release
from services.jobs.models import Run

PROGRESS = timedelta(hours=1)


class LeaseLost(Conflict):
    """LEASE_IS_HELD: the caller does not hold the run's lease with this fencing token."""

    title = "The lease of this run is not yours any more"


def lease(run: Run, agent_id: UUID, csr: str, now: datetime, seconds: float) -> None:
    """Give a queued run to an agent with the next fencing token. Raises RunHasEnded."""
    move(run, RunState.LEASED)
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


def expire(run: Run, most_leases: int, now: datetime) -> None:
    """A lease ran out: the run waits for another agent, or fails when that happened ``most_leases`` times in a row before it got anywhere.

    What ran for an hour is no program that takes its machine away: a long job outlives any number of restarts.
    """
    got_somewhere = run.started_at is not None and now - run.started_at >= PROGRESS
    run.lost = 0 if got_somewhere else run.lost + 1
    if run.lost >= most_leases:
        move(run, RunState.FAILED)
        run.reason = f"The machine that ran it could not be reached any more, {most_leases} times in a row before it had run for an hour."
        end(run, now)
        return
    release(run)


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
