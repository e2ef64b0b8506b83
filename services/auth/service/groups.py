"""Groups: what they are, who is in them, and what follows for their people, in one transaction each."""

import json
from collections.abc import Collection
from uuid import UUID

from chassis.errors import NotFound
from chassis.guard import expect
from chassis.log import logger
from chassis.outbox import UnitOfWork
from contracts.events import UserStatus
from contracts.roles import ClusterRole
from services.auth import domain, repository
from services.auth.models import Group, User

log = logger(__name__)


async def create(uow: UnitOfWork, name: str, policy: str | None, roles: frozenset[ClusterRole], external: frozenset[str]) -> Group:
    """A new group. Raises GroupNameTaken."""
    await repository.groups.lock(uow.session)
    if await repository.groups.name_is_taken(uow.session, name):
        raise domain.groups.GroupNameTaken
    group = domain.groups.create(uow.new_id(), name, policy, roles, external, uow.now)
    uow.session.add(group)
    uow.note(group_id=group.group_id, group=name, cluster_roles=" ".join(group.cluster_roles), external=_listed(group.external))
    return group


async def list_groups(uow: UnitOfWork, after: UUID | None, limit: int) -> list[Group]:
    """All groups."""
    return await repository.groups.page(uow.session, after, limit)


async def change(uow: UnitOfWork, group_id: UUID, version: int, wanted: dict[str, object]) -> Group:
    """Change what ``wanted`` names of factor_policy, cluster_roles and external.

    Whom a directory put in by a name that is taken away is out at once, with everybody else whom it put in; who still belongs
    there comes back with the next sync or sign-in. Raises NotFound, PreconditionFailed, LastAdministratorStays.
    """
    group = await _locked(uow, group_id)
    expect(version, group.version)
    policy = wanted.get("factor_policy", group.factor_policy)
    roles = [str(role) for role in _many(wanted.get("cluster_roles", group.cluster_roles))]
    external = [domain.groups.compared(str(name)) for name in _many(wanted.get("external", group.external))]
    people, administrators = await repository.groups.lock_people(uow.session, await repository.groups.member_ids(uow.session, group_id))
    before = group.external
    lost = set(before) - set(external)
    if not domain.groups.change(group, str(policy) if policy else None, roles, external):
        return group
    if lost:
        await repository.groups.take_out(uow.session, group_id, by_directory=True)
    await _follow(uow, people, administrators)
    uow.note(group_id=group_id, group=group.name, cluster_roles=" ".join(group.cluster_roles), members=len(uow.facts))
    if before != group.external:
        uow.note(external_before=_listed(before), external=_listed(group.external))
    return group


async def remove(uow: UnitOfWork, group_id: UUID) -> None:
    """Remove a group and what followed from it. Raises NotFound, LastAdministratorStays."""
    group = await _locked(uow, group_id)
    people, administrators = await repository.groups.lock_people(uow.session, await repository.groups.member_ids(uow.session, group_id))
    await repository.groups.remove(uow.session, group, uow.now)
    await _follow(uow, people, administrators)
    uow.note(group_id=group_id, group=group.name, external_before=_listed(group.external), members=len(uow.facts))


async def list_members(uow: UnitOfWork, group_id: UUID, after: UUID | None, limit: int) -> list[domain.groups.Membership]:
    """Who is in a group. Raises NotFound."""
    if await repository.groups.group(uow.session, group_id) is None:
        raise NotFound
    return [domain.groups.Membership(*row) for row in await repository.groups.members(uow.session, group_id, after, limit)]


async def add_member(uow: UnitOfWork, group_id: UUID, user_id: UUID) -> None:
    """Put somebody into a group; who is in it already stays. Raises NotFound, HasLeft, TooManyMembers."""
    group = await _locked(uow, group_id)
    people, administrators = await repository.groups.lock_people(uow.session, [user_id])
    if user_id not in people:
        raise NotFound
    if people[user_id].status == UserStatus.DEACTIVATED:
        raise domain.status.HasLeft
    there = await repository.groups.member_ids(uow.session, group_id)
    if user_id not in there:
        domain.groups.demand_room(len(there))
    await repository.groups.put_in(uow.session, group_id, user_id, by_directory=False)
    await _follow(uow, people, administrators)
    uow.note(group_id=group_id, group=group.name, user_id=user_id)


