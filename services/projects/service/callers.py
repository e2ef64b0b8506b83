"""Who asks, and whether they are Data Owners at this moment."""

from uuid import UUID

from chassis.errors import NotFound
from chassis.outbox import UnitOfWork
from services.projects import domain, repository
from services.projects.models import Membership, Project


def caller(uow: UnitOfWork) -> UUID:
    """The person who asks. Raises NotFound."""
    if uow.actor.user_id is None:
        raise NotFound
    return uow.actor.user_id


async def as_owner(uow: UnitOfWork, project_id: UUID) -> Project:
    """The project, locked, for a caller whose own row says Data Owner now: the identity header may be a moment old."""
    project, _ = await owner(uow, project_id)
    return project


async def owner(uow: UnitOfWork, project_id: UUID) -> tuple[Project, Membership]:
    """The project, locked, and the row of a caller whom it says to be Data Owner now. Raises NotFound, RoleMayNot."""
    project = await repository.projects.project(uow.session, project_id, lock=True)
    if project is None:
        raise NotFound
    own = domain.projects.demand_owner(await repository.projects.membership(uow.session, project_id, caller(uow)), uow.now)
    return project, own
