"""Which transfers in flight go on."""

from typing import Any

from chassis.outbox import UnitOfWork, unit_of_work
from contracts.events import ProjectState
from contracts.policy import Action
from services.datasets import repository
from services.datasets.domain.runs import Verdict
from services.datasets.models import Transfer, Upload
from services.datasets.service.runs import judged


async def still_allowed(engine: Any, transfers: frozenset[Transfer]) -> frozenset[Transfer]:
    """Which transfers in flight are allowed at this moment."""
    async with unit_of_work(engine, "datasets", Action.RUN_INPUT_READ) as uow:
        return frozenset([each for each in transfers if await _goes_on(uow, each)])


async def _goes_on(uow: UnitOfWork, transfer: Transfer) -> bool:
    if isinstance(transfer, Upload):
        return await repository.heard.project_state(uow.session, transfer.project_id) == ProjectState.ACTIVE
    return await judged(uow, transfer) is Verdict.YES
