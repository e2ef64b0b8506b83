"""Taking away what nothing needs."""

from chassis.log import logger
from chassis.outbox import unit_of_work
from services.datasets import domain, repository
from services.datasets.service.deletion import PURGED_AT_ONCE, remove
from services.datasets.service.storage import Storage

log = logger(__name__)


async def sweep(storage: Storage, age_s: float) -> int:
    """Delete what runs that ended left unpublished, and blobs of no file older than ``age_s`` seconds, which failed uploads left. How many."""
    swept = await storage.blobs.drop_unfinished()
    while discarded := await _discard(storage):
        swept += discarded
    async for names in storage.blobs.older_than(age_s):
        async with unit_of_work(storage.engine, "datasets", "blobs.sweep") as uow:
            used = await repository.files.blobs_in_use(uow.session, names)
        for name in set(names) - used:
            await storage.blobs.delete(name)
            swept += 1
    if swept:
        log.info("swept what nothing needs", count=swept)
    return swept


async def _discard(storage: Storage) -> int:
    """Take away some of what ended runs staged and did not publish; how many. Until then a purge of their project finds and counts them."""
    async with unit_of_work(storage.engine, "datasets", "staged.sweep") as uow:
        found = await repository.runs.unpublished(uow.session, [*domain.runs.ENDED], PURGED_AT_ONCE)
        if found:
            await remove(uow, storage, found)
    return len(found)
