"""Groups' roles in projects, and the memberships that follow from them."""

from collections.abc import Collection, Sequence
from datetime import datetime
from uuid import UUID

from chassis.errors import NotFound
from chassis.outbox import UnitOfWork
from contracts.roles import Role
from services.projects import domain, repository
from services.projects.domain.activity import Deed
from services.projects.models import GroupRole, Membership, Person, Project
from services.projects.service import activity, callers


async def give(uow: UnitOfWork, project_id: UUID, group: str, role: Role, purpose: str, ends_at: datetime | None) -> GroupRole:
    """Give everybody in a group a role.

    Raises FactorTooOld, RaisesYourself, OwnersByGroupMakeNone, LongerThanYours, GroupHasARole, EndsBeforeItBegins.
    """
    await repository.group_roles.lock(uow.session)
    project, giver = await callers.owner(uow, project_id)
    person = await repository.projects.person_by_id(uow.session, giver.user_id)
    domain.bounds.demand_no_more_by_group(giver, person.groups if person else (), group, role, ends_at)
    domain.bounds.demand_within_own_time(giver, role, ends_at, None)
    before = await repository.group_roles.of_group(uow.session, project_id, group)
    domain.projects.demand_fresh_factor_for(role, ends_at, None, fresh=uow.actor.factor_fresh)
    given = domain.group_roles.give(uow.new_id(), project, before, group, role, purpose, ends_at, uow.now)
    if before is not None:
        await repository.group_roles.remove(uow.session, project_id, before.group_role_id)
    uow.session.add(given)
    await uow.session.flush()
    moved = await _follow(uow, project, await repository.group_roles.people_in(uow.session, group))
    activity.write(uow, project_id, Deed.GROUP_ROLE_GIVEN, group=group, role=role.value, members=str(len(moved)))
    uow.note(project_id=project_id, group_role_id=given.group_role_id, group=group, role=role.value, members=len(uow.facts))
    return given


async def list_given(uow: UnitOfWork, project_id: UUID, after: UUID | None, limit: int) -> list[GroupRole]:
    """Which groups have a role in the project. Raises NotFound."""
    domain.projects.role_of(await repository.projects.membership(uow.session, project_id, callers.caller(uow)), uow.now)
    return await repository.group_roles.page(uow.session, project_id, after, limit, uow.now)


async def remove(uow: UnitOfWork, project_id: UUID, group_role_id: UUID) -> None:
    """Take a group's role away, and with it the memberships that came by it. Raises NotFound, FactorTooOld."""
    await repository.group_roles.lock(uow.session)
    project = await callers.as_owner(uow, project_id)
    given = await repository.group_roles.group_role(uow.session, project_id, group_role_id)
    if given is None:
        raise NotFound
    domain.projects.demand_fresh_factor_for(None, None, given, fresh=uow.actor.factor_fresh)
    await repository.group_roles.remove(uow.session, project_id, group_role_id)
    moved = await _follow(uow, project, await repository.group_roles.people_in(uow.session, given.group_name))
    activity.write(uow, project_id, Deed.GROUP_ROLE_REMOVED, group=given.group_name, role=given.role, members=str(len(moved)))
    uow.note(project_id=project_id, group_role_id=group_role_id, group=given.group_name, members=len(uow.facts))


async def follow_person(uow: UnitOfWork, person: Person, groups: Collection[str]) -> None:
    """Give and take what follows from a change of somebody's groups; ``groups`` are those of before and those of now."""
    await repository.group_roles.lock(uow.session)
    for project in await repository.group_roles.projects_of_groups(uow.session, groups):
        inside = uow.inside(project.project_id)
        for member in await _follow(inside, project, [person]):
            write_followed(inside, member)


async def follow_project(uow: UnitOfWork, project: Project) -> None:
    """Let in who is in the groups of a project that takes changes again; the caller has the lock of the groups."""
    for member in await _follow(uow, project, await repository.group_roles.people_of_project(uow.session, project.project_id)):
        write_followed(uow, member)


def write_followed(uow: UnitOfWork, member: Membership) -> None:
    """Tell in the feed what somebody is by their groups now."""
    subject, said = domain.activity.of_member(member), domain.activity.standing(member)
    activity.write(uow, member.project_id, Deed.MEMBER_FOLLOWED, subject, **said)


async def _follow(uow: UnitOfWork, project: Project, people: Sequence[Person]) -> list[Membership]:
    """The memberships that changed because of what these people's groups are now."""
    given = await repository.group_roles.in_project(uow.session, project.project_id)
    known = await repository.group_roles.memberships_of(uow.session, project.project_id, [person.user_id for person in people])
    moved = []
    for person in people:
        best = domain.group_roles.strongest(given, person.groups, uow.now)
        member = domain.group_roles.follow(known.get(person.user_id), project, person, best, uow.now)
        if member is not None:
            uow.session.add(member)
            uow.emit(domain.projects.membership_fact(member))
            moved.append(member)
    if moved:
        await repository.projects.wake(uow.session)
    return moved


async def by_group(uow: UnitOfWork, ending: Membership, at: datetime) -> GroupRole | None:
    """The role that remains to somebody by their groups when their own membership ends at an instant."""
    person = await repository.projects.person_by_id(uow.session, ending.user_id)
    given = await repository.group_roles.in_project(uow.session, ending.project_id)
    project = await repository.projects.project(uow.session, ending.project_id)
    if person is None or project is None:
        return None
    return domain.group_roles.remaining(ending, project, given, person.groups, at)
