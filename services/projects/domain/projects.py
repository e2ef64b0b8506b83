"""The rules of projects and memberships: pure, with the time and the ids passed in."""

import re
from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from chassis.errors import Conflict, FactorTooOld, Forbidden, NotFound, Unprocessable
from contracts import events, roles
from contracts.events import ProjectState
from contracts.roles import Role
from services.projects.models import GroupRole, Membership, Person, Project

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_]{0,22}[A-Za-z0-9]")
FORBIDDEN_IN_NAMES = ("__", "_featurestore")
MAY_JOIN = frozenset({events.UserStatus.INVITED, events.UserStatus.ACTIVE})


class BadProjectName(Unprocessable):
    """The name breaks a rule."""

    title = "This is no name for a project"


class NameTaken(Conflict):
    """Another project has the name, ignoring case."""

    title = "Another project has this name"


class ProjectNotActive(Conflict):
    """The project is archived or being deleted."""

    title = "The project is archived or being deleted: it takes no changes"


class EndsInThePast(Unprocessable):
    """A project's end date lies ahead."""

    title = "A project ends in the future"


class RoleMayNot(Forbidden):
    """The caller is a member, and no Data Owner."""

    title = "Your role does not allow this"


class NoSuchPerson(Unprocessable):
    """The username is not known, or its account is blocked."""

    title = "There is nobody with this username"


class AlreadyAMember(Conflict):
    """The person has a role already: change it instead."""

    title = "This person is a member already"


class OnlyByInvitation(Forbidden):
    """The installation makes nobody a member without their acceptance."""

    title = "Here people are invited, and become members when they accept"


class LastOwnerStays(Conflict):
    """LAST_OWNER_STAYS: the change would leave the project without a lasting Data Owner."""

    title = "A project keeps at least one Data Owner without an end date"


class RoleComesByGroup(Conflict):
    """The membership follows a group; only the group, or the group's role, changes it."""

    title = "This role comes by a group: take the person out of the group, or the group's role away, or add the person themselves"


class RoleIsBreakGlass(Conflict):
    """The membership was opened in an emergency: it ends by itself, and nobody makes more of it."""

    title = "This membership is break-glass: it can be taken away, and not changed"


class IsThereAlready(Conflict):
    """Somebody who is there by a group now would be out until their own role begins."""

    title = "This person is a member by a group now: a role of their own begins at once"


class EndsBeforeItBegins(Unprocessable):
    """The end does not lie after the beginning and after now."""

    title = "A membership ends after it begins, and in the future"


def check_name(name: str) -> str:
    """The form of a project's name in which it is unique.

    2 to 24 letters, digits and underscores of ASCII, the first and the last no underscore, not digits alone; ``__`` is kept
    free so that ``project__username`` can be split in one way only. Raises BadProjectName.
    """
    key = name.lower()
    if not NAME.fullmatch(name):
        raise BadProjectName("2 to 24 letters, digits and underscores, beginning and ending with a letter or digit.")
    if name.isdigit():
        raise BadProjectName("Digits alone are no name.")
    for part in FORBIDDEN_IN_NAMES:
        if part in key:
            raise BadProjectName(f"A name does not contain {part!r}.")
    return key


def found(
    project_id: UUID,
    name: str,
    description: str,
    purpose: str,
    user_id: UUID,
    username: str,
    now: datetime,
    *,
    legal_basis: str = "",
    ethics_approval_id: str = "",
    ends_at: datetime | None = None,
) -> tuple[Project, Membership]:
    """A new project and its creator's membership as Data Owner. Raises BadProjectName, EndsInThePast."""
    if ends_at is not None and ends_at <= now:
        raise EndsInThePast
    project = Project(
        project_id=project_id,
        name=name,
        name_key=check_name(name),
        description=description,
        purpose=purpose,
        legal_basis=legal_basis,
        ethics_approval_id=ethics_approval_id,
        ends_at=ends_at,
        state=ProjectState.ACTIVE.value,
        version=1,
        created_at=now,
    )
    creator = Membership(
        project_id=project_id,
        user_id=user_id,
        username=username,
        role=Role.DATA_OWNER.value,
        purpose=purpose,
        starts_at=now,
        ends_at=None,
        version=1,
    )
    return project, creator


