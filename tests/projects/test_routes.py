import asyncio
import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from uuid_utils.compat import uuid7

from chassis import guard
from contracts.events import Membership, Project, UserStatus
from contracts.roles import NOBODY, Actor, Role
from services.projects.service import projects
from tests.projects.people import found, user
from tests.world import OURS, World, Worlds, administrator, agent, job, owner, person, reason, scientist, stranger


def soon(**delta: float) -> str:
    return (datetime.now(UTC) + timedelta(**delta)).isoformat()


# Who may come in

DOORS = [
    ("GET", f"/projects/{OURS}", {Role.DATA_OWNER, Role.DATA_SCIENTIST}),
    ("PATCH", f"/projects/{OURS}", {Role.DATA_OWNER}),
    ("POST", f"/projects/{OURS}/members", {Role.DATA_OWNER}),
    ("GET", f"/projects/{OURS}/members", {Role.DATA_OWNER, Role.DATA_SCIENTIST}),
    ("PATCH", f"/projects/{OURS}/members/{UUID(int=1)}", {Role.DATA_OWNER}),
    ("DELETE", f"/projects/{OURS}/members/{UUID(int=1)}", {Role.DATA_OWNER}),
]


async def test_no_door_opens_for_who_may_not(world: World) -> None:
    for method, path, roles in DOORS:
        callers: list[tuple[Actor, int]] = [
            (NOBODY, 401),
            (stranger(OURS), 404),
            (administrator(), 404),
            (agent(), 404),
            (job(UUID(int=5), project_id=OURS), 404),
        ]
        if Role.DATA_SCIENTIST not in roles:
            callers.append((scientist(OURS), 403))
        for actor, status in callers:
            answer = await world.request(method, path, actor, json={}, version=1)
            assert answer.status_code == status, (method, path, actor)
    assert await world.said() == []
    assert await world.recorded() == []


@pytest.mark.parametrize(("actor", "status"), [(NOBODY, 401), (agent(), 403), (job(UUID(int=5)), 403)])
async def test_only_people_who_signed_in_create_and_list_projects(world: World, actor: Actor, status: int) -> None:
    assert (await world.post("/projects", actor, json={"name": "wdbc"})).status_code == status
    assert (await world.get("/projects", actor)).status_code == status


async def test_the_identity_of_another_project_opens_nothing(world: World) -> None:
    study = await found(world)
    other = await found(world, "other", study.ada)
    answer = await world.get(study.path, owner(other.project_id, study.ada))
    assert answer.status_code == 401


# Projects


async def test_a_person_creates_a_project_and_owns_it(world: World) -> None:
    ada = person()
    answer = await world.post("/projects", ada, json={"name": "Wdbc", "description": "Cells", "purpose": "Study 7"})
    assert answer.status_code == 201
    body = answer.json()
    assert (body["name"], body["description"], body["purpose"]) == ("Wdbc", "Cells", "Study 7")
    assert (body["state"], body["role"], body["version"]) == ("active", "data_owner", 1)
    assert answer.headers["etag"] == '"1"'
    project, membership = await world.said()
    assert isinstance(project, Project)
    assert isinstance(membership, Membership)
    assert (str(project.project_id), project.name) == (body["project_id"], "Wdbc")
    assert (membership.user_id, membership.username, membership.role) == (ada.user_id, "ada00000", Role.DATA_OWNER)
    assert (membership.version, membership.ends_at) == (1, None)
    assert f"memberships:{body['project_id']}%3A{ada.user_id}:1" in answer.headers["hortus-facts"]
    (record,) = await world.recorded()
    assert (record["action"], record["project_id"]) == ("project.create", body["project_id"])


async def test_a_name_is_taken_ignoring_case(world: World) -> None:
    await found(world, "wdbc")
    answer = await world.post("/projects", person(), json={"name": "WDBC"})
    assert (answer.status_code, reason(answer)) == (409, "name-taken")
    assert await world.said() == []


