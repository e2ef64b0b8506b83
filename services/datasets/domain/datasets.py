"""Datasets in their projects: who sees them, what comes into them, and what is said of them."""

from datetime import datetime
from uuid import UUID

from chassis.errors import CannotDecide, Conflict, Forbidden, NotFound
from contracts.events import Dataset as DatasetFact
from contracts.events import DatasetKind, ProjectState, UserStatus
from contracts.roles import Role, counts
from services.datasets.domain.names import name_key
from services.datasets.domain.origins import merged
from services.datasets.models import Dataset, File, Member, Person


class ProjectIsClosed(Conflict):
    """Nothing new comes into a project that is archived or being deleted."""

    title = "The project is archived or being deleted: it takes no changes"


class RoleHasEnded(Forbidden):
    """Whoever began this does not hold the role any more with which they began."""

    title = "Your role in the project ended while this was under way; nothing was stored"


class DatasetIsNotOwn(Forbidden):
    """The dataset is only shared in."""

    title = "The dataset is shared into this project; only the project that owns it can change it"


def accepting(state: ProjectState | None) -> None:
    """Refuse to bring anything into a project that is not active; None is one that was not heard of yet."""
    if state is None:
        raise CannotDecide("The project is not known here yet.", retry_after=1)
    if state != ProjectState.ACTIVE:
        raise ProjectIsClosed


def holds_role(person: Person | None, member: Member | None, role: Role | None, now: datetime) -> bool:
    """Whether somebody whose account is active has this role in a project now, as far as it was heard."""
    if person is None or member is None or person.status != UserStatus.ACTIVE or member.role != role:
        return False
    return counts(member.role, member.starts_at, member.ends_at, now)


def readable(dataset: Dataset | None, project_id: UUID, *, shared_in: bool) -> Dataset:
    """Condition.DATASET_IS_READABLE: it belongs to the project, or an accepted share brings it there; else it does not exist."""
    if dataset is None or (dataset.project_id != project_id and not shared_in):
        raise NotFound
    return dataset


def own(dataset: Dataset, project_id: UUID) -> Dataset:
    """Condition.DATASET_IS_OWN, for a dataset that is readable."""
    if dataset.project_id != project_id:
        raise DatasetIsNotOwn
    return dataset


def new_dataset(dataset_id: UUID, project_id: UUID, name: str, text: str, now: datetime) -> Dataset:
    """An empty dataset; ``name`` and ``text`` are valid."""
    return Dataset(
        dataset_id=dataset_id,
        project_id=project_id,
        name=name,
        name_key=name_key(name),
        kind=DatasetKind.FILES,
        description=text,
        files=0,
        size=0,
        origins=[],
        version=1,
        created_at=now,
    )


def replace(dataset: Dataset, old: File | None, new: File) -> None:
    """Count a new version of a file in; the old one is kept and is no longer the current one."""
    if old is not None:
        old.current = False
        dataset.files -= 1
        dataset.size -= old.size
        new.number = old.number + 1
    dataset.files += 1
    dataset.size += new.size
    dataset.origins = merged(dataset.origins, new.origins)
    dataset.version += 1


def dataset_fact(dataset: Dataset) -> DatasetFact:
    """What the other services are told of a dataset."""
    return DatasetFact(
        version=dataset.version,
        dataset_id=dataset.dataset_id,
        project_id=dataset.project_id,
        name=dataset.name,
        kind=DatasetKind(dataset.kind),
        description=dataset.description,
        files=dataset.files,
        size=dataset.size,
        origins=tuple(dataset.origins),
    )


def last_fact(dataset: Dataset) -> DatasetFact:
    """What is said of a dataset that goes with its project: nothing but that it is gone."""
    dataset.version += 1
    return dataset_fact(dataset).model_copy(update={"name": "", "description": "", "files": 0, "size": 0, "origins": (), "deleted": True})
