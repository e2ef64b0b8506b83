"""Projects that are deleted: asked for, closed and purged by every service, certified, and never forgotten."""

import asyncio
import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from prometheus_client import REGISTRY
from sqlalchemy import text
from uuid_utils.compat import uuid7

from contracts.events import CONFIRMS, PURGED, Membership, Project, ProjectState, Purged, PurgeStep, UserStatus
from contracts.policy import Service
from contracts.roles import NOBODY, Actor, Role
from services.projects import domain
from services.projects.app import keep_time
from tests.deletions import MARKER, rows_with
from tests.projects.people import Study, found, user
from tests.projects.test_domain import NOW, project
from tests.world import World, Worlds, administrator, auditor, owner, person, reason, scientist

AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def said_by(service: Service, project_id: UUID, step: PurgeStep, **removed: int) -> Purged:
    version = 1 if step is PurgeStep.CLOSED else 2
    return PURGED[service](version=version, project_id=project_id, project_version=version + 1, step=step, at=AT, removed=removed)


def by_all(project_id: UUID, step: PurgeStep, services: Sequence[Service] = CONFIRMS) -> list[Purged]:
    return [said_by(service, project_id, step) for service in services]


async def asked(world: World, name: str = "wdbc", ada: UUID | None = None) -> Study:
    study = await found(world, name, ada)
    answer = await world.post(f"{study.path}/deletion", study.owner, json={"name": name})
    assert answer.status_code == 202, answer.text
    await world.said()
    await world.recorded()
    return study


async def deleted(world: World, name: str = "wdbc") -> Study:
    study = await asked(world, name)
    await world.hear(*by_all(study.project_id, PurgeStep.CLOSED), *by_all(study.project_id, PurgeStep.PURGED))
    return study


async def states(world: World) -> list[str]:
    return [fact.state.value for fact in await world.said() if isinstance(fact, Project)]


# Who may ask, and how


async def test_only_an_owner_with_a_fresh_factor_and_the_right_name_deletes(world: World) -> None:
    study = await found(world)
    bob = UUID((await study.add("bob00000"))["user_id"])
    await world.said()
    tired = study.owner.model_copy(update={"factor_fresh": False})
    by_key = study.owner.model_copy(update={"session_id": None, "key_id": uuid7(), "scopes": frozenset({"project.delete"})})
    wanted: list[tuple[Actor, str, int, str]] = [
        (NOBODY, "wdbc", 401, "not-signed-in"),
        (person(project_id=study.project_id), "wdbc", 404, "not-found"),
        (administrator(), "wdbc", 404, "not-found"),
        (study.as_scientist(bob), "wdbc", 403, "role-may-not"),
        (study.as_owner(bob), "wdbc", 403, "role-may-not"),
        (tired, "wdbc", 401, "factor-too-old"),
        (by_key, "wdbc", 403, "session-needed"),
        (study.owner, "WDBC", 422, "name-not-repeated"),
        (study.owner, "", 422, "name-not-repeated"),
    ]
    for actor, name, status, slug in wanted:
        answer = await world.post(f"{study.path}/deletion", actor, json={"name": name})
        assert (answer.status_code, reason(answer)) == (status, slug)
    assert await world.said() == []
    assert (await world.get(study.path, study.owner)).json()["state"] == "active"


async def test_asking_closes_the_project_and_its_owner_sees_whom_it_waits_for(world: World) -> None:
    study = await found(world)
    answer = await world.post(f"{study.path}/deletion", study.owner, json={"name": "wdbc"})
    assert answer.status_code == 202
    for body in (answer.json(), (await world.get(study.path, study.owner)).json()):
        assert (body["state"], body["version"], body["deletion"]["asked_by"]) == ("closing", 2, str(study.ada))
        assert [body["deletion"][name] for name in ("closed", "purged", "awaited")] == [[], [], sorted(CONFIRMS)]
    assert await states(world) == ["closing"]
    (record,) = await world.recorded()
    assert (record["action"], record["actor"]["user_id"], record["resource"]["state"]) == ("project.delete", str(study.ada), "closing")
    again = await world.post(f"{study.path}/deletion", study.owner, json={"name": "wdbc"})
    assert (again.status_code, again.json()["version"]) == (202, 2)
    assert await states(world) == []


