"""The feed of a project: written in the transaction of what it tells, read by members."""

from uuid import UUID

from chassis.outbox import UnitOfWork
from contracts.roles import Role
from services.projects import domain, repository
from services.projects.domain.activity import Deed, Subject
from services.projects.models import Activity
from services.projects.service import callers


def write(uow: UnitOfWork, project_id: UUID, deed: Deed, subject: Subject | None = None, **details: str) -> None:
    """Tell a project's members what happened; ``details`` are words that they may read."""
    subject_id, name = subject or (None, None)
    line = Activity(
        activity_id=uow.new_id(),
        project_id=project_id,
        at=uow.now,
        deed=deed.value,
        actor_id=uow.actor.user_id,
        actor=uow.actor.username,
        subject_id=subject_id,
        subject=name,
        details=details,
    )
    uow.session.add(line)


async def read(uow: UnitOfWork, project_id: UUID, before: UUID | None, limit: int) -> list[Activity]:
    """What happened in a project, newest first, as far as the caller's role sees it. Raises NotFound."""
    role = domain.projects.role_of(await repository.projects.membership(uow.session, project_id, callers.caller(uow)), uow.now)
    hidden = frozenset[Deed]() if role is Role.DATA_OWNER else domain.activity.FOR_OWNERS
    return await repository.activity.page(uow.session, project_id, hidden, before, limit)
