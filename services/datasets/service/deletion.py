"""Removing what a deleted project left."""

import asyncio
from collections.abc import Sequence
from uuid import UUID

from chassis import deletion
from chassis.deletion import Slice
from chassis.outbox import UnitOfWork
from services.datasets import domain, repository
from services.datasets.models import (
    File,
    Staged,
)
from services.datasets.service.storage import Storage

PURGED_AT_ONCE = 200


async def purge(uow: UnitOfWork, storage: Storage, project_id: UUID) -> Slice:
    """Remove some of what a deleted project left: keys before files, blobs before the rows that name them, what was heard in the end.

    Where its datasets belonged is remembered for ever: what was made of them elsewhere still comes from them.
    """
    keys = await repository.deletion.drop_keys(uow.session, project_id)
    if keys:
        return Slice({"dataset_keys": keys}, more=True)  # committed before the store is asked: it may be away
    for rows in (repository.deletion.some_files, repository.deletion.some_staged):
        found = await rows(uow.session, project_id, PURGED_AT_ONCE)
        if found:
            name = await remove(uow, storage, found)
            return Slice({name: len(found), "bytes": sum(each.size for each in found)}, more=True)
    datasets = await repository.deletion.some_datasets(uow.session, project_id, PURGED_AT_ONCE)
    if not datasets:
        removed = await repository.deletion.forget_of_project(uow.session, project_id)
        return Slice(removed, more=False, kept=await repository.deletion.kept_of_project(uow.session, project_id))
    lasts = [domain.datasets.last_fact(dataset) for dataset in datasets]
    for fact in lasts:
        uow.emit(fact)
    await uow.session.flush()
    await deletion.erase_later(uow, lasts)
    shares = await repository.deletion.remove_datasets(uow.session, [dataset.dataset_id for dataset in datasets])
    return Slice({"datasets": len(datasets), "shares": shares}, more=True)


async def remove(uow: UnitOfWork, storage: Storage, rows: Sequence[File | Staged]) -> str:
    """Delete the blobs of versions of files, or of staged outputs, and then the rows that name them; the name of what they are."""
    await asyncio.gather(*[storage.blobs.delete(each.blob) for each in rows if each.blob])
    return await repository.deletion.remove_rows(uow.session, rows)