async def test_an_archived_project_can_be_deleted(world: World) -> None:
    study = await found(world)
    await world.post(f"{study.path}/archive", study.owner)
    assert (await world.post(f"{study.path}/deletion", study.owner, json={"name": "wdbc"})).status_code == 202


async def test_what_is_asked_for_is_not_taken_back_and_takes_no_changes(world: World) -> None:
    study = await asked(world)
    await world.hear(user("new00000"))
    for door in ("archive", "restoration"):
        answer = await world.post(f"{study.path}/{door}", study.owner, json={})
        assert (answer.status_code, reason(answer)) == (409, "project-is-being-deleted")
    for answer in (
        await world.patch(study.path, study.owner, json={"purpose": "x"}, version=2),
        await world.post(f"{study.path}/members", study.owner, json={"username": "new00000", "role": "data_owner"}),
    ):
        assert (answer.status_code, reason(answer)) == (409, "project-not-active")
    assert await world.said() == []


# What the services say


async def test_nothing_is_purged_before_all_have_closed_and_it_is_not_deleted_before_all_have_purged(world: World) -> None:
    study = await asked(world)
    *most, last = by_all(study.project_id, PurgeStep.CLOSED)
    await world.hear(*most)
    assert await states(world) == []
    shown = (await world.get(study.path, study.owner)).json()["deletion"]
    assert (len(shown["closed"]), shown["awaited"], shown["purging_at"]) == (len(CONFIRMS) - 1, ["search"], None)
    await world.hear(last)
    assert await states(world) == ["purging"]
    *most, last = by_all(study.project_id, PurgeStep.PURGED)
    await world.hear(*most)
    assert await states(world) == []
    assert (await world.get(study.path, study.owner)).json()["deletion"]["awaited"] == ["search"]
    await world.hear(last)
    assert await states(world) == ["deleted"]


async def test_repeated_and_skipped_facts_change_nothing(world: World) -> None:
    study = await asked(world)
    said = by_all(study.project_id, PurgeStep.CLOSED)
    await world.hear(*said)
    assert await states(world) == ["purging"]
    await world.sql("DELETE FROM inbox")
    await world.hear(*said)
    assert await states(world) == []
    purged = by_all(study.project_id, PurgeStep.PURGED)
    await world.hear(*reversed(purged))
    assert await states(world) == ["deleted"]
    certificate = (await world.get(f"/erasure-certificates/{study.project_id}", study.owner)).json()
    await world.sql("DELETE FROM inbox")
    await world.hear(*said, *purged)
    assert await world.said() == []
    assert (await world.get(f"/erasure-certificates/{study.project_id}", study.owner)).json() == certificate


async def test_who_says_at_once_that_it_has_purged_has_closed_as_well(world: World) -> None:
    study = await asked(world)
    await world.hear(said_by(Service.SEARCH, study.project_id, PurgeStep.PURGED))
    await world.hear(*by_all(study.project_id, PurgeStep.CLOSED, CONFIRMS[:-1]))
    assert await states(world) == ["purging"]
    await world.hear(*by_all(study.project_id, PurgeStep.PURGED, CONFIRMS[:-1]))
    assert await states(world) == ["deleted"]


async def test_the_last_two_answers_at_two_replicas_are_counted_together(world: World, worlds: Worlds) -> None:
    replica = await worlds.open("projects", beside=world)
    study = await asked(world)
    for step, state in ((PurgeStep.CLOSED, "purging"), (PurgeStep.PURGED, "deleted")):
        *most, one, other = by_all(study.project_id, step)
        await world.hear(*most)
        await asyncio.gather(world.hear(one), replica.hear(other))
        assert await states(world) == [state]


