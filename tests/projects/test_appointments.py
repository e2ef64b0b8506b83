"""Projects that nobody owns: they are counted, and an administrator appoints an owner there, in the sight of everybody."""

from typing import Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from contracts.events import BreakGlass, Membership, ProjectState, UserStatus, Verdict
from contracts.roles import NOBODY, ClusterRole, Role
from services.projects.app import keep_time
from tests.projects.people import Study, found, user
from tests.projects.test_break_glass import REVIEW, ROOT, actions, measured, root, until
from tests.world import OURS, World, agent, auditor, owner, person, reason

BOB = UUID("01900000-0000-7000-8000-0000000000b0")
WANTED = {"project": "wdbc", "username": "bob00000", "reason": "The owner left the institute"}


@pytest.fixture
async def study(world: World) -> Study:
    """A project whose only owner is gone."""
    study = await found(world)
    await world.hear(user("root0000", ROOT, cluster_roles=[ClusterRole.ADMINISTRATOR]), user("bob00000", BOB))
    await world.hear(user("ada00000", study.ada, status=UserStatus.DEACTIVATED, version=2))
    await world.said()
    await world.recorded()
    return study


async def appoint(study: Study, **change: Any) -> Any:
    return await study.world.post("/owner-appointments", root(), json=WANTED | change)


async def test_administrators_alone_appoint_with_a_fresh_factor(world: World) -> None:
    for actor, status in ((NOBODY, 401), (agent(), 403), (person(), 403), (owner(OURS), 403), (auditor(), 403), (root(fresh=False), 401)):
        assert (await world.post("/owner-appointments", actor, json=WANTED)).status_code == status


async def test_who_is_appointed_owns_the_project_for_good_and_everybody_is_told(study: Study) -> None:
    world = study.world
    answer = await appoint(study)
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert (made["appointed"], made["username"], made["ended_at"], made["reason"]) == (
        "bob00000",
        "root0000",
        made["opened_at"],
        WANTED["reason"],
    )
    member, fact = await world.said()
    assert isinstance(member, Membership)
    assert isinstance(fact, BreakGlass)
    assert (member.user_id, member.role, member.ends_at, member.version) == (BOB, Role.DATA_OWNER, None, 1)
    assert (fact.user_id, fact.appointed_id, fact.owners, fact.version) == (ROOT, BOB, (BOB,), 1)
    (record,) = await world.recorded()
    assert (record["action"], record["project_id"]) == ("owner.appoint", str(study.project_id))
    assert (record["resource"]["appointed_id"], record["resource"]["break_glass_id"]) == (str(BOB), made["break_glass_id"])
    assert WANTED["reason"] not in str(record) + fact.model_dump_json()
    bob = study.as_owner(BOB)
    line = (await world.get(f"{study.path}/activity", bob)).json()["items"][0]
    assert (line["deed"], line["actor"], line["details"]) == ("owner.appointed", "root0000", {"owner": "bob00000"})
    for door, actor in (("/break-glass", auditor()), (f"{study.path}/break-glass", bob)):
        assert (await world.get(door, actor)).json()["items"] == [made]
    assert (await world.post(f"{study.path}/archive", bob)).status_code == 200


async def test_a_project_that_has_an_owner_keeps_the_say(study: Study) -> None:
    assert (await appoint(study)).status_code == 201
    await study.world.hear(user("cyd00000"))
    again = await appoint(study, username="cyd00000")
    assert (again.status_code, reason(again)) == (409, "has-an-owner")


@pytest.mark.parametrize("status", [UserStatus.INVITED, UserStatus.BLOCKED])
async def test_an_owner_who_is_not_there_to_act_owns_nothing(study: Study, status: UserStatus) -> None:
    assert (await appoint(study)).status_code == 201
    await study.world.hear(user("bob00000", BOB, status=status, version=2), user("cyd00000"))
    assert (await appoint(study, username="cyd00000")).status_code == 201


async def test_an_owner_by_a_group_or_with_an_end_makes_nobody_an_owner_for_good_so_one_is_appointed(world: World) -> None:
    study = await found(world)
    await study.add("cyd00000", Role.DATA_OWNER, ends_at="2100-01-01T00:00:00Z")
    await world.post(f"{study.path}/group-roles", study.owner, json={"group": "leads", "role": "data_owner"})
    await world.hear(user("eve00000", groups=["leads"]), user("bob00000", BOB))
    assert reason(await appoint(study)) == "has-an-owner"
    await world.hear(user("ada00000", study.ada, status=UserStatus.DEACTIVATED, version=2))
    assert (await appoint(study)).status_code == 201


