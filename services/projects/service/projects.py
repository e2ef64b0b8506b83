"""Projects, their members, and the people who can be members."""

from datetime import datetime
from uuid import UUID

from chassis.errors import NotFound
from chassis.guard import expect
from chassis.log import logger
from chassis.outbox import UnitOfWork
from contracts import events
from contracts.events import UserStatus
from contracts.roles import ClusterRole, Role
from services.projects import domain, repository
from services.projects.domain.activity import Deed
from services.projects.domain.lifecycle import Founders
from services.projects.models import GroupRole, Membership, Person, Project
from services.projects.service import activity, callers, group_roles, invitations
from services.projects.settings import ProjectsSettings

log = logger(__name__)
EXPIRY_BATCH = 500


async def create(
    uow: UnitOfWork,
    founders: Founders,
    *,
    name: str,
    description: str,
    purpose: str,
    legal_basis: str,
    ethics_approval_id: str,
    ends_at: datetime | None,
) -> tuple[Project, Role]:
    """Found a project; the caller becomes its Data Owner. Raises CreatingIsNotOpen, BadProjectName, EndsInThePast, NameTaken."""
    caller = callers.caller(uow)
    domain.lifecycle.may_create(founders, uow.actor, await repository.projects.person_by_id(uow.session, caller))
    project, creator = domain.projects.found(
        uow.new_id(),
        name,
        description,
        purpose,
        caller,
        uow.actor.username or "",
        uow.now,
        legal_basis=legal_basis,
        ethics_approval_id=ethics_approval_id,
        ends_at=ends_at,
    )
    if await repository.projects.name_is_taken(uow.session, domain.projects.check_name(name)):
        raise domain.projects.NameTaken
    uow.session.add(project)
    await uow.session.flush()
    uow.session.add(creator)
    uow.emit(domain.projects.project_fact(project))
    uow.emit(domain.projects.membership_fact(creator))
    activity.write(uow, project.project_id, Deed.PROJECT_CREATED)
    uow.project_id = project.project_id
    uow.note(project_id=project.project_id)
    await repository.projects.wake(uow.session)
    return project, Role.DATA_OWNER


async def read(uow: UnitOfWork, project_id: UUID) -> tuple[Project, Role]:
    """A project and the caller's role in it. Raises NotFound."""
    role = domain.projects.role_of(await repository.projects.membership(uow.session, project_id, callers.caller(uow)), uow.now)
    project = await repository.projects.project(uow.session, project_id)
    if project is None:
        raise NotFound
    return project, role


async def list_own(uow: UnitOfWork, after: UUID | None, limit: int) -> list[tuple[Project, Membership]]:
    """The caller's projects, oldest first: what the gateway knows of and the own rows confirm."""
    return await repository.projects.projects_of(uow.session, callers.caller(uow), list(uow.actor.projects), after, limit, uow.now)


async def add_member(
    uow: UnitOfWork,
    settings: ProjectsSettings,
    project_id: UUID,
    username: str,
    role: Role,
    purpose: str,
    starts_at: datetime | None,
    ends_at: datetime | None,
) -> Membership:
    """Give somebody a role.

    Raises FactorTooOld, OnlyByInvitation, BeginsLater, RaisesYourself, OwnersByGroupMakeNone, LongerThanYours, NoSuchPerson,
    AlreadyAMember, EndsBeforeItBegins.
    """
    project, giver = await callers.owner(uow, project_id)
    if not settings.direct_add:
        raise domain.projects.OnlyByInvitation
    domain.invitations.demand_at_once(starts_at, uow.now)
    person = domain.projects.demand_person(await repository.projects.person(uow.session, username))
    domain.bounds.demand_somebody_else(giver.user_id, person.user_id)
    domain.bounds.demand_within_own_time(giver, role, ends_at, None)
    before = await repository.projects.membership(uow.session, project_id, person.user_id, lock=True)
    domain.projects.demand_fresh_factor_for(role, ends_at, None, fresh=uow.actor.factor_fresh)
    if before is not None and domain.projects.is_held(before, uow.now):
        domain.projects.demand_fresh_factor_for(None, None, before, fresh=uow.actor.factor_fresh)
    member = domain.projects.join(project, person, before, role, purpose, starts_at, ends_at, uow.now)
    uow.session.add(member)
    await invitations.end_of_member(uow, project_id, person.user_id)
    await _tell(uow, member, Deed.MEMBER_ADDED)
    return member


