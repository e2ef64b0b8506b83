"""Jobs and their runs, as people and agents ask for them."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, Uuid, and_, any_, exists, func, literal, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from chassis.db import fetch
from contracts.events import ProjectState, RunState, ShareState, UserStatus
from services.jobs.models import Dataset, Job, Member, Person, Project, Run, Share

LIVE = (RunState.QUEUED, RunState.LEASED, RunState.RUNNING)
# Most who lose a right have no run: whoever is next in the batch does not wait for more than this.
_SOME_OF_PERSON = "SELECT 1 FROM runs WHERE state IN ('queued', 'leased', 'running') AND user_id = $1 LIMIT 1"
_SOME_OF_MEMBER = "SELECT 1 FROM runs WHERE state IN ('queued', 'leased', 'running') AND project_id = $1 AND user_id = $2 LIMIT 1"


async def job(session: AsyncSession, project_id: UUID, job_id: UUID, *, lock: bool = False) -> tuple[Job, Run] | None:
    """A job of a project and its run; ``lock`` makes other changes wait."""
    query = (
        select(Job, Run).join(Run, col(Run.job_id) == col(Job.job_id)).where(col(Job.project_id) == project_id, col(Job.job_id) == job_id)
    )
    row = (await session.execute(query.with_for_update(of=(Job, Run)) if lock else query)).one_or_none()
    return None if row is None else (row[0], row[1])


async def jobs(session: AsyncSession, project_id: UUID, after: UUID | None, limit: int) -> list[tuple[Job, Run]]:
    """A project's jobs, newest first."""
    query = select(Job, Run).join(Run, col(Run.job_id) == col(Job.job_id)).where(col(Job.project_id) == project_id)
    if after is not None:
        query = query.where(col(Job.job_id) < after)
    return [(row[0], row[1]) for row in (await session.execute(query.order_by(col(Job.job_id).desc()).limit(limit))).all()]


async def run(session: AsyncSession, run_id: UUID, *, lock: bool = False) -> tuple[Job, Run] | None:
    """A run and its job, whatever their project: for agents, which hold leases in all of them."""
    query = select(Job, Run).join(Run, col(Run.job_id) == col(Job.job_id)).where(col(Run.run_id) == run_id)
    row = (await session.execute(query.with_for_update(of=(Job, Run)) if lock else query)).one_or_none()
    return None if row is None else (row[0], row[1])


async def lease_of_request(session: AsyncSession, agent_id: UUID, csr: str) -> tuple[Job, Run] | None:
    """The lease that this agent's request took already, when it asks again because it missed the answer."""
    query = (
        select(Job, Run)
        .join(Run, col(Run.job_id) == col(Job.job_id))
        .where(col(Run.agent_id) == agent_id, col(Run.csr) == csr, col(Run.lease_until) > func.clock_timestamp())
    )
    row = (await session.execute(query.limit(1))).one_or_none()
    return None if row is None else (row[0], row[1])


async def next_queued(session: AsyncSession, now: datetime) -> tuple[Job, Run] | None:
    """The oldest waiting run whose person may work at this instant, locked; runs that others look at are passed over."""
    query = (
        select(Job, Run)
        .join(Run, col(Run.job_id) == col(Job.job_id))
        .where(col(Run.state) == RunState.QUEUED, _entitled(now))
        .order_by(col(Run.run_id))
        .limit(1)
        .with_for_update(of=(Job, Run), skip_locked=True)
    )
    row = (await session.execute(query)).one_or_none()
    return None if row is None else (row[0], row[1])


async def overdue(session: AsyncSession, limit: int) -> list[tuple[Job, Run]]:
    """Runs whose lease ran out by the database's clock, locked."""
    query = (
        select(Job, Run)
        .join(Run, col(Run.job_id) == col(Job.job_id))
        .where(col(Run.lease_until) <= func.clock_timestamp())
        .limit(limit)
        .with_for_update(of=(Job, Run), skip_locked=True)
    )
    return [(row[0], row[1]) for row in (await session.execute(query)).all()]


async def unentitled(session: AsyncSession, now: datetime, limit: int) -> list[tuple[Job, Run]]:
    """Live runs whose person may not work at this instant, locked."""
    query = (
        select(Job, Run)
        .join(Run, col(Run.job_id) == col(Job.job_id))
        .where(col(Run.state).in_(LIVE), ~_entitled(now))
        .limit(limit)
        .with_for_update(of=(Job, Run), skip_locked=True)
    )
    return [(row[0], row[1]) for row in (await session.execute(query)).all()]


async def unreadable(session: AsyncSession, since: datetime | None, limit: int) -> list[tuple[Job, Run]]:
    """Live runs with an input that their project cannot read: the same rule as ``domain.submitting.inputs_are_readable``. Locked.

    Those that were submitted ``since`` then; with None all, which costs the more the more there are. Runs that others hold are passed over.
    """
    query = (
        select(Job, Run)
        .join(Run, col(Run.job_id) == col(Job.job_id))
        .where(_is_unreadable())
        .limit(limit)
        .with_for_update(of=(Job, Run), skip_locked=True)
    )
    if since is not None:
        query = query.where(col(Job.submitted_at) > since)
    return [(row[0], row[1]) for row in (await session.execute(query)).all()]


