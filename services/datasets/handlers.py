"""What is heard: accounts, memberships and projects as far as runs and shares need them, and runs."""

from chassis.consumer import Hears
from chassis.outbox import UnitOfWork
from contracts.events import Membership, Project, Run, User
from contracts.policy import Service
from services.datasets import service

hears = Hears(Service.DATASETS)


@hears.on(User)
async def know_person(fact: User, uow: UnitOfWork) -> None:
    """An account was made or changed."""
    await service.know_person(uow, fact)


@hears.on(Membership)
async def know_member(fact: Membership, uow: UnitOfWork) -> None:
    """A role was given, changed or taken away."""
    await service.know_member(uow, fact)


@hears.on(Project)
async def know_project(fact: Project, uow: UnitOfWork) -> None:
    """A project was created or changed."""
    await service.know_project(uow, fact)


@hears.on(Run)
async def know_run(fact: Run, uow: UnitOfWork) -> None:
    """A run moved on."""
    await service.know_run(uow, fact)
