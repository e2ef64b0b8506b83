"""All the SQL. What a project reads is read under the project; nothing else of it is seen."""

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Uuid, delete, exists, func, literal, or_, text, tuple_
from sqlalchemy import inspect as mapper
from sqlalchemy import select as sa_select
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import and_, col, select

from chassis.errors import NotFound
from chassis.pages import PageRequest
from contracts.events import ProjectState, ShareState
from services.datasets.models import FLIGHTS, Dataset, DatasetKey, File, KnownRun, Member, Origin, Person, Project, Run, Share, Staged


def _shared_into(project_id: UUID | Any) -> Any:
    return exists().where(
        and_(
            col(Share.dataset_id) == col(Dataset.dataset_id),
            col(Share.target_project_id) == project_id,
            col(Share.state) == ShareState.ACCEPTED,
        )
    )


# Datasets


async def visible(session: AsyncSession, project_id: UUID, dataset_id: UUID, *, lock: bool = False) -> tuple[Dataset | None, bool]:
    """A dataset and whether an accepted share brings it into the project; ``lock`` holds it until the end of the transaction."""
    statement = select(Dataset, _shared_into(project_id)).where(col(Dataset.dataset_id) == dataset_id)
    if lock:
        statement = statement.with_for_update(of=Dataset)
    row = (await session.execute(statement)).one_or_none()
    return (row[0], bool(row[1])) if row else (None, False)


async def datasets(session: AsyncSession, project_id: UUID, page: PageRequest) -> Sequence[Dataset]:
    """The project's datasets, own and shared in, oldest first; up to ``limit + 1``."""
    statement = select(Dataset).where(or_(col(Dataset.project_id) == project_id, _shared_into(project_id)))
    after = page.after_id()
    if after is not None:
        statement = statement.where(col(Dataset.dataset_id) > after)
    statement = statement.order_by(col(Dataset.dataset_id)).limit(page.limit + 1)
    return (await session.execute(statement)).scalars().all()


async def by_id(session: AsyncSession, dataset_ids: Iterable[UUID]) -> dict[UUID, Dataset]:
    """Datasets of any project, for the origins of what a run made of them."""
    rows = await session.execute(select(Dataset).where(col(Dataset.dataset_id).in_(list(dataset_ids))))
    return {dataset.dataset_id: dataset for dataset in rows.scalars()}


async def name_taken(session: AsyncSession, project_id: UUID, key: str) -> bool:
    """Whether the project has a dataset whose name compares as ``key``."""
    found = await session.execute(select(Dataset.dataset_id).where(col(Dataset.project_id) == project_id, col(Dataset.name_key) == key))
    return found.first() is not None


async def name_keys(session: AsyncSession, project_id: UUID) -> set[str]:
    """What the names of the project's datasets compare as."""
    return set((await session.execute(select(Dataset.name_key).where(col(Dataset.project_id) == project_id))).scalars())


async def remember_origin(session: AsyncSession, dataset_id: UUID, project_id: UUID) -> None:
    """Note for ever to which project a dataset belongs."""
    await session.execute(insert(Origin).values(dataset_id=dataset_id, project_id=project_id).on_conflict_do_nothing())


async def homes(session: AsyncSession, origins: Iterable[UUID]) -> dict[UUID, UUID]:
    """The projects of origins."""
    rows = await session.execute(select(Origin).where(col(Origin.dataset_id).in_(list(origins))))
    return {origin.dataset_id: origin.project_id for origin in rows.scalars()}


async def dataset_key(session: AsyncSession, dataset_id: UUID) -> bytes | None:
    """The wrapped key of a dataset."""
    return (await session.execute(select(DatasetKey.wrapped).where(col(DatasetKey.dataset_id) == dataset_id))).scalar_one_or_none()


async def keep_dataset_key(session: AsyncSession, dataset_id: UUID, wrapped: bytes) -> None:
    """Store a dataset's key unless it has one."""
    await session.execute(insert(DatasetKey).values(dataset_id=dataset_id, wrapped=wrapped).on_conflict_do_nothing())


