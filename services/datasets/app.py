"""The assembly of datasets: settings, where bytes lie, what is swept, and who watches reads in flight."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

from chassis import db, patience
from chassis.app import Runtime, Spec
from chassis.deletion import Slice
from chassis.outbox import UnitOfWork
from chassis.settings import Settings
from contracts.policy import Service
from services.datasets import service
from services.datasets.blobs import Blobs
from services.datasets.flights import Flights
from services.datasets.handlers import hears
from services.datasets.routes import router
from services.datasets.service.storage import Limits, Storage
from services.datasets.vault import MasterKey

GIB = 1024**3


class DatasetsSettings(Settings):
    """Settings of datasets. Sizes are bytes, times seconds.

    ``blob_reserve`` is what stays free on the disk of a ``file://`` store; ``orphan_age_s`` is how old a blob of no file
    is before it is deleted: longer than the time between the end of an upload and its commit can be.
    """

    blob_url: str
    master_key_file: Path
    blob_reserve: int = GIB // 4
    staging_max_bytes: int = 64 * GIB
    staging_max_files: int = 10_000
    orphan_age_s: float = 3600.0
    sweep_s: float = 600.0


@contextlib.asynccontextmanager
async def lifespan(runtime: Runtime) -> AsyncIterator[None]:
    """Open the store and watch reads in flight, in every process that answers requests."""
    settings: DatasetsSettings = runtime.settings
    looking = db.engine(settings.database_url, connections=2)  # who waits for the doors' pool would not know in time, and cut everything
    flights = Flights(db.plain_dsn(settings.database_url), functools.partial(service.transfers.still_allowed, looking))
    runtime.extra["storage"] = Storage(
        engine=runtime.engine,
        master=MasterKey.load(settings.master_key_file),
        blobs=Blobs(settings.blob_url, settings.blob_reserve),
        limits=Limits(settings.staging_max_bytes, settings.staging_max_files),
        flights=flights,
    )
    watching = asyncio.create_task(patience.for_ever(flights.watch, "flights"), name="flights")
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await looking.dispose()


async def sweep_blobs(runtime: Runtime) -> None:
    """Delete, every ten minutes, what failed uploads and ended runs left behind."""
    while True:
        await service.sweep.sweep(runtime.extra["storage"], runtime.settings.orphan_age_s)
        await asyncio.sleep(runtime.settings.sweep_s)


async def purge(runtime: Runtime, uow: UnitOfWork, project_id: UUID) -> Slice:
    """Remove a slice of what a deleted project left."""
    return await service.deletion.purge(uow, runtime.extra["storage"], project_id)


spec = Spec(Service.DATASETS, DatasetsSettings, router, hears, background=(sweep_blobs,), lifespan=lifespan, purge=purge)