async def test_what_is_said_of_a_project_that_nobody_deletes_is_passed_by(world: World) -> None:
    study = await found(world)
    await world.hear(*by_all(study.project_id, PurgeStep.PURGED), *by_all(uuid7(), PurgeStep.CLOSED))
    assert await world.said() == []
    assert (await world.get(study.path, study.owner)).json()["state"] == "active"


# Deleted


async def test_a_deleted_project_is_left_by_all_and_nothing_but_its_id_remains(world: World) -> None:
    study = await found(world, "zebra")
    lawful = {"description": MARKER, "purpose": MARKER, "legal_basis": MARKER, "ethics_approval_id": MARKER}
    assert (await world.patch(study.path, study.owner, json=lawful, version=1)).status_code == 200
    bob = await study.add("bob00000", purpose=MARKER)
    left = await study.add("eve00000", purpose=MARKER)
    await world.delete(f"{study.path}/members/{left['user_id']}", study.owner)
    await world.post(f"{study.path}/group-roles", study.owner, json={"group": "staff", "role": "data_scientist", "purpose": MARKER})
    await world.post(f"{study.path}/deletion", study.owner, json={"name": "zebra"}, key="k1")
    await world.said()
    await world.hear(*by_all(study.project_id, PurgeStep.CLOSED), *by_all(study.project_id, PurgeStep.PURGED))
    said = [fact for fact in await world.said() if not (isinstance(fact, Project) and fact.state is ProjectState.PURGING)]
    members = [fact for fact in said if isinstance(fact, Membership)]
    assert {str(fact.user_id): fact.version for fact in members} == {str(study.ada): 2, bob["user_id"]: 2, left["user_id"]: 3}
    assert {(fact.role, fact.username, fact.purpose) for fact in members} == {(None, "", "")}
    assert isinstance(said[-1], Project)
    assert (said[-1].state, said[-1].name, said[-1].description) == (ProjectState.DELETED, "", "")
    assert await rows_with(world, MARKER, "zebra") == {}
    kept = await rows_with(world, str(study.project_id))
    assert kept == {"projects": 1, "deletions": 1, "deletion_parts": len(CONFIRMS), "inbox": len(CONFIRMS)}
    assert (await world.get(study.path, study.owner)).status_code == 404
    assert (await world.get("/projects", person(study.ada, projects={study.project_id: Role.DATA_OWNER}))).json()["items"] == []


async def test_every_table_that_names_a_project_is_emptied_of_it(world: World) -> None:
    named = await world.sql(
        "SELECT table_name FROM information_schema.columns WHERE column_name = 'project_id' AND table_schema = 'public'"
    )
    study = await deleted(world)
    for (table,) in named:
        if table not in ("projects", "deletions", "deletion_parts", "deleted_projects"):
            assert (await world.sql(f"SELECT count(*) FROM {table} WHERE project_id = :id", id=study.project_id))[0][0] == 0, table


async def test_what_is_written_into_the_feed_while_a_project_is_left_does_not_outlive_it(world: World) -> None:
    """The end of a role is written without the project, by whoever holds the role's row."""
    study = await found(world)
    bob = await study.add("bob00000")
    await world.post(f"{study.path}/deletion", study.owner, json={"name": "wdbc"})
    await world.hear(*by_all(study.project_id, PurgeStep.CLOSED))
    async with world.runtime.engine.begin() as other:
        await other.execute(text("SELECT FROM memberships WHERE user_id = :id FOR UPDATE"), {"id": bob["user_id"]})
        leaving = asyncio.create_task(world.hear(*by_all(study.project_id, PurgeStep.PURGED)))
        await world.somebody_waits()
        await other.execute(
            text("""INSERT INTO activity SELECT (jsonb_populate_record(a, '{"activity_id": "00000000-0000-0000-0000-000000000001"}')).*
                    FROM activity a WHERE project_id = :id LIMIT 1"""),
            {"id": study.project_id},
        )
    await leaving
    assert await world.sql("SELECT FROM activity WHERE project_id = :id", id=study.project_id) == []


