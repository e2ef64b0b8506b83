"""What jobs hears."""

from uuid import UUID

from chassis.hears import Hears
from chassis.outbox import UnitOfWork
from contracts.events import (
    DATASETS,
    MEMBERSHIPS,
    PROJECTS,
    SHARES,
    USERS,
    Certificate,
    Dataset,
    Membership,
    Project,
    Share,
    User,
)
from contracts.policy import Service
from services.jobs import service

hears = Hears(Service.JOBS.value, dated=(USERS, MEMBERSHIPS))


@hears.on(User)
async def person_changed(fact: User, uow: UnitOfWork) -> None:
    """An account was made or changed."""
    await service.heard.know_person(uow, fact)


@hears.on(Membership)
async def membership_changed(fact: Membership, uow: UnitOfWork) -> None:
    """A role was given, changed or taken away."""
    await service.heard.know_member(uow, fact)


@hears.on(Project)
async def project_changed(fact: Project, uow: UnitOfWork) -> None:
    """A project was created or changed."""
    await service.heard.know_project(uow, fact)


@hears.on(Dataset)
async def dataset_changed(fact: Dataset, uow: UnitOfWork) -> None:
    """A dataset was created or changed."""
    await service.heard.know_dataset(uow, fact)


@hears.on(Share)
async def share_changed(fact: Share, uow: UnitOfWork) -> None:
    """A share was offered, accepted or withdrawn."""
    await service.heard.know_share(uow, fact)


@hears.on(Certificate)
async def certificate_changed(fact: Certificate, uow: UnitOfWork) -> None:
    """A certificate was issued or revoked."""
    await service.heard.know_certificate(uow, fact)


@hears.erased(USERS)
async def person_erased(key: str, uow: UnitOfWork) -> None:
    """An account was erased while this service slept."""
    await service.heard.forget_person(uow, UUID(key))


@hears.erased(MEMBERSHIPS)
async def membership_erased(key: str, uow: UnitOfWork) -> None:
    """A membership was erased while this service slept."""
    project_id, _, user_id = key.partition(":")
    await service.heard.forget_member(uow, UUID(project_id), UUID(user_id))


@hears.erased(PROJECTS)
async def project_erased(key: str, uow: UnitOfWork) -> None:
    """A project was erased while this service slept."""
    await service.heard.forget_project(uow, UUID(key))


@hears.erased(DATASETS)
async def dataset_erased(key: str, uow: UnitOfWork) -> None:
    """A dataset was erased while this service slept."""
    await service.heard.forget_dataset(uow, UUID(key))


@hears.erased(SHARES)
async def share_erased(key: str, uow: UnitOfWork) -> None:
    """A share was erased while this service slept."""
    await service.heard.forget_share(uow, UUID(key))
