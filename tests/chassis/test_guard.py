"""A door decides again, commits before it answers, and answers a repeated request as it did the first time."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any
from uuid import UUID

import httpx2
import pytest
from fastapi import Body
from pydantic import BaseModel
from sqlalchemy import text
from uuid_utils.compat import uuid7

from chassis.app import Runtime, Spec, create_app
from chassis.guard import IDENTITY_HEADER, IfMatch, Uow, doors, expect, may, write_identity
from chassis.hears import Hears
from chassis.settings import Settings
from contracts.policy import Action, Service
from contracts.roles import NOBODY, Actor, ClusterRole, Role
from tests.chassis.conftest import Side, membership
from tests.world import administrator, owner, person, reason, scientist, stranger

Make = Callable[..., Any]
PROJECT = UUID("01900000-0000-7000-8000-0000000000aa")


class Made(BaseModel):
    """What the test's doors answer."""

    name: str
    version: int = 1


router = doors(Service.PROJECTS)


@router.post("/projects", status_code=201, dependencies=[may(Action.PROJECT_CREATE)])
async def create(name: Annotated[str, Body(embed=True)], uow: Uow) -> Made:
    """A door with an effect, a fact, and a way to break at each moment."""
    await uow.session.execute(text("INSERT INTO effect (key, version) VALUES (:name, 1)"), {"name": name})
    uow.emit(membership(1, UUID(int=5) if name == "twice" else uuid7()))
    uow.note(name=len(name))
    if name == "secret":
        uow.conceal()
    if name == "break":
        raise RuntimeError("secret detail")
    return Made(name=name)


@router.patch("/projects/{project_id}", dependencies=[may(Action.PROJECT_CHANGE)])
async def change(project_id: UUID, version: IfMatch) -> Made:
    """A door that updates."""
    expect(version, 3)
    return Made(name=str(project_id), version=4)


@router.get("/projects/{project_id}", dependencies=[may(Action.PROJECT_READ)])
async def read(project_id: UUID) -> Made:
    """A door that reads."""
    return Made(name=str(project_id), version=7)


@router.get("/crls/{issuer}", dependencies=[may(Action.CRL_READ)])
async def read_for_everybody(issuer: str) -> Made:
    """A door for strangers."""
    return Made(name=issuer)


@pytest.fixture
async def projects(side: Make) -> Side:
    made: Side = await side("projects")
    return made


@pytest.fixture
async def client(projects: Side) -> AsyncIterator[httpx2.AsyncClient]:
    runtime = Runtime(projects.settings, projects.engine, frozenset({"users"}))
    app = create_app(Spec(Service.PROJECTS, Settings, router, Hears("projects")), runtime)
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="https://service/api/v1") as made:
        yield made


def as_(actor: Actor, **more: str) -> dict[str, str]:
    return {IDENTITY_HEADER: write_identity(actor), **more}


async def count(side: Side, table: str) -> int:
    return int((await side.sql(f"SELECT count(*) FROM {table}"))[0][0])


async def test_row_fact_and_record_commit_together_before_the_answer(client: httpx2.AsyncClient, projects: Side) -> None:
    answer = await client.post("/projects", json={"name": "mri"}, headers=as_(person()))
    assert answer.status_code == 201
    assert answer.headers["etag"] == '"1"'
    assert answer.headers["hortus-facts"].startswith("memberships:")
    assert [await count(projects, table) for table in ("effect", "outbox", "audit_outbox")] == [1, 1, 1]


async def test_when_the_commit_fails_the_caller_is_not_told_that_it_succeeded(client: httpx2.AsyncClient, projects: Side) -> None:
    assert (await client.post("/projects", json={"name": "twice"}, headers=as_(person()))).status_code == 201
    answer = await client.post("/projects", json={"name": "twice"}, headers=as_(person()))
    assert answer.status_code == 409
    assert reason(answer) == "changed-meanwhile"
    assert [await count(projects, table) for table in ("effect", "outbox", "audit_outbox")] == [1, 1, 1]


async def test_when_a_door_breaks_nothing_is_stored_and_nothing_inside_is_shown(client: httpx2.AsyncClient, projects: Side) -> None:
    answer = await client.post("/projects", json={"name": "break"}, headers=as_(person()))
    assert answer.status_code == 500
    assert "secret detail" not in answer.text
    assert [await count(projects, table) for table in ("effect", "outbox", "audit_outbox")] == [0, 0, 0]


