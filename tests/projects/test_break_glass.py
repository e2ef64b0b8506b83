"""Break-glass: who opens it, who is told, what it gives and does not give, how it ends, and who reviews it."""

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from prometheus_client import REGISTRY
from pydantic import ValidationError
from sqlalchemy import text
from uuid_utils.compat import uuid7

from contracts.events import BreakGlass, Membership, ProjectState, PurgeStep, UserStatus, Verdict
from contracts.roles import NOBODY, Actor, ClusterRole, Role
from services.projects.app import keep_time
from services.projects.service.break_glass import report, settle
from services.projects.service.projects import end_memberships
from tests.deletions import Killed
from tests.projects.people import Study, found, user
from tests.projects.test_deletion import by_all, deleted
from tests.world import OURS, World, Worlds, administrator, agent, auditor, owner, person, reason, scientist, stranger

ROOT = UUID("01900000-0000-7000-8000-0000000000f0")
OTHER_ROOT = UUID("01900000-0000-7000-8000-0000000000f1")
REVIEW = {"verdict": "justified", "words": "A patient's scan was needed."}


@pytest.fixture
async def study(world: World) -> Study:
    study = await found(world)
    await world.hear(user("root0000", ROOT, cluster_roles=[ClusterRole.ADMINISTRATOR]))
    return study


def root(fresh: bool = True) -> Actor:
    return administrator(ROOT).model_copy(update={"factor_fresh": fresh})


async def opened(study: Study, actor: Actor | None = None, **more: Any) -> dict[str, Any]:
    body = {"project": "wdbc", "reason": "Power cut: the owner cannot be reached", **more}
    answer = await study.world.post("/break-glass", actor or root(), json=body)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def ended(study: Study, made: dict[str, Any]) -> dict[str, Any]:
    answer = await study.world.delete(f"/break-glass/{made['break_glass_id']}", root())
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def reviewed(study: Study, made: dict[str, Any]) -> None:
    answer = await study.world.post(f"/break-glass/{made['break_glass_id']}/review", auditor(), json=REVIEW)
    assert answer.status_code == 200, answer.text


async def said(world: World) -> list[tuple[str, int]]:
    return [(type(fact).__name__, fact.version) for fact in await world.said()]


async def actions(world: World) -> list[str]:
    return [record["action"] for record in await world.recorded()]


async def until(world: World, action: str) -> dict[str, Any]:
    """The record of an action that comes by itself."""
    async with asyncio.timeout(15):
        while True:
            for record in await world.recorded():
                if record["action"] == action:
                    found_record: dict[str, Any] = record
                    return found_record
            await asyncio.sleep(0.02)


async def measured(metric: str, count: int) -> None:
    """Return when a metric says so."""
    async with asyncio.timeout(15):
        while REGISTRY.get_sample_value(metric) != count:
            await asyncio.sleep(0.02)


# Who may


async def test_administrators_open_and_end_it_auditors_and_owners_review_it(world: World) -> None:
    body = {"project": "wdbc", "reason": "x"}
    one = f"/break-glass/{uuid7()}"
    here = f"/projects/{OURS}/break-glass"

    async def statuses(method: str, path: str, actors: Sequence[Actor], json: Any = None) -> list[int]:
        return [(await world.request(method, path, actor, json=json)).status_code for actor in actors]

    everybody = (NOBODY, agent(), person(), owner(OURS), auditor())
    assert await statuses("POST", "/break-glass", everybody, body) == [401, 403, 403, 403, 403]
    assert await statuses("DELETE", one, everybody) == [401, 403, 403, 403, 403]
    assert await statuses("GET", "/break-glass", everybody) == [401, 403, 403, 403, 200]
    others = (NOBODY, agent(), person(), owner(OURS), administrator())
    assert await statuses("POST", f"{one}/review", others, REVIEW) == [401, 403, 403, 403, 403]
    inside = (NOBODY, stranger(OURS), administrator(), auditor(), scientist(OURS))
    assert await statuses("GET", here, inside) == [401, 404, 404, 404, 403]
    assert await statuses("POST", f"{here}/{uuid7()}/review", inside, REVIEW) == [401, 404, 404, 404, 403]


