"""The deletion of a project, from the request to the certificate of erasure."""

from collections import defaultdict
from collections.abc import Sequence
from uuid import UUID

from prometheus_client import Gauge

from chassis.deletion import forget_answers
from chassis.log import logger
from chassis.outbox import UnitOfWork
from contracts import events
from contracts.policy import Service
from contracts.roles import Role
from services.projects import domain, repository
from services.projects.domain.activity import Deed
from services.projects.models import Deletion, DeletionPart, Project
from services.projects.service import activity, break_glass, callers

log = logger(__name__)
AWAITED = Gauge(
    "hortus_project_deletions_awaited", "Deletions of projects that are under way, by the service that they wait for", ["service"]
)
AWAITED_SINCE = Gauge(
    "hortus_project_deletions_awaited_since_seconds",
    "When the oldest deletion that waits for a service was asked for, in seconds since 1970; absent while none waits",
    ["service"],
)

Progress = tuple[Deletion, Sequence[DeletionPart]]


async def ask(uow: UnitOfWork, project_id: UUID, name: str) -> tuple[Project, Role, Progress | None]:
    """Begin to delete a project for good; its break-glass end, with or without a review. Safe to repeat. Raises NameNotRepeated."""
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
        await break_glass.settle(uow, project_id)
        await repository.projects.wake(uow.session)
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
    await repository.projects.wake(uow.session)


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


async def list_seen(uow: UnitOfWork, after: UUID | None, limit: int) -> list[Progress]:
    """The deletions that the caller may see: the finished ones that were theirs, or all."""
    seen_by = None if domain.deletion.sees_all(uow.actor) else callers.caller(uow)
    return await _with_parts(uow, await repository.deletion.erasures(uow.session, seen_by, after, limit))


async def measure(uow: UnitOfWork) -> int:
    """Bring the metrics up to date; nothing is ever left to do."""
    under_way = await _with_parts(uow, await repository.deletion.under_way(uow.session))
    for service, asked in domain.deletion.waiting(under_way).items():
        AWAITED.labels(service.value).set(len(asked))
        if asked:
            AWAITED_SINCE.labels(service.value).set(min(asked).timestamp())
        else:
            AWAITED_SINCE.remove(service.value)
    return 0


async def _with_parts(uow: UnitOfWork, deletions: Sequence[Deletion]) -> list[Progress]:
    said: dict[UUID, list[DeletionPart]] = defaultdict(list)
    for part in await repository.deletion.parts(uow.session, *(deletion.project_id for deletion in deletions)):
        said[part.project_id].append(part)
    return [(deletion, said[deletion.project_id]) for deletion in deletions]
