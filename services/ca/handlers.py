"""What ca hears."""

from uuid import UUID

from chassis.hears import Hears
from chassis.outbox import UnitOfWork
from contracts.events import AGENTS, MEMBERSHIPS, PROJECTS, RUNS, USERS, Agent, Membership, Project, Run, User
from contracts.policy import Service
from services.ca import service

hears = Hears(Service.CA, dated=(USERS, MEMBERSHIPS))


@hears.on(User)
async def person_changed(fact: User, uow: UnitOfWork) -> None:
    """A person's account changed."""
    await service.parties.learn_person(uow, fact)


@hears.on(Project)
async def project_changed(fact: Project, uow: UnitOfWork) -> None:
    """A project changed."""
    await service.parties.learn_project(uow, fact)


@hears.on(Membership)
async def membership_changed(fact: Membership, uow: UnitOfWork) -> None:
    """A membership changed."""
    await service.parties.learn_membership(uow, fact)


@hears.on(Run)
async def run_moved_on(fact: Run, uow: UnitOfWork) -> None:
    """A run moved on."""
    await service.parties.learn_run(uow, fact)


@hears.on(Agent)
async def agent_changed(fact: Agent, uow: UnitOfWork) -> None:
    """An agent enrolled or was withdrawn."""
    await service.parties.learn_agent(uow, fact)


@hears.erased(USERS)
async def person_erased(key: str, uow: UnitOfWork) -> None:
    """A person was erased."""
    await service.parties.forget_person(uow, UUID(key))


@hears.erased(PROJECTS)
async def project_erased(key: str, uow: UnitOfWork) -> None:
    """A project was erased."""
    await service.parties.forget_project(uow, UUID(key))


@hears.erased(MEMBERSHIPS)
async def membership_erased(key: str, uow: UnitOfWork) -> None:
    """A membership was erased."""
    project_id, _, user_id = key.partition(":")
    await service.parties.forget_membership(uow, UUID(project_id), UUID(user_id))


@hears.erased(RUNS)
async def run_erased(key: str, uow: UnitOfWork) -> None:
    """A run was erased."""
    await service.parties.forget_run(uow, UUID(key))


@hears.erased(AGENTS)
async def agent_erased(key: str, uow: UnitOfWork) -> None:
    """An agent was erased."""
    await service.parties.forget_agent(uow, UUID(key))