async def test_it_asks_for_a_fresh_second_factor(study: Study) -> None:
    answer = await study.world.post("/break-glass", root(fresh=False), json={"project": "wdbc", "reason": "x"})
    assert (answer.status_code, reason(answer)) == (401, "factor-too-old")


# What it gives


async def test_it_makes_the_administrator_a_data_scientist_for_an_hour_and_everybody_is_told(study: Study) -> None:
    world = study.world
    made = await opened(study)
    lasts = datetime.fromisoformat(made["ends_at"]) - datetime.fromisoformat(made["opened_at"])
    assert (made["username"], made["ended_at"], made["unreviewed"], lasts) == ("root0000", None, False, timedelta(hours=1))
    member, fact = await world.said()
    assert isinstance(member, Membership)
    assert isinstance(fact, BreakGlass)
    assert (member.user_id, member.role, member.purpose) == (ROOT, Role.DATA_SCIENTIST, "Break-glass")
    assert member.ends_at == fact.ends_at == datetime.fromisoformat(made["ends_at"])
    assert (fact.user_id, fact.owners, fact.ended_at) == (ROOT, (study.ada,), None)
    assert "Power cut" not in fact.model_dump_json() + member.model_dump_json()
    (record,) = await world.recorded()
    assert (record["action"], record["project_id"]) == ("break_glass.open", str(study.project_id))
    assert record["resource"]["break_glass_id"] == made["break_glass_id"]
    assert "Power cut" not in str(record)
    line = (await world.get(f"{study.path}/activity", study.owner)).json()["items"][0]
    assert (line["deed"], line["actor"], line["details"]) == ("break_glass.opened", "root0000", {"until": fact.ends_at.isoformat()})
    assert (await world.get(f"{study.path}/break-glass", study.owner)).json()["items"] == [made]
    assert (await world.get("/break-glass", auditor())).json()["items"] == [made]
    assert (await world.get("/break-glass", root())).json()["items"] == [made]
    assert (await world.get("/break-glass", administrator())).json()["items"] == [made | {"reason": None}]
    members = (await world.get(f"{study.path}/members", study.owner)).json()["items"]
    assert {each["user_id"]: each["break_glass_id"] for each in members} == {str(study.ada): None, str(ROOT): made["break_glass_id"]}
    assert (await world.get(study.path, study.as_scientist(ROOT))).json()["role"] == "data_scientist"


async def test_a_project_is_named_by_its_name_in_any_case_or_by_its_id(study: Study) -> None:
    for project in ("WDBC", str(study.project_id)):
        made = await opened(study, project=project)
        await ended(study, made)
        await reviewed(study, made)
    for project in ("nothing", str(uuid7()), "w\0"):
        answer = await study.world.post("/break-glass", root(), json={"project": project, "reason": "x"})
        assert answer.status_code == 422


@pytest.mark.parametrize(
    ("change", "status", "slug"),
    [
        ({"reason": ""}, 422, "unprocessable"),
        ({"reason": " \n "}, 422, "unprocessable"),
        ({"reason": "x" * 1001}, 422, "unprocessable"),
        ({"lasts_s": 0}, 422, "unprocessable"),
        ({"lasts_s": 86_401}, 422, "too-long"),
        ({"role": "data_owner"}, 422, "unprocessable"),
        ({"user_id": str(uuid7())}, 422, "unprocessable"),
    ],
)
async def test_what_it_cannot_be_is_refused(study: Study, change: dict[str, Any], status: int, slug: str) -> None:
    answer = await study.world.post("/break-glass", root(), json={"project": "wdbc", "reason": "x", **change})
    assert (answer.status_code, reason(answer)) == (status, slug)
    assert await study.world.said() == []


async def test_it_lasts_as_long_as_asked_within_the_bound(study: Study) -> None:
    made = await opened(study, lasts_s=86_400)
    assert datetime.fromisoformat(made["ends_at"]) - datetime.fromisoformat(made["opened_at"]) == timedelta(days=1)


