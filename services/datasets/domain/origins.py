"""Where bytes came from, and what that allows: to leave, to be shared, to be seen."""

from collections.abc import Collection, Iterable, Mapping
from uuid import UUID

from chassis.errors import Forbidden
from contracts.roles import Role
from services.datasets.models import Dataset

COARSEST_SIZE = 1024 * 1024


class OriginsAreForeign(Forbidden):
    """Some of the bytes came from another project."""

    title = "These bytes do not belong to this project alone"


def origins_of_upload(dataset_id: UUID) -> list[UUID]:
    """Where uploaded bytes come from: the dataset that they were put into."""
    return [dataset_id]


def origins_of_outputs(output_dataset_id: UUID, inputs: Mapping[UUID, Iterable[UUID]]) -> list[UUID]:
    """Where a run's outputs come from: its inputs and all that those came from (by input id). A run without inputs is an origin."""
    found = set(inputs)
    for origins in inputs.values():
        found.update(origins)
    return sorted(found or {output_dataset_id})


def merged(*origins: Iterable[UUID]) -> list[UUID]:
    """The union of origins, in order."""
    return sorted(set().union(*origins))


def foreign(project_id: UUID, origins: Iterable[UUID], homes: Mapping[UUID, UUID]) -> list[UUID]:
    """The origins outside the project. One whose project is not known is foreign."""
    return [origin for origin in origins if homes.get(origin) != project_id]


def may_leave(project_id: UUID, dataset: Dataset, origins: Collection[UUID], homes: Mapping[UUID, UUID]) -> None:
    """Condition.ORIGINS_ARE_OWN: bytes leave a project only when all that they came from lies in it. ``homes``: origin to project."""
    outside = foreign(project_id, origins, homes)
    if dataset.project_id != project_id or outside or not origins:
        count = max(len(outside), 1)
        sources = "a dataset" if count == 1 else f"{count} datasets"
        raise OriginsAreForeign(
            f"They come from {sources} of another project. A Data Owner of the project of origin must approve an export of them."
        )


def derived(dataset_id: UUID, origins: Iterable[UUID]) -> bool:
    """Whether bytes of a dataset were made by a run out of other datasets. Uploads and runs without inputs have no other origin."""
    return any(origin != dataset_id for origin in origins)


def shown_in_full(project_id: UUID, role: Role | None, dataset: Dataset, homes: Mapping[UUID, UUID]) -> bool:
    """Whether the caller may see what a program chose: names, numbers, sizes and hashes can carry data.

    So they are seen by who may take the bytes; others learn that there is something, and about how much.
    """
    if not derived(dataset.dataset_id, dataset.origins):
        return True
    return role is Role.DATA_OWNER and dataset.project_id == project_id and not foreign(project_id, dataset.origins, homes)


def coarse_size(size: int) -> int:
    """The next power of two, at least 1 MiB, in bytes."""
    return coarse_count(max(size, COARSEST_SIZE))


def coarse_count(count: int) -> int:
    """The next power of two."""
    return 1 << max(count - 1, 0).bit_length()
