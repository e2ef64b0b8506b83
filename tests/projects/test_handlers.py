from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from contracts.events import USERS, Membership, UserStatus
from contracts.roles import Role
from tests.projects.people import found, user
from tests.world import World


async def people(world: World) -> list[tuple[UUID, str, str]]:
    return [tuple(row) for row in await world.sql("SELECT user_id, username, status FROM people ORDER BY username")]


async def test_people_are_known_as_auth_names_them(world: World) -> None:
    bob = uuid7()
    await world.hear(user("bob00000", bob, status=UserStatus.INVITED))
    await world.hear(user("bob00000", bob, status=UserStatus.ACTIVE, version=2))
    assert await people(world) == [(bob, "bob00000", "active")]
    assert await world.said() == []


async def test_a_fact_that_comes_twice_changes_nothing(world: World) -> None:
    bob = uuid7()
    fact = user("bob00000", bob)
    await world.hear(fact)
    before = await world.sql("SELECT *, xmin FROM people")
    await world.hear(fact)
    assert await world.sql("SELECT *, xmin FROM people") == before


async def test_an_older_fact_that_comes_late_changes_nothing(world: World) -> None:
    bob = uuid7()
    await world.hear(user("bob00000", bob, status=UserStatus.BLOCKED, version=3))
    await world.hear(user("bob00000", bob, status=UserStatus.ACTIVE, version=2))
    assert await people(world) == [(bob, "bob00000", "blocked")]


async def test_the_handler_itself_run_twice_leaves_the_same(world: World) -> None:
    from services.projects.handlers import forget_person, know_person  # noqa: PLC0415 - beside the inbox, as after a sweep

    bob = uuid7()
    for _ in range(2):
        async with world.work() as uow:
            await know_person(user("bob00000", bob), uow)
    assert await people(world) == [(bob, "bob00000", "active")]
    for _ in range(2):
        async with world.work() as uow:
            await forget_person(str(bob), uow)
    assert await people(world) == []
    assert USERS.name in world.spec.hears.erasers


async def test_who_was_erased_while_the_service_slept_is_in_no_project(world: World) -> None:
    from services.projects.handlers import forget_person  # noqa: PLC0415 - beside the inbox, as after a sweep

    study = await found(world)
    bob = UUID((await study.add("bob00000", Role.DATA_OWNER))["user_id"])
    for _ in range(2):
        async with world.work() as uow:
            await forget_person(str(bob), uow)
    assert (await study.member(bob)).role is None


async def test_a_blocked_persons_membership_stays(world: World) -> None:
    study = await found(world)
    bob = await study.add("bob00000")
    await world.said()
    await world.hear(user("bob00000", UUID(bob["user_id"]), status=UserStatus.BLOCKED, version=2))
    assert (await study.member(bob["user_id"])).role == Role.DATA_SCIENTIST
    assert await world.said() == []


async def test_who_is_deactivated_leaves_every_project_once_and_comes_back_as_nobodys_member(world: World) -> None:
    from services.projects.handlers import know_person  # noqa: PLC0415 - beside the inbox, as after a sweep

    study, other = await found(world), await found(world, "other")
    bob = UUID((await study.add("bob00000"))["user_id"])
    for path, actor, body in (
        (f"{other.path}/members", other.owner, {"username": "bob00000", "role": "data_owner"}),
        (f"{other.path}/group-roles", other.owner, {"group": "staff", "role": "data_scientist"}),
    ):
        assert (await world.post(path, actor, json=body)).status_code == 201
    await world.hear(user("bob00000", bob, groups=["staff"], version=2))
    await world.said()
    gone = user("bob00000", bob, status=UserStatus.DEACTIVATED, groups=["staff"], version=3)
    for _ in range(2):
        async with world.work() as uow:
            await know_person(gone, uow)
    facts = [fact for fact in await world.said() if isinstance(fact, Membership)]
    assert sorted((fact.project_id, fact.user_id, fact.role, fact.version) for fact in facts) == sorted(
        (each.project_id, bob, None, 2) for each in (study, other)
    )
    left = [record for record in await world.recorded() if record["action"] == "test"]
    assert sorted((record["project_id"], record["resource"]["memberships"]) for record in left) == sorted(
        (str(each.project_id), f"{each.project_id}:{bob}") for each in (study, other)
    )
    back = user("bob00000", bob, status=UserStatus.INVITED, version=4)
    await world.hear(back)
    assert [(await each.member(bob)).role for each in (study, other)] == [None, None]
    assert await world.said() == []


async def test_who_was_deactivated_and_is_back_while_projects_heard_nothing_is_nobodys_member(world: World) -> None:
    study = await found(world)
    bob = UUID((await study.add("bob00000"))["user_id"])
    staff = {"group": "staff", "role": "data_scientist"}
    other = await found(world, "other")
    assert (await world.post(f"{other.path}/group-roles", other.owner, json=staff)).status_code == 201
    await world.hear(user("bob00000", bob, version=2, groups=["staff"]))
    assert (await study.member(bob)).role == "data_scientist"
    since = (await other.member(bob)).starts_at
    await world.hear(user("bob00000", bob, version=5, groups=["staff"], departures=1))
    assert (await study.member(bob)).role is None
    by_group = await other.member(bob)
    assert by_group.by_group == "staff"
    assert by_group.starts_at > since, "by their group they are let in, anew"
    again = await world.post(f"{study.path}/members", study.owner, json={"username": "bob00000", "role": "data_scientist"})
    assert again.status_code == 201
    await world.hear(user("bob00000", bob, version=7, groups=["staff"], departures=1))
    assert (await study.member(bob)).role == "data_scientist"


async def test_the_last_owner_who_is_deactivated_is_held_by_no_project_and_the_log_says_so(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    study = await found(world)
    await world.hear(user("ada00000", study.ada, status=UserStatus.DEACTIVATED, version=2))
    assert (await study.member(study.ada)).role is None
    assert [(fact.user_id, fact.role) for fact in await world.said() if isinstance(fact, Membership)] == [(study.ada, None)]
    (record,) = await world.recorded()
    assert (record["resource"], record["project_id"]) == ({"memberships": f"{study.project_id}:{study.ada}"}, str(study.project_id))
    assert "the last Data Owner of a project has left" in "".join(capsys.readouterr())


async def test_who_was_made_a_member_while_their_leaving_was_on_its_way_is_none_when_they_come_back(world: World) -> None:
    study = await found(world)
    bob = UUID((await study.add("bob00000"))["user_id"])
    await world.sql("UPDATE people SET status = 'deactivated' WHERE user_id = :bob", bob=bob)
    await world.hear(user("bob00000", bob, status=UserStatus.INVITED, version=3))
    assert (await study.member(bob)).role is None