async def test_who_is_a_member_already_opens_nothing(study: Study) -> None:
    world = study.world
    made = await opened(study)
    body = {"project": "wdbc", "reason": "x"}
    again = await world.post("/break-glass", root(), json=body)
    assert (again.status_code, reason(again)) == (409, "already-a-member")
    await ended(study, made)
    await world.post(f"{study.path}/members", study.owner, json={"username": "root0000", "role": "data_scientist"})
    assert reason(await world.post("/break-glass", root(), json=body)) == "already-a-member"


async def test_a_role_that_begins_later_keeps_nobody_out_of_an_emergency(world: World) -> None:
    study = await found(world)
    await study.invite("root0000", ROOT, starts_at="2999-01-01T00:00:00Z")
    await world.hear(user("root0000", ROOT, cluster_roles=[ClusterRole.ADMINISTRATOR], version=2))
    made = await opened(study)
    assert (await world.get(study.path, study.as_scientist(ROOT))).json()["role"] == "data_scientist"
    await ended(study, made)
    assert (await study.member(ROOT)).role is None, "the role that was to begin is given anew"


@pytest.mark.parametrize(("state", "status"), [(ProjectState.ARCHIVED, 201), (ProjectState.CLOSING, 409), (ProjectState.PURGING, 409)])
async def test_an_archived_project_can_be_opened_and_one_that_goes_cannot(study: Study, state: ProjectState, status: int) -> None:
    await study.world.sql("UPDATE projects SET state = :state", state=state.value)
    answer = await study.world.post("/break-glass", root(), json={"project": "wdbc", "reason": "x"})
    assert answer.status_code == status


async def test_a_deleted_project_is_not_opened(world: World) -> None:
    gone = await deleted(world)
    body = {"reason": "x"}
    by_id = await world.post("/break-glass", root(), json=body | {"project": str(gone.project_id)})
    by_name = await world.post("/break-glass", root(), json=body | {"project": "wdbc"})
    assert (reason(by_id), reason(by_name)) == ("project-not-active", "no-such-project")


async def test_it_makes_no_owner_and_nothing_longer(study: Study) -> None:
    world = study.world
    made = await opened(study)
    lied = study.as_owner(ROOT).model_copy(update={"cluster_roles": frozenset({ClusterRole.ADMINISTRATOR})})
    mine = f"{study.path}/members/{ROOT}"
    await world.hear(user("eve00000"))
    for method, path, body in (
        ("PATCH", mine, {"ends_at": None}),
        ("POST", f"{study.path}/members", {"username": "eve00000", "role": "data_owner"}),
        ("POST", f"{study.path}/invitations", {"username": "root0000", "role": "data_owner"}),
        ("POST", f"{study.path}/group-roles", {"group": "staff", "role": "data_owner"}),
    ):
        answer = await world.request(method, path, lied, json=body, version=1)
        assert (answer.status_code, reason(answer)) == (403, "role-may-not")
    answer = await world.patch(mine, study.owner, json={"ends_at": None, "role": "data_owner"}, version=1)
    assert (answer.status_code, reason(answer)) == (409, "role-is-break-glass")
    assert (await world.patch(mine, study.owner, json={"purpose": "x"}, version=1)).status_code == 409
    row = await study.member(ROOT)
    assert (row.role, row.ends_at) == ("data_scientist", datetime.fromisoformat(made["ends_at"]))


async def test_it_does_not_count_as_the_last_owner(study: Study) -> None:
    await opened(study)
    answer = await study.world.delete(f"{study.path}/members/me", study.owner)
    assert reason(answer) == "last-owner-stays"


async def test_owners_who_are_blocked_are_not_told(study: Study) -> None:
    cyd = UUID((await study.add("cyd00000", Role.DATA_OWNER))["user_id"])
    await study.world.hear(user("cyd00000", cyd, status=UserStatus.BLOCKED, version=2))
    await study.world.said()
    await opened(study)
    _, fact = await study.world.said()
    assert isinstance(fact, BreakGlass)
    assert fact.owners == (study.ada,)


