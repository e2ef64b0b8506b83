"""Making, reading and changing datasets."""

from collections.abc import Sequence
from uuid import UUID

from chassis.errors import PreconditionFailed
from chassis.outbox import UnitOfWork
from contracts.roles import Actor
from services.datasets import domain, repository
from services.datasets.models import Dataset
from services.datasets.service.known import until_known


async def create(uow: UnitOfWork, project_id: UUID, name: str, description: str) -> Dataset:
    """Make an empty dataset."""
    name, description = domain.names.dataset_name(name), domain.names.description(description)
    await until_known(uow, project_id)
    if await repository.datasets.name_taken(uow.session, project_id, domain.names.name_key(name)):
        raise domain.names.NameTaken
    dataset = domain.datasets.new_dataset(uow.new_id(), project_id, name, description, uow.now)
    await add_dataset(uow, dataset)
    uow.emit(domain.datasets.dataset_fact(dataset))
    return dataset


async def add_dataset(uow: UnitOfWork, dataset: Dataset) -> None:
    """Store a new dataset, and for ever where it belongs."""
    await repository.datasets.remember_origin(uow.session, dataset.dataset_id, dataset.project_id)
    uow.session.add(dataset)
    await uow.session.flush()


async def read(uow: UnitOfWork, project_id: UUID, dataset_id: UUID) -> Dataset:
    """A dataset that the project owns or has shared in."""
    dataset, shared_in = await repository.datasets.visible(uow.session, project_id, dataset_id)
    return domain.datasets.readable(dataset, project_id, shared_in=shared_in)


async def seen_in_full(uow: UnitOfWork, actor: Actor, project_id: UUID, datasets: Sequence[Dataset]) -> set[UUID]:
    """Those of some readable datasets of which the actor may see what programs chose: names, sizes, hashes."""
    homes = await repository.datasets.homes(uow.session, domain.origins.merged(*(dataset.origins for dataset in datasets)))
    role = actor.role if actor.project_id == project_id else None
    return {dataset.dataset_id for dataset in datasets if domain.origins.shown_in_full(project_id, role, dataset, homes)}


async def own(uow: UnitOfWork, project_id: UUID, dataset_id: UUID, *, lock: bool = False) -> Dataset:
    """A dataset that the project owns."""
    dataset, shared_in = await repository.datasets.visible(uow.session, project_id, dataset_id, lock=lock)
    return domain.datasets.own(domain.datasets.readable(dataset, project_id, shared_in=shared_in), project_id)


async def change(uow: UnitOfWork, project_id: UUID, dataset_id: UUID, version: int, description: str) -> Dataset:
    """Change the description of version ``version``. Raises ProjectIsClosed."""
    text = domain.names.description(description)
    await until_known(uow, project_id)
    dataset = await own(uow, project_id, dataset_id, lock=True)
    if dataset.version != version:
        raise PreconditionFailed(f"The resource has version {dataset.version}.")
    if dataset.description != text:
        dataset.description = text
        dataset.version += 1
        uow.emit(domain.datasets.dataset_fact(dataset))
    return dataset
