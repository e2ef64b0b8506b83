"""What the gateway knows already and this service is about to hear: projects and roles."""

import asyncio
import time
from uuid import UUID

from chassis import deletion
from chassis.errors import CannotDecide
from chassis.outbox import UnitOfWork
from services.datasets import domain, repository

KNOWN_WAIT_S = 1.0
KNOWN_LOOK_S = 0.05


async def until_known(uow: UnitOfWork, project_id: UUID) -> None:
    """The project takes things in until this transaction ends; one that was made a moment ago is waited for. Before any row is locked."""
    await deletion.hold(uow.session, project_id)
    deadline = time.monotonic() + KNOWN_WAIT_S
    while True:
        state = await repository.heard.project_state(uow.session, project_id)
        if state is not None or time.monotonic() >= deadline:
            break
        await asyncio.sleep(KNOWN_LOOK_S)
    domain.datasets.accepting(state)


async def until_role_is_known(uow: UnitOfWork, project_id: UUID) -> None:
    """The caller's role, which the gateway knows, is known here; one that was given a moment ago is waited for. Raises CannotDecide."""
    deadline = time.monotonic() + KNOWN_WAIT_S
    while not await holds_role(uow, project_id):
        if time.monotonic() >= deadline:
            raise CannotDecide("Your role in the project is not known here yet.", retry_after=1)
        await asyncio.sleep(KNOWN_LOOK_S)


async def holds_role(uow: UnitOfWork, project_id: UUID, *, lock: bool = False) -> bool:
    """Whether the caller holds the role here that the gateway knows; ``lock`` keeps it so until this transaction ends."""
    person, member = await repository.heard.standing(uow.session, project_id, uow.actor.user_id, lock=lock)
    return domain.datasets.holds_role(person, member, uow.actor.role, uow.now)
