"""What auth hears: which sessions and API keys are used, which projects are deleted, and break-glass, of which it writes letters."""

from collections.abc import Sequence

from chassis.hears import Hears, RawRecord
from chassis.outbox import UnitOfWork
from contracts.events import ACTIVITY, BreakGlass, Project
from contracts.policy import Service
from services.auth.service import activity, keys, notices

hears = Hears(Service.AUTH.value)


@hears.raw(ACTIVITY.name)
async def used(records: Sequence[RawRecord], uow: UnitOfWork) -> None:
    """Sessions and API keys were used."""
    await activity.heard(uow, records)


@hears.on(Project)
async def project_changed(fact: Project, uow: UnitOfWork) -> None:
    """A project was created or changed, or is being deleted."""
    await keys.follow_project(uow, fact)


@hears.on(BreakGlass)
async def break_glass(fact: BreakGlass, uow: UnitOfWork) -> None:
    """An administrator opened a project in an emergency, or that went on."""
    await notices.break_glass(uow, fact)
