"""What projects hears."""

from uuid import UUID

from chassis.consumer import Hears
from chassis.outbox import UnitOfWork
from contracts.events import USERS, User
from contracts.policy import Service
from services.projects.service import projects

hears = Hears(Service.PROJECTS.value)


@hears.on(User)
async def know_person(user: User, uow: UnitOfWork) -> None:
    """An account was made or changed, or its groups."""
    await projects.know_person(uow, user)


@hears.erased(USERS)
async def forget_person(key: str, uow: UnitOfWork) -> None:
    """An account was erased while this service slept."""
    await projects.forget_person(uow, UUID(key))