async def test_one_name_asked_for_twice_at_once_is_given_once(world: World, worlds: Worlds) -> None:
    replica = await worlds.open("projects", beside=world)
    answers = await asyncio.gather(*[each.post("/projects", person(), json={"name": "wdbc"}) for each in (world, replica) * 3])
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409, 409, 409]
    assert len(await world.said()) == 2


async def test_the_same_request_with_the_same_key_creates_one_project(world: World) -> None:
    ada = person()
    first = await world.post("/projects", ada, json={"name": "wdbc"}, key="k1")
    again = await world.post("/projects", ada, json={"name": "wdbc"}, key="k1")
    other = await world.post("/projects", person(), json={"name": "other"}, key="k1")
    assert (again.status_code, again.json(), again.headers["etag"]) == (201, first.json(), '"1"')
    assert again.headers["hortus-facts"] == first.headers["hortus-facts"]
    assert other.status_code == 201
    assert len(await world.said()) == 4


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": ""},
        {"name": "a__b"},
        {"name": "../../etc"},
        {"name": "a\u0000b"},
        {"name": "x" * 1000},
        {"name": ["wdbc"]},
        {"name": "wdbc", "description": "x" * 2001},
        {"name": "wdbc", "description": "bell\u0007"},
        {"name": "wdbc", "description": "nul\u0000"},
        {"name": "wdbc", "description": "turned \u202e round"},
        {"name": "wdbc", "purpose": "x" * 501},
        {"name": "wdbc", "owner": "eve"},
        {"name": "wdbc", "project_id": str(OURS)},
        [],
        None,
        "wdbc",
    ],
)
async def test_a_bad_project_is_refused_with_a_sentence_and_nothing_is_stored(world: World, body: Any) -> None:
    answer = await world.post("/projects", person(), json=body)
    assert answer.status_code == 422
    reason(answer)
    assert answer.json()["title"]
    assert await world.said() == []
    assert (await world.sql("SELECT count(*) FROM projects"))[0][0] == 0


@pytest.mark.parametrize(
    "body", [b"{", b"\xff\xfe", b'{"name": "\\ud800"}', b"[" * 100_000, b"9" * 10_000, b'{"\\ud800": 1, "name": "ab"}']
)
async def test_what_is_no_json_is_refused(world: World, body: bytes) -> None:
    answer = await world.post("/projects", person(), content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    reason(answer)


async def test_lines_and_letters_of_any_language_are_kept(world: World) -> None:
    text = "Zellen,\n細胞, čmár\t(β)"
    answer = await world.post("/projects", person(), json={"name": "wdbc", "description": text})
    assert answer.json()["description"] == text


async def test_a_person_lists_their_own_projects_in_pages(world: World) -> None:
    ada = uuid7()
    studies = [await found(world, f"study{number}", ada) for number in range(5)]
    stranger_s = await found(world, "strangers")
    known = {study.project_id: Role.DATA_OWNER for study in [*studies, stranger_s]}
    actor = person(ada, projects=known)
    names: list[str] = []
    after = ""
    for _ in range(3):
        page = (await world.get(f"/projects?limit=2{after}", actor)).json()
        names += [item["name"] for item in page["items"]]
        after = f"&after={page['next']}"
    assert names == [f"study{number}" for number in range(5)]
    assert page["next"] is None


async def test_a_project_that_the_gateway_does_not_know_of_is_not_listed(world: World) -> None:
    study = await found(world)
    assert (await world.get("/projects", person(study.ada))).json() == {"items": [], "next": None}


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "limit=x", "after=%00", "after=!", "after=bm8", "after=WyJ4Il0", "after=W10"])
async def test_a_bad_page_is_refused(world: World, query: str) -> None:
    study = await found(world)
    assert (await world.get(f"/projects?{query}", person())).status_code == 422
    assert (await world.get(f"{study.path}/members?{query}", study.owner)).status_code == 422