async def list_members(uow: UnitOfWork, project_id: UUID, after: UUID | None, limit: int) -> list[Membership]:
    """Who has a role in the project, now or later. Raises NotFound."""
    domain.projects.role_of(await repository.projects.membership(uow.session, project_id, callers.caller(uow)), uow.now)
    return await repository.projects.members(uow.session, project_id, after, limit, uow.now)


async def change_member(uow: UnitOfWork, project_id: UUID, user_id: UUID, version: int, wanted: dict[str, object]) -> Membership:
    """Change what ``wanted`` names of role, purpose and ends_at.

    Raises NotFound, PreconditionFailed, FactorTooOld, RaisesYourself, OwnersByGroupMakeNone, LongerThanYours, RoleComesByGroup,
    RoleIsBreakGlass, LastOwnerStays.
    """
    project, giver = await callers.owner(uow, project_id)
    domain.projects.demand_active(project)
    member = await repository.projects.membership(uow.session, project_id, user_id, lock=True)
    if member is None or not domain.projects.is_held(member, uow.now):
        raise NotFound
    expect(version, member.version)
    role = Role(str(wanted.get("role") or member.role))
    purpose = wanted.get("purpose")
    asked = wanted.get("ends_at", member.ends_at)
    ends_at = asked if isinstance(asked, datetime) else None
    if user_id == giver.user_id:
        domain.bounds.demand_no_more(member, role, ends_at)
    domain.bounds.demand_within_own_time(giver, role, ends_at, member)
    domain.projects.demand_fresh_factor_for(role, ends_at, member, fresh=uow.actor.factor_fresh)
    if ends_at is not None and domain.bounds.lasts_longer(member.ends_at, ends_at):
        _demand_remaining(uow, giver, member, await group_roles.by_group(uow, member, ends_at))
    others = await repository.projects.others(uow.session, project_id, user_id)
    if domain.projects.change(member, role, purpose if isinstance(purpose, str) else member.purpose, ends_at, others, uow.now):
        await _tell(uow, member, Deed.MEMBER_CHANGED)
    return member


async def remove_member(uow: UnitOfWork, project_id: UUID, user_id: UUID) -> Membership | None:
    """Take somebody's own role away; their membership where a group's role takes its place.

    Raises NotFound, FactorTooOld, OwnersByGroupMakeNone, LongerThanYours, RoleComesByGroup, LastOwnerStays.
    """
    _, giver = await callers.owner(uow, project_id)
    return await _end_own_role(uow, giver, user_id, Deed.MEMBER_REMOVED)


async def leave(uow: UnitOfWork, project_id: UUID) -> Membership | None:
    """Give one's own role up; the membership where a group's role takes its place.

    Raises NotFound, FactorTooOld, RaisesYourself, RoleComesByGroup, LastOwnerStays.
    """
    await repository.projects.project(uow.session, project_id, lock=True)
    own = await repository.projects.membership(uow.session, project_id, callers.caller(uow))
    if own is None or not domain.projects.counts(own, uow.now):
        raise NotFound
    return await _end_own_role(uow, own, own.user_id, Deed.MEMBER_LEFT)


async def _end_own_role(uow: UnitOfWork, giver: Membership, user_id: UUID, deed: Deed) -> Membership | None:
    """End the own role of somebody in the project of ``giver``, the caller's row."""
    project_id = giver.project_id
    member = await repository.projects.membership(uow.session, project_id, user_id, lock=True)
    others = await repository.projects.others(uow.session, project_id, user_id)
    by_group = None if member is None else await group_roles.by_group(uow, member, uow.now)
    if member is not None and domain.projects.is_held(member, uow.now):
        domain.projects.demand_fresh_factor_for(None, None, member, fresh=uow.actor.factor_fresh)
        if user_id == giver.user_id:
            domain.bounds.demand_leaving_lessens(member, by_group)
        _demand_remaining(uow, giver, member, by_group)
    left = domain.projects.leave(member, others, by_group, uow.now)
    await invitations.end_of_member(uow, project_id, user_id)
    await _tell(uow, left, deed)
    return left if by_group is not None else None


def _demand_remaining(uow: UnitOfWork, giver: Membership, member: Membership, by_group: GroupRole | None) -> None:
    """Whoever makes somebody a Data Owner by ending the role that kept them from being one ``by_group`` is asked what makers of owners are."""
    if by_group is not None and member.role != Role.DATA_OWNER:
        domain.projects.demand_fresh_factor_for(Role(by_group.role), by_group.ends_at, None, fresh=uow.actor.factor_fresh)
        domain.bounds.demand_within_own_time(giver, Role(by_group.role), by_group.ends_at, None)