# Files


async def current_file(session: AsyncSession, dataset_id: UUID, path: str) -> File | None:
    """The newest version of a file."""
    statement = select(File).where(col(File.dataset_id) == dataset_id, col(File.path) == path, col(File.current))
    return (await session.execute(statement)).scalar_one_or_none()


async def files(session: AsyncSession, dataset_id: UUID, page: PageRequest, *, derived: bool) -> Sequence[File]:
    """The newest versions of a dataset's files by path, with or without those that a run derived; up to ``limit + 1``."""
    statement = select(File).where(col(File.dataset_id) == dataset_id, col(File.current))
    if not derived:
        statement = statement.where(col(File.origins) == [dataset_id])
    if page.after is not None:
        statement = statement.where(col(File.path) > page.after_text())
    return (await session.execute(statement.order_by(col(File.path)).limit(page.limit + 1))).scalars().all()


async def blobs_in_use(session: AsyncSession, names: Sequence[str]) -> set[str]:
    """Which of some blobs belong to a file or to a staged output."""
    used: set[str] = set()
    for column in (File.blob, Staged.blob):
        used.update(name for name in (await session.execute(select(column).where(col(column).in_(names)))).scalars() if name)
    return used


# Shares


async def share(session: AsyncSession, share_id: UUID, *, lock: bool = False) -> Share | None:
    """A share of any project: the caller compares."""
    statement = select(Share).where(col(Share.share_id) == share_id)
    return (await session.execute(statement.with_for_update() if lock else statement)).scalar_one_or_none()


async def share_of(session: AsyncSession, project_id: UUID, dataset_id: UUID, share_id: UUID) -> Share:
    """A share of the project's dataset, locked. Raises NotFound."""
    statement = select(Share).where(
        col(Share.share_id) == share_id, col(Share.dataset_id) == dataset_id, col(Share.project_id) == project_id
    )
    found = (await session.execute(statement.with_for_update())).scalar_one_or_none()
    if found is None:
        raise NotFound
    return found


async def open_share(session: AsyncSession, dataset_id: UUID, target_project_id: UUID) -> Share | None:
    """The share of a dataset with a project that is not withdrawn."""
    statement = select(Share).where(
        col(Share.dataset_id) == dataset_id,
        col(Share.target_project_id) == target_project_id,
        col(Share.state) != ShareState.WITHDRAWN,
    )
    return (await session.execute(statement)).scalar_one_or_none()


async def shares_out(session: AsyncSession, project_id: UUID, dataset_id: UUID, page: PageRequest) -> Sequence[tuple[Share, str]]:
    """The shares of the project's dataset with its name, withdrawn ones too, oldest first; up to ``limit + 1``."""
    return await _shares(session, and_(col(Share.project_id) == project_id, col(Share.dataset_id) == dataset_id), page)


async def shares_in(session: AsyncSession, project_id: UUID, page: PageRequest) -> Sequence[tuple[Share, str]]:
    """What is offered to or shared into the project, with the datasets' names; up to ``limit + 1``."""
    return await _shares(session, and_(col(Share.target_project_id) == project_id, col(Share.state) != ShareState.WITHDRAWN), page)


async def _shares(session: AsyncSession, condition: Any, page: PageRequest) -> Sequence[tuple[Share, str]]:
    statement = select(Share, Dataset.name).join(Dataset, col(Dataset.dataset_id) == col(Share.dataset_id)).where(condition)
    after = page.after_id()
    if after is not None:
        statement = statement.where(col(Share.share_id) > after)
    rows = await session.execute(statement.order_by(col(Share.share_id)).limit(page.limit + 1))
    return [(row[0], row[1]) for row in rows]


async def shares_touching(session: AsyncSession, project_id: UUID) -> Sequence[Share]:
    """The shares from and to a project that are not withdrawn, locked."""
    statement = select(Share).where(
        or_(col(Share.project_id) == project_id, col(Share.target_project_id) == project_id), col(Share.state) != ShareState.WITHDRAWN
    )
    return (await session.execute(statement.order_by(col(Share.share_id)).with_for_update())).scalars().all()