async def test_a_cursor_of_another_shape_is_refused(world: World) -> None:
    wrong: list[Any] = [["x", "y"], [1], [None], [{}], "x", {"a": 1}]
    for values in wrong:
        cursor = base64.urlsafe_b64encode(json.dumps(values).encode()).decode()
        answer = await world.get("/projects", person(), params={"after": cursor})
        assert (answer.status_code, reason(answer)) == (422, "invalid-cursor")


async def test_members_read_the_project_with_their_own_role(world: World) -> None:
    study = await found(world)
    bob = await study.add("bob00000")
    assert (await world.get(study.path, study.owner)).json()["role"] == "data_owner"
    answer = await world.get(study.path, study.as_scientist(UUID(bob["user_id"])))
    assert (answer.json()["role"], answer.headers["etag"]) == ("data_scientist", '"1"')


async def test_an_owner_describes_the_project_anew(world: World) -> None:
    study = await found(world)
    answer = await world.patch(study.path, study.owner, json={"description": "Nuclei"}, version=1)
    assert (answer.json()["description"], answer.json()["version"]) == ("Nuclei", 2)
    (said,) = await world.said()
    assert isinstance(said, Project)
    assert (said.description, said.version) == ("Nuclei", 2)
    same = await world.patch(study.path, study.owner, json={"description": "Nuclei"}, version=2)
    assert same.json()["version"] == 2
    assert await world.said() == []


async def test_a_change_needs_the_version_that_was_read(world: World) -> None:
    study = await found(world)
    bob = await study.add("bob00000")
    await world.said()
    for path, body in ((study.path, {"description": "x"}), (f"{study.path}/members/{bob['user_id']}", {"role": "data_owner"})):
        without = await world.patch(path, study.owner, json=body)
        other = await world.patch(path, study.owner, json=body, version=7)
        odd = await world.patch(path, study.owner, json=body, headers={"If-Match": "*"})
        assert (without.status_code, reason(without)) == (428, "precondition-required")
        assert (other.status_code, reason(other)) == (412, "precondition-failed")
        assert odd.status_code == 412
    assert await world.said() == []


async def test_two_changes_of_one_version_at_once_have_one_winner(world: World, worlds: Worlds) -> None:
    replica = await worlds.open("projects", beside=world)
    study = await found(world)
    answers = await asyncio.gather(
        *[
            each.patch(study.path, study.owner, json={"description": str(number)}, version=1)
            for number, each in enumerate((world, replica, world, replica))
        ]
    )
    assert sorted(answer.status_code for answer in answers) == [200, 412, 412, 412]
    assert [fact.version for fact in await world.said()] == [2]


# Members


async def test_an_owner_adds_a_member(world: World) -> None:
    study = await found(world)
    await world.hear(user("bob00000"))
    answer = await world.post(
        f"{study.path}/members", study.owner, json={"username": "bob00000", "role": "data_scientist", "purpose": "Training"}
    )
    assert answer.status_code == 201
    body = answer.json()
    assert (body["username"], body["role"], body["purpose"], body["ends_at"], body["version"]) == (
        "bob00000",
        "data_scientist",
        "Training",
        None,
        1,
    )
    (said,) = await world.said()
    assert isinstance(said, Membership)
    assert (str(said.user_id), said.role, said.purpose, said.version) == (body["user_id"], Role.DATA_SCIENTIST, "Training", 1)
    (record,) = await world.recorded()
    assert record["resource"] == {
        "project_id": str(study.project_id),
        "user_id": body["user_id"],
        "role": "data_scientist",
        "version": "1",
    }


async def test_a_membership_can_begin_later_and_end(world: World) -> None:
    study = await found(world)
    bob = await study.invite("bob00000", uuid7(), starts_at=soon(hours=1), ends_at=soon(hours=2))
    listed = (await world.get(f"{study.path}/members", study.owner)).json()["items"]
    assert {item["username"] for item in listed} == {"ada00000", "bob00000"}
    assert (await world.get(study.path, study.as_scientist(UUID(bob["user_id"])))).status_code == 404