def demand_active(project: Project) -> None:
    """Refuse changes in a project that is archived or being deleted. Raises ProjectNotActive."""
    if project.state != ProjectState.ACTIVE:
        raise ProjectNotActive


def counts(membership: Membership, now: datetime) -> bool:
    """Whether the membership gives its role at this instant."""
    return roles.counts(membership.role, membership.starts_at, membership.ends_at, now)


def is_held(membership: Membership, now: datetime) -> bool:
    """Whether the membership counts now or will."""
    return membership.role is not None and (membership.ends_at is None or membership.ends_at > now)


def role_of(membership: Membership | None, now: datetime) -> Role:
    """The role that a caller has now. Raises NotFound: who is no member does not learn that the project exists."""
    if membership is None or membership.role is None or not counts(membership, now):
        raise NotFound
    return Role(membership.role)


def demand_owner(membership: Membership | None, now: datetime) -> Membership:
    """The row of somebody who is Data Owner at this instant. Raises NotFound or RoleMayNot."""
    if role_of(membership, now) is not Role.DATA_OWNER or membership is None:
        raise RoleMayNot
    return membership


def demand_person(person: Person | None) -> Person:
    """Who can be given a role: somebody known, invited or active. Raises NoSuchPerson."""
    if person is None or person.status not in MAY_JOIN:
        raise NoSuchPerson
    return person


def demand_fresh_factor_for(role: Role | None, ends_at: datetime | None, before: Membership | GroupRole | None, *, fresh: bool) -> None:
    """Condition.OWNERS_NEED_FRESH_FACTOR: whoever makes a Data Owner, or makes more or less of one, has a ``fresh`` second factor.

    ``before`` is what is there already; without a ``role`` it is taken away. Raises FactorTooOld.
    """
    same = before is not None and (before.role, before.ends_at) == (role, ends_at)
    about_an_owner = role is Role.DATA_OWNER or (before is not None and before.role == Role.DATA_OWNER)
    if about_an_owner and not same and not fresh:
        raise FactorTooOld


def join(
    project: Project,
    person: Person,
    before: Membership | None,
    role: Role,
    purpose: str,
    starts_at: datetime | None,
    ends_at: datetime | None,
    now: datetime,
) -> Membership:
    """The membership of somebody who comes, or comes back (``before``: their row); a past start is now.

    Somebody who is there by a group becomes a member themselves, at once. Raises AlreadyAMember, IsThereAlready, EndsBeforeItBegins.
    """
    demand_active(project)
    starts = max(starts_at or now, now)
    if ends_at is not None and ends_at <= starts:
        raise EndsBeforeItBegins
    if before is not None and is_held(before, now) and before.by_group is None:
        raise AlreadyAMember
    if before is not None and counts(before, now) and starts > now:
        raise IsThereAlready
    return become(project.project_id, person.user_id, person.username, before, role, purpose, starts, ends_at)


def become(
    project_id: UUID,
    user_id: UUID,
    username: str,
    before: Membership | None,
    role: Role,
    purpose: str,
    starts_at: datetime,
    ends_at: datetime | None,
    break_glass_id: UUID | None = None,
) -> Membership:
    """The membership of somebody who is made this themselves; ``before`` is their row, if they were ever there: one that counts goes on."""
    if before is None:
        return Membership(
            project_id=project_id,
            user_id=user_id,
            username=username,
            role=role.value,
            purpose=purpose,
            starts_at=starts_at,
            ends_at=ends_at,
            version=1,
            break_glass_id=break_glass_id,
        )
    before.starts_at = before.starts_at if counts(before, starts_at) else starts_at
    before.role = role.value
    before.purpose = purpose
    before.ends_at = ends_at
    before.by_group = None
    before.break_glass_id = break_glass_id
    before.version += 1
    return before


