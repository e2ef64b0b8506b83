"""The assembly of search: settings, the index and who keeps it, and shares as they are now."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

from chassis import patience
from chassis.app import Runtime, Spec
from chassis.deletion import Slice
from chassis.outbox import UnitOfWork
from chassis.projection import Projection
from chassis.settings import Settings
from contracts.events import SHARES
from contracts.policy import Service
from services.search import service
from services.search.handlers import hears
from services.search.index import Index
from services.search.routes import router
from services.search.service import Library


class SearchSettings(Settings):
    """Settings of search. ``index_prefix`` begins the names of the indexes."""

    elasticsearch_url: str
    elasticsearch_password_file: Path
    index_prefix: str = "hortus"


@contextlib.asynccontextmanager
async def lifespan(runtime: Runtime) -> AsyncIterator[None]:
    """Open the index, look once before anything is heard, and follow the shares in every process that answers."""
    settings: SearchSettings = runtime.settings
    password = settings.elasticsearch_password_file.read_text().strip()
    index = Index(settings.elasticsearch_url, password, settings.tls_dir, settings.index_prefix)
    library = Library(runtime.engine, index, Projection(settings, [SHARES]))
    runtime.extra["library"] = library
    runtime.checks.append(library.missing)

    def read_anew() -> None:
        consumer = runtime.extra.get("consumer")
        if consumer is not None:
            consumer.take_over_anew()

    service.open_library(library)
    await library.shares.start()
    await service.look_after(library, read_anew)
    keeping = asyncio.create_task(patience.for_ever(lambda: service.keep_indexes(library, read_anew), "indexes"), name="indexes")
    try:
        yield
    finally:
        ending = [keeping, *library.expunging.values()]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        await library.shares.stop()
        service.close_library(library)
        await index.close()


async def purge(runtime: Runtime, uow: UnitOfWork, project_id: UUID) -> Slice:
    """Remove a slice of what a deleted project left in the index."""
    return await service.purge(runtime.extra["library"], uow, project_id)


spec = Spec(Service.SEARCH, SearchSettings, router, hears, lifespan=lifespan, purge=purge)