@pytest.mark.parametrize(
    "times",
    [
        {"break_glass_s": 7200, "break_glass_max_s": 3600},
        {"break_glass_max_s": 31 * 86_400},
        {"review_s": 400 * 86_400},
        {"invitation_s": 10**9},
    ],
)
async def test_times_that_cannot_be_meant_are_refused_at_the_start(worlds: Worlds, times: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        await worlds.open("projects", **times)


# How it ends


async def test_it_ends_at_its_instant_by_itself(study: Study) -> None:
    world = study.world
    async with world.running(keep_time):
        made = await opened(study, lasts_s=1)
        record = await until(world, "break_glass.end")
        await measured("hortus_break_glass_open", 0)
    assert record["actor"]["principal"] == "service"
    assert await said(world) == [("Membership", 1), ("BreakGlass", 1), ("Membership", 2), ("BreakGlass", 2)]
    (listed,) = (await world.get("/break-glass", auditor())).json()["items"]
    assert (listed["ended_at"], listed["version"]) == (made["ends_at"], 2)
    assert (await world.get(study.path, study.as_scientist(ROOT))).status_code == 404


async def test_the_metric_counts_what_is_open(study: Study) -> None:
    async with study.world.running(keep_time):
        made = await opened(study)
        await measured("hortus_break_glass_open", 1)
        await ended(study, made)
        await measured("hortus_break_glass_open", 0)


async def test_an_administrator_ends_it_before_its_time_and_once(study: Study) -> None:
    world = study.world
    made = await opened(study)
    await world.said()
    over = await ended(study, made)
    assert over["ended_at"] < made["ends_at"]
    assert over["review_due_at"] < made["review_due_at"]
    assert await said(world) == [("Membership", 2), ("BreakGlass", 2)]
    assert (await ended(study, made))["ended_at"] == over["ended_at"]
    assert await said(world) == []
    assert (await world.delete(f"/break-glass/{uuid7()}", root())).status_code == 404


@pytest.mark.parametrize("deed", ["removed", "left", "deactivated", "an administrator no more"])
async def test_whatever_ends_its_membership_ends_it(study: Study, deed: str) -> None:
    world = study.world
    await opened(study)
    async with world.running(keep_time):
        if deed == "removed":
            assert (await world.delete(f"{study.path}/members/{ROOT}", study.owner)).status_code == 204
        elif deed == "left":
            assert (await world.delete(f"{study.path}/members/me", study.as_scientist(ROOT))).status_code == 204
        elif deed == "deactivated":
            await world.hear(user("root0000", ROOT, status=UserStatus.DEACTIVATED, version=2))
        else:
            await world.hear(user("root0000", ROOT, version=2))
        await until(world, "break_glass.end")
    (listed,) = (await world.get("/break-glass", auditor())).json()["items"]
    assert listed["ended_at"] < listed["ends_at"]
    assert (await study.member(ROOT)).role is None


async def test_an_administrator_no_more_keeps_what_is_theirs_by_hand_or_by_a_group(study: Study) -> None:
    world = study.world
    other = await found(world, "other")
    await world.post(f"{other.path}/members", other.owner, json={"username": "root0000", "role": "data_scientist"})
    await world.post(f"{study.path}/group-roles", study.owner, json={"group": "staff", "role": "data_scientist"})
    await opened(study)
    await world.hear(user("root0000", ROOT, groups=["staff"], cluster_roles=[ClusterRole.ADMINISTRATOR], version=2))
    assert (await study.member(ROOT)).break_glass_id is not None
    await world.said()
    await world.recorded()
    await world.hear(user("root0000", ROOT, groups=["staff"], version=3))
    row = await study.member(ROOT)
    assert (row.role, row.by_group, row.break_glass_id) == ("data_scientist", "staff", None)
    assert (await other.member(ROOT)).role == "data_scientist"
    assert await said(world) == [("Membership", 2)]
    (record,) = await world.recorded()
    assert record["project_id"] == str(study.project_id)


@pytest.mark.parametrize("deed", ["ended", "over by its time", "removed", "an administrator no more"])
async def test_in_an_archived_project_its_end_lets_nobody_in_by_a_group(study: Study, deed: str) -> None:
    world = study.world
    await world.post(f"{study.path}/group-roles", study.owner, json={"group": "leads", "role": "data_owner"})
    await world.post(f"{study.path}/archive", study.owner)
    await world.hear(user("root0000", ROOT, version=2, groups=["leads"], cluster_roles=[ClusterRole.ADMINISTRATOR]))
    made = await opened(study)
    if deed == "ended":
        await ended(study, made)
    elif deed == "over by its time":
        await world.sql("UPDATE memberships SET ends_at = clock_timestamp() WHERE user_id = :root", root=ROOT)
        async with world.work() as uow:
            assert await end_memberships(uow) == 1
    elif deed == "removed":
        assert (await world.delete(f"{study.path}/members/{ROOT}", study.owner)).status_code == 204
    else:
        await world.hear(user("root0000", ROOT, version=3, groups=["leads"]))
    row = await study.member(ROOT)
    assert (row.role, row.by_group) == (None, None)
    assert (await world.post(f"{study.path}/restoration", study.as_owner(ROOT), json={})).status_code == 404
    assert (await world.post(f"{study.path}/restoration", study.owner, json={})).status_code == 200
    assert (await study.member(ROOT)).by_group == "leads"


async def test_who_would_be_an_owner_by_a_group_does_not_end_it_themselves(study: Study) -> None:
    world = study.world
    made = await opened(study)
    await world.post(f"{study.path}/group-roles", study.owner, json={"group": "leads", "role": "data_owner"})
    await world.hear(user("root0000", ROOT, version=2, groups=["leads"], cluster_roles=[ClusterRole.ADMINISTRATOR]))
    path = f"/break-glass/{made['break_glass_id']}"
    answer = await world.delete(path, root())
    assert (answer.status_code, reason(answer)) == (403, "raises-yourself")
    other = administrator(OTHER_ROOT)
    answer = await world.delete(path, other.model_copy(update={"factor_fresh": False}))
    assert (answer.status_code, reason(answer)) == (401, "factor-too-old"), "it makes an owner"
    assert (await study.member(ROOT)).break_glass_id is not None
    assert (await world.delete(path, other)).status_code == 200
    assert (await study.member(ROOT)).by_group == "leads"


async def test_who_lost_the_role_opens_nothing_although_the_gateway_has_not_heard_of_it(study: Study) -> None:
    await study.world.hear(user("root0000", ROOT, version=2))
    for path, body in (("/break-glass", {"project": "wdbc"}), ("/owner-appointments", {"project": "wdbc", "username": "bob00000"})):
        answer = await study.world.post(path, root(), json=body | {"reason": "Power cut"})
        assert (answer.status_code, reason(answer)) == (403, "not-an-administrator-any-more")
    assert await study.world.sql("SELECT FROM break_glass") == []


async def test_losing_the_role_waits_for_what_is_being_opened_and_ends_it(study: Study) -> None:
    world = study.world
    async with world.runtime.engine.begin() as other:
        await other.execute(text("SELECT FROM projects WHERE project_id = :id FOR UPDATE"), {"id": study.project_id})
        opening = asyncio.create_task(world.post("/break-glass", root(), json={"project": "wdbc", "reason": "Power cut"}))
        await world.somebody_waits()
        losing = asyncio.create_task(world.hear(user("root0000", ROOT, version=2)))
        await world.somebody_waits(2)
    assert (await opening).status_code == 201
    await losing
    [row] = await world.sql("SELECT role FROM memberships WHERE break_glass_id IS NOT NULL OR user_id = :id", id=ROOT)
    assert row.role is None


async def test_nobody_opens_a_project_again_before_the_last_time_is_reviewed(study: Study) -> None:
    world = study.world
    made = await opened(study)
    await world.delete(f"{study.path}/members/{ROOT}", study.owner)
    body = {"project": "wdbc", "reason": "Once more"}
    for end in (None, ended):
        if end is not None:
            await end(study, made)
        again = await world.post("/break-glass", root(), json=body)
        assert (again.status_code, reason(again)) == (409, "review-is-missing")
    await world.hear(user("root0001", OTHER_ROOT, cluster_roles=[ClusterRole.ADMINISTRATOR]))
    other = administrator(OTHER_ROOT).model_copy(update={"username": "root0001"})
    assert (await world.post("/break-glass", other, json=body)).status_code == 201
    await found(world, "other")
    await opened(study, project="other")
    await reviewed(study, made)
    await opened(study)


async def test_the_role_by_a_group_comes_back_when_it_ends(study: Study) -> None:
    world = study.world
    made = await opened(study)
    await world.hear(user("root0000", ROOT, groups=["staff"], cluster_roles=[ClusterRole.ADMINISTRATOR], version=2))
    await world.post(f"{study.path}/group-roles", study.owner, json={"group": "staff", "role": "data_scientist"})
    assert (await study.member(ROOT)).by_group is None
    await ended(study, made)
    row = await study.member(ROOT)
    assert (row.by_group, row.break_glass_id, row.ends_at) == ("staff", None, None)
    lines = (await world.get(f"{study.path}/activity", study.owner)).json()["items"][:2]
    assert [(line["deed"], line["subject"], line["details"]) for line in lines] == [
        ("member.followed_group", "root0000", {"role": "data_scientist", "group": "staff"}),
        ("break_glass.ended", "root0000", {}),
    ]


async def test_who_becomes_a_member_after_it_ended_unsaid_ends_it_all_the_same(study: Study) -> None:
    world = study.world
    await opened(study)
    await world.sql("UPDATE break_glass SET ends_at = clock_timestamp()")
    await world.sql("UPDATE memberships SET ends_at = clock_timestamp() WHERE break_glass_id IS NOT NULL")
    added = await world.post(f"{study.path}/members", study.owner, json={"username": "root0000", "role": "data_scientist"})
    assert added.json()["break_glass_id"] is None
    async with world.running(keep_time):
        await until(world, "break_glass.end")
    assert (await study.member(ROOT)).role == "data_scientist"


# Its review


async def test_an_auditor_reviews_it_when_it_is_over_and_once(study: Study) -> None:
    world = study.world
    made = await opened(study)
    path = f"/break-glass/{made['break_glass_id']}/review"
    early = await world.post(path, auditor(), json=REVIEW)
    assert (early.status_code, reason(early)) == (409, "still-open")
    await ended(study, made)
    await world.said()
    await world.recorded()
    answer = await world.post(path, auditor(), json=REVIEW)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["verdict"], body["review"], body["reviewed_by"]) == ("justified", REVIEW["words"], "audit000")
    (fact,) = await world.said()
    assert isinstance(fact, BreakGlass)
    assert (fact.verdict, fact.version) == (Verdict.JUSTIFIED, 3)
    (record,) = await world.recorded()
    assert (record["action"], record["resource"]["verdict"]) == ("break_glass.review", "justified")
    again = await world.post(path, auditor(), json=REVIEW)
    assert (again.status_code, reason(again)) == (409, "already-reviewed")