async def test_the_certificate_says_who_asked_and_what_each_service_removed_and_its_hash_is_in_the_ledger(world: World) -> None:
    study = await asked(world)
    await world.hear(*by_all(study.project_id, PurgeStep.CLOSED))
    await world.recorded()
    await world.hear(*[said_by(service, study.project_id, PurgeStep.PURGED, things=number) for number, service in enumerate(CONFIRMS)])
    body = (await world.get(f"/erasure-certificates/{study.project_id}", study.owner)).json()
    document = json.loads(body["document"])
    assert body["document"] == json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert (document["project_id"], document["asked_by"]) == (str(study.project_id), str(study.ada))
    assert {name: part["removed"] for name, part in document["services"].items()} == {
        **{service.value: {"things": number} for number, service in enumerate(CONFIRMS)},
        "projects": {"memberships": 1, "group_roles": 0, "invitations": 0, "break_glass": 0, "activity": 2},
    }
    assert all(part["closed_at"] and part["purged_at"] for part in document["services"].values())
    assert document["services"]["projects"]["kept"] == {"owner_ids": 1, "member_ids": 1}
    assert hashlib.sha256(body["document"].encode()).hexdigest() == body["sha256"]
    (record,) = [record for record in await world.recorded() if record["action"] == "project.erase"]
    assert record["resource"]["erasure_certificate_sha256"] == body["sha256"]
    assert record["project_id"] == str(study.project_id)


async def test_who_asked_who_owned_administrators_and_auditors_read_the_certificate_and_nobody_else(world: World) -> None:
    study = await found(world)
    co_owner = UUID((await study.add("bob00000", Role.DATA_OWNER))["user_id"])
    worker = UUID((await study.add("eve00000"))["user_id"])
    begins_later = UUID((await study.invite("fay00000", uuid7(), role="data_owner", starts_at="2100-01-01T00:00:00Z"))["user_id"])
    await world.post(f"{study.path}/deletion", study.owner, json={"name": "wdbc"})
    path = f"/erasure-certificates/{study.project_id}"
    assert (await world.get(path, study.owner)).status_code == 404
    await world.hear(*by_all(study.project_id, PurgeStep.CLOSED), *by_all(study.project_id, PurgeStep.PURGED))
    for actor in (person(study.ada), person(co_owner), administrator(), auditor()):
        assert (await world.get(path, actor)).status_code == 200
        assert len((await world.get("/erasure-certificates", actor)).json()["items"]) == 1
    for actor in (person(worker), person(begins_later), person()):
        assert (await world.get(path, actor)).status_code == 404
        assert (await world.get("/erasure-certificates", actor)).json()["items"] == []
    assert (await world.get(path, NOBODY)).status_code == 401
    assert (await world.get(f"/erasure-certificates/{uuid7()}", auditor())).status_code == 404


async def test_deletions_and_certificates_are_listed_in_pages(world: World) -> None:
    studies = [await deleted(world, "first"), await asked(world, "second"), await deleted(world, "third")]
    first = (await world.get("/erasure-certificates?limit=2", auditor())).json()
    rest = (await world.get(f"/erasure-certificates?limit=2&after={first['next']}", auditor())).json()
    listed = [(item["project_id"], item["state"]) for item in first["items"] + rest["items"]]
    assert listed == [(str(study.project_id), state) for study, state in zip(studies, ("deleted", "closing", "deleted"), strict=True)]
    assert rest["next"] is None


# A deletion that hangs