async def is_any_unreadable(session: AsyncSession) -> bool:
    """Whether there is such a run, held by somebody or not."""
    query = select(Run).join(Job, col(Run.job_id) == col(Job.job_id)).where(_is_unreadable()).limit(1)
    return (await session.execute(query)).scalar_one_or_none() is not None


def _is_unreadable() -> ColumnElement[bool]:
    into_it = (col(Share.dataset_id) == col(Dataset.dataset_id), col(Share.target_project_id) == col(Job.project_id))
    shared = exists().where(*into_it, col(Share.state) == ShareState.ACCEPTED).correlate(Dataset, Job)
    readable = (
        select(func.count())
        .select_from(Dataset)
        .where(
            col(Dataset.dataset_id) == any_(col(Job.inputs)),
            ~col(Dataset.deleted),
            or_(col(Dataset.project_id) == col(Job.project_id), shared),
        )
        .correlate(Job)
        .scalar_subquery()
    )
    return and_(col(Run.state).in_(LIVE), func.cardinality(col(Job.inputs)) > readable)


def _entitled(now: datetime) -> ColumnElement[bool]:
    member = exists().where(
        col(Member.project_id) == col(Run.project_id),
        col(Member.user_id) == col(Run.user_id),
        col(Member.role).is_not(None),
        col(Member.starts_at) <= now,
        or_(col(Member.ends_at).is_(None), col(Member.ends_at) > now),
    )
    person = exists().where(col(Person.user_id) == col(Run.user_id), col(Person.status) == UserStatus.ACTIVE)
    project = exists().where(col(Project.project_id) == col(Run.project_id), col(Project.state) == ProjectState.ACTIVE)
    return and_(member, person, project)


async def live_runs(session: AsyncSession, *where: ColumnElement[bool]) -> list[tuple[Job, Run]]:
    """Live runs that meet conditions on runs and jobs, locked in the order of their ids."""
    query = (
        select(Job, Run)
        .join(Run, col(Run.job_id) == col(Job.job_id))
        .where(col(Run.state).in_(LIVE), *where)
        .order_by(col(Run.run_id))
        .with_for_update(of=(Job, Run))
    )
    return [(row[0], row[1]) for row in (await session.execute(query)).all()]


async def live_runs_of_person(session: AsyncSession, user_id: UUID) -> list[tuple[Job, Run]]:
    """A person's live runs in all projects."""
    if not await fetch(session, _SOME_OF_PERSON, user_id):
        return []
    return await live_runs(session, col(Run.user_id) == user_id)


async def live_runs_of_member(session: AsyncSession, project_id: UUID, user_id: UUID) -> list[tuple[Job, Run]]:
    """A person's live runs in a project."""
    if not await fetch(session, _SOME_OF_MEMBER, project_id, user_id):
        return []
    return await live_runs(session, col(Run.project_id) == project_id, col(Run.user_id) == user_id)


async def live_runs_in_project(session: AsyncSession, project_id: UUID) -> list[tuple[Job, Run]]:
    """A project's live runs."""
    return await live_runs(session, col(Run.project_id) == project_id)


async def live_runs_over(session: AsyncSession, dataset_id: UUID) -> list[tuple[Job, Run]]:
    """Live runs that read a dataset, in all projects."""
    return await live_runs(session, literal(dataset_id, Uuid()) == any_(col(Job.inputs)))


async def held_by(session: AsyncSession, agent_id: UUID) -> list[tuple[Job, Run]]:
    """The runs that an agent holds, locked."""
    return await live_runs(session, col(Run.agent_id) == agent_id)


async def seconds_to_next_end(session: AsyncSession) -> float | None:
    """How long until a lease runs out or the membership behind a live run ends, in seconds; None when neither will."""
    lease_end = select(func.min(col(Run.lease_until))).scalar_subquery()
    membership_end = (
        select(func.min(col(Member.ends_at)))
        .join(Run, and_(col(Run.project_id) == col(Member.project_id), col(Run.user_id) == col(Member.user_id)))
        .where(col(Run.state).in_(LIVE))
        .scalar_subquery()
    )
    until = (
        await session.execute(select(func.extract("epoch", func.least(lease_end, membership_end) - func.clock_timestamp())))
    ).scalar_one()
    return None if until is None else float(until)


async def unannounced(session: AsyncSession, again_s: float, limit: int) -> list[Run]:
    """Waiting runs of which the agents were not told, or not lately, locked."""
    query = (
        select(Run)
        .where(
            col(Run.state) == RunState.QUEUED,
            or_(
                col(Run.announced_at).is_(None),
                func.extract("epoch", func.clock_timestamp() - col(Run.announced_at)) > again_s,
            ),
        )
        .order_by(col(Run.run_id))
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return list((await session.execute(query)).scalars())