async def end_memberships(uow: UnitOfWork) -> int:
    """Say the end of memberships whose time has come, or the group's role that remains then, at most 500; how many."""
    ended = await repository.projects.ended(uow.session, EXPIRY_BATCH)
    for member in ended:
        at = max(uow.now, member.ends_at or uow.now)
        by_group = await group_roles.by_group(uow, member, at)
        _end_inside(uow, member, by_group, Deed.MEMBER_EXPIRED, at)
    return len(ended)


async def know_person(uow: UnitOfWork, user: events.User) -> None:
    """Remember somebody as auth names them now, and let their memberships follow their groups.

    Who is deactivated, or was since they were last heard of, leaves all projects; who is no administrator leaves those that they opened as one.
    """
    known = await repository.projects.person_by_id(uow.session, user.user_id, lock=True)
    before = set(known.groups) if known is not None else set()
    if known is not None and known.status != user.status:
        await repository.projects.wake(uow.session)
    left = user.status is UserStatus.DEACTIVATED
    if known is not None:
        left = left or known.status == UserStatus.DEACTIVATED or known.departures != user.departures
    if known is None:
        known = Person(user_id=user.user_id, username=user.username, status=user.status.value)
        uow.session.add(known)
    known.username = user.username
    known.status = user.status.value
    known.departures = user.departures
    known.administrator = ClusterRole.ADMINISTRATOR in user.cluster_roles
    groups = frozenset() if user.status is UserStatus.DEACTIVATED else user.groups
    if left:
        await _leave_all(uow, known)
    elif not known.administrator:
        await _leave_opened(uow, known)
    if left or before != groups:
        known.groups = sorted(groups)
        await group_roles.follow_person(uow, known, before | groups)


async def _leave_all(uow: UnitOfWork, person: Person) -> None:
    """End what a person who left is in every project, also as its last Data Owner: who comes back under their name is somebody new.

    It is done once more when they come back, for whoever was made a member while their leaving was on its way.
    """
    await repository.group_roles.lock(uow.session)
    ended = False
    for project in await repository.projects.projects_with(uow.session, person.user_id):
        member = await repository.projects.membership(uow.session, project.project_id, person.user_id, lock=True)
        if member is None or member.role is None:
            continue
        owned = domain.projects.is_lasting_owner(member, uow.now)
        _end_inside(uow, member, None, Deed.MEMBER_GONE)
        ended = True
        others = await repository.projects.others(uow.session, project.project_id, person.user_id)
        if owned and not domain.projects.has_owner(others, uow.now):
            log.warning("the last Data Owner of a project has left", project_id=str(project.project_id), user_id=str(person.user_id))
    await invitations.end_of_person(uow, person)
    if ended:
        await repository.projects.wake(uow.session)


async def _leave_opened(uow: UnitOfWork, person: Person) -> None:
    """End what a person opened by break-glass: only administrators are members that way. The timer says that each break-glass is over."""
    if not await repository.projects.opened_by(uow.session, person.user_id):
        return
    await repository.group_roles.lock(uow.session)
    for opened in await repository.projects.opened_by(uow.session, person.user_id, lock=True):
        _end_inside(uow, opened, await group_roles.by_group(uow, opened, uow.now), Deed.MEMBER_REMOVED)
    await repository.projects.wake(uow.session)


async def forget_person(uow: UnitOfWork, user_id: UUID) -> None:
    """Forget somebody whom auth has erased; they leave every project."""
    known = await repository.projects.person_by_id(uow.session, user_id)
    if known is not None:
        await _leave_all(uow, known)
        await uow.session.delete(known)


async def _tell(uow: UnitOfWork, member: Membership, deed: Deed) -> None:
    uow.emit(domain.projects.membership_fact(member))
    _write(uow, member, deed)
    by_group = {"by_group": member.by_group} if member.by_group else {}
    uow.note(project_id=member.project_id, user_id=member.user_id, role=member.role or "none", version=member.version, **by_group)
    await repository.projects.wake(uow.session)


def _end_inside(uow: UnitOfWork, member: Membership, by_group: GroupRole | None, deed: Deed, at: datetime | None = None) -> None:
    """End a membership, in the records of its project."""
    inside = uow.inside(member.project_id)
    inside.emit(domain.projects.membership_fact(domain.projects.end(member, by_group, at or uow.now)))
    _write(inside, member, deed)


def _write(uow: UnitOfWork, member: Membership, deed: Deed) -> None:
    activity.write(uow, member.project_id, deed, domain.activity.of_member(member), **domain.activity.standing(member))