async def test_administrators_and_auditors_see_a_deletion_that_hangs_when_its_owner_is_gone(world: World) -> None:
    study = await asked(world)
    (row,) = await world.sql("SELECT username FROM people WHERE user_id = :ada", ada=study.ada)
    await world.hear(*by_all(study.project_id, PurgeStep.CLOSED, [service for service in CONFIRMS if service is not Service.JOBS]))
    await world.hear(user(row.username, study.ada, status=UserStatus.DEACTIVATED, version=2))
    hangs: dict[str, Any] = {"project_id": str(study.project_id), "asked_by": str(study.ada), "state": "closing", "awaited": ["jobs"]}
    hangs |= dict.fromkeys(("erased_at", "sha256", "document"))
    for actor in (administrator(), auditor()):
        (shown,) = (await world.get("/erasure-certificates", actor)).json()["items"]
        assert datetime.fromisoformat(shown.pop("asked_at")) <= datetime.now(UTC)
        assert shown == hangs
    await world.hear(said_by(Service.JOBS, study.project_id, PurgeStep.CLOSED))
    await world.hear(*by_all(study.project_id, PurgeStep.PURGED, CONFIRMS[1:]))
    (shown,) = (await world.get("/erasure-certificates", auditor())).json()["items"]
    assert (shown["state"], shown["awaited"], shown["document"]) == ("purging", [CONFIRMS[0]], None)
    await world.hear(said_by(CONFIRMS[0], study.project_id, PurgeStep.PURGED))
    (shown,) = (await world.get("/erasure-certificates", auditor())).json()["items"]
    certificate = (await world.get(f"/erasure-certificates/{study.project_id}", auditor())).json()
    assert shown == {**certificate, "state": "deleted", "awaited": []}


async def test_nobody_else_sees_in_the_list_that_a_deletion_is_under_way(world: World) -> None:
    study = await found(world)
    worker = UUID((await study.add("eve00000"))["user_id"])
    other = await deleted(world, "other")
    await world.post(f"{study.path}/deletion", study.owner, json={"name": "wdbc"})
    for actor in (study.owner, person(study.ada), study.as_scientist(worker), person(worker), person()):
        assert (await world.get("/erasure-certificates", actor)).json() == {"items": [], "next": None}
    (own,) = (await world.get("/erasure-certificates", other.owner)).json()["items"]
    assert (own["project_id"], own["state"]) == (str(other.project_id), "deleted")
    for actor in (administrator(), auditor(), study.owner, other.owner, person()):
        assert (await world.get(f"/erasure-certificates/{study.project_id}", actor)).status_code == 404, "there is no certificate yet"
    by_key = auditor().model_copy(update={"session_id": None, "key_id": uuid7(), "scopes": frozenset({"erasure.list"})})
    for actor, status, slug in ((NOBODY, 401, "not-signed-in"), (by_key, 403, "session-needed")):
        answer = await world.get("/erasure-certificates", actor)
        assert (answer.status_code, reason(answer)) == (status, slug)


async def measured(service: Service, waiting: int, oldest: Study | None) -> None:
    """Return when the metrics say how many deletions wait for a service, and since when the oldest."""
    since = None
    if oldest is not None:
        (row,) = await oldest.world.sql("SELECT asked_at FROM deletions WHERE project_id = :id", id=oldest.project_id)
        since = row.asked_at.timestamp()
    names = ("hortus_project_deletions_awaited", "hortus_project_deletions_awaited_since_seconds")
    async with asyncio.timeout(15):
        while [REGISTRY.get_sample_value(name, {"service": service.value}) for name in names] != [waiting, since]:
            await asyncio.sleep(0.02)


async def test_metrics_say_for_which_services_deletions_wait_and_since_when(world: World) -> None:
    others = [service for service in CONFIRMS if service is not Service.JOBS]
    async with world.running(keep_time):
        first, second = await asked(world, "first"), await asked(world, "second")
        for service in CONFIRMS:
            await measured(service, 2, first)
        await world.hear(*by_all(first.project_id, PurgeStep.CLOSED), *by_all(first.project_id, PurgeStep.PURGED, others))
        await measured(Service.JOBS, 2, first)
        for service in others:
            await measured(service, 1, second)
        await world.hear(said_by(Service.JOBS, first.project_id, PurgeStep.PURGED))
        await measured(Service.JOBS, 1, second)
        await world.hear(*by_all(second.project_id, PurgeStep.CLOSED), *by_all(second.project_id, PurgeStep.PURGED))
        for service in CONFIRMS:
            await measured(service, 0, None)


