"""The life of a project: changed, archived, restored."""

from collections.abc import Mapping
from uuid import UUID

from chassis.guard import expect
from chassis.outbox import UnitOfWork
from contracts.roles import Role
from services.projects import domain, repository
from services.projects.domain.activity import Deed
from services.projects.models import Project
from services.projects.service import activity, callers, group_roles

AT_ONCE = 100


async def change(uow: UnitOfWork, project_id: UUID, version: int, wanted: Mapping[str, object]) -> tuple[Project, Role]:
    """Change what ``wanted`` names of a project's fields. Raises PreconditionFailed, ProjectNotActive, EndsInThePast."""
    project = await callers.as_owner(uow, project_id)
    expect(version, project.version)
    if domain.lifecycle.change(project, wanted, uow.now):
        uow.note(changed=" ".join(sorted(wanted)))
        await _tell(uow, project, Deed.PROJECT_CHANGED)
    return project, Role.DATA_OWNER


async def archive(uow: UnitOfWork, project_id: UUID) -> tuple[Project, Role]:
    """Let a project be read and no more changed. Safe to repeat. Raises ProjectIsBeingDeleted."""
    project = await callers.as_owner(uow, project_id)
    if domain.lifecycle.archive(project):
        await _tell(uow, project, Deed.PROJECT_ARCHIVED)
    return project, Role.DATA_OWNER


async def restore(uow: UnitOfWork, project_id: UUID, wanted: Mapping[str, object]) -> tuple[Project, Role]:
    """Let an archived project be changed again, and let in who came into its groups meanwhile. Safe to repeat.

    Raises ProjectIsBeingDeleted, ProjectHasEnded, EndsInThePast.
    """
    await repository.group_roles.lock(uow.session)
    project = await callers.as_owner(uow, project_id)
    if domain.lifecycle.restore(project, wanted, uow.now):
        await _tell(uow, project, Deed.PROJECT_RESTORED)
        await group_roles.follow_project(uow, project)
    return project, Role.DATA_OWNER


async def archive_ended(uow: UnitOfWork) -> int:
    """Archive projects whose end has come; how many."""
    ended = await repository.lifecycle.ended(uow.session, AT_ONCE)
    for project in ended:
        domain.lifecycle.archive(project)
        inside = uow.inside(project.project_id)
        inside.emit(domain.projects.project_fact(project))
        activity.write(inside, project.project_id, Deed.PROJECT_ENDED)
    return len(ended)


async def _tell(uow: UnitOfWork, project: Project, deed: Deed) -> None:
    activity.write(uow, project.project_id, deed)
    uow.emit(domain.projects.project_fact(project))
    uow.note(project_id=project.project_id, state=project.state, version=project.version)
    await repository.projects.wake(uow.session)
