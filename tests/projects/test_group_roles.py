"""Groups' roles in projects: memberships that come and go with a group."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uuid_utils.compat import uuid7

from contracts.events import Fact, Membership, UserStatus
from contracts.roles import NOBODY, Role
from services.projects import domain
from services.projects.app import keep_time
from services.projects.models import GroupRole, Person
from services.projects.models import Membership as Row
from services.projects.service import group_roles
from tests.projects.people import Study, found, user
from tests.world import OURS, World, Worlds, administrator, agent, person, reason, scientist, stranger

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


async def give(study: Study, group: str = "staff", role: str = "data_scientist", **more: Any) -> dict[str, Any]:
    answer = await study.world.post(f"{study.path}/group-roles", study.owner, json={"group": group, "role": role, **more})
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def memberships(world: World) -> list[tuple[UUID, str | None, int]]:
    return [(fact.user_id, fact.role, fact.version) for fact in await world.said() if isinstance(fact, Membership)]


def soon(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


# Who may


async def test_only_data_owners_give_and_remove_groups_roles_and_members_see_them(world: World) -> None:
    path = f"/projects/{OURS}/group-roles"
    body = {"group": "staff", "role": "data_scientist"}
    for actor, status in ((NOBODY, 401), (stranger(OURS), 404), (administrator(), 404), (agent(), 404), (scientist(OURS), 403)):
        assert (await world.post(path, actor, json=body)).status_code == status
        assert (await world.delete(f"{path}/{uuid7()}", actor)).status_code == status
    for actor, status in ((NOBODY, 401), (stranger(OURS), 404), (administrator(), 404), (agent(), 404)):
        assert (await world.get(path, actor)).status_code == status
    assert await world.said() == []


async def test_a_caller_whose_own_row_says_otherwise_gives_no_group_a_role(world: World) -> None:
    study = await found(world)
    bob = await study.add("bob00000")
    lied = study.as_owner(UUID(bob["user_id"]))
    answer = await world.post(f"{study.path}/group-roles", lied, json={"group": "staff", "role": "data_scientist"})
    assert answer.status_code == 403
    assert (await world.delete(f"{study.path}/group-roles/{uuid7()}", lied)).status_code == 403


@pytest.mark.parametrize("group", ["", "Staff", "-staff", "a b", "a" * 65, "cn=staff", "a\u0000b"])
async def test_what_is_no_name_of_a_group_is_refused(world: World, group: str) -> None:
    study = await found(world)
    answer = await world.post(f"{study.path}/group-roles", study.owner, json={"group": group, "role": "data_scientist"})
    assert answer.status_code == 422


async def test_who_makes_owners_has_shown_their_second_factor_a_moment_ago(world: World) -> None:
    study = await found(world)
    bob = await study.add("bob00000")
    await world.hear(user("eve00000"))
    stale = study.owner.model_copy(update={"factor_fresh": False})
    path, member = f"{study.path}/members", f"{study.path}/members/{bob['user_id']}"
    await world.said()
    for method, door, body in (
        ("POST", path, {"username": "eve00000", "role": "data_owner"}),
        ("PATCH", member, {"role": "data_owner"}),
        ("POST", f"{study.path}/group-roles", {"group": "staff", "role": "data_owner"}),
    ):
        answer = await world.request(method, door, stale, json=body, version=1)
        assert (answer.status_code, reason(answer)) == (401, "factor-too-old")
        assert 'error="insufficient_user_authentication"' in answer.headers["www-authenticate"]
    assert await world.said() == []
    for method, door, body in (
        ("POST", path, {"username": "eve00000", "role": "data_scientist"}),
        ("PATCH", member, {"purpose": "Checks"}),
        ("POST", f"{study.path}/group-roles", {"group": "staff", "role": "data_scientist"}),
    ):
        answer = await world.request(method, door, stale, json=body, version=1)
        assert answer.status_code in (200, 201), answer.text
    assert (await world.post("/projects", person(factor_fresh=False), json={"name": "other"})).status_code == 201


async def test_an_owners_end_is_put_off_with_a_fresh_factor_only(world: World) -> None:
    study = await found(world)
    bob = await study.add("bob00000", Role.DATA_OWNER, ends_at=soon(3600))
    stale = study.owner.model_copy(update={"factor_fresh": False})
    path = f"{study.path}/members/{bob['user_id']}"
    assert reason(await world.patch(path, stale, json={"ends_at": None}, version=1)) == "factor-too-old"
    assert (await world.patch(path, stale, json={"purpose": "Checks"}, version=1)).status_code == 200


async def test_an_owner_is_made_less_or_removed_with_a_fresh_factor_only(world: World) -> None:
    study = await found(world)
    bob, cyd = await study.add("bob00000", Role.DATA_OWNER), await study.add("cyd00000")
    given = await give(study, role="data_owner")
    stale = study.owner.model_copy(update={"factor_fresh": False})
    path = f"{study.path}/members/{bob['user_id']}"
    await world.said()
    for method, door, body in (
        ("PATCH", path, {"role": "data_scientist"}),
        ("PATCH", path, {"ends_at": soon(3600)}),
        ("DELETE", path, None),
        ("DELETE", f"{study.path}/group-roles/{given['group_role_id']}", None),
    ):
        answer = await world.request(method, door, stale, json=body, version=1)
        assert (answer.status_code, reason(answer)) == (401, "factor-too-old"), (method, door)
    assert await world.said() == []
    assert (await world.delete(f"{study.path}/members/{cyd['user_id']}", stale)).status_code == 204
    assert (await world.patch(path, study.owner, json={"role": "data_scientist"}, version=1)).status_code == 200
    assert (await world.delete(path, stale)).status_code == 204


# What follows


async def test_a_group_that_gets_a_role_brings_its_people(world: World) -> None:
    study = await found(world)
    bob, eve = uuid7(), uuid7()
    await world.hear(user("bob00000", bob, groups=["staff", "readers"]), user("eve00000", eve, groups=["readers"]))
    answer = await world.post(
        f"{study.path}/group-roles", study.owner, json={"group": "staff", "role": "data_scientist", "purpose": "Study 7"}
    )
    assert answer.status_code == 201
    given = answer.json()
    assert (given["group"], given["role"], given["purpose"], given["ends_at"]) == ("staff", "data_scientist", "Study 7", None)
    assert f"memberships:{study.project_id}%3A{bob}:1" in answer.headers["hortus-facts"]
    (fact,) = await world.said()
    assert isinstance(fact, Membership)
    assert (fact.user_id, fact.username, fact.role, fact.purpose) == (bob, "bob00000", Role.DATA_SCIENTIST, "Study 7")
    (record,) = [each for each in await world.recorded() if each["action"] == "group_role.give"]
    assert record["resource"]["group"] == "staff"
    members = (await world.get(f"{study.path}/members", study.owner)).json()["items"]
    assert {member["user_id"]: member["by_group"] for member in members} == {str(study.ada): None, str(bob): "staff"}
    assert (await world.get(f"{study.path}/group-roles", study.as_scientist(bob))).json()["items"] == [given]


async def test_who_comes_into_the_group_comes_into_the_project_and_who_leaves_it_is_out_at_once(world: World) -> None:
    study = await found(world)
    await give(study)
    bob = uuid7()
    await world.hear(user("bob00000", bob))
    await world.hear(user("bob00000", bob, groups=["staff"], version=2))
    assert await memberships(world) == [(bob, "data_scientist", 1)]
    assert (await world.get(study.path, study.as_scientist(bob))).status_code == 200
    await world.hear(user("bob00000", bob, version=3))
    assert await memberships(world) == [(bob, None, 2)]
    assert (await world.get(study.path, study.as_scientist(bob))).status_code == 404
    await world.hear(user("bob00000", bob, groups=["staff"], version=4))
    assert await memberships(world) == [(bob, "data_scientist", 3)]


async def test_a_fact_that_comes_twice_brings_nobody_twice(world: World) -> None:
    from services.projects.handlers import forget_person, know_person  # noqa: PLC0415 - beside the inbox, as after a sweep

    study = await found(world)
    await give(study)
    bob = uuid7()
    for _ in range(2):
        async with world.work() as uow:
            await know_person(user("bob00000", bob, groups=["staff"]), uow)
    assert await memberships(world) == [(bob, "data_scientist", 1)]
    for _ in range(2):
        async with world.work() as uow:
            await know_person(user("bob00000", bob, version=2), uow)
    assert await memberships(world) == [(bob, None, 2)]
    async with world.work() as uow:
        await know_person(user("bob00000", bob, groups=["staff"], version=3), uow)
    assert await memberships(world) == [(bob, "data_scientist", 3)]
    for _ in range(2):
        async with world.work() as uow:
            await forget_person(str(bob), uow)
    assert await memberships(world) == [(bob, None, 4)]


async def test_the_strongest_role_of_several_groups_wins(world: World) -> None:
    study = await found(world)
    await give(study, "staff")
    leads = await give(study, "leads", "data_owner")
    bob = uuid7()
    await world.hear(user("bob00000", bob, groups=["staff", "leads"]))
    assert await memberships(world) == [(bob, "data_owner", 1)]
    assert (await world.delete(f"{study.path}/group-roles/{leads['group_role_id']}", study.owner)).status_code == 204
    assert await memberships(world) == [(bob, "data_scientist", 2)]
    await world.hear(user("bob00000", bob, groups=["leads"], version=2))
    assert await memberships(world) == [(bob, None, 3)]


async def test_one_person_in_two_projects_by_one_group_leaves_both(world: World) -> None:
    first = await found(world)
    second = await found(world, "other", first.ada)
    bob = uuid7()
    await world.hear(user("bob00000", bob, groups=["staff"]))
    await give(first)
    await give(second)
    await world.said()
    await world.hear(user("bob00000", bob, version=2))
    assert [(user_id, role) for user_id, role, _ in await memberships(world)] == [(bob, None), (bob, None)]


async def test_who_was_made_a_member_themselves_stays_what_they_are(world: World) -> None:
    study = await found(world)
    bob = await study.add("bob00000", purpose="Mine")
    given = await give(study, role="data_owner")
    await world.said()
    await world.hear(user("bob00000", UUID(bob["user_id"]), groups=["staff"], version=2))
    await world.hear(user("bob00000", UUID(bob["user_id"]), version=3))
    assert (await world.delete(f"{study.path}/group-roles/{given['group_role_id']}", study.owner)).status_code == 204
    assert await memberships(world) == []
    row = await study.member(bob["user_id"])
    assert (row.role, row.purpose, row.by_group) == ("data_scientist", "Mine", None)


async def test_a_blocked_person_keeps_what_a_group_gave_and_loses_it_with_the_group(world: World) -> None:
    study = await found(world)
    await give(study)
    bob = uuid7()
    await world.hear(user("bob00000", bob, groups=["staff"]))
    await world.said()
    await world.hear(user("bob00000", bob, groups=["staff"], status=UserStatus.BLOCKED, version=2))
    assert await memberships(world) == []
    await world.hear(user("bob00000", bob, status=UserStatus.DEACTIVATED, version=4))
    assert await memberships(world) == [(bob, None, 2)]


async def test_a_role_by_a_group_is_not_taken_or_changed_by_hand(world: World) -> None:
    study = await found(world)
    await give(study)
    bob = uuid7()
    await world.hear(user("bob00000", bob, groups=["staff"]))
    path = f"{study.path}/members/{bob}"
    await world.said()
    for answer in (await world.delete(path, study.owner), await world.patch(path, study.owner, json={"role": "data_owner"}, version=1)):
        assert (answer.status_code, reason(answer)) == (409, "role-comes-by-group")
    assert await memberships(world) == []


async def test_somebody_by_a_group_can_be_made_a_member_themselves(world: World) -> None:
    study = await found(world)
    await give(study)
    bob = uuid7()
    await world.hear(user("bob00000", bob, groups=["staff"]))
    since = (await study.member(bob)).starts_at
    answer = await world.post(f"{study.path}/members", study.owner, json={"username": "bob00000", "role": "data_owner"})
    assert (answer.status_code, answer.json()["version"], answer.json()["by_group"]) == (201, 2, None)
    assert (await study.member(bob)).starts_at == since, "without a break: what they began goes on"
    await world.hear(user("bob00000", bob, version=2))
    assert (await study.member(bob)).role == "data_owner"


async def test_who_is_there_by_a_group_is_not_put_out_by_a_role_that_begins_later(world: World) -> None:
    study = await found(world)
    await give(study)
    bob = uuid7()
    await world.hear(user("bob00000", bob, groups=["staff"]))
    await world.said()
    later = {"username": "bob00000", "role": "data_owner", "starts_at": soon(3600)}
    answer = await world.post(f"{study.path}/invitations", study.owner, json=later)
    assert (answer.status_code, reason(answer)) == (409, "is-there-already")
    assert await world.said() == []
    assert (await study.member(bob)).by_group == "staff"


@pytest.mark.parametrize("first", ["the role", "the person"])
async def test_a_role_that_begins_later_gives_way_to_the_groups(world: World, first: str) -> None:
    study = await found(world)
    bob = uuid7()
    await study.invite("bob00000", bob, role="data_owner", starts_at=soon(3600))
    comes = user("bob00000", bob, groups=["staff"], version=2)
    if first == "the person":
        await world.hear(comes)
        assert (await study.member(bob)).version == 1
    await give(study)
    await world.hear(comes)
    row = await study.member(bob)
    assert (row.role, row.by_group, row.version) == ("data_scientist", "staff", 2)
    assert (await world.get(study.path, study.as_scientist(bob))).status_code == 200


async def test_an_archived_project_lets_nobody_in_by_a_group_before_their_own_role_begins(world: World) -> None:
    study = await found(world)
    await give(study)
    bob = uuid7()
    await study.invite("bob00000", bob, starts_at=soon(3600))
    await world.post(f"{study.path}/archive", study.owner)
    await world.hear(user("bob00000", bob, groups=["staff"], version=2))
    assert (await study.member(bob)).by_group is None
    await world.post(f"{study.path}/restoration", study.owner, json={})
    assert (await study.member(bob)).by_group == "staff"


async def test_in_an_archived_project_taking_away_a_role_that_begins_later_lets_nobody_in_by_a_group(world: World) -> None:
    study = await found(world)
    await give(study)
    bob = uuid7()
    await study.invite("bob00000", bob, starts_at=soon(3600))
    await world.post(f"{study.path}/archive", study.owner)
    await world.hear(user("bob00000", bob, groups=["staff"], version=2))
    assert (await world.delete(f"{study.path}/members/{bob}", study.owner)).status_code == 204
    assert (await world.get(study.path, study.as_scientist(bob))).status_code == 404
    await world.post(f"{study.path}/restoration", study.owner, json={})
    assert (await study.member(bob)).by_group == "staff"


async def test_in_an_archived_project_whoever_was_in_keeps_what_their_group_gives(world: World) -> None:
    study = await found(world)
    await give(study)
    bob = UUID((await study.add("bob00000", Role.DATA_OWNER))["user_id"])
    await world.hear(user("bob00000", bob, groups=["staff"], version=2))
    await world.post(f"{study.path}/archive", study.owner)
    answer = await world.delete(f"{study.path}/members/{bob}", study.owner)
    assert (answer.status_code, answer.json()["role"], answer.json()["by_group"]) == (200, "data_scientist", "staff")


async def test_whoever_loses_their_own_role_keeps_the_groups_and_the_answer_says_so(world: World) -> None:
    study = await found(world)
    bob = await study.add("bob00000", Role.DATA_OWNER)
    await world.hear(user("bob00000", UUID(bob["user_id"]), groups=["staff"], version=2))
    await give(study)
    await world.said()
    answer = await world.delete(f"{study.path}/members/{bob['user_id']}", study.owner)
    assert (answer.status_code, answer.json()["role"], answer.json()["by_group"]) == (200, "data_scientist", "staff")
    assert await memberships(world) == [(UUID(bob["user_id"]), "data_scientist", 2)]
    await world.hear(user("bob00000", UUID(bob["user_id"]), version=3))
    assert await memberships(world) == [(UUID(bob["user_id"]), None, 3)]


async def test_an_owner_by_a_group_decides_and_is_no_owner_who_stays(world: World) -> None:
    study = await found(world)
    await give(study, role="data_owner")
    bob = uuid7()
    await world.hear(user("bob00000", bob, groups=["staff"]))
    answer = await world.delete(f"{study.path}/members/{study.ada}", study.as_owner(bob))
    assert (answer.status_code, reason(answer)) == (409, "last-owner-stays")
    answer = await world.patch(f"{study.path}/members/{study.ada}", study.as_owner(bob), json={"role": "data_scientist"}, version=1)
    assert reason(answer) == "last-owner-stays"
    assert (await world.patch(study.path, study.as_owner(bob), json={"description": "By Bob"}, version=1)).status_code == 200


async def test_a_group_has_one_role_in_a_project_at_a_time(world: World) -> None:
    study = await found(world)
    first = await give(study, ends_at=soon(3600))
    answer = await world.post(f"{study.path}/group-roles", study.owner, json={"group": "staff", "role": "data_owner"})
    assert (answer.status_code, reason(answer)) == (409, "group-has-a-role")
    await world.sql("UPDATE group_roles SET ends_at = now() - interval '1 s'")
    assert (await world.get(f"{study.path}/group-roles", study.owner)).json()["items"] == []
    second = await give(study, role="data_owner")
    assert second["group_role_id"] != first["group_role_id"]


async def test_a_groups_role_of_another_project_is_not_found(world: World) -> None:
    study = await found(world)
    other = await found(world, "other")
    given = await give(other)
    answer = await world.delete(f"{study.path}/group-roles/{given['group_role_id']}", study.owner)
    assert answer.status_code == 404
    answer = await world.post(f"{study.path}/group-roles", study.owner, json={"group": "a", "role": "data_owner", "ends_at": soon(-5)})
    assert reason(answer) == "ends-before-it-begins"


# Ends


async def ends(world: World, count: int) -> list[Fact]:
    said: list[Fact] = []
    async with asyncio.timeout(15):
        while len(said) < count:
            said += await world.said()
            await asyncio.sleep(0.01)
    return said


async def watch(world: World) -> None:
    await keep_time(world.runtime)


async def test_a_groups_role_ends_at_its_instant_and_a_weaker_one_takes_its_place(world: World) -> None:
    study = await found(world)
    bob, eve = sorted([uuid7(), uuid7()])
    await world.hear(user("bob00000", bob, groups=["staff", "leads"]), user("eve00000", eve, groups=["leads"]))
    await give(study)
    await world.said()
    async with world.running(keep_time):
        await give(study, "leads", "data_owner", ends_at=soon(1.5))
        said = await ends(world, 4)
    facts = [(fact.user_id, fact.role, fact.version) for fact in said if isinstance(fact, Membership)]
    assert sorted(facts[:2]) == sorted([(bob, "data_owner", 2), (eve, "data_owner", 1)])
    assert sorted(facts[2:]) == sorted([(bob, "data_scientist", 3), (eve, None, 2)])


async def test_when_somebodys_own_membership_ends_the_groups_role_is_there(world: World) -> None:
    study = await found(world)
    await give(study)
    async with world.running(keep_time):
        bob = UUID((await study.add("bob00000", ends_at=soon(1.0)))["user_id"])
        await world.hear(user("bob00000", bob, groups=["staff"], version=2))
        said = await ends(world, 2)
    assert [(fact.version, fact.role) for fact in said if isinstance(fact, Membership)] == [(1, "data_scientist"), (2, "data_scientist")]
    assert (await study.member(bob)).by_group == "staff"


# At once, and many


async def test_a_role_given_while_somebody_comes_into_the_group_reaches_them(world: World, worlds: Worlds) -> None:
    replica = await worlds.open("projects", beside=world)
    study = await found(world)
    bob = uuid7()
    async with world.work(study.owner) as uow:
        await group_roles.give(uow, study.project_id, "staff", Role.DATA_SCIENTIST, "", None)
        coming = asyncio.create_task(replica.hear(user("bob00000", bob, groups=["staff"])))
        await world.somebody_waits()
    await coming
    assert (await study.member(bob)).role == "data_scientist"


async def test_somebody_who_comes_into_the_group_while_it_gets_a_role_is_reached(world: World, worlds: Worlds) -> None:
    from services.projects.handlers import know_person  # noqa: PLC0415 - beside the inbox

    replica = await worlds.open("projects", beside=world)
    study = await found(world)
    bob = uuid7()
    async with world.work() as uow:
        await know_person(user("bob00000", bob, groups=["staff"]), uow)
        giving = asyncio.create_task(
            replica.post(f"{study.path}/group-roles", study.owner, json={"group": "staff", "role": "data_scientist"})
        )
        await world.somebody_waits()
    assert (await giving).status_code == 201
    assert (await study.member(bob)).role == "data_scientist"


async def test_a_group_of_ten_thousand_gets_a_role_in_one_transaction(world: World) -> None:
    study = await found(world)
    await world.sql("""INSERT INTO people (user_id, username, status, groups)
        SELECT gen_random_uuid(), 'p' || lpad(n::text, 7, '0'), 'active', ARRAY['staff'] FROM generate_series(1, 10000) AS n""")
    given = await give(study)
    assert len(await world.said()) == 10_000
    assert (await world.delete(f"{study.path}/group-roles/{given['group_role_id']}", study.owner)).status_code == 204
    assert len(await world.said()) == 10_000


# The rules alone


def given_to(group: str, role: Role, ends: timedelta | None) -> GroupRole:
    end = None if ends is None else NOW + ends
    return GroupRole(
        group_role_id=uuid7(), project_id=OURS, group_name=group, role=role.value, purpose="", ends_at=end, created_at=NOW - HOUR
    )


groups = st.sampled_from(["a", "b", "c"])
roles = st.builds(given_to, groups, st.sampled_from(Role), st.one_of(st.none(), st.timedeltas(-HOUR, HOUR)))
rows = st.one_of(
    st.none(),
    st.builds(
        Row,
        project_id=st.just(OURS),
        user_id=st.just(UUID(int=2)),
        username=st.just("bob00000"),
        role=st.sampled_from([None, *(role.value for role in Role)]),
        purpose=st.just(""),
        starts_at=st.sampled_from([NOW - HOUR, NOW + HOUR / 2]),
        ends_at=st.one_of(st.none(), st.timedeltas(-HOUR, HOUR).map(lambda delta: NOW + delta)),
        version=st.just(3),
        by_group=st.sampled_from([None, "a", "b"]),
    ).filter(lambda row: row.by_group is None or row.starts_at <= NOW),
)


@given(rows, st.lists(roles, max_size=4), st.sets(groups))
def test_nobody_has_more_by_their_groups_than_the_best_of_them_and_nobody_less(
    row: Row | None, there: list[GroupRole], mine: set[str]
) -> None:
    project, _ = domain.projects.found(OURS, "wdbc", "", "", UUID(int=1), "ada00000", NOW)
    somebody = Person(user_id=UUID(int=2), username="bob00000", status="active", groups=sorted(mine))
    own = row is not None and row.by_group is None and domain.projects.counts(row, NOW)
    before = row.model_dump() if row else None
    best = domain.group_roles.strongest(there, mine, NOW)
    changed = domain.group_roles.follow(row, project, somebody, best, NOW)
    if own:
        assert changed is None
        assert row is not None
        assert row.model_dump() == before
        return
    now = changed or row
    has = now.role if now is not None and domain.projects.counts(now, NOW) else None
    open_to = {each.role for each in there if each.group_name in mine and (each.ends_at is None or each.ends_at > NOW)}
    assert has == next((role.value for role in (Role.DATA_OWNER, Role.DATA_SCIENTIST) if role.value in open_to), None)
    assert domain.group_roles.follow(now, project, somebody, best, NOW) is None
    assert changed is None or changed.version == (before["version"] + 1 if before else 1)
