"""Projects that are founded, changed, archived by people or at their end, and restored."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from chassis.errors import CannotDecide
from contracts.events import Fact, Membership, Project, ProjectState
from contracts.roles import Role
from services.projects import domain
from services.projects.app import keep_time
from services.projects.domain.lifecycle import Creators, Founders
from services.projects.models import Person
from tests.projects.people import Study, found, user
from tests.projects.test_domain import NOW, project
from tests.world import World, Worlds, administrator, auditor, person, reason

HOUR = timedelta(hours=1)
LAWFUL = {
    "name": "wdbc",
    "description": "Cells",
    "purpose": "Study 7",
    "legal_basis": "GDPR Art. 6(1)(e), 9(2)(j)",
    "ethics_approval_id": "EK 2026/117",
}


def soon(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def in_groups(*groups: str) -> Person:
    return Person(user_id=uuid7(), username="bob00000", status="active", groups=list(groups))


# The rules


def test_everybody_creates_projects_unless_the_installation_says_otherwise() -> None:
    domain.lifecycle.may_create(Founders(), person(), None)


def test_where_not_everybody_may_administrators_and_the_people_of_named_groups_create_projects() -> None:
    some = Founders(Creators.ADMINISTRATORS, frozenset({"leads"}))
    domain.lifecycle.may_create(some, administrator(), None)
    domain.lifecycle.may_create(some, person(), in_groups("staff", "leads"))
    for actor in (person(), auditor()):
        with pytest.raises(domain.lifecycle.CreatingIsNotOpen):
            domain.lifecycle.may_create(some, actor, in_groups("staff"))


def test_whose_groups_are_not_known_yet_is_asked_to_come_again() -> None:
    with pytest.raises(CannotDecide):
        domain.lifecycle.may_create(Founders(Creators.ADMINISTRATORS, frozenset({"leads"})), person(), None)
    with pytest.raises(domain.lifecycle.CreatingIsNotOpen):
        domain.lifecycle.may_create(Founders(Creators.ADMINISTRATORS), person(), None)


def test_archiving_and_restoring_count_a_version_once() -> None:
    made = project()
    assert domain.lifecycle.archive(made)
    assert not domain.lifecycle.archive(made)
    assert (made.state, made.version) == ("archived", 2)
    assert domain.lifecycle.restore(made, {}, NOW)
    assert not domain.lifecycle.restore(made, {}, NOW)
    assert (made.state, made.version) == ("active", 3)


@pytest.mark.parametrize("state", [ProjectState.CLOSING, ProjectState.PURGING, ProjectState.DELETED])
def test_what_is_being_deleted_is_neither_archived_nor_restored(state: ProjectState) -> None:
    for deed in (domain.lifecycle.archive, lambda made: domain.lifecycle.restore(made, {}, NOW)):
        with pytest.raises(domain.lifecycle.ProjectIsBeingDeleted):
            deed(project(state))


def test_a_project_whose_end_has_passed_is_restored_with_another_end_only() -> None:
    made = project(ProjectState.ARCHIVED)
    made.ends_at = NOW - HOUR
    with pytest.raises(domain.lifecycle.ProjectHasEnded):
        domain.lifecycle.restore(made, {}, NOW)
    with pytest.raises(domain.projects.EndsInThePast):
        domain.lifecycle.restore(made, {"ends_at": NOW}, NOW)
    assert domain.lifecycle.restore(made, {"ends_at": NOW + HOUR}, NOW)
    assert (made.state, made.ends_at) == ("active", NOW + HOUR)


def test_an_end_lies_ahead() -> None:
    with pytest.raises(domain.projects.EndsInThePast):
        domain.lifecycle.change(project(), {"ends_at": NOW}, NOW)
    made = project()
    assert domain.lifecycle.change(made, {"ends_at": NOW + HOUR}, NOW)
    assert domain.lifecycle.change(made, {"ends_at": None}, NOW)
    assert (made.ends_at, made.version) == (None, 3)


# The doors


async def test_what_makes_a_project_lawful_is_kept_and_shown(world: World) -> None:
    ends = soon(3600)
    answer = await world.post("/projects", person(), json={**LAWFUL, "ends_at": ends})
    assert answer.status_code == 201
    body = answer.json()
    assert {name: body[name] for name in LAWFUL} == LAWFUL
    assert datetime.fromisoformat(body["ends_at"]) == datetime.fromisoformat(ends)
    fact = (await world.said())[0]
    assert isinstance(fact, Project)
    assert fact.ends_at == datetime.fromisoformat(ends)


@pytest.mark.parametrize(
    "more",
    [
        {"ends_at": "2020-01-01T00:00:00Z"},
        {"ends_at": "2030-01-01T00:00:00"},
        {"ends_at": "tomorrow"},
        {"legal_basis": "x" * 501},
        {"ethics_approval_id": "x" * 101},
        {"ethics_approval_id": "bell\u0007"},
        {"legal_basis": None},
    ],
)
async def test_particulars_that_cannot_be_are_refused(world: World, more: dict[str, Any]) -> None:
    assert (await world.post("/projects", person(), json={"name": "wdbc", **more})).status_code == 422
    study = await found(world)
    assert (await world.patch(study.path, study.owner, json=more, version=1)).status_code == 422
    assert await world.said() == []


async def test_an_owner_changes_what_they_name_and_nothing_else(world: World) -> None:
    study = await found(world)
    answer = await world.patch(study.path, study.owner, json={"legal_basis": "consent", "ends_at": soon(3600)}, version=1)
    assert (answer.status_code, answer.json()["version"]) == (200, 2)
    answer = await world.patch(study.path, study.owner, json={"ends_at": None, "purpose": "Study 8"}, version=2)
    body = answer.json()
    assert [body[name] for name in ("description", "purpose", "legal_basis", "ends_at", "version")] == [
        "Cells",
        "Study 8",
        "consent",
        None,
        3,
    ]
    stale = await world.patch(study.path, study.owner, json={"purpose": "Study 9"}, version=2)
    assert (stale.status_code, reason(stale)) == (412, "precondition-failed")
    records = await world.recorded()
    assert [record["resource"]["changed"] for record in records] == ["ends_at legal_basis", "ends_at purpose"]


@pytest.mark.parametrize(("actor", "status"), [(person(), 403), (administrator(), 201)])
async def test_where_administrators_create_projects_others_are_told_whom_to_ask(worlds: Worlds, actor: Any, status: int) -> None:
    world = await worlds.open("projects", project_creators="administrators")
    answer = await world.post("/projects", actor, json=LAWFUL)
    assert answer.status_code == status
    if status == 403:
        assert reason(answer) == "creating-is-not-open"
        assert await world.said() == []


async def test_the_people_of_a_named_group_create_projects_while_a_directory_says_that_they_are_in_it(worlds: Worlds) -> None:
    world = await worlds.open("projects", project_creators="administrators", project_creator_groups=["leads"])
    bob = uuid7()
    await world.hear(user("bob00000", bob, groups=["leads"]))
    assert (await world.post("/projects", person(bob), json=LAWFUL)).status_code == 201
    await world.hear(user("bob00000", bob, version=2))
    answer = await world.post("/projects", person(bob), json={"name": "other"})
    assert (answer.status_code, reason(answer)) == (403, "creating-is-not-open")


async def archived(world: World) -> Study:
    study = await found(world)
    answer = await world.post(f"{study.path}/archive", study.owner)
    assert (answer.status_code, answer.json()["state"]) == (200, "archived")
    return study


async def test_an_archived_project_is_read_and_left_and_not_changed(world: World) -> None:
    study = await found(world)
    bob = await study.add("bob00000")
    eve = await study.add("eve00000")
    await world.hear(user("new00000"))
    await world.post(f"{study.path}/archive", study.owner)
    await world.said()
    new = {"username": "new00000", "role": "data_scientist"}
    for answer in (
        await world.patch(study.path, study.owner, json={"description": "Other"}, version=2),
        await world.post(f"{study.path}/members", study.owner, json=new),
        await world.patch(f"{study.path}/members/{bob['user_id']}", study.owner, json={"purpose": "x"}, version=1),
        await world.post(f"{study.path}/group-roles", study.owner, json={"group": "staff", "role": "data_scientist"}),
    ):
        assert (answer.status_code, reason(answer)) == (409, "project-not-active")
    assert await world.said() == []
    assert (await world.get(study.path, study.as_scientist(UUID(bob["user_id"])))).json()["state"] == "archived"
    assert len((await world.get(f"{study.path}/members", study.owner)).json()["items"]) == 3
    assert (await world.delete(f"{study.path}/members/{eve['user_id']}", study.owner)).status_code == 204


async def test_archiving_is_said_once_and_so_is_restoring(world: World) -> None:
    study = await archived(world)
    assert (await world.post(f"{study.path}/archive", study.owner)).json()["version"] == 2
    for _ in range(2):
        answer = await world.post(f"{study.path}/restoration", study.owner, json={})
        assert (answer.status_code, answer.json()["state"], answer.json()["version"]) == (200, "active", 3)
    said = [fact for fact in await world.said() if isinstance(fact, Project)]
    assert [(fact.version, fact.state) for fact in said] == [(2, ProjectState.ARCHIVED), (3, ProjectState.ACTIVE)]
    records = await world.recorded()
    assert [(record["action"], record["resource"].get("state")) for record in records] == [
        ("project.archive", "archived"),
        ("project.restore", "active"),
    ]
    assert (await world.patch(study.path, study.owner, json={"description": "Other"}, version=3)).status_code == 200


async def test_who_came_into_a_group_while_the_project_was_archived_is_let_in_when_it_is_restored(world: World) -> None:
    study = await found(world)
    for group in ("staff", "leads"):
        await world.post(f"{study.path}/group-roles", study.owner, json={"group": group, "role": "data_scientist"})
    bob, cyd, gone = uuid7(), uuid7(), uuid7()
    await world.hear(user("gone0000", gone, groups=["staff"]))
    await world.post(f"{study.path}/archive", study.owner)
    await world.hear(user("bob00000", bob, groups=["staff"]), user("cyd00000", cyd, groups=["others"]), user("gone0000", gone, version=2))
    assert await world.sql("SELECT 1 FROM memberships WHERE user_id = :bob", bob=bob) == []
    await world.said()
    assert (await world.post(f"{study.path}/restoration", study.owner, json={})).status_code == 200
    joined = [(fact.user_id, fact.role, fact.version) for fact in await world.said() if isinstance(fact, Membership)]
    assert joined == [(bob, "data_scientist", 1)]
    feed = (await world.get(f"{study.path}/activity", study.owner)).json()["items"]
    assert [(line["deed"], line["subject"]) for line in feed[:2]] == [("member.followed_group", "bob00000"), ("project.restored", None)]
    await world.post(f"{study.path}/restoration", study.owner, json={})
    assert await world.said() == []


async def test_whoever_stopped_being_an_owner_neither_archives_nor_restores(world: World) -> None:
    study = await found(world)
    bob = await study.add("bob00000")
    header_is_old = study.as_owner(UUID(bob["user_id"]))
    for door in ("archive", "restoration"):
        answer = await world.post(f"{study.path}/{door}", header_is_old, json={})
        assert (answer.status_code, reason(answer)) == (403, "role-may-not")
        stranger = await world.post(f"{study.path}/{door}", study.as_owner(uuid7()), json={})
        assert stranger.status_code == 404


# The end


async def until(world: World, count: int) -> list[Fact]:
    said: list[Fact] = []
    async with asyncio.timeout(15):
        while len(said) < count:
            said += await world.said()
            await asyncio.sleep(0.01)
    return said


async def test_a_project_is_archived_at_its_end_by_one_of_the_replicas(world: World, worlds: Worlds) -> None:
    replica = await worlds.open("projects", beside=world)
    study = await found(world)
    async with world.running(keep_time), replica.running(keep_time):
        await world.patch(study.path, study.owner, json={"ends_at": soon(1.5)}, version=1)
        changed, ended = await until(world, 2)
    assert isinstance(changed, Project)
    assert isinstance(ended, Project)
    assert (ended.version, ended.state, ended.ends_at) == (3, ProjectState.ARCHIVED, changed.ends_at)
    assert (await world.sql("SELECT at FROM outbox ORDER BY id DESC LIMIT 1"))[0].at >= ended.ends_at
    assert await world.said() == []
    (record,) = [each for each in await world.recorded() if each["action"] == "project.end"]
    assert record["actor"] == {"principal": "service", "service": "projects"}
    assert record["resource"] == {"projects": str(study.project_id)}
    assert (await study.member(study.ada)).role == Role.DATA_OWNER
    refused = await world.post(f"{study.path}/restoration", study.owner, json={})
    assert (refused.status_code, reason(refused)) == (409, "project-has-ended")
    assert (await world.post(f"{study.path}/restoration", study.owner, json={"ends_at": None})).json()["state"] == "active"
