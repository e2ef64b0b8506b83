"""What remains of a refused try: a record of whom it was, for auditors, and a count, for operators; never what was typed."""

import asyncio
import json
from typing import Any
from uuid import UUID

import pytest
from prometheus_client import REGISTRY

from chassis.audit import canonical
from chassis.errors import CannotDecide, NotFound
from contracts.events import AuditRecord
from contracts.policy import Action
from services.auth import domain
from services.auth.service import measures
from services.auth.service.oidc import Finished
from tests.auth.factors import recovery_codes, reset, shown, under
from tests.auth.passkeys import Authenticator
from tests.auth.people import PASSWORD, another_code, begin, join, present
from tests.world import World, Worlds, administrator, auditor

STEP_UP = "/sessions/current/factor"
TYPED = ("ada00000", "ada@example.org", "nobody00", "pass of nobody", "wrong password", "999999")


def counted(outcome: str) -> float:
    return REGISTRY.get_sample_value("hortus_sign_ins_total", {"outcome": outcome}) or 0.0


async def the_record(world: World) -> dict[str, Any]:
    (record,) = await world.recorded()
    return record


# The record


async def test_a_refused_sign_in_is_recorded_with_the_id_of_the_account_that_was_tried(world: World) -> None:
    ada = await join(world)
    for name in (ada.username, "ada@example.org"):
        await world.recorded()
        await ada.sign_in(username=name, password="wrong password")
        record = await the_record(world)
        assert (record["action"], record["resource"]) == ("session.refuse", {"user_id": str(ada.user_id)})
        assert (record["outcome"], record["reason"]) == ("refused", "sign-in-refused")
        assert record["actor"] == {"principal": "service", "service": "auth"}, "whoever tried is nobody's to say"
    assert await world.said() != []


async def test_of_a_name_that_is_nobodys_it_says_that_alone(world: World) -> None:
    ada = await join(world)
    await world.recorded()
    await ada.sign_in(username="nobody00", password="pass of nobody")
    record = await the_record(world)
    assert (record["action"], record["resource"]) == ("session.refuse", {"account": "unknown"})
    assert (record["outcome"], record["reason"]) == ("refused", "sign-in-refused")


async def test_a_record_of_a_known_and_of_an_unknown_name_differ_in_the_resource_alone(world: World) -> None:
    ada = await join(world)
    await world.recorded()
    for name in (ada.username, "nobody00"):
        await ada.sign_in(username=name, password="wrong password")
    known, unknown = await world.recorded()
    assert {name for name in known if known[name] != unknown[name]} == {"record_id", "at", "request_id", "resource"}
    assert known.keys() == unknown.keys()


async def test_whatever_is_wrong_with_an_account_its_tries_are_recorded_as_its_own(world: World) -> None:
    ada, bob = await join(world), await join(world, "bob@example.org")
    await world.patch(f"/users/{bob.user_id}", administrator(), json={"status": "blocked"}, version=2)
    await world.recorded()
    await ada.sign_in(code=another_code(ada.totp))
    await world.post("/sessions", json={"username": ada.username, "password": PASSWORD})
    await bob.sign_in()
    assert [record["resource"]["user_id"] for record in await world.recorded()] == [str(ada.user_id)] * 2 + [str(bob.user_id)]


async def test_nothing_that_was_typed_is_in_a_record(world: World) -> None:
    ada = await join(world)
    session_id, _ = await begin(ada)
    await world.recorded()
    for name in ("ada00000", "ada@example.org", "nobody00", PASSWORD):
        await ada.sign_in(username=name, password="pass of nobody", code="999999")
        await ada.sign_in(username=name, password="wrong password", code="999999")
    strangers = json.dumps(await world.recorded())
    assert [typed for typed in (*TYPED, PASSWORD) if typed in strangers] == []
    await world.post(STEP_UP, ada.actor(session_id), json={"code": another_code(ada.totp)})
    await world.post(STEP_UP, ada.actor(session_id), json={"recovery_code": "aaaaa-aaaaa"})
    own = json.dumps(await world.recorded())
    assert "aaaaa" not in own.lower()
    assert another_code(ada.totp) not in own


