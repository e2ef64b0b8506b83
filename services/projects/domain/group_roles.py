"""The rules of groups' roles in projects: who is a member by a group. Pure, with the time and the ids passed in."""

from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from uuid import UUID

from chassis.errors import Conflict
from contracts.events import ProjectState
from contracts.roles import Role
from services.projects.domain.projects import EndsBeforeItBegins, counts, demand_active, end, is_held, take
from services.projects.models import GroupRole, Membership, Person, Project

FOR_GOOD = datetime.max.replace(tzinfo=UTC)


class GroupHasARole(Conflict):
    """The group has a role in the project already."""

    title = "This group has a role already: take it away first"


def has_ended(given: GroupRole, now: datetime) -> bool:
    """Whether the time of a group's role is over."""
    return given.ends_at is not None and given.ends_at <= now


def give(
    group_role_id: UUID,
    project: Project,
    before: GroupRole | None,
    group: str,
    role: Role,
    purpose: str,
    ends_at: datetime | None,
    now: datetime,
) -> GroupRole:
    """A group's role in a project, from now on; ``before`` is the one it has or had. Raises GroupHasARole, EndsBeforeItBegins."""
    demand_active(project)
    if before is not None and not has_ended(before, now):
        raise GroupHasARole
    if ends_at is not None and ends_at <= now:
        raise EndsBeforeItBegins
    return GroupRole(
        group_role_id=group_role_id,
        project_id=project.project_id,
        group_name=group,
        role=role.value,
        purpose=purpose,
        ends_at=ends_at,
        created_at=now,
    )


def strongest(given: Iterable[GroupRole], groups: Collection[str], now: datetime) -> GroupRole | None:
    """The role that somebody in ``groups`` has by one of them: Data Owner before Data Scientist, then the one that lasts longer."""
    open_to_them = [each for each in given if each.group_name in groups and not has_ended(each, now)]
    strength = {Role.DATA_OWNER.value: 1, Role.DATA_SCIENTIST.value: 0}
    return max(open_to_them, key=lambda each: (strength[each.role], each.ends_at or FOR_GOOD, each.group_name), default=None)


def remaining(ending: Membership, project: Project, given: Iterable[GroupRole], groups: Collection[str], at: datetime) -> GroupRole | None:
    """The role that somebody in ``groups`` is left with when their own membership ends at an instant.

    A project that takes no changes lets nobody in by a group: there it is only for who was in by a role of their own, and neither for
    who looked in by break-glass nor for whose role begins later.
    """
    was_in = ending.break_glass_id is None and ending.starts_at <= at
    return strongest(given, groups, at) if was_in or project.state == ProjectState.ACTIVE else None


def follow(membership: Membership | None, project: Project, person: Person, best: GroupRole | None, now: datetime) -> Membership | None:
    """What a person's groups make of their membership: the row where that changes it, or None.

    Whoever was made a member themselves stays what they are; a role of their own that begins later gives way. A project that takes no
    changes lets nobody in by a group.
    """
    if membership is not None and membership.by_group is None and counts(membership, now):
        return None
    held = membership is not None and membership.by_group is not None and is_held(membership, now)
    if best is None:
        return end(membership, None, now) if membership is not None and held else None
    if not held and project.state != ProjectState.ACTIVE:
        return None
    if membership is None:
        return Membership(
            project_id=project.project_id,
            user_id=person.user_id,
            username=person.username,
            role=best.role,
            purpose=best.purpose,
            starts_at=now,
            ends_at=best.ends_at,
            version=1,
            by_group=best.group_name,
        )
    has = (membership.role, membership.purpose, membership.ends_at, membership.by_group)
    if held and has == (best.role, best.purpose, best.ends_at, best.group_name):
        return None
    return take(membership, best, now)
