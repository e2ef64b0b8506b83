"""The keys of datasets, open."""

from uuid import UUID

from chassis.outbox import UnitOfWork
from services.datasets import repository, vault
from services.datasets.service.storage import Storage


async def made_key(uow: UnitOfWork, storage: Storage, dataset_id: UUID) -> bytes:
    """A dataset's key for what comes in, open; made with the first file."""
    if await repository.datasets.dataset_key(uow.session, dataset_id) is None:
        await repository.datasets.keep_dataset_key(uow.session, dataset_id, storage.master.wrap(vault.new_key(), dataset_id.bytes))
    return await known_key(uow, storage, dataset_id)


async def known_key(uow: UnitOfWork, storage: Storage, dataset_id: UUID) -> bytes:
    """A dataset's key, open. Raises DataDamaged when it is gone."""
    wrapped = await repository.datasets.dataset_key(uow.session, dataset_id)
    if wrapped is None:
        raise vault.DataDamaged
    return storage.master.unwrap(wrapped, dataset_id.bytes)
