"""What audit hears: every ledger topic, as it is."""

from collections.abc import Sequence

from chassis.hears import Hears, RawRecord
from chassis.outbox import UnitOfWork
from contracts.policy import Service
from services.audit import service
from services.audit.domain import TOPIC_PREFIX

hears = Hears(Service.AUDIT)


@hears.raw(TOPIC_PREFIX)
async def told(records: Sequence[RawRecord], uow: UnitOfWork) -> None:
    """Records of one source."""
    await service.append(uow, records)