async def test_a_refused_step_up_is_recorded_with_its_person_and_session(world: World) -> None:
    ada = await join(world)
    session_id, _ = await begin(ada)
    for body in ({"code": another_code(ada.totp)}, {"password": "wrong password"}):
        await world.recorded()
        assert (await world.post(STEP_UP, ada.actor(session_id), json=body)).status_code == 401
        record = await the_record(world)
        assert (record["action"], record["outcome"], record["reason"]) == ("session.refuse", "refused", "sign-in-refused")
        assert record["resource"] == {"user_id": str(ada.user_id), "session_id": str(session_id)}
        assert record["actor"]["username"] == ada.username


async def test_a_passkey_alone_is_recorded_likewise_whoevers_it_is(world: World) -> None:
    ada = await present(await join(world))
    mine, nobodys = Authenticator(), Authenticator()
    asked = (await world.post("/users/me/passkeys/options", ada.actor(), json={})).json()
    made = {"challenge": asked["challenge"], "credential": mine.make(asked["options"]), "name": "key ring"}
    assert (await world.post("/users/me/passkeys", ada.actor(), json=made)).status_code == 201
    nobodys.make(asked["options"])
    old = await shown(world, mine)
    await world.post("/sessions", json={"passkey": old})
    await world.recorded()
    assert (await world.post("/sessions", json={"passkey": old})).status_code == 401
    assert (await world.post("/sessions", json={"passkey": await shown(world, nobodys)})).status_code == 401
    records = await world.recorded()
    assert [(record["action"], record["resource"]) for record in records] == [
        ("session.refuse", {"user_id": str(ada.user_id)}),
        ("session.refuse", {"account": "unknown"}),
    ]


async def test_a_client_code_that_is_none_is_nobodys(world: World) -> None:
    await world.post("/sessions", json={"client_code": f"client_{'a' * 43}", "verifier": "v" * 43})
    record = await the_record(world)
    assert (record["action"], record["resource"], record["reason"]) == ("session.refuse", {"account": "unknown"}, "sign-in-refused")


async def test_a_wrong_password_for_a_new_one_or_beside_a_resets_link_is_a_refusal_of_that_action(world: World) -> None:
    ada = await join(world)
    session_id, _ = await begin(ada)
    await world.recorded()
    wrong = {"password": "wrong password", "new_password": "another battery staple 7"}
    assert (await world.post("/users/me/password", ada.actor(session_id), json=wrong)).status_code == 422
    record = await the_record(world)
    expected = ({"user_id": str(ada.user_id)}, "refused", "wrong-password")
    assert (record["action"], record["resource"], record["outcome"], record["reason"]) == (Action.PASSWORD_CHANGE, *expected)
    token = await reset(ada)
    await world.recorded()
    answer = await world.post("/factor-enrolments/acceptance", json={"token": token, "password": "wrong password"})
    assert answer.status_code == 422
    record = await the_record(world)
    assert (record["action"], record["resource"], record["outcome"], record["reason"]) == (Action.ENROLMENT_ACCEPT, *expected)


async def test_what_was_right_and_what_has_to_wait_is_recorded_as_before(world: World) -> None:
    ada = await join(world)
    await world.recorded()
    assert (await ada.sign_in()).status_code == 201
    record = await the_record(world)
    assert (record["action"], record["outcome"], record["reason"]) == ("session.create", "allowed", "allowed")
    await world.sql("UPDATE attempts SET next_at = now() + interval '30 seconds'")
    for _ in range(5):
        await ada.sign_in(password="wrong password")
    await world.sql("UPDATE attempts SET next_at = now() + interval '30 seconds'")
    await world.recorded()
    assert (await ada.sign_in()).status_code == 429
    assert await world.recorded() == []


async def test_tries_at_once_are_recorded_each(world: World) -> None:
    ada = await join(world)
    await world.recorded()
    await asyncio.gather(*[ada.sign_in(username=name, password="wrong password") for name in (ada.username, "nobody00", "nobody01")])
    assert sorted(json.dumps(record["resource"]) for record in await world.recorded()) == [
        '{"account": "unknown"}',
        '{"account": "unknown"}',
        json.dumps({"user_id": str(ada.user_id)}),
    ]


