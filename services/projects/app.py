"""The assembly of projects: settings, its doors, what it hears, and the timers of ends."""

from collections.abc import Awaitable, Callable

from chassis import changes
from chassis.app import Runtime, Spec
from chassis.log import logger
from chassis.outbox import UnitOfWork, unit_of_work
from contracts.policy import Service
from services.projects import repository
from services.projects.handlers import hears
from services.projects.routes import router
from services.projects.service import break_glass, deletion, invitations, lifecycle, projects
from services.projects.settings import ProjectsSettings

log = logger(__name__)
LONGEST_WAIT_S = 3600.0
AGAIN_S = 1.0
Deed = Callable[[UnitOfWork], Awaitable[int]]


async def _never(_session: object) -> None:
    """Nothing is due at a certain instant."""


def deeds(settings: ProjectsSettings) -> dict[str, tuple[Deed, repository.projects.Wait]]:
    """What is done at its instant, by its name in the ledger, and how long until the next one; each says how many it did."""

    async def end_break_glass(uow: UnitOfWork) -> int:
        return await break_glass.say_end(uow, settings)

    return {
        "membership.end": (projects.end_memberships, repository.projects.seconds_to_next_end),
        "project.end": (lifecycle.archive_ended, repository.lifecycle.seconds_to_next_end),
        "project_invitation.expire": (invitations.expire, repository.invitations.seconds_to_next_end),
        "break_glass.end": (end_break_glass, repository.break_glass.seconds_to_next_end),
        "break_glass.report": (break_glass.report, repository.break_glass.seconds_to_next_report),
        "break_glass.measure": (break_glass.measure, _never),
        "deletion.measure": (deletion.measure, _never),
    }


async def _do(runtime: Runtime, action: str, deed: Deed, wait: repository.projects.Wait) -> tuple[int, float]:
    """Do what is due now: how much that was, and how long until the next. What breaks is logged and tried again: it stops nothing else."""
    try:
        async with unit_of_work(runtime.engine, Service.PROJECTS.value, action) as uow:
            done = await deed(uow)
            left = await wait(uow.session)
    except Exception:
        log.exception("what is due was not done", action=action)
        return 0, AGAIN_S
    return done, LONGEST_WAIT_S if left is None else max(left, 0.0)


async def keep_time(runtime: Runtime) -> None:
    """Do each thing at its instant: sleep until the next one, or until one has moved."""
    todo = deeds(runtime.settings)
    async with changes.listening(runtime.engine, repository.projects.CHANNEL) as changed:
        while True:
            done = 0
            waits = [LONGEST_WAIT_S]
            for action, (deed, wait) in todo.items():
                did, left = await _do(runtime, action, deed, wait)
                done += did
                waits.append(left)
            if done == 0:
                await changed.wait(min(waits))


spec = Spec(service=Service.PROJECTS, settings=ProjectsSettings, router=router, hears=hears, background=(keep_time,))
