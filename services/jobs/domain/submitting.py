"""Who may submit a job, and over what."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from uuid import UUID

from chassis.errors import CannotDecide, Conflict, Unprocessable
from contracts.events import ProjectState, ShareState, UserStatus
from contracts.roles import counts
from services.jobs.models import Dataset, Member, Person, Project, Share


class InputNotReadable(Unprocessable):
    """INPUTS_ARE_READABLE: an input is not of the project and not shared into it, or does not exist."""

    title = "An input is not a dataset that this project can read"


class NotKnownHereYet(CannotDecide):
    """The gateway knows of a project, an account or a role of which this service has not heard yet."""

    title = "What this rests on has not arrived here yet"


class ProjectNotActive(Conflict):
    """The project is archived or being deleted."""

    title = "The project is archived or being deleted: it takes no jobs"


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