def change(
    membership: Membership,
    role: Role,
    purpose: str,
    ends_at: datetime | None,
    others: Iterable[tuple[Membership, Person | None]],
    now: datetime,
) -> bool:
    """Give a member these values; whether that changed anything.

    ``others`` are the project's other memberships, each with its person. Raises NotFound when the membership ended,
    RoleComesByGroup, RoleIsBreakGlass, EndsBeforeItBegins, LastOwnerStays.
    """
    if not is_held(membership, now):
        raise NotFound
    if membership.by_group is not None:
        raise RoleComesByGroup
    if membership.break_glass_id is not None:
        raise RoleIsBreakGlass
    if (membership.role, membership.purpose, membership.ends_at) == (role.value, purpose, ends_at):
        return False
    if ends_at != membership.ends_at and ends_at is not None and ends_at <= max(membership.starts_at, now):
        raise EndsBeforeItBegins
    if is_lasting_owner(membership, now) and (role is not Role.DATA_OWNER or ends_at is not None):
        demand_another_owner(others, now)
    membership.role = role.value
    membership.purpose = purpose
    membership.ends_at = ends_at
    membership.version += 1
    return True


def leave(
    membership: Membership | None, others: Iterable[tuple[Membership, Person | None]], by_group: GroupRole | None, now: datetime
) -> Membership:
    """Take a member's own role away; what remains is the role that they have ``by_group``, if any.

    Raises NotFound when they have none, RoleComesByGroup when they have no other, LastOwnerStays.
    """
    if membership is None or not is_held(membership, now):
        raise NotFound
    if membership.by_group is not None:
        raise RoleComesByGroup
    if is_lasting_owner(membership, now):
        demand_another_owner(others, now)
    return end(membership, by_group, now)


def end(membership: Membership, by_group: GroupRole | None, now: datetime) -> Membership:
    """The membership without its role, from now on, or with the one that the person has ``by_group``."""
    if by_group is not None:
        return take(membership, by_group, now)
    membership.role = None
    membership.by_group = None
    membership.break_glass_id = None
    membership.version += 1
    return membership


def take(membership: Membership, given: GroupRole, now: datetime) -> Membership:
    """The membership with a group's role."""
    if not counts(membership, now):
        membership.starts_at = now
    membership.role = given.role
    membership.purpose = given.purpose
    membership.ends_at = given.ends_at
    membership.by_group = given.group_name
    membership.break_glass_id = None
    membership.version += 1
    return membership


def is_lasting_owner(membership: Membership, now: datetime) -> bool:
    """Whether this is a Data Owner now, without an end; a role that comes by a group can go with the group at any time."""
    lasts = membership.ends_at is None and membership.by_group is None
    return membership.role == Role.DATA_OWNER and counts(membership, now) and lasts


def demand_another_owner(others: Iterable[tuple[Membership, Person | None]], now: datetime) -> None:
    """Condition.LAST_OWNER_STAYS: refuse unless another lasting Data Owner is there who can act. Raises LastOwnerStays."""
    if not has_owner(others, now):
        raise LastOwnerStays


def has_owner(memberships: Iterable[tuple[Membership, Person | None]], now: datetime) -> bool:
    """Whether one of these is a lasting Data Owner whose account is active, as far as auth has named it: who never came in owns nothing."""
    return any(
        is_lasting_owner(each, now) and (person is None or person.status == events.UserStatus.ACTIVE) for each, person in memberships
    )


def project_fact(project: Project) -> events.Project:
    """What a project is now, for others to hear."""
    return events.Project(
        version=project.version,
        project_id=project.project_id,
        name=project.name,
        description=project.description,
        state=ProjectState(project.state),
        ends_at=project.ends_at,
    )


def membership_fact(membership: Membership) -> events.Membership:
    """What a membership is now, for others to hear."""
    return events.Membership(
        version=membership.version,
        project_id=membership.project_id,
        user_id=membership.user_id,
        username=membership.username,
        role=Role(membership.role) if membership.role else None,
        purpose=membership.purpose,
        starts_at=membership.starts_at,
        ends_at=membership.ends_at,
    )