async def test_who_is_appointed_goes_on_without_a_break(world: World) -> None:
    study = await found(world)
    await world.hear(user("root0000", ROOT, cluster_roles=[ClusterRole.ADMINISTRATOR]))
    bob = (await study.add("bob00000"))["user_id"]
    since = (await study.member(bob)).starts_at
    await world.hear(user("ada00000", study.ada, status=UserStatus.DEACTIVATED, version=2))
    assert (await appoint(study)).status_code == 201
    row = await study.member(bob)
    assert (row.role, row.starts_at) == ("data_owner", since)


async def test_nobody_appoints_themselves_or_somebody_who_is_not_there(study: Study) -> None:
    world = study.world
    await world.hear(user("new00000", status=UserStatus.INVITED), user("out00000", status=UserStatus.BLOCKED))
    for change, status, slug in (
        ({"username": "root0000"}, 403, "raises-yourself"),
        ({"username": "new00000"}, 422, "no-such-person"),
        ({"username": "out00000"}, 422, "no-such-person"),
        ({"username": "gone0000"}, 422, "no-such-person"),
        ({"project": "nothing"}, 422, "no-such-project"),
        ({"project": str(uuid7())}, 422, "no-such-project"),
        ({"reason": " "}, 422, "unprocessable"),
    ):
        answer = await appoint(study, **change)
        assert (answer.status_code, reason(answer)) == (status, slug), change
    assert await world.said() == []


@pytest.mark.parametrize(("state", "status"), [(ProjectState.ARCHIVED, 201), (ProjectState.CLOSING, 409), (ProjectState.PURGING, 409)])
async def test_an_archived_project_gets_an_owner_and_one_that_goes_does_not(study: Study, state: ProjectState, status: int) -> None:
    await study.world.sql("UPDATE projects SET state = :state", state=state.value)
    assert (await appoint(study)).status_code == status


async def test_who_was_a_member_by_hand_by_a_group_or_by_break_glass_is_an_owner_now(world: World) -> None:
    for number, before in enumerate(("own", "group", "break-glass")):
        study = await found(world, f"study{number}")
        name, user_id = f"bob0000{number}", uuid7()
        await world.hear(user(name, user_id, groups=["staff"], cluster_roles=[ClusterRole.ADMINISTRATOR]))
        if before == "own":
            await world.post(f"{study.path}/members", study.owner, json={"username": name, "role": "data_scientist"})
        elif before == "group":
            await world.post(f"{study.path}/group-roles", study.owner, json={"group": "staff", "role": "data_scientist"})
        else:
            opener = person(user_id, name, cluster_roles=[ClusterRole.ADMINISTRATOR])
            body = {"project": f"study{number}", "reason": "x"}
            assert (await world.post("/break-glass", opener, json=body)).status_code == 201
        row = (await world.sql("SELECT username FROM people WHERE user_id = :ada", ada=study.ada))[0]
        await world.hear(user(row.username, study.ada, status=UserStatus.DEACTIVATED, version=2))
        assert (await appoint(study, project=f"study{number}", username=name)).status_code == 201
        member = await study.member(user_id)
        assert (member.role, member.ends_at, member.by_group, member.break_glass_id, member.version) == ("data_owner", None, None, None, 2)


async def test_neither_the_administrator_nor_the_new_owner_reviews_it(study: Study) -> None:
    world = study.world
    made = (await appoint(study)).json()
    path = f"/break-glass/{made['break_glass_id']}/review"
    both = person(ROOT, "root0000", cluster_roles=list(ClusterRole))
    bob = person(BOB, "bob00000", cluster_roles=[ClusterRole.AUDITOR])
    for door, actor in ((path, both), (path, bob), (study.path + path, study.as_owner(BOB))):
        answer = await world.post(door, actor, json=REVIEW)
        assert (answer.status_code, reason(answer)) == (403, "own-review")
    await world.said()
    assert (await world.post(path, auditor(), json=REVIEW)).status_code == 200
    (fact,) = await world.said()
    assert isinstance(fact, BreakGlass)
    assert (fact.verdict, fact.appointed_id, fact.version) == (Verdict.JUSTIFIED, BOB, 2)


async def test_a_missing_review_is_reported_and_projects_without_an_owner_are_counted(study: Study) -> None:
    world = study.world
    async with world.running(keep_time):
        await measured("hortus_projects_without_owner", 1)
        assert (await appoint(study)).status_code == 201
        await measured("hortus_projects_without_owner", 0)
        await world.hear(user("bob00000", BOB, status=UserStatus.BLOCKED, version=2))
        await measured("hortus_projects_without_owner", 1)
        await world.sql("UPDATE break_glass SET review_due_at = clock_timestamp()")
        await world.sql("SELECT pg_notify('memberships', '')")
        await until(world, "break_glass.report")
        await measured("hortus_break_glass_unreviewed", 1)
    assert "break_glass.end" not in await actions(world)
