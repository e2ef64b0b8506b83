"""What was heard of projects, people, memberships and runs."""

from collections.abc import Collection
from uuid import UUID

from sqlalchemy import delete
from sqlalchemy import inspect as mapper
from sqlalchemy import select as sa_select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from chassis import changes
from contracts.events import ProjectState
from services.datasets.models import FLIGHTS, Member, Person, Project, Run


async def project_state(session: AsyncSession, project_id: UUID) -> ProjectState | None:
    """Where a project is in its life, as far as it was heard."""
    state = (await session.execute(select(Project.state).where(col(Project.project_id) == project_id))).scalar_one_or_none()
    return ProjectState(state) if state is not None else None


async def active_projects(session: AsyncSession, project_ids: Collection[UUID]) -> set[UUID]:
    """Those of some projects that are active, as far as it was heard."""
    wanted = select(Project.project_id).where(col(Project.project_id).in_(project_ids), col(Project.state) == ProjectState.ACTIVE)
    return set((await session.execute(wanted)).scalars())


async def keep(session: AsyncSession, row: Project | Person | Member | Run) -> None:
    """Store what was heard of an aggregate in the place of what was known."""
    table = type(row)
    values = row.model_dump()
    keys = [column.name for column in mapper(table).primary_key]
    rest = {name: value for name, value in values.items() if name not in keys}
    await session.execute(insert(table).values(**values).on_conflict_do_update(index_elements=keys, set_=rest))


async def standing(
    session: AsyncSession, project_id: UUID, user_id: UUID | None, *, lock: bool = False
) -> tuple[Person | None, Member | None]:
    """A person and their membership; ``lock`` keeps both as they are until the end of the transaction."""
    statement = (
        sa_select(Person, Member)
        .join(Member, col(Member.user_id) == col(Person.user_id))
        .where(col(Member.project_id) == project_id, col(Person.user_id) == user_id)
        .execution_options(populate_existing=True)
    )
    row = (await session.execute(statement.with_for_update(read=True) if lock else statement)).one_or_none()
    return (row[0], row[1]) if row else (None, None)


async def forget_person(session: AsyncSession, user_id: UUID) -> None:
    """Delete what was heard of an account."""
    await session.execute(delete(Person).where(col(Person.user_id) == user_id))


async def forget_member(session: AsyncSession, project_id: UUID, user_id: UUID) -> None:
    """Delete what was heard of a membership."""
    await session.execute(delete(Member).where(col(Member.project_id) == project_id, col(Member.user_id) == user_id))


async def wake_flights(session: AsyncSession) -> None:
    """Tell every process, at the commit, that a read in flight may have lost its permission."""
    await changes.wake(session, FLIGHTS)
