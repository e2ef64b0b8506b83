"""Runs, and what they stage."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Uuid, delete, func, literal, tuple_
from sqlalchemy import select as sa_select
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import and_, col, select

from services.datasets.models import File, KnownRun, Member, Person, Project, Run, Staged


async def run(session: AsyncSession, run_id: UUID, *, lock: bool = False) -> KnownRun:
    """A run with its person, that person's membership and the project; ``lock`` holds the run."""
    statement = (
        sa_select(Run, Person, Member, Project)
        .outerjoin(Person, col(Person.user_id) == col(Run.user_id))
        .outerjoin(Member, and_(col(Member.user_id) == col(Run.user_id), col(Member.project_id) == col(Run.project_id)))
        .outerjoin(Project, col(Project.project_id) == col(Run.project_id))
        .where(col(Run.run_id) == run_id)
    )
    if lock:
        statement = statement.with_for_update(of=Run).execution_options(populate_existing=True)
    row = (await session.execute(statement)).one_or_none()
    return KnownRun(*row) if row else KnownRun()


async def staged_totals(session: AsyncSession, run_id: UUID, fencing_token: int, path: str) -> tuple[int, int]:
    """Bytes and number of the other files staged by a run under a fencing token."""
    statement = select(func.coalesce(func.sum(Staged.size), 0), func.count()).where(
        col(Staged.run_id) == run_id, col(Staged.fencing_token) == fencing_token, col(Staged.path) != path
    )
    row = (await session.execute(statement)).one()
    return int(row[0]), int(row[1])


async def drop_staged_path(session: AsyncSession, run_id: UUID, fencing_token: int, path: str) -> None:
    """Forget an output that is staged again."""
    await session.execute(
        delete(Staged).where(tuple_(col(Staged.run_id), col(Staged.fencing_token), col(Staged.path)) == tuple_(run_id, fencing_token, path))
    )


async def staged_sums(session: AsyncSession, run_id: UUID, fencing_token: int) -> tuple[int, int]:
    """Number and bytes of the files staged by a run under a fencing token."""
    statement = select(func.count(), func.coalesce(func.sum(Staged.size), 0)).where(
        col(Staged.run_id) == run_id, col(Staged.fencing_token) == fencing_token
    )
    row = (await session.execute(statement)).one()
    return int(row[0]), int(row[1])


async def publish_staged(session: AsyncSession, run_id: UUID, fencing_token: int, dataset_id: UUID, origins: Sequence[UUID]) -> None:
    """Make the files staged under a fencing token the first versions of a dataset's files."""
    staged = and_(col(Staged.run_id) == run_id, col(Staged.fencing_token) == fencing_token)
    kept = [Staged.file_id, Staged.path, Staged.size, Staged.sha256, Staged.key, Staged.blob, Staged.content, Staged.created_at]
    source = sa_select(
        *(col(column) for column in kept),
        literal(dataset_id).label("dataset_id"),
        literal(1).label("number"),
        literal(True).label("current"),  # noqa: FBT003 - a value of a column
        literal(list(origins), ARRAY(Uuid())).label("origins"),
    ).where(staged)
    names = ["file_id", "path", "size", "sha256", "key", "blob", "content", "created_at", "dataset_id", "number", "current", "origins"]
    await session.execute(insert(File).from_select(names, source))
    await session.execute(delete(Staged).where(staged))


async def unpublished(session: AsyncSession, ended: Sequence[str], limit: int) -> Sequence[Staged]:
    """Some outputs that runs in one of these states staged and no file took over, locked."""
    runs = sa_select(col(Run.run_id)).where(col(Run.state).in_(ended))
    found = sa_select(Staged).where(col(Staged.run_id).in_(runs)).limit(limit)
    return (await session.execute(found.with_for_update(skip_locked=True))).scalars().all()
