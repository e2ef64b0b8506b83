"""The assembly of projects: settings, its doors, what it hears, and the timers of ends."""

from chassis.app import Runtime, Spec
from chassis.outbox import unit_of_work
from chassis.settings import Settings
from contracts.policy import Service
from services.projects import repository
from services.projects.domain.lifecycle import Creators, Founders
from services.projects.handlers import hears
from services.projects.routes import router
from services.projects.service import lifecycle, projects

LONGEST_WAIT_S = 3600.0


class ProjectsSettings(Settings):
    """Settings of projects: who may create one. ``project_creator_groups``: the people of these, too, where not everybody may."""

    project_creators: Creators = Creators.EVERYBODY
    project_creator_groups: frozenset[str] = frozenset()

    @property
    def founders(self) -> Founders:
        """Who may create projects."""
        return Founders(self.project_creators, self.project_creator_groups)


async def end_memberships(runtime: Runtime) -> None:
    """Say each membership's end at its instant: sleep until the next one, or until one has moved."""
    async with repository.projects.changes(runtime.engine) as changes:
        while True:
            async with unit_of_work(runtime.engine, Service.PROJECTS.value, "membership.end") as uow:
                ended = await projects.end_memberships(uow)
                left = await repository.projects.seconds_to_next_end(uow.session)
            if ended == 0:
                await changes.wait(LONGEST_WAIT_S if left is None else min(max(left, 0.0), LONGEST_WAIT_S))


async def archive_ended(runtime: Runtime) -> None:
    """Archive each project at its end date: sleep until the next one, or until one has moved."""
    async with repository.projects.changes(runtime.engine) as changes:
        while True:
            async with unit_of_work(runtime.engine, Service.PROJECTS.value, "project.end") as uow:
                ended = await lifecycle.archive_ended(uow)
                left = await repository.lifecycle.seconds_to_next_end(uow.session)
            if ended == 0:
                await changes.wait(LONGEST_WAIT_S if left is None else min(max(left, 0.0), LONGEST_WAIT_S))


spec = Spec(Service.PROJECTS, ProjectsSettings, router, hears, background=(end_memberships, archive_ended))
