"""What projects hears."""

from uuid import UUID

from chassis.hears import Hears
from chassis.outbox import UnitOfWork
from contracts.events import PURGED, USERS, Purged, User
from contracts.policy import Service
from services.projects.service import deletion, projects

hears = Hears(Service.PROJECTS.value)


@hears.on(User)
async def know_person(user: User, uow: UnitOfWork) -> None:
    """An account was made or changed, or its groups."""
    await projects.know_person(uow, user)


@hears.erased(USERS)
async def forget_person(key: str, uow: UnitOfWork) -> None:
    """An account was erased while this service slept."""
    await projects.forget_person(uow, UUID(key))


async def purged(fact: Purged, uow: UnitOfWork) -> None:
    """A service closed a project that is being deleted, or has purged it."""
    await deletion.hear(uow, Service(fact.topic.owner), fact)


for said in PURGED.values():
    hears.on(said)(purged)