async def test_the_name_is_free_again_and_the_new_project_is_another_one(world: World) -> None:
    study = await asked(world, "wdbc")
    taken = await world.post("/projects", person(), json={"name": "WDBC"})
    assert (taken.status_code, reason(taken)) == (409, "name-taken")
    await world.hear(*by_all(study.project_id, PurgeStep.CLOSED), *by_all(study.project_id, PurgeStep.PURGED))
    new = await world.post("/projects", person(), json={"name": "WDBC"})
    assert new.status_code == 201
    assert new.json()["project_id"] != str(study.project_id)
    second = await deleted(world, "other")
    assert (await world.get(second.path, second.owner)).status_code == 404


async def test_nothing_brings_anybody_back_into_a_deleted_project(world: World) -> None:
    study = await found(world)
    bob = uuid7()
    await world.post(f"{study.path}/group-roles", study.owner, json={"group": "staff", "role": "data_scientist"})
    await world.post(f"{study.path}/deletion", study.owner, json={"name": "wdbc"})
    await world.hear(*by_all(study.project_id, PurgeStep.CLOSED), *by_all(study.project_id, PurgeStep.PURGED))
    await world.said()
    await world.hear(user("bob00000", bob, groups=["staff"]), user("bob00000", bob, version=2, status=UserStatus.DEACTIVATED))
    for answer in (
        await world.post(f"{study.path}/members", study.owner, json={"username": "bob00000", "role": "data_owner"}),
        await world.post(f"{study.path}/restoration", study.owner, json={}),
        await world.post(f"{study.path}/deletion", study.owner, json={"name": ""}),
        await world.get(f"{study.path}/members", scientist(study.project_id, bob)),
        await world.get(f"{study.path}/members", owner(study.project_id, study.ada)),
    ):
        assert answer.status_code == 404
    assert await world.said() == []


# The rules


def test_a_deletion_waits_for_every_service_of_the_one_list() -> None:
    made = project()
    deletion = domain.deletion.ask(made, UUID(int=2), [UUID(int=3)], NOW)
    assert deletion is not None
    assert (made.state, deletion.owners) == ("closing", [UUID(int=2), UUID(int=3)])
    assert domain.deletion.state(deletion) == made.state
    parts: list[Any] = []
    for service in CONFIRMS:
        assert not domain.deletion.proceed(made, deletion, parts, NOW)
        assert service in domain.deletion.awaited(deletion, parts)
        parts.append(domain.deletion.note(None, service, said_by(service, made.project_id, PurgeStep.CLOSED)))
    assert domain.deletion.proceed(made, deletion, parts, NOW)
    assert not domain.deletion.proceed(made, deletion, parts, NOW)
    for part, service in zip(parts, CONFIRMS, strict=True):
        assert not domain.deletion.is_complete(deletion, parts)
        domain.deletion.note(part, service, said_by(service, made.project_id, PurgeStep.PURGED))
    assert domain.deletion.is_complete(deletion, parts)
    assert (made.state, made.version) == ("purging", 3)
    assert domain.deletion.state(deletion) == made.state
    domain.deletion.finish(made, deletion, parts, {"memberships": 3}, NOW)
    assert deletion.document is not None
    assert json.loads(deletion.document)["services"]["projects"]["kept"] == {"owner_ids": 2, "member_ids": 3}
    assert domain.deletion.state(deletion) == made.state == "deleted"
    assert domain.deletion.waiting([(deletion, parts)]) == {service: [] for service in CONFIRMS}


def test_the_part_of_a_service_stays_as_it_was_first_told() -> None:
    told = domain.deletion.note(None, Service.JOBS, said_by(Service.JOBS, UUID(int=1), PurgeStep.PURGED, jobs=3))
    domain.deletion.note(told, Service.JOBS, said_by(Service.JOBS, UUID(int=1), PurgeStep.CLOSED))
    domain.deletion.note(told, Service.JOBS, said_by(Service.JOBS, UUID(int=1), PurgeStep.PURGED))
    assert (told.removed, told.closed_at, told.purged_at) == ({"jobs": 3}, AT, AT)