async def test_a_data_owner_reviews_it_in_their_own_project(study: Study) -> None:
    world = study.world
    other = await found(world, "other")
    made = await opened(study)
    await ended(study, made)
    path = f"/break-glass/{made['break_glass_id']}/review"
    assert (await world.post(other.path + path, other.owner, json=REVIEW)).status_code == 404
    answer = await world.post(study.path + path, study.owner, json={"verdict": "unjustified", "words": "Nobody asked me."})
    assert (answer.status_code, answer.json()["verdict"]) == (200, "unjustified")
    line = (await world.get(f"{study.path}/activity", study.owner)).json()["items"][0]
    assert (line["deed"], line["actor_id"], line["details"]) == ("break_glass.reviewed", str(study.ada), {"verdict": "unjustified"})


async def test_nobody_reviews_what_they_opened_themselves(study: Study) -> None:
    world = study.world
    made = await opened(study)
    await ended(study, made)
    await world.post(f"{study.path}/members", study.owner, json={"username": "root0000", "role": "data_owner"})
    both = person(ROOT, "root0000", cluster_roles=list(ClusterRole))
    path = f"/break-glass/{made['break_glass_id']}/review"
    for door, actor in ((path, both), (study.path + path, study.as_owner(ROOT))):
        answer = await world.post(door, actor, json=REVIEW)
        assert (answer.status_code, reason(answer)) == (403, "own-review")


