"""What is heard: accounts, memberships and projects as far as runs and shares need them, and runs."""

from uuid import UUID

from chassis.hears import Hears
from chassis.outbox import UnitOfWork
from contracts.events import MEMBERSHIPS, USERS, Membership, Project, Run, User
from contracts.policy import Service
from services.datasets import service

hears = Hears(Service.DATASETS)


@hears.on(User)
async def know_person(fact: User, uow: UnitOfWork) -> None:
    """An account was made or changed."""
    await service.heard.know_person(uow, fact)


@hears.on(Membership)
async def know_member(fact: Membership, uow: UnitOfWork) -> None:
    """A role was given, changed or taken away."""
    await service.heard.know_member(uow, fact)


@hears.on(Project)
async def know_project(fact: Project, uow: UnitOfWork) -> None:
    """A project was created or changed."""
    await service.heard.know_project(uow, fact)


@hears.on(Run)
async def know_run(fact: Run, uow: UnitOfWork) -> None:
    """A run moved on."""
    await service.heard.know_run(uow, fact)


@hears.erased(USERS)
async def person_erased(key: str, uow: UnitOfWork) -> None:
    """An account was erased while this service slept."""
    await service.heard.forget_person(uow, UUID(key))


@hears.erased(MEMBERSHIPS)
async def member_erased(key: str, uow: UnitOfWork) -> None:
    """A membership was erased while this service slept."""
    project_id, _, user_id = key.partition(":")
    await service.heard.forget_member(uow, UUID(project_id), UUID(user_id))
