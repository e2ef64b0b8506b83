"""The use cases of projects: each function is one transaction's work."""

from datetime import datetime
from uuid import UUID

from chassis.errors import NotFound
from chassis.guard import expect
from chassis.outbox import UnitOfWork
from contracts import events
from contracts.roles import Role
from services.projects import domain, repository
from services.projects.models import Membership, Person, Project

EXPIRY_BATCH = 500


def _caller(uow: UnitOfWork) -> UUID:
    if uow.actor.user_id is None:
        raise NotFound
    return uow.actor.user_id


async def create(uow: UnitOfWork, name: str, description: str, purpose: str) -> tuple[Project, Role]:
    """Found a project; the caller becomes its Data Owner. Raises BadProjectName, NameTaken."""
    project, creator = domain.found(uow.new_id(), name, description, purpose, _caller(uow), uow.actor.username or "", uow.now)
    if await repository.name_is_taken(uow.session, project.name_key):
        raise domain.NameTaken
    uow.session.add(project)
    await uow.session.flush()
    uow.session.add(creator)
    uow.emit(domain.project_fact(project))
    uow.emit(domain.membership_fact(creator))
    uow.project_id = project.project_id
    uow.note(project_id=project.project_id)
    return project, Role.DATA_OWNER


async def read(uow: UnitOfWork, project_id: UUID) -> tuple[Project, Role]:
    """A project and the caller's role in it. Raises NotFound."""
    role = domain.role_of(await repository.membership(uow.session, project_id, _caller(uow)), uow.now)
    project = await repository.project(uow.session, project_id)
    if project is None:
        raise NotFound
    return project, role


async def list_own(uow: UnitOfWork, after: UUID | None, limit: int) -> list[tuple[Project, Membership]]:
    """The caller's projects, oldest first: what the gateway knows of and the own rows confirm."""
    return await repository.projects_of(uow.session, _caller(uow), list(uow.actor.projects), after, limit, uow.now)


async def change(uow: UnitOfWork, project_id: UUID, version: int, description: str | None) -> tuple[Project, Role]:
    """Describe a project anew. Raises PreconditionFailed."""
    project = await _as_owner(uow, project_id)
    expect(version, project.version)
    if description is not None and domain.describe(project, description):
        uow.emit(domain.project_fact(project))
        uow.note(project_id=project_id)
    return project, Role.DATA_OWNER


async def add_member(
    uow: UnitOfWork,
    project_id: UUID,
    username: str,
    role: Role,
    purpose: str,
    starts_at: datetime | None,
    ends_at: datetime | None,
) -> Membership:
    """Give somebody a role. Raises NoSuchPerson, AlreadyAMember, EndsBeforeItBegins."""
    project = await _as_owner(uow, project_id)
    person = domain.demand_person(await repository.person(uow.session, username))
    before = await repository.membership(uow.session, project_id, person.user_id, lock=True)
    member = domain.join(project, person, before, role, purpose, starts_at, ends_at, uow.now)
    uow.session.add(member)
    await _tell(uow, member)
    return member


async def list_members(uow: UnitOfWork, project_id: UUID, after: UUID | None, limit: int) -> list[Membership]:
    """Who has a role in the project, now or later. Raises NotFound."""
    domain.role_of(await repository.membership(uow.session, project_id, _caller(uow)), uow.now)
    return await repository.members(uow.session, project_id, after, limit, uow.now)


async def change_member(uow: UnitOfWork, project_id: UUID, user_id: UUID, version: int, wanted: dict[str, object]) -> Membership:
    """Change what ``wanted`` names of role, purpose and ends_at. Raises NotFound, PreconditionFailed, LastOwnerStays."""
    project = await _as_owner(uow, project_id)
    domain.demand_active(project)
    member = await repository.membership(uow.session, project_id, user_id, lock=True)
    if member is None or not domain.is_held(member, uow.now):
        raise NotFound
    expect(version, member.version)
    role = wanted.get("role") or member.role
    purpose = wanted.get("purpose")
    ends_at = wanted.get("ends_at", member.ends_at)
    others = await repository.others(uow.session, project_id, user_id)
    changed = domain.change(
        member,
        Role(str(role)),
        purpose if isinstance(purpose, str) else member.purpose,
        ends_at if isinstance(ends_at, datetime) else None,
        others,
        uow.now,
    )
    if changed:
        await _tell(uow, member)
    return member


async def remove_member(uow: UnitOfWork, project_id: UUID, user_id: UUID) -> None:
    """Take somebody's role away. Raises NotFound, LastOwnerStays."""
    await _as_owner(uow, project_id)
    member = await repository.membership(uow.session, project_id, user_id, lock=True)
    others = await repository.others(uow.session, project_id, user_id)
    await _tell(uow, domain.leave(member, others, uow.now))


async def end_memberships(uow: UnitOfWork) -> int:
    """Say the end of memberships whose time has come, at most 500; how many."""
    ended = await repository.ended(uow.session, EXPIRY_BATCH)
    for member in ended:
        uow.emit(domain.membership_fact(domain.end(member)))
    return len(ended)


async def know_person(uow: UnitOfWork, user: events.User) -> None:
    """Remember somebody as auth names them now."""
    known = await repository.person_by_id(uow.session, user.user_id)
    if known is None:
        uow.session.add(Person(user_id=user.user_id, username=user.username, status=user.status.value))
        return
    known.username = user.username
    known.status = user.status.value


async def forget_person(uow: UnitOfWork, user_id: UUID) -> None:
    """Forget somebody whom auth has erased."""
    known = await repository.person_by_id(uow.session, user_id)
    if known is not None:
        await uow.session.delete(known)


async def _as_owner(uow: UnitOfWork, project_id: UUID) -> Project:
    """The project, locked, for a caller whose own row says Data Owner now: the identity header may be a moment old."""
    project = await repository.project(uow.session, project_id, lock=True)
    if project is None:
        raise NotFound
    domain.demand_owner(await repository.membership(uow.session, project_id, _caller(uow)), uow.now)
    return project


async def _tell(uow: UnitOfWork, member: Membership) -> None:
    uow.emit(domain.membership_fact(member))
    uow.note(project_id=member.project_id, user_id=member.user_id, role=member.role or "none", version=member.version)
    await repository.wake(uow.session)
