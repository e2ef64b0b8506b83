"""What auth hears: which sessions and API keys are used."""

from collections.abc import Sequence

from chassis.consumer import Hears, RawRecord
from chassis.outbox import UnitOfWork
from contracts.events import ACTIVITY
from contracts.policy import Service
from services.auth.service import activity

hears = Hears(Service.AUTH.value)


@hears.raw(ACTIVITY.name)
async def used(records: Sequence[RawRecord], uow: UnitOfWork) -> None:
    """Sessions and API keys were used."""
    await activity.heard(uow, records)
