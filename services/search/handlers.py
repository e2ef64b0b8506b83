"""What is heard: datasets and jobs become documents, and leave with their project. Shares are followed in memory, see ``app.py``."""

from chassis.hears import Hears
from chassis.outbox import UnitOfWork
from contracts.events import DATASETS, JOBS, Dataset, Job, Project
from contracts.policy import Service
from services.search import domain, service
from services.search.models import Kind

hears = Hears(Service.SEARCH)


@hears.on(Dataset)
async def index_dataset(fact: Dataset, uow: UnitOfWork) -> None:
    """A dataset was created or changed."""
    await service.remember_in(uow, fact.project_id, domain.dataset_document(fact))


@hears.on(Job)
async def index_job(fact: Job, uow: UnitOfWork) -> None:
    """A job was submitted or moved on."""
    await service.remember_in(uow, fact.project_id, domain.job_document(fact))


@hears.on(Project)
async def follow_project(fact: Project, uow: UnitOfWork) -> None:
    """A project was created or changed, or is being deleted."""
    await service.follow_project(uow, fact)


@hears.erased(DATASETS)
async def erase_dataset(key: str, uow: UnitOfWork) -> None:
    """A dataset was erased from its topic while this service slept."""
    service.remember(uow, domain.erased(Kind.DATASETS, key))


@hears.erased(JOBS)
async def erase_job(key: str, uow: UnitOfWork) -> None:
    """A job was erased from its topic while this service slept."""
    service.remember(uow, domain.erased(Kind.JOBS, key))