@pytest.mark.parametrize(
    ("actor", "status", "slug"),
    [
        (NOBODY, 401, "not-signed-in"),
        (stranger(PROJECT), 404, "not-found"),
        (administrator(), 404, "not-found"),
        (scientist(PROJECT), 403, "role-may-not"),
    ],
)
async def test_the_guard_refuses_again_whoever_the_gateway_let_through(
    client: httpx2.AsyncClient, actor: Actor, status: int, slug: str
) -> None:
    answer = await client.patch(f"/projects/{PROJECT}", headers=as_(actor, **{"If-Match": '"3"'}))
    assert answer.status_code == status
    assert reason(answer) == slug


async def test_an_identity_that_speaks_of_another_project_is_refused(client: httpx2.AsyncClient) -> None:
    answer = await client.get(f"/projects/{PROJECT}", headers=as_(owner(UUID(int=9))))
    assert answer.status_code == 401


async def test_the_body_of_somebody_who_may_not_is_not_even_read(client: httpx2.AsyncClient) -> None:
    read = []

    async def body() -> AsyncIterator[bytes]:
        read.append(True)
        yield b"{"

    answer = await client.post("/projects", content=body(), headers=as_(NOBODY, **{"Content-Type": "application/json"}))
    assert (answer.status_code, reason(answer), read) == (401, "not-signed-in", [])
    answer = await client.post("/projects", content=body(), headers=as_(person(), **{"Content-Type": "application/json"}))
    assert (answer.status_code, read) == (422, [True])


@pytest.mark.parametrize("guards", [[], [may(Action.PROJECT_READ), may(Action.PROJECT_CHANGE)]], ids=["no guard", "two guards"])
def test_a_door_names_one_action_or_cannot_be_made(guards: list[Any]) -> None:
    async def door() -> None: ...

    with pytest.raises(ValueError, match="values to unpack"):
        doors(Service.PROJECTS).get("/projects", dependencies=guards)(door)


async def test_an_update_needs_the_version_that_was_read(client: httpx2.AsyncClient) -> None:
    path, who = f"/projects/{PROJECT}", owner(PROJECT)
    assert reason(await client.patch(path, headers=as_(who))) == "precondition-required"
    assert reason(await client.patch(path, headers=as_(who, **{"If-Match": '"2"'}))) == "precondition-failed"
    assert reason(await client.patch(path, headers=as_(who, **{"If-Match": "x"}))) == "precondition-failed"
    changed = await client.patch(path, headers=as_(who, **{"If-Match": '"3"'}))
    assert (changed.status_code, changed.headers["etag"]) == (200, '"4"')


async def test_a_repeated_request_is_answered_as_the_first_and_done_once(client: httpx2.AsyncClient, projects: Side) -> None:
    headers = as_(person(UUID(int=1)), **{"Idempotency-Key": "k1"})
    first = await client.post("/projects", json={"name": "mri"}, headers=headers)
    again = await client.post("/projects", json={"name": "mri"}, headers=headers)
    assert (again.status_code, again.json(), again.headers["etag"]) == (201, first.json(), first.headers["etag"])
    assert again.headers["hortus-facts"] == first.headers["hortus-facts"]
    assert again.headers["idempotency-replayed"] == "true"
    assert await count(projects, "effect") == 1


async def test_two_equal_requests_at_once_are_done_once(client: httpx2.AsyncClient, projects: Side) -> None:
    headers = as_(person(UUID(int=1)), **{"Idempotency-Key": "k2"})
    answers = await asyncio.gather(*[client.post("/projects", json={"name": "ct"}, headers=headers) for _ in range(4)])
    assert {answer.status_code for answer in answers} == {201}
    assert await count(projects, "effect") == 1


async def test_one_key_for_two_different_requests_is_refused(client: httpx2.AsyncClient) -> None:
    headers = as_(person(UUID(int=1)), **{"Idempotency-Key": "k3"})
    await client.post("/projects", json={"name": "a"}, headers=headers)
    assert reason(await client.post("/projects", json={"name": "b"}, headers=headers)) == "idempotency-key-reused"