# What was heard


async def project_state(session: AsyncSession, project_id: UUID) -> ProjectState | None:
    """Where a project is in its life, as far as it was heard."""
    state = (await session.execute(select(Project.state).where(col(Project.project_id) == project_id))).scalar_one_or_none()
    return ProjectState(state) if state is not None else None


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
    await session.execute(text(f"SELECT pg_notify('{FLIGHTS}', '')"))


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


# Staged outputs


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


# Projects that are deleted


def _own(project_id: UUID) -> Any:
    return sa_select(col(Dataset.dataset_id)).where(col(Dataset.project_id) == project_id)


async def drop_keys(session: AsyncSession, project_id: UUID) -> int:
    """Delete the keys of a project's datasets, also of those that runs were to make: from then on the bytes are noise; how many."""
    made = sa_select(col(Run.output_dataset_id)).where(col(Run.project_id) == project_id)
    own = or_(col(DatasetKey.dataset_id).in_(_own(project_id)), col(DatasetKey.dataset_id).in_(made))
    return len((await session.execute(delete(DatasetKey).where(own).returning(col(DatasetKey.dataset_id)))).all())


async def some_files(session: AsyncSession, project_id: UUID, limit: int) -> Sequence[File | Staged]:
    """Some versions of files of a project."""
    return (await session.execute(sa_select(File).where(col(File.dataset_id).in_(_own(project_id))).limit(limit))).scalars().all()


async def some_staged(session: AsyncSession, project_id: UUID, limit: int) -> Sequence[File | Staged]:
    """Some outputs that runs of a project staged, locked: they may be swept at this moment."""
    runs = sa_select(col(Run.run_id)).where(col(Run.project_id) == project_id)
    found = sa_select(Staged).where(col(Staged.run_id).in_(runs)).limit(limit)
    return (await session.execute(found.with_for_update())).scalars().all()


async def remove_rows(session: AsyncSession, rows: Sequence[File | Staged]) -> str:
    """Delete versions of files, or staged outputs; the name of what they are."""
    table = type(rows[0])
    await session.execute(delete(table).where(col(table.file_id).in_([row.file_id for row in rows])))
    return "files" if table is File else "staged_outputs"


async def some_datasets(session: AsyncSession, project_id: UUID, limit: int) -> Sequence[Dataset]:
    """Some datasets of a project, locked."""
    found = sa_select(Dataset).where(col(Dataset.project_id) == project_id).order_by(col(Dataset.dataset_id)).limit(limit)
    return (await session.execute(found.with_for_update())).scalars().all()


async def remove_datasets(session: AsyncSession, dataset_ids: Sequence[UUID]) -> int:
    """Delete datasets, which hold no files any more, and their shares; how many of those."""
    shares = await session.execute(delete(Share).where(col(Share.dataset_id).in_(dataset_ids)).returning(col(Share.share_id)))
    count = len(shares.all())
    await session.execute(delete(Dataset).where(col(Dataset.dataset_id).in_(dataset_ids)))
    return count


async def forget_of_project(session: AsyncSession, project_id: UUID) -> dict[str, int]:
    """Delete what was shared into a project, and what was heard of its runs and members; how many of what."""
    shared_in = await session.execute(delete(Share).where(col(Share.target_project_id) == project_id).returning(col(Share.share_id)))
    runs = await session.execute(delete(Run).where(col(Run.project_id) == project_id).returning(col(Run.run_id)))
    members = await session.execute(delete(Member).where(col(Member.project_id) == project_id).returning(col(Member.user_id)))
    return {"shares": len(shared_in.all()), "runs": len(runs.all()), "memberships": len(members.all())}


async def kept_of_project(session: AsyncSession, project_id: UUID) -> dict[str, int]:
    """What stays of a project: that its datasets were its own."""
    origins = sa_select(func.count()).select_from(Origin).where(col(Origin.project_id) == project_id)
    return {"origins": (await session.execute(origins)).scalar_one()}
