import asyncio
import json
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pyotp
import pytest

from contracts.events import User
from contracts.roles import NOBODY, Actor, ClusterRole
from services.auth import domain
from services.auth.service import registrations
from tests.auth.people import PASSWORD, invite, join
from tests.world import World, Worlds, administrator, agent, auditor, person, reason


@pytest.fixture
def settings(settings: dict[str, Any]) -> dict[str, Any]:
    return settings | {"registration": True}


async def ask(
    world: World, email: str = "ada@example.org", note: str = "I work on the MRI study.", source: str = "192.0.2.1"
) -> httpx2.Response:
    return await world.post("/registrations", json={"email": email, "note": note}, headers={"Hortus-Source": source})


async def waiting(world: World) -> list[dict[str, Any]]:
    answer = await world.get("/registrations", administrator())
    assert answer.status_code == 200, answer.text
    return list(answer.json()["items"])


async def approve(world: World, registration_id: object, actor: Actor | None = None, roles: tuple[str, ...] = ()) -> httpx2.Response:
    return await world.post(f"/registrations/{registration_id}/approval", actor or administrator(), json={"cluster_roles": list(roles)})


async def test_where_registration_is_off_nobody_asks_for_an_account(worlds: Worlds, settings: dict[str, Any]) -> None:
    world = await worlds.open("auth", **(settings | {"registration": False}))
    answer = await ask(world)
    assert (answer.status_code, reason(answer)) == (403, "registration-closed")
    assert await world.sql("SELECT 1 FROM registrations") == []


async def test_who_asks_is_seen_by_an_administrator_and_comes_in_when_approved(world: World) -> None:
    asked = await ask(world, "Ada@Example.ORG")
    assert (asked.status_code, asked.content) == (202, b"")
    assert await world.said() == []
    (request,) = await waiting(world)
    assert (request["email"], request["note"], request["version"]) == ("ada@example.org", "I work on the MRI study.", 1)
    root = administrator()
    answer = await approve(world, request["registration_id"], root)
    assert answer.status_code == 201, answer.text
    body = answer.json()
    assert (body["username"], body["status"], body["mailed"], body["cluster_roles"]) == ("ada00000", "invited", False, [])
    (said,) = await world.said()
    assert isinstance(said, User)
    assert await waiting(world) == []
    ((state, by),) = await world.sql("SELECT state, decided_by FROM registrations")
    assert (state, by) == ("approved", root.user_id)
    records = await world.recorded()
    assert [record["action"] for record in records] == ["registration.ask", "registration.approve"]
    assert records[1]["resource"] == {"registration_id": request["registration_id"], "user_id": body["user_id"]}
    assert "example.org" not in json.dumps(records)
    accepted = await world.post("/invitations/acceptance", json={"token": body["invitation"], "password": PASSWORD})
    code = pyotp.TOTP(accepted.json()["totp_secret"]).now()
    assert (await world.post("/invitations/confirmation", json={"token": body["invitation"], "code": code})).status_code == 200


async def test_the_answer_is_the_same_whether_an_address_is_known_invited_asked_for_or_new(world: World) -> None:
    await join(world, "ada@example.org")
    await invite(world, "bob@example.org")
    await ask(world, "eve@example.org")
    addresses = ("ada@example.org", "bob@example.org", "eve@example.org", "new@example.org")
    answers = [await ask(world, email, source=f"198.51.100.{number}") for number, email in enumerate(addresses)]
    assert {(answer.status_code, answer.content, tuple(sorted(answer.headers))) for answer in answers} == {
        (202, b"", tuple(sorted(answers[0].headers)))
    }
    assert [item["email"] for item in await waiting(world)] == ["eve@example.org", "ada@example.org", "bob@example.org", "new@example.org"]


async def test_a_request_of_somebody_who_has_an_account_is_refused_to_the_administrator_and_stays(world: World) -> None:
    await join(world, "ada@example.org")
    await ask(world, "ada@example.org")
    (request,) = await waiting(world)
    answer = await approve(world, request["registration_id"])
    assert (answer.status_code, reason(answer)) == (409, "email-taken")
    assert len(await waiting(world)) == 1


async def test_a_cluster_role_is_given_with_an_approval_only_by_a_fresh_factor(world: World) -> None:
    await ask(world)
    (request,) = await waiting(world)
    stale = person(cluster_roles=[ClusterRole.ADMINISTRATOR], factor_fresh=False)
    refused = await approve(world, request["registration_id"], stale, ("auditor",))
    assert (refused.status_code, reason(refused)) == (401, "factor-too-old")
    assert (await approve(world, request["registration_id"], roles=("auditor",))).json()["cluster_roles"] == ["auditor"]


async def test_an_approval_takes_nothing_from_somebody_who_has_the_address_by_now(world: World) -> None:
    await ask(world, "ada@example.org")
    (request,) = await waiting(world)
    invited = (await invite(world, "ada@example.org", ["auditor"])).json()
    refused = await approve(world, request["registration_id"])
    assert (refused.status_code, reason(refused)) == (409, "email-taken")
    (row,) = await world.sql("SELECT cluster_roles FROM users")
    assert row.cluster_roles == ["auditor"]
    accepted = await world.post("/invitations/acceptance", json={"token": invited["invitation"], "password": PASSWORD})
    assert accepted.status_code == 200, accepted.text
    assert len(await waiting(world)) == 1