@pytest.mark.parametrize(
    ("change", "slug"),
    [
        ({"username": "nobody00"}, "no-such-person"),
        ({"username": "blocked0"}, "no-such-person"),
        ({"username": "ada00000"}, "raises-yourself"),
        ({"username": "cyd00000"}, "already-a-member"),
        ({"ends_at": "2001-01-01T00:00:00Z"}, "ends-before-it-begins"),
        ({"starts_at": "2999-01-01T00:00:00Z"}, "begins-later"),
        ({"ends_at": "0001-01-01T00:00:00+14:00"}, "unprocessable"),
        ({"ends_at": "9999-12-31T23:59:59-12:00"}, "unprocessable"),
        ({"ends_at": "2030-01-01T00:00:00"}, "unprocessable"),
        ({"ends_at": "tomorrow"}, "unprocessable"),
        ({"ends_at": 1e300}, "unprocessable"),
        ({"role": "administrator"}, "unprocessable"),
        ({"role": None}, "unprocessable"),
        ({"username": "BOB00000"}, "unprocessable"),
        ({"username": "bob00000\n"}, "unprocessable"),
        ({"purpose": "nul\u0000"}, "unprocessable"),
        ({"version": 7}, "unprocessable"),
    ],
)
async def test_a_bad_member_is_refused_and_nothing_is_stored(world: World, change: dict[str, Any], slug: str) -> None:
    study = await found(world)
    await study.add("cyd00000")
    await world.hear(user("bob00000"), user("blocked0", status=UserStatus.BLOCKED))
    await world.said()
    answer = await world.post(f"{study.path}/members", study.owner, json={"username": "bob00000", "role": "data_scientist"} | change)
    statuses = {"already-a-member": 409, "raises-yourself": 403}
    assert (answer.status_code, reason(answer)) == (statuses.get(slug, 422), slug)
    assert await world.said() == []
    assert (await world.sql("SELECT count(*) FROM memberships"))[0][0] == 2


async def test_one_person_added_twice_at_once_is_a_member_once(world: World, worlds: Worlds) -> None:
    replica = await worlds.open("projects", beside=world)
    study = await found(world)
    await world.hear(user("bob00000"))
    body = {"username": "bob00000", "role": "data_scientist"}
    answers = await asyncio.gather(*[each.post(f"{study.path}/members", study.owner, json=body) for each in (world, replica, world)])
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409]
    assert len(await world.said()) == 1


async def test_members_see_each_other_in_pages(world: World) -> None:
    study = await found(world)
    for number in range(4):
        await study.add(f"user000{number}")
    bob = await study.add("bob00000")
    actor = study.as_scientist(UUID(bob["user_id"]))
    names: list[str] = []
    after = ""
    while True:
        page = (await world.get(f"{study.path}/members?limit=2{after}", actor)).json()
        names += [item["username"] for item in page["items"]]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert sorted(names) == ["ada00000", "bob00000", *[f"user000{number}" for number in range(4)]]


async def test_an_owner_changes_a_members_role_purpose_and_end(world: World) -> None:
    study = await found(world)
    bob = await study.add("bob00000")
    path = f"{study.path}/members/{bob['user_id']}"
    await world.said()
    first = await world.patch(path, study.owner, json={"role": "data_owner", "purpose": "Checks"}, version=1)
    assert (first.json()["role"], first.json()["purpose"], first.json()["version"]) == ("data_owner", "Checks", 2)
    end = soon(days=1)
    second = await world.patch(path, study.owner, json={"ends_at": end}, version=2)
    assert datetime.fromisoformat(second.json()["ends_at"]) == datetime.fromisoformat(end)
    assert (second.json()["role"], second.json()["purpose"]) == ("data_owner", "Checks")
    third = await world.patch(path, study.owner, json={"ends_at": None}, version=3)
    assert (third.json()["ends_at"], third.json()["version"]) == (None, 4)
    same = await world.patch(path, study.owner, json={}, version=4)
    assert same.json()["version"] == 4
    assert [fact.version for fact in await world.said()] == [2, 3, 4]


