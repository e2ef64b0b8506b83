"""The assembly of projects."""

from chassis.app import Runtime, Spec
from chassis.outbox import unit_of_work
from chassis.settings import Settings
from contracts.policy import Service
from services.projects import repository
from services.projects.handlers import hears
from services.projects.routes import router
from services.projects.service import projects

LONGEST_WAIT_S = 3600.0


async def end_memberships(runtime: Runtime) -> None:
    """Say each membership's end at its instant: sleep until the next one, or until one has moved."""
    async with repository.projects.changes(runtime.engine) as changes:
        while True:
            async with unit_of_work(runtime.engine, Service.PROJECTS.value, "membership.end") as uow:
                ended = await projects.end_memberships(uow)
                left = await repository.projects.seconds_to_next_end(uow.session)
            if ended == 0:
                await changes.wait(LONGEST_WAIT_S if left is None else min(max(left, 0.0), LONGEST_WAIT_S))


spec = Spec(service=Service.PROJECTS, settings=Settings, router=router, hears=hears, background=(end_memberships,))