async def test_an_auditor_sees_of_whom_tries_were_refused_and_from_where(world: World, worlds: Worlds) -> None:
    """auth's records as its relay numbers them, beside the gateway's of the same requests."""
    ledger = await worlds.open("audit")
    ada = await join(world)
    await world.recorded()
    for name, source in ((ada.username, "198.51.100.7"), ("nobody00", "198.51.100.8")):
        await ada.sign_in(username=name, password="wrong password", source=source)
    told = [AuditRecord.model_validate({**record, "number": number}) for number, record in enumerate(await world.recorded(), 1)]
    seen = [
        record.model_copy(
            update={
                "record_id": UUID(int=record.number),
                "source": "gateway-1",
                "actor": {"principal": "nobody"},
                "action": "session.create",
                "resource": {},
                "status": 401,
                "address": address,
            }
        )
        for record, address in zip(told, ("198.51.100.7", "198.51.100.8"), strict=True)
    ]
    await ledger.hear_raw("audit.auth", *map(canonical, told))
    await ledger.hear_raw("audit.gateway-1", *map(canonical, seen), base="audit.gateway")
    shown_records = (await ledger.get("/audit/records?action=session.refuse&outcome=refused", auditor())).json()["items"]
    assert [record["resource"] for record in shown_records] == [{"user_id": str(ada.user_id)}, {"account": "unknown"}]
    at_the_gateway = (await ledger.get("/audit/records?source=gateway-1&outcome=refused", auditor())).json()["items"]
    by_request = {record["request_id"]: record["address"] for record in at_the_gateway}
    assert [by_request[record["request_id"]] for record in shown_records] == ["198.51.100.7", "198.51.100.8"]
    everything = (await ledger.get("/audit/records", auditor())).text
    assert [typed for typed in TYPED if typed in everything] == []


# The count


async def test_each_way_a_sign_in_ends_is_counted(world: World) -> None:
    ada = await join(world)
    await under(ada, "passkey")
    before = {outcome: counted(outcome) for outcome in measures.OUTCOMES}
    code = (await recovery_codes(ada))[0]
    assert (await ada.sign_in()).json()["type"].endswith("factor-enrolment-needed")
    body = {"username": ada.username, "password": PASSWORD, "recovery_code": code}
    assert (await world.post("/sessions", json=body)).status_code == 201
    for name in (ada.username, "nobody00", "nobody00"):
        assert (await ada.sign_in(username=name, password="wrong password")).status_code == 401
    await world.sql("UPDATE attempts SET next_at = now() + interval '30 seconds'")
    assert (await ada.sign_in()).status_code == 429
    risen = {outcome: counted(outcome) - was for outcome, was in before.items()}
    assert {outcome: count for outcome, count in risen.items() if count} == {
        "factor-enrolment-needed": 1,
        "signed-in": 1,
        "sign-in-refused": 3,
        "slow-down": 1,
    }


async def test_a_step_up_and_what_is_no_try_are_not_counted(world: World) -> None:
    ada = await join(world)
    session_id, _ = await begin(ada)
    before = {outcome: counted(outcome) for outcome in measures.OUTCOMES}
    await world.post(STEP_UP, ada.actor(session_id), json={"code": another_code(ada.totp)})
    await world.post("/sessions", json={"username": "ada00000"})
    await world.post("/passkey-challenges", json={})
    assert {outcome: counted(outcome) for outcome in measures.OUTCOMES} == before


async def test_the_counts_stand_at_zero_before_the_first_and_nothing_else_becomes_a_label(world: World) -> None:
    text = (await world.client.get("/metrics")).text
    shown_outcomes = {
        line.partition('outcome="')[2].partition('"')[0] for line in text.splitlines() if line.startswith("hortus_sign_ins_total{")
    }
    assert shown_outcomes == measures.OUTCOMES


@pytest.mark.parametrize(
    ("ended", "outcome"),
    [
        (domain.sessions.SignInRefused(), "sign-in-refused"),
        (domain.patience.SlowDown(retry_after=1), "slow-down"),
        (domain.directory.DirectoryAway(), "directory-away"),
        (domain.oidc.ProviderAway(), "provider-away"),
        (CannotDecide(), "cannot-decide"),
        (NotFound(), "other"),
        (RuntimeError("ada00000"), "other"),
        (Finished("/somewhere"), "factor-asked"),
        (Finished("/somewhere", signed_in=object()), "signed-in"),  # type: ignore[arg-type]
        (object(), "signed-in"),
    ],
)
def test_what_ended_has_one_of_the_outcomes(ended: object, outcome: str) -> None:
    assert measures.outcome_of(ended) == outcome
    assert outcome in measures.OUTCOMES


async def test_what_is_raised_is_counted_and_raised_on() -> None:
    @measures.counted
    async def breaks() -> None:
        raise RuntimeError("broken")

    before = counted("other")
    with pytest.raises(RuntimeError, match="broken"):
        await breaks()
    assert counted("other") == before + 1