@pytest.mark.parametrize("body", [{"role": "king"}, {"starts_at": "2030-01-01T00:00:00Z"}, {"ends_at": "2001-01-01T00:00:00Z"}, []])
async def test_a_bad_change_of_a_member_is_refused(world: World, body: Any) -> None:
    study = await found(world)
    bob = await study.add("bob00000")
    await world.said()
    assert (await world.patch(f"{study.path}/members/{bob['user_id']}", study.owner, json=body, version=1)).status_code == 422
    assert await world.said() == []


async def test_an_owner_removes_a_member_who_then_finds_nothing(world: World) -> None:
    study = await found(world)
    bob = await study.add("bob00000")
    await world.said()
    path = f"{study.path}/members/{bob['user_id']}"
    answer = await world.delete(path, study.owner)
    assert answer.status_code == 204
    assert answer.headers["hortus-facts"] == f"memberships:{study.project_id}%3A{bob['user_id']}:2"
    (said,) = await world.said()
    assert isinstance(said, Membership)
    assert (said.role, said.version) == (None, 2)
    assert (await world.delete(path, study.owner)).status_code == 404
    assert (await world.patch(path, study.owner, json={"role": "data_owner"}, version=2)).status_code == 404
    assert len((await world.get(f"{study.path}/members", study.owner)).json()["items"]) == 1
    assert (await world.get(study.path, study.as_scientist(UUID(bob["user_id"])))).status_code == 404
    listed = await world.get("/projects", person(UUID(bob["user_id"]), projects={study.project_id: Role.DATA_SCIENTIST}))
    assert listed.json()["items"] == []


async def test_who_comes_back_goes_on_counting_versions(world: World) -> None:
    study = await found(world)
    bob = await study.add("bob00000")
    await world.delete(f"{study.path}/members/{bob['user_id']}", study.owner)
    answer = await world.post(f"{study.path}/members", study.owner, json={"username": "bob00000", "role": "data_owner"})
    assert (answer.json()["version"], answer.json()["role"]) == (3, "data_owner")
    assert [(fact.version, fact.role) for fact in await world.said() if isinstance(fact, Membership)] == [
        (1, Role.DATA_SCIENTIST),
        (2, None),
        (3, Role.DATA_OWNER),
    ]


@pytest.mark.parametrize("deed", ["remove", "demote", "date"])
async def test_the_last_owner_stays(world: World, deed: str) -> None:
    study = await found(world)
    await study.add("bob00000")
    await study.add("cyd00000", Role.DATA_OWNER, ends_at=soon(days=1))
    await world.said()
    path = f"{study.path}/members/{study.ada}"
    if deed == "remove":
        answer = await world.delete(path, study.owner)
    else:
        body = {"role": "data_scientist"} if deed == "demote" else {"ends_at": soon(days=1)}
        answer = await world.patch(path, study.owner, json=body, version=1)
    assert (answer.status_code, reason(answer)) == (409, "last-owner-stays")
    assert await world.said() == []


@pytest.mark.parametrize("status", [UserStatus.INVITED, UserStatus.BLOCKED, UserStatus.DEACTIVATED])
async def test_an_owner_whose_account_is_not_active_does_not_count_as_one_who_stays(world: World, status: UserStatus) -> None:
    study = await found(world)
    bob = await study.add("bob00000", Role.DATA_OWNER)
    await world.hear(user("bob00000", UUID(bob["user_id"]), status=status, version=2))
    answer = await world.delete(f"{study.path}/members/{study.ada}", study.owner)
    assert reason(answer) == "last-owner-stays"


async def test_two_owners_who_remove_each_other_at_once_leave_one(world: World, worlds: Worlds) -> None:
    replica = await worlds.open("projects", beside=world)
    study = await found(world)
    bob = UUID((await study.add("bob00000", Role.DATA_OWNER))["user_id"])
    async with world.work(study.owner) as uow:
        await projects.remove_member(uow, study.project_id, bob)
        back = asyncio.create_task(replica.delete(f"{study.path}/members/{study.ada}", study.as_owner(bob)))
        await world.somebody_waits()
    answer = await back
    assert answer.status_code == 404
    rows = await world.sql("SELECT user_id FROM memberships WHERE role = 'data_owner'")
    assert [row.user_id for row in rows] == [study.ada]