@pytest.mark.parametrize("body", [{}, {"verdict": "fine", "words": "x"}, {"verdict": "justified", "words": " "}, {"verdict": "justified"}])
async def test_a_review_says_something(study: Study, body: Any) -> None:
    made = await opened(study)
    await ended(study, made)
    assert (await study.world.post(f"/break-glass/{made['break_glass_id']}/review", auditor(), json=body)).status_code == 422


async def test_a_missing_review_is_reported_once_when_its_time_is_over_also_after_a_restart(study: Study) -> None:
    world = study.world
    made = await opened(study)
    await ended(study, made)
    async with world.running(keep_time):
        await measured("hortus_break_glass_open", 0)
    await world.sql("UPDATE break_glass SET review_due_at = clock_timestamp() + interval '1 second'")
    await world.said()
    async with world.running(keep_time):
        record = await until(world, "break_glass.report")
        await measured("hortus_break_glass_unreviewed", 1)
    assert record["resource"]["break_glass_id"] == made["break_glass_id"]
    async with world.running(keep_time):
        await asyncio.sleep(0.2)
    assert "break_glass.report" not in await actions(world)
    (fact,) = await world.said()
    assert isinstance(fact, BreakGlass)
    assert fact.unreviewed
    (listed,) = (await world.get("/break-glass", administrator())).json()["items"]
    assert listed["unreviewed"]
    assert (await world.get(f"{study.path}/activity", study.owner)).json()["items"][0]["deed"] == "break_glass.unreviewed"
    late = await world.post(f"/break-glass/{made['break_glass_id']}/review", auditor(), json=REVIEW)
    assert (late.status_code, late.json()["unreviewed"]) == (200, False)