async def remove_member(uow: UnitOfWork, group_id: UUID, user_id: UUID) -> None:
    """Take somebody out whom an administrator put in. Raises NotFound, MemberByDirectory, LastAdministratorStays."""
    group = await _locked(uow, group_id)
    standing = await repository.groups.standing(uow.session, group_id, user_id)
    if not standing:
        raise NotFound
    if standing == {True}:
        raise domain.groups.MemberByDirectory
    people, administrators = await repository.groups.lock_people(uow.session, [user_id])
    await repository.groups.take_out(uow.session, group_id, user_id, by_directory=False)
    await _follow(uow, people, administrators)
    uow.note(group_id=group_id, group=group.name, user_id=user_id)


async def lock_one(uow: UnitOfWork, user_id: UUID) -> User | None:
    """Lock groups and an account, in the order of all changes of groups."""
    await repository.groups.lock(uow.session)
    people, _ = await repository.groups.lock_people(uow.session, [user_id])
    return people.get(user_id)


async def set_from_directory(uow: UnitOfWork, user: User, external: Collection[str]) -> None:
    """Let somebody be in those groups that a directory or an identity provider names, and in no other by its word.

    Where that changes nothing, nothing is locked; else the groups are locked before the account, so whoever calls this holds no
    account yet, or came by ``lock_one``. A group that is full takes nobody, and whom an administrator deactivated meanwhile is put into
    none. The last administrator stays in the groups that make them one, and leaves the others.
    """
    names = {domain.groups.compared(name) for name in external}
    if await repository.groups.called(uow.session, names) == await repository.groups.by_directory(uow.session, user.user_id):
        return
    await uow.session.flush()
    await repository.groups.lock(uow.session)
    people, administrators = await repository.groups.lock_people(uow.session, [user.user_id])
    locked = people[user.user_id]
    if domain.directory.stays_out(locked):
        return
    wanted = await repository.groups.called(uow.session, names)
    has = await repository.groups.by_directory(uow.session, user.user_id)
    taking = {each for each in wanted - has if len(await repository.groups.member_ids(uow.session, each)) < domain.groups.MOST_MEMBERS}
    ahead = await repository.groups.groups_with(uow.session, user.user_id, (has & wanted) | taking)
    losing = await repository.groups.groups_with(uow.session, user.user_id, has - wanted)
    staying = domain.groups.staying(locked, losing, ahead, administrators)
    if staying:
        log.error("nobody names the last administrator's role any more; it stays", user_id=str(user.user_id))
    leaving = has - wanted - staying
    if not (leaving or taking):
        return
    for group_id in leaving:
        await repository.groups.take_out(uow.session, group_id, user.user_id, by_directory=True)
    for group_id in taking:
        await repository.groups.put_in(uow.session, group_id, user.user_id, by_directory=True)
    await _follow(uow, people, administrators)
    uow.note(user_id=user.user_id, groups=" ".join(locked.groups))


async def _locked(uow: UnitOfWork, group_id: UUID) -> Group:
    await repository.groups.lock(uow.session)
    group = await repository.groups.group(uow.session, group_id)
    if group is None:
        raise NotFound
    return group


async def _follow(uow: UnitOfWork, people: dict[UUID, User], administrators: Collection[UUID]) -> None:
    """Let locked accounts follow their groups, and tell of those that changed. Raises LastAdministratorStays."""
    await uow.session.flush()
    groups = await repository.groups.groups_of(uow.session, people)
    vouched = await repository.groups.vouched_names(uow.session, people)
    for user in people.values():
        if domain.groups.follow(user, groups[user.user_id], vouched[user.user_id]):
            uow.emit(domain.accounts.user_fact(user))
    domain.accounts.demand_administrator_stays(administrators, domain.groups.no_longer_administer(administrators, people.values()))


def _listed(names: Collection[str]) -> str:
    """Names in directories, for the audit record."""
    return json.dumps(sorted(names), ensure_ascii=False)


def _many(value: object) -> Collection[object]:
    return value if isinstance(value, (list, set, frozenset)) else ()