async def test_two_owners_who_leave_at_once_leave_one(world: World, worlds: Worlds) -> None:
    replica = await worlds.open("projects", beside=world)
    study = await found(world)
    bob = UUID((await study.add("bob00000", Role.DATA_OWNER))["user_id"])
    async with world.work(study.owner) as uow:
        await projects.remove_member(uow, study.project_id, study.ada)
        leaving = asyncio.create_task(replica.delete(f"{study.path}/members/{bob}", study.as_owner(bob)))
        await world.somebody_waits()
    answer = await leaving
    assert (answer.status_code, reason(answer)) == (409, "last-owner-stays")


async def test_an_owner_who_was_removed_a_moment_ago_changes_nothing_more(world: World) -> None:
    study = await found(world)
    bob = await study.add("bob00000", Role.DATA_OWNER)
    cyd = await study.add("cyd00000", Role.DATA_OWNER)
    bobs = study.as_owner(UUID(bob["user_id"]))
    await world.delete(f"{study.path}/members/{bob['user_id']}", study.owner)
    await world.said()
    assert (await world.delete(f"{study.path}/members/{cyd['user_id']}", bobs)).status_code == 404
    assert (await world.patch(study.path, bobs, json={"description": "x"}, version=1)).status_code == 404
    added = await world.post(f"{study.path}/members", bobs, json={"username": "bob00000", "role": "data_owner"})
    assert added.status_code == 404
    assert await world.said() == []


async def test_an_owner_who_was_demoted_a_moment_ago_does_not_raise_themselves_again(world: World) -> None:
    study = await found(world)
    bob = await study.add("bob00000", Role.DATA_OWNER)
    path = f"{study.path}/members/{bob['user_id']}"
    await world.patch(path, study.owner, json={"role": "data_scientist"}, version=1)
    await world.said()
    answer = await world.patch(path, study.as_owner(UUID(bob["user_id"])), json={"role": "data_owner"}, version=2)
    assert (answer.status_code, reason(answer)) == (403, "role-may-not")
    assert await world.said() == []


async def test_members_of_another_project_are_not_reached(world: World) -> None:
    study = await found(world)
    other = await found(world, "other")
    bob = await other.add("bob00000")
    await world.said()
    assert (await world.delete(f"{study.path}/members/{bob['user_id']}", study.owner)).status_code == 404
    assert (await world.patch(f"{study.path}/members/{bob['user_id']}", study.owner, json={}, version=1)).status_code == 404
    assert await world.said() == []


async def test_ids_that_are_none_are_refused(world: World) -> None:
    study = await found(world)
    assert (await world.delete(f"{study.path}/members/..", study.owner)).status_code in {404, 405, 422}
    assert (await world.delete(f"{study.path}/members/{uuid4()}x", study.owner)).status_code == 422
    assert (await world.delete(f"{study.path}/members/{uuid4()}", study.owner)).status_code == 404


async def test_a_caller_waits_for_the_person_they_name_to_be_heard(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    study = await found(world)
    bob = user("bob00000")
    body = {"username": "bob00000", "role": "data_scientist"}
    headers = {"Hortus-After": f"users:{bob.user_id}:1"}

    async def later() -> None:
        await asyncio.sleep(0.1)
        await world.hear(bob)

    with monkeypatch.context() as patient:
        patient.setattr(guard, "AFTER_WAIT_S", 30.0)
        answer, _ = await asyncio.gather(world.post(f"{study.path}/members", study.owner, json=body, headers=headers), later())
    assert answer.status_code == 201
    never = await world.get(study.path, study.owner, headers={"Hortus-After": f"users:{bob.user_id}:9"})
    assert (never.status_code, reason(never)) == (503, "cannot-decide")