async def test_a_request_that_is_declined_is_gone_and_may_be_made_again(world: World) -> None:
    await ask(world)
    (request,) = await waiting(world)
    path = f"/registrations/{request['registration_id']}"
    await world.recorded()
    assert (await world.delete(path, administrator())).status_code == 204
    (record,) = await world.recorded()
    assert (record["action"], record["resource"]) == ("registration.decline", {"registration_id": request["registration_id"]})
    again = await world.delete(path, administrator())
    assert (again.status_code, reason(again)) == (409, "already-decided")
    late = await approve(world, request["registration_id"])
    assert (late.status_code, reason(late)) == (409, "already-decided")
    assert await world.said() == []
    await ask(world)
    assert len(await waiting(world)) == 1


async def test_two_decisions_at_once_have_one_winner(world: World, worlds: Worlds, settings: dict[str, Any]) -> None:
    beside = await worlds.open("auth", beside=world, **settings)
    await ask(world)
    (request,) = await waiting(world)
    path = f"/registrations/{request['registration_id']}"
    answers = await asyncio.gather(approve(world, request["registration_id"]), beside.delete(path, administrator()))
    assert sorted(answer.is_success for answer in answers) == [False, True]


async def test_the_decision_is_written_to_the_person_where_mail_is_configured(worlds: Worlds, settings: dict[str, Any]) -> None:
    world = await worlds.open("auth", **settings, smtp_url="smtps://localhost:1")
    await ask(world, "ada@example.org")
    await ask(world, "bob@example.org")
    ada, bob = await waiting(world)
    approved = (await approve(world, ada["registration_id"])).json()
    assert (approved["invitation"], approved["mailed"]) == (None, True)
    await world.delete(f"/registrations/{bob['registration_id']}", administrator())
    safe = world.runtime.extra["tools"].vault
    rows = await world.sql("SELECT letter_id, sealed FROM letters ORDER BY letter_id")
    written = [json.loads(safe.open_letter(row.sealed, row.letter_id)) for row in rows]
    assert [(letter["address"], "declined" in letter["text"]) for letter in written] == [
        ("ada@example.org", False),
        ("bob@example.org", True),
    ]


async def test_one_source_waits_after_some_requests_and_another_does_not(world: World) -> None:
    answers = [await ask(world, f"a{number}@example.org") for number in range(domain.patience.FREE_WISHES + 1)]
    assert {answer.status_code for answer in answers[:-1]} == {202}
    assert (answers[-1].status_code, reason(answers[-1])) == (429, "slow-down")
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert (await ask(world, "b@example.org", source="198.51.100.7")).status_code == 202


async def test_only_a_thousand_requests_wait(world: World) -> None:
    await world.sql(
        """INSERT INTO registrations (registration_id, email, note, state, created_at, version)
           SELECT gen_random_uuid(), 'a' || n || '@x.org', '', 'open', now(), 1 FROM generate_series(1, 1000) n"""
    )
    await world.recorded()
    for _ in range(domain.patience.FREE_WISHES):
        answer = await ask(world)
        assert (answer.status_code, reason(answer)) == (429, "registrations-full")
    assert {(record["outcome"], record["reason"]) for record in await world.recorded()} == {("refused", "registrations-full")}
    assert reason(await ask(world)) == "slow-down", "a wish that is not taken is one, too"


async def test_requests_of_long_ago_are_forgotten(world: World) -> None:
    for number, (state, decided, created) in enumerate(
        [("open", None, 91), ("open", None, 89), ("declined", 31, 40), ("approved", 29, 40)]
    ):
        await world.sql(
            """INSERT INTO registrations (registration_id, email, note, state, created_at, decided_at, version)
               VALUES (:id, :email, '', :state, now() - make_interval(days => :created), now() - make_interval(days => :decided), 1)""",
            id=uuid4(),
            email=f"{number}@x.org",
            state=state,
            created=created,
            decided=decided,
        )
    async with world.work() as uow:
        await registrations.prune(uow)
    assert [row.email for row in await world.sql("SELECT email FROM registrations ORDER BY email")] == ["1@x.org", "3@x.org"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"email": "no address"},
        {"email": "a@x.org", "note": "x" * 501},
        {"email": "a@x.org", "note": "\u001b[2J"},
        {"email": "a@x.org", "note": 7},
        {"email": "a@x.org", "cluster_roles": ["administrator"]},
        [],
    ],
)
async def test_a_request_of_the_wrong_shape_is_refused(world: World, body: Any) -> None:
    assert (await world.post("/registrations", json=body)).status_code == 422
    assert await world.sql("SELECT 1 FROM registrations") == []


@pytest.mark.parametrize(("actor", "status"), [(NOBODY, 401), (person(), 403), (auditor(), 403), (agent(), 403)])
async def test_only_administrators_decide(world: World, actor: Actor, status: int) -> None:
    path = f"/registrations/{UUID(int=1)}"
    answers = [await world.get("/registrations", actor), await world.delete(path, actor), await approve(world, UUID(int=1), actor)]
    assert {answer.status_code for answer in answers} == {status}
    assert (await world.delete(path, administrator())).status_code == 404
