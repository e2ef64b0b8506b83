"""The deletion of a project, from the request to the certificate of erasure."""

from collections.abc import Sequence
from uuid import UUID

from chassis.deletion import forget_answers
from chassis.log import logger
from chassis.outbox import UnitOfWork
from contracts import events
from contracts.policy import Service
from contracts.roles import Role
from services.projects import domain, repository
from services.projects.domain.activity import Deed
from services.projects.models import Deletion, DeletionPart, Project
from services.projects.service import activity, callers

log = logger(__name__)

Progress = tuple[Deletion, Sequence[DeletionPart]]


async def ask(uow: UnitOfWork, project_id: UUID, name: str) -> tuple[Project, Role, Progress | None]:
    """Begin to delete a project for good. Safe to repeat. Raises NameNotRepeated."""
    project = await callers.as_owner(uow, project_id)
    domain.deletion.demand_name(project, name)
    owners = await repository.deletion.owners(uow.session, project_id, uow.now)
    asked = domain.deletion.ask(project, callers.caller(uow), owners, uow.now)
    if asked is not None:
        uow.session.add(asked)
        await uow.session.flush()
        uow.emit(domain.projects.project_fact(project))
        activity.write(uow, project_id, Deed.DELETION_ASKED)
        uow.note(project_id=project_id, state=project.state, version=project.version)
    return project, Role.DATA_OWNER, await progress(uow, project)


async def progress(uow: UnitOfWork, project: Project) -> Progress | None:
    """How far the deletion of a project is; None when none was asked for."""
    if not domain.deletion.is_asked_for(project):
        return None
    deletion = await repository.deletion.deletion(uow.session, project.project_id)
    return None if deletion is None else (deletion, await repository.deletion.parts(uow.session, project.project_id))


async def hear(uow: UnitOfWork, service: Service, said: events.Purged) -> None:
    """A service closed or purged its part: go on when that was the last one. Safe to repeat, in any order."""
    project = await repository.projects.project(uow.session, said.project_id, lock=True)
    deletion = await repository.deletion.deletion(uow.session, said.project_id, lock=True)
    if project is None or deletion is None or deletion.erased_at is not None:
        return
    known = {part.service: part for part in await repository.deletion.parts(uow.session, said.project_id)}
    known[service.value] = domain.deletion.note(known.get(service.value), service, said)
    uow.session.add(known[service.value])
    uow.project_id = said.project_id
    parts = list(known.values())
    if domain.deletion.proceed(project, deletion, parts, uow.now):
        uow.emit(domain.projects.project_fact(project))
    if domain.deletion.is_complete(deletion, parts):
        await _finish(uow, project, deletion, parts)


async def _finish(uow: UnitOfWork, project: Project, deletion: Deletion, parts: Sequence[DeletionPart]) -> None:
    for member in await repository.deletion.memberships(uow.session, project.project_id):
        uow.emit(domain.deletion.last_fact(member))
    removed = await repository.deletion.forget(uow.session, project.project_id)
    await forget_answers(uow.session, project.project_id)
    domain.deletion.finish(project, deletion, parts, removed, uow.now)
    uow.emit(domain.projects.project_fact(project))
    uow.action = "project.erase"
    uow.note(project_id=project.project_id, erasure_certificate_sha256=deletion.sha256, **removed)
    log.info("a project is deleted", project_id=str(project.project_id))


async def certificate(uow: UnitOfWork, project_id: UUID) -> Deletion:
    """A certificate of erasure. Raises NotFound."""
    return domain.deletion.demand_visible(uow.actor, await repository.deletion.deletion(uow.session, project_id))


async def list_certificates(uow: UnitOfWork, after: UUID | None, limit: int) -> Sequence[Deletion]:
    """The certificates of erasure that the caller may see."""
    seen_by = None if domain.deletion.sees_all(uow.actor) else callers.caller(uow)
    return await repository.deletion.erasures(uow.session, seen_by, after, limit)