async def test_every_replica_may_keep_the_time_and_each_thing_is_said_once(study: Study, worlds: Worlds) -> None:
    world = study.world
    replicas = [world, await worlds.open("projects", beside=world)]
    await opened(study)
    await world.said()
    tasks = [asyncio.create_task(keep_time(each.runtime)) for each in replicas]
    try:
        await world.sql("UPDATE memberships SET ends_at = clock_timestamp() WHERE break_glass_id IS NOT NULL")
        await world.sql("UPDATE break_glass SET ends_at = clock_timestamp()")
        await world.sql("SELECT pg_notify('memberships', '')")
        await until(world, "break_glass.end")
        await asyncio.sleep(0.3)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert sorted(await said(world)) == [("BreakGlass", 2), ("Membership", 2)], "each is ended by whoever wakes first"


async def test_the_list_is_paged_from_the_newest_on(study: Study) -> None:
    for _ in range(3):
        made = await opened(study)
        await ended(study, made)
        await reviewed(study, made)
    first = (await study.world.get("/break-glass?limit=2", auditor())).json()
    rest = (await study.world.get(f"/break-glass?limit=2&after={first['next']}", auditor())).json()
    ids = [each["break_glass_id"] for each in first["items"] + rest["items"]]
    assert ids == sorted(ids, reverse=True)
    assert (len(ids), rest["next"]) == (3, None)


# When its project is deleted


async def opened_by_another(study: Study, number: int) -> dict[str, Any]:
    other, name = uuid7(), f"root000{number}"
    await study.world.hear(user(name, other, cluster_roles=[ClusterRole.ADMINISTRATOR]))
    return await opened(study, administrator(other).model_copy(update={"username": name}))


async def delete(study: Study) -> None:
    answer = await study.world.post(f"{study.path}/deletion", study.owner, json={"name": "wdbc"})
    assert answer.status_code == 202, answer.text


async def told_of_break_glass(world: World) -> list[tuple[str, int, bool, bool]]:
    """Of each fact of break-glass: which, its version, whether it is over, and whether its review is missing."""
    facts = [fact for fact in await world.said() if isinstance(fact, BreakGlass)]
    return [(str(fact.break_glass_id), fact.version, fact.ended_at is not None, fact.unreviewed) for fact in facts]


