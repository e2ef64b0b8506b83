"""Which transfers in flight go on."""

from typing import Any
from uuid import UUID

from chassis.outbox import UnitOfWork, unit_of_work
from contracts.policy import Action
from services.datasets import repository
from services.datasets.domain.runs import Verdict
from services.datasets.models import Transfer, Upload
from services.datasets.service.runs import judged


async def still_allowed(engine: Any, transfers: frozenset[Transfer]) -> frozenset[Transfer]:
    """Which transfers in flight are allowed at this moment."""
    async with unit_of_work(engine, "datasets", Action.RUN_INPUT_READ) as uow:
        uploads = {each.project_id for each in transfers if isinstance(each, Upload)}
        active = await repository.heard.active_projects(uow.session, uploads) if uploads else set()
        return frozenset([each for each in transfers if await _goes_on(uow, each, active)])


async def _goes_on(uow: UnitOfWork, transfer: Transfer, active: set[UUID]) -> bool:
    if isinstance(transfer, Upload):
        return transfer.project_id in active
    return await judged(uow, transfer) is Verdict.YES
