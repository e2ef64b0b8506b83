"""The doors of datasets."""

from uuid import UUID

from chassis.guard import CurrentActor, IfMatch, Uow, doors, may
from chassis.outbox import UnitOfWork
from chassis.pages import Page, Paging
from contracts.policy import Action, Service
from contracts.roles import Actor
from services.datasets import domain, repository, service
from services.datasets.models import Dataset
from services.datasets.schemas import DatasetChange, DatasetView, NewDataset

router = doors(Service.DATASETS)


@router.post("/projects/{project_id}/datasets", status_code=201, dependencies=[may(Action.DATASET_CREATE)])
async def create_dataset(project_id: UUID, new: NewDataset, actor: CurrentActor, uow: Uow) -> DatasetView:
    """Make an empty dataset."""
    return await show(uow, actor, project_id, await service.datasets.create(uow, project_id, new.name, new.description))


@router.get("/projects/{project_id}/datasets", dependencies=[may(Action.DATASET_LIST)])
async def list_datasets(project_id: UUID, page: Paging, actor: CurrentActor, uow: Uow) -> Page[DatasetView]:
    """The project's datasets, own and shared in, oldest first."""
    rows = await repository.datasets.datasets(uow.session, project_id, page)
    full = await service.datasets.seen_in_full(uow, actor, project_id, rows)
    return page.page(rows, lambda row: (row.dataset_id,), lambda row: show_dataset(project_id, row, in_full=row.dataset_id in full))


@router.get("/projects/{project_id}/datasets/{dataset_id}", dependencies=[may(Action.DATASET_READ)])
async def read_dataset(project_id: UUID, dataset_id: UUID, actor: CurrentActor, uow: Uow) -> DatasetView:
    """One dataset, own or shared in."""
    return await show(uow, actor, project_id, await service.datasets.read(uow, project_id, dataset_id))


@router.patch("/projects/{project_id}/datasets/{dataset_id}", dependencies=[may(Action.DATASET_CHANGE)])
async def change_dataset(
    project_id: UUID, dataset_id: UUID, change: DatasetChange, version: IfMatch, actor: CurrentActor, uow: Uow
) -> DatasetView:
    """Change the description."""
    return await show(uow, actor, project_id, await service.datasets.change(uow, project_id, dataset_id, version, change.description))


async def show(uow: UnitOfWork, actor: Actor, project_id: UUID, dataset: Dataset) -> DatasetView:
    """A dataset as the caller sees it in the project."""
    in_full = await service.datasets.seen_in_full(uow, actor, project_id, [dataset])
    return show_dataset(project_id, dataset, in_full=bool(in_full))


def show_dataset(project_id: UUID, dataset: Dataset, *, in_full: bool) -> DatasetView:
    """A dataset as the project sees it; to who may not see what a program chose, with about how many files of about which size."""
    files, size = dataset.files, dataset.size
    if files and not in_full:
        files, size = domain.origins.coarse_count(files), domain.origins.coarse_size(size)
    kept = dataset.model_dump(exclude={"name_key", "files", "size"})
    return DatasetView(**kept, files=files, size=size, shared=dataset.project_id != project_id)