async def test_a_deletion_ends_what_is_open_and_reports_at_once_and_once_what_nobody_reviewed(study: Study) -> None:
    world = study.world
    done, told, over, still_open = [await opened_by_another(study, number) for number in range(1, 5)]
    for made in (done, told, over):
        await ended(study, made)
    await reviewed(study, done)
    await world.sql("UPDATE break_glass SET review_due_at = now() WHERE break_glass_id = :id", id=UUID(told["break_glass_id"]))
    async with world.work() as uow:
        assert await report(uow) == 1
    await world.said()
    await world.recorded()
    await delete(study)
    facts = await world.said()
    assert [(type(fact).__name__, fact.version) for fact in facts[:2]] == [("Project", 2), ("Membership", 2)]
    said_of = [fact for fact in facts if isinstance(fact, BreakGlass)]
    assert facts[2:] == said_of
    assert [(str(fact.break_glass_id), fact.version, fact.ended_at is not None, fact.unreviewed) for fact in said_of] == [
        (over["break_glass_id"], 3, True, True),
        (still_open["break_glass_id"], 2, True, False),
        (still_open["break_glass_id"], 3, True, True),
    ]
    assert {fact.owners for fact in said_of} == {(study.ada,)}
    records = [(record["action"], record["resource"].get("break_glass_id")) for record in await world.recorded()]
    assert records == [
        ("project.delete", None),
        ("break_glass.report", over["break_glass_id"]),
        ("break_glass.end", still_open["break_glass_id"]),
        ("break_glass.report", still_open["break_glass_id"]),
    ]
    administrator_inside = UUID(still_open["user_id"])
    assert (await study.member(administrator_inside)).role is None
    assert (await world.get(study.path, study.as_scientist(administrator_inside))).status_code == 404
    await delete(study)
    async with world.running(keep_time):
        await measured("hortus_break_glass_unreviewed", 3)
        await asyncio.sleep(0.2)
    await world.hear(*by_all(study.project_id, PurgeStep.CLOSED))
    await reviewed(study, over)
    assert await told_of_break_glass(world) == [(over["break_glass_id"], 4, True, False)], "it is reviewed after all"
    await world.hear(*by_all(study.project_id, PurgeStep.PURGED))
    assert await told_of_break_glass(world) == []
    assert "break_glass.report" not in await actions(world)


async def test_an_owner_who_was_appointed_deletes_no_review_with_the_project(study: Study) -> None:
    world = study.world
    await study.add("eve00000")
    await world.sql("UPDATE people SET status = 'blocked' WHERE user_id = :ada", ada=study.ada)
    body = {"project": "wdbc", "username": "eve00000", "reason": "The owner is gone"}
    made = (await world.post("/owner-appointments", root(), json=body)).json()
    await world.said()
    await world.recorded()
    eve = study.as_owner(UUID(made["appointed_id"]))
    assert (await world.post(f"{study.path}/deletion", eve, json={"name": "wdbc"})).status_code == 202
    assert await told_of_break_glass(world) == [(made["break_glass_id"], 2, True, True)]
    record = (await world.recorded())[-1]
    assert (record["action"], record["actor"]["user_id"]) == ("break_glass.report", made["appointed_id"])


async def test_it_is_reported_once_also_when_the_deletion_dies_between_its_steps(study: Study) -> None:
    world = study.world
    made = await opened(study)
    await world.said()
    await world.recorded()
    with contextlib.suppress(Killed):
        async with world.work() as uow:
            await settle(uow, study.project_id)
            await uow.session.flush()
            raise Killed
    assert await world.said() == []
    await delete(study)
    steps = [*by_all(study.project_id, PurgeStep.CLOSED), *by_all(study.project_id, PurgeStep.PURGED)]
    for step in steps:
        await world.hear(step)
        async with world.work() as uow:
            await settle(uow, study.project_id)
        await world.sql("DELETE FROM inbox")
    await world.hear(*steps)
    assert await told_of_break_glass(world) == [(made["break_glass_id"], 2, True, False), (made["break_glass_id"], 3, True, True)]
    assert [action for action in await actions(world) if action.startswith("break_glass")] == ["break_glass.end", "break_glass.report"]