async def test_a_key_belongs_to_one_person(client: httpx2.AsyncClient, projects: Side) -> None:
    for user in (1, 2):
        answer = await client.post("/projects", json={"name": "a"}, headers=as_(person(UUID(int=user)), **{"Idempotency-Key": "k4"}))
        assert answer.status_code == 201
    assert await count(projects, "effect") == 2


async def test_a_request_that_failed_may_be_repeated_with_its_key(client: httpx2.AsyncClient, projects: Side) -> None:
    headers = as_(person(UUID(int=1)), **{"Idempotency-Key": "k5"})
    assert (await client.post("/projects", json={"name": "break"}, headers=headers)).status_code == 500
    assert (await client.post("/projects", json={"name": "mri"}, headers=headers)).status_code == 201
    assert await count(projects, "effect") == 1


async def test_an_answer_that_held_a_secret_is_not_kept(client: httpx2.AsyncClient, projects: Side) -> None:
    headers = as_(person(UUID(int=1)), **{"Idempotency-Key": "k6"})
    assert (await client.post("/projects", json={"name": "secret"}, headers=headers)).status_code == 201
    assert reason(await client.post("/projects", json={"name": "secret"}, headers=headers)) == "answer-was-secret"
    assert await projects.sql("SELECT 1 FROM idempotency WHERE body IS NOT NULL") == []


async def test_a_caller_who_saw_a_fact_waits_until_it_has_arrived_here(client: httpx2.AsyncClient, projects: Side) -> None:
    headers = as_(person(), **{"Hortus-After": "users:u1:2, memberships:unheard:9"})
    refused = await client.post("/projects", json={"name": "mri"}, headers=headers)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert await count(projects, "effect") == 0
    waiting = asyncio.create_task(client.post("/projects", json={"name": "mri"}, headers=headers))
    await projects.sql("INSERT INTO inbox (topic, key, version, partition) VALUES ('users', 'u1', 2, 0)")
    assert (await waiting).status_code == 201


async def test_a_stranger_waits_for_no_facts(client: httpx2.AsyncClient) -> None:
    after = {"Hortus-After": "users:u1:2"}
    assert (await client.get("/crls/people", headers=after)).status_code == 200
    assert (await client.get("/crls/people", headers=as_(person(), **after))).status_code == 503


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"name": 5}', b'{"name": "\\ud800"}', b"\xff\xfe", b'{"name": "a\\u0000b"}'])
async def test_a_malformed_body_is_a_problem_and_stores_nothing(client: httpx2.AsyncClient, projects: Side, body: bytes) -> None:
    answer = await client.post("/projects", content=body, headers=as_(person(), **{"Content-Type": "application/json"}))
    assert 400 <= answer.status_code < 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert await count(projects, "effect") == 0


async def test_the_operators_doors_say_what_is_missing(projects: Side) -> None:
    runtime = Runtime(projects.settings, projects.engine, frozenset(), checks=[lambda: ["the broker"]])
    app = create_app(Spec(Service.PROJECTS, Settings, router, Hears("projects")), runtime)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="https://service") as client:
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()) == (503, {"ready": False, "missing": ["the broker"], "warnings": []})
        assert (await client.get("/livez")).json() == {"status": "alive"}
        assert "hortus_relay_published_total" in (await client.get("/metrics")).text


@pytest.mark.parametrize("off", [-10.0, 10.0])
async def test_a_service_whose_clock_is_off_is_not_ready(projects: Side, off: float, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() + off)
    app = create_app(Spec(Service.PROJECTS, Settings, router, Hears("projects")), Runtime(projects.settings, projects.engine, frozenset()))
    began = clock()
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="https://service") as client:
        ready = await client.get("/readyz")
    took = clock() - began
    (missing,) = ready.json()["missing"]
    said = re.fullmatch(r"clock: this machine's is ([+-]\d+\.\d) s off the database's", missing)
    assert ready.status_code == 503
    assert said is not None, missing
    assert off - took - 0.051 <= float(said[1]) <= off + 0.051, "to a tenth of a second, and to what it took to ask the database"


def test_an_administrator_has_no_role_in_a_project_by_being_one() -> None:
    assert administrator().role is None
    assert ClusterRole.ADMINISTRATOR.value not in {role.value for role in Role}
