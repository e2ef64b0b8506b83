"""What auth hears: which sessions and API keys are used, and which projects are deleted."""

from collections.abc import Sequence

from chassis.consumer import Hears, RawRecord
from chassis.outbox import UnitOfWork
from contracts.events import ACTIVITY, Project
from contracts.policy import Service
from services.auth.service import activity, keys

hears = Hears(Service.AUTH.value)


@hears.raw(ACTIVITY.name)
async def used(records: Sequence[RawRecord], uow: UnitOfWork) -> None:
    """Sessions and API keys were used."""
    await activity.heard(uow, records)


@hears.on(Project)
async def project_changed(fact: Project, uow: UnitOfWork) -> None:
    """A project was created or changed, or is being deleted."""
    await keys.follow_project(uow, fact)
