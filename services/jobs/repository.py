"""All the SQL of jobs. What people read names its project; agents and timers reach runs across projects."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Sequence
from datetime import datetime
from typing import TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, Uuid, and_, any_, delete, exists, func, literal, or_, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlmodel import col

from chassis import db
from contracts.events import ProjectState, RunState, ShareState, UserStatus
from services.jobs.models import Agent, Budget, Dataset, Job, Log, Member, Person, Project, Run, Share, Shown, Table

CHANNEL = "runs"
LIVE = (RunState.QUEUED, RunState.LEASED, RunState.RUNNING)
T = TypeVar("T", bound=Table)


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
    return await live_runs(session, col(Run.user_id) == user_id)


async def live_runs_of_member(session: AsyncSession, project_id: UUID, user_id: UUID) -> list[tuple[Job, Run]]:
    """A person's live runs in a project."""
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


async def news_of(engine: AsyncEngine, run_id: UUID) -> int | None:
    """How often something happened to a run that its agent should hear of; read in a transaction of its own."""
    async with engine.connect() as connection:
        return (await connection.execute(select(col(Run.news)).where(col(Run.run_id) == run_id))).scalar_one_or_none()


async def log(session: AsyncSession, run_id: UUID, *, lock: bool = False) -> Log:
    """A run's log; an empty one is made when there is none."""
    await session.execute(insert(Log).values(run_id=run_id, base=0, until=0, kept=b"").on_conflict_do_nothing())
    query = select(Log).where(col(Log.run_id) == run_id)
    return (await session.execute(query.with_for_update() if lock else query)).scalar_one()


async def shown(session: AsyncSession, run_id: UUID, user_id: UUID) -> Shown:
    """What a person has read of a run, locked."""
    await session.execute(insert(Shown).values(run_id=run_id, user_id=user_id, log_from=0, log_until=0).on_conflict_do_nothing())
    query = select(Shown).where(col(Shown.run_id) == run_id, col(Shown.user_id) == user_id)
    return (await session.execute(query.with_for_update())).scalar_one()


async def budget(session: AsyncSession, project_id: UUID, user_id: UUID, day: str) -> Budget:
    """A person's budget in a project on a day, locked."""
    place = {"project_id": project_id, "user_id": user_id, "day": day}
    await session.execute(insert(Budget).values(**place, used=0).on_conflict_do_nothing())
    query = select(Budget).where(col(Budget.project_id) == project_id, col(Budget.user_id) == user_id, col(Budget.day) == day)
    return (await session.execute(query.with_for_update())).scalar_one()


async def agent(session: AsyncSession, agent_id: UUID, *, lock: bool = False) -> Agent | None:
    """An agent by its id."""
    query = select(Agent).where(col(Agent.agent_id) == agent_id)
    return (await session.execute(query.with_for_update() if lock else query)).scalar_one_or_none()


async def agent_of_token(session: AsyncSession, token_sha256: bytes) -> Agent | None:
    """The agent whose enrolment token has this hash, locked."""
    return (await session.execute(select(Agent).where(col(Agent.token_sha256) == token_sha256).with_for_update())).scalar_one_or_none()


async def agents(session: AsyncSession, after: UUID | None, limit: int) -> list[Agent]:
    """The agents, oldest first."""
    query = select(Agent).order_by(col(Agent.agent_id)).limit(limit)
    if after is not None:
        query = query.where(col(Agent.agent_id) > after)
    return list((await session.execute(query)).scalars())


async def one(session: AsyncSession, table: type[T], *key: UUID) -> T | None:
    """A row of what this service knows of others, by its key."""
    return await session.get(table, key if len(key) > 1 else key[0])


async def put(session: AsyncSession, row: Table) -> None:
    """Store what another service said, over what it said before."""
    await db.put(session, row)


async def forget(session: AsyncSession, table: type[T], *key: UUID) -> None:
    """Delete what another service erased."""
    row = await one(session, table, *key)
    if row is not None:
        await session.delete(row)
        await session.flush()


async def datasets(session: AsyncSession, ids: Collection[UUID]) -> Sequence[Dataset]:
    """What is known of datasets."""
    return (await session.execute(select(Dataset).where(col(Dataset.dataset_id).in_(ids)))).scalars().all()


async def origins(session: AsyncSession, ids: Collection[UUID]) -> Sequence[Dataset]:
    """Datasets and those that their bytes came from."""
    found = await datasets(session, ids)
    further = {origin for dataset in found for origin in dataset.origins} - {dataset.dataset_id for dataset in found}
    return [*found, *(await datasets(session, further))] if further else found


async def shares_into(session: AsyncSession, project_id: UUID, datasets_wanted: Collection[UUID]) -> Sequence[Share]:
    """The accepted shares that bring datasets into a project."""
    query = select(Share).where(
        col(Share.target_project_id) == project_id, col(Share.dataset_id).in_(datasets_wanted), col(Share.state) == ShareState.ACCEPTED
    )
    return (await session.execute(query)).scalars().all()


async def forget_reading(session: AsyncSession, user_id: UUID) -> None:
    """Delete what an erased person has read."""
    for table in (Shown, Budget):
        await session.execute(delete(table).where(col(table.user_id) == user_id))


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


async def wake(session: AsyncSession) -> None:
    """Tell every replica, with the commit, that something happened to runs."""
    await session.execute(text(f"SELECT pg_notify('{CHANNEL}', '')"))


class Changes:
    """Hears of every ``wake`` that was committed anywhere."""

    def __init__(self) -> None:
        self._happened = asyncio.Event()
        self._lost = False

    def told(self, *_: object) -> None:
        """Something happened."""
        self._happened.set()

    def lost(self, *_: object) -> None:
        """The connection that listened is gone."""
        self._lost = True
        self._happened.set()

    def forget(self) -> None:
        """What happened until now will be seen by the look that follows."""
        self._happened.clear()

    async def within(self, seconds: float) -> None:
        """Return when something happened, at the latest after ``seconds``. Raises ConnectionError when nothing can be heard."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._happened.wait()
        if self._lost:
            raise ConnectionError("the connection that listened was lost")


@contextlib.asynccontextmanager
async def changes(engine: AsyncEngine) -> AsyncIterator[Changes]:
    """Listen for ``wake``, on a connection of its own."""
    made = Changes()
    async with engine.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        if driver is None:
            raise ConnectionError("no connection to listen on")
        driver.add_termination_listener(made.lost)
        await driver.add_listener(CHANNEL, made.told)
        try:
            yield made
        finally:
            driver.remove_termination_listener(made.lost)
            if not driver.is_closed():
                await driver.remove_listener(CHANNEL, made.told)
