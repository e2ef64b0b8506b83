import asyncio
import base64
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from contracts.events import Session
from contracts.roles import NOBODY
from services.auth import domain
from services.auth.domain.passkeys import STAND_IN_KEY, Assertion
from services.auth.models import Passkey
from tests.auth.factors import challenge, letters, register, shown
from tests.auth.passkeys import BACKED_UP, BACKUP_ELIGIBLE, ORIGIN, PRESENT, VERIFIED, Authenticator
from tests.auth.people import Account, join, present
from tests.world import World, administrator, person, reason

RFC_6979_KEY = 0xC9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721


@dataclass
class Holder:
    """Somebody with a passkey."""

    account: Account
    authenticator: Authenticator
    passkey_id: str


async def holder(world: World, email: str = "ada@example.org", authenticator: Authenticator | None = None) -> Holder:
    account = await join(world, email)
    used = authenticator or Authenticator()
    answer = await register(account, used)
    assert answer.status_code == 201, answer.text
    return Holder(account, used, answer.json()["passkey_id"])


async def show_again(somebody: Holder, passkey: dict[str, Any]) -> httpx2.Response:
    """Show a passkey at the step-up of a session that is open."""
    account = somebody.account
    signed_in = await account.sign_in()
    actor = account.actor(session_id=signed_in.json()["session_id"])
    return await account.world.post("/sessions/current/factor", actor, json={"passkey": passkey})


async def test_a_passkey_is_asked_for_with_user_verification_and_kept_by_the_authenticator(world: World) -> None:
    ada = await join(world)
    options = (await world.post("/users/me/passkeys/options", ada.actor(), json={})).json()["options"]
    assert options["rp"] == {"id": "localhost", "name": "Hortus"}
    assert options["user"]["name"] == ada.username
    assert base64.urlsafe_b64decode(options["user"]["id"] + "==") == ada.user_id.bytes
    selection = options["authenticatorSelection"]
    assert (selection["residentKey"], selection["requireResidentKey"], selection["userVerification"]) == ("required", True, "required")
    assert options["attestation"] == "none"
    asked = (await challenge(world))["options"]
    assert (asked["rpId"], asked["userVerification"], asked["allowCredentials"]) == ("localhost", "required", [])


async def test_a_registered_passkey_is_listed_and_shows_again_who_its_person_is(world: World) -> None:
    ada = await holder(world, authenticator=Authenticator(flags=PRESENT | VERIFIED | BACKUP_ELIGIBLE | BACKED_UP))
    await world.recorded()
    answer = await show_again(ada, await shown(world, ada.authenticator))
    assert answer.status_code == 200, answer.text
    (listed,) = (await world.get("/users/me/factors", ada.account.actor())).json()["passkeys"]
    assert (listed["passkey_id"], listed["name"], listed["backed_up"]) == (ada.passkey_id, "key ring", True)
    assert listed["last_used_at"] is not None
    record = (await world.recorded())[-1]
    assert record["action"] == "session.step_up"
    assert (record["resource"]["factor"], record["resource"]["passkey_id"]) == ("passkey", ada.passkey_id)


async def test_registering_is_recorded_without_keys(world: World) -> None:
    ada = await holder(world)
    record = (await world.recorded())[-1]
    assert (record["action"], record["resource"]) == (
        "passkey.add",
        {"user_id": str(ada.account.user_id), "passkey_id": ada.passkey_id},
    )


async def test_known_authenticators_are_not_asked_twice(world: World) -> None:
    ada = await holder(world)
    options = (await world.post("/users/me/passkeys/options", ada.account.actor(), json={})).json()["options"]
    (excluded,) = options["excludeCredentials"]
    assert excluded["id"] == base64.urlsafe_b64encode(ada.authenticator.device.credential_id).decode().rstrip("=")


# Registering


WRONG = {
    "not verified": Authenticator(flags=PRESENT),
    "not present": Authenticator(flags=VERIFIED),
    "another port": Authenticator(origin="https://localhost:8444"),
    "not encrypted": Authenticator(origin="http://localhost:8443"),
    "another site": Authenticator(origin="https://evil.example"),
}


async def test_a_wrong_registration_is_refused(world: World) -> None:
    ada = await join(world)
    for why, authenticator in WRONG.items():
        answer = await register(ada, authenticator)
        assert (answer.status_code, reason(answer)) == (422, "wrong-passkey"), why
    assert await world.sql("SELECT 1 FROM passkeys") == []


async def test_a_registration_for_another_relying_party_is_refused(world: World) -> None:
    ada = await present(await join(world))
    asked = (await world.post("/users/me/passkeys/options", ada.actor(), json={})).json()
    made = Authenticator().make({**asked["options"], "rp": {"id": "evil.example", "name": "Hortus"}})
    answer = await world.post("/users/me/passkeys", ada.actor(), json={"challenge": asked["challenge"], "credential": made, "name": "key"})
    assert (answer.status_code, reason(answer)) == (422, "wrong-passkey")


async def test_a_registration_counts_for_one_person_one_challenge_and_one_time(world: World) -> None:
    ada, bob = await present(await join(world)), await present(await join(world, "bob@example.org"))
    asked = (await world.post("/users/me/passkeys/options", ada.actor(), json={})).json()
    body = {"challenge": asked["challenge"], "credential": Authenticator().make(asked["options"]), "name": "key"}
    stolen = await world.post("/users/me/passkeys", bob.actor(), json=body)
    assert (stolen.status_code, reason(stolen)) == (422, "wrong-passkey")
    sign_in = await challenge(world)
    assert (await world.post("/users/me/passkeys", ada.actor(), json=body | {"challenge": sign_in["challenge"]})).status_code == 422
    assert (await world.post("/users/me/passkeys", ada.actor(), json=body)).status_code == 201
    again = body | {"credential": Authenticator().make(asked["options"])}
    replayed = await world.post("/users/me/passkeys", ada.actor(), json=again)
    assert (replayed.status_code, reason(replayed)) == (422, "wrong-passkey")


async def test_a_credential_belongs_to_one_person_in_the_whole_house(world: World) -> None:
    ada, bob = await holder(world), await present(await join(world, "bob@example.org"))
    asked = (await world.post("/users/me/passkeys/options", bob.actor(), json={})).json()
    other = Authenticator()
    made = other.make(asked["options"])
    await world.sql("UPDATE passkeys SET credential_id = :id", id=other.device.credential_id)
    answer = await world.post("/users/me/passkeys", bob.actor(), json={"challenge": asked["challenge"], "credential": made, "name": "key"})
    assert (answer.status_code, reason(answer)) == (409, "passkey-taken")
    assert len((await world.get("/users/me/factors", ada.account.actor())).json()["passkeys"]) == 1


async def test_a_challenge_for_registering_grows_old(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ada = await join(world)
    monkeypatch.setattr(domain.passkeys, "CHALLENGE_LIFE", timedelta(seconds=-1))
    answer = await register(ada, Authenticator())
    assert (answer.status_code, reason(answer)) == (422, "wrong-passkey")


async def test_names_of_passkeys_can_be_seen(world: World) -> None:
    ada = await join(world)
    for name in ("", "   ", "a\u202eb", "a\nb", "x" * 65):
        assert (await register(ada, Authenticator(), name)).status_code == 422


async def test_there_is_an_end_to_the_passkeys_of_a_person(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domain.passkeys, "MOST_PASSKEYS", 1)
    ada = (await holder(world)).account
    answer = await world.post("/users/me/passkeys/options", ada.actor(), json={})
    assert (answer.status_code, reason(answer)) == (409, "too-many-passkeys")


GARBAGE: list[dict[str, Any]] = [
    {},
    {"id": 7},
    {"rawId": "!", "id": "!", "response": {}, "type": "public-key"},
    {"rawId": "AAAA", "id": "AAAA", "response": None, "type": "public-key"},
    {"rawId": "AAAA", "id": "AAAA", "type": "public-key", "response": {"clientDataJSON": "", "attestationObject": "", "signature": ""}},
    {
        "rawId": "AAAA",
        "id": "AAAA",
        "type": "public-key",
        "response": {"clientDataJSON": "e30", "attestationObject": "_____w", "authenticatorData": "_____w", "signature": "AAAA"},
    },
    {"rawId": ["AAAA"], "id": {"a": 1}, "type": 5, "response": [1, 2]},
]


async def test_garbage_is_refused_like_anything_else(world: World) -> None:
    ada = await present(await join(world))
    asked = (await world.post("/users/me/passkeys/options", ada.actor(), json={})).json()
    actor = ada.actor(session_id=(await ada.sign_in()).json()["session_id"])
    for credential in GARBAGE:
        made = {"challenge": asked["challenge"], "credential": credential, "name": "key"}
        answer = await world.post("/users/me/passkeys", ada.actor(), json=made)
        assert (answer.status_code, reason(answer)) == (422, "wrong-passkey")
        seen = {"challenge": (await challenge(world))["challenge"], "credential": credential}
        for path, caller in (("/sessions/current/factor", actor), ("/sessions", NOBODY)):
            refused = await world.post(path, caller, json={"passkey": seen})
            assert (refused.status_code, reason(refused)) == (401, "sign-in-refused")


# Showing


async def test_a_passkey_shown_to_another_site_is_refused(world: World) -> None:
    ada = await holder(world)
    for origin in ("https://evil.example", "https://localhost", "http://localhost:8443"):
        answer = await show_again(ada, await shown(world, ada.authenticator, origin=origin))
        assert (answer.status_code, reason(answer)) == (401, "sign-in-refused")


async def test_a_passkey_without_user_verification_or_presence_is_refused(world: World) -> None:
    ada = await holder(world)
    for flags in (PRESENT, VERIFIED, 0):
        ada.authenticator.flags = flags
        answer = await show_again(ada, await shown(world, ada.authenticator))
        assert (answer.status_code, reason(answer)) == (401, "sign-in-refused")


async def test_a_passkey_for_another_relying_party_is_refused(world: World) -> None:
    ada = await holder(world)
    asked = await challenge(world)
    wrong = ada.authenticator.show({**asked["options"], "rpId": "evil.example"})
    answer = await show_again(ada, {"challenge": asked["challenge"], "credential": wrong})
    assert (answer.status_code, reason(answer)) == (401, "sign-in-refused")


async def test_somebody_elses_passkey_is_refused(world: World) -> None:
    ada, bob = await holder(world), await holder(world, "bob@example.org")
    answer = await show_again(ada, await shown(world, bob.authenticator))
    assert (answer.status_code, reason(answer)) == (401, "sign-in-refused")


async def test_a_passkey_has_to_say_whose_it_is(world: World) -> None:
    ada = await holder(world)
    for handle in (None, "AAAA"):
        passkey = await shown(world, ada.authenticator)
        passkey["credential"]["response"]["userHandle"] = handle
        answer = await show_again(ada, passkey)
        assert (answer.status_code, reason(answer)) == (401, "sign-in-refused")


async def test_an_answer_counts_once_however_its_challenge_is_written(world: World) -> None:
    ada = await holder(world)
    passkey = await shown(world, ada.authenticator)
    assert (await show_again(ada, passkey)).status_code == 200
    for written in (passkey["challenge"], passkey["challenge"] + "=", "." + passkey["challenge"]):
        await world.sql("UPDATE passkeys SET sign_count = 0")
        replayed = await show_again(ada, passkey | {"challenge": written})
        assert (replayed.status_code, reason(replayed)) == (401, "sign-in-refused")


async def test_of_two_requests_with_one_answer_one_wins(world: World) -> None:
    ada = await holder(world)
    await world.sql("UPDATE passkeys SET sign_count = 0")
    first, second = [(await ada.account.sign_in()).json()["session_id"] for _ in range(2)]
    passkey = await shown(world, ada.authenticator)
    answers = await asyncio.gather(
        *[
            world.post("/sessions/current/factor", ada.account.actor(session_id=session), json={"passkey": passkey})
            for session in (first, second)
        ]
    )
    assert sorted(answer.status_code for answer in answers) == [200, 401]


async def test_an_answer_is_for_its_own_challenge(world: World) -> None:
    ada = await holder(world)
    passkey = await shown(world, ada.authenticator)
    other = await challenge(world)
    answer = await show_again(ada, passkey | {"challenge": other["challenge"]})
    assert (answer.status_code, reason(answer)) == (401, "sign-in-refused")


async def test_a_challenge_for_registering_opens_no_session(world: World) -> None:
    ada = await holder(world)
    asked = (await world.post("/users/me/passkeys/options", ada.account.actor(), json={})).json()
    credential = ada.authenticator.show({"challenge": asked["options"]["challenge"], "rpId": "localhost"})
    answer = await show_again(ada, {"challenge": asked["challenge"], "credential": credential})
    assert (answer.status_code, reason(answer)) == (401, "sign-in-refused")


async def test_a_challenge_grows_old_after_five_minutes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert timedelta(minutes=5) == domain.passkeys.CHALLENGE_LIFE
    ada = await holder(world)
    passkey = await shown(world, ada.authenticator)
    monkeypatch.setattr(domain.passkeys, "CHALLENGE_LIFE", timedelta(seconds=-1))
    answer = await show_again(ada, passkey)
    assert (answer.status_code, reason(answer)) == (401, "sign-in-refused")


async def test_a_challenge_of_another_house_is_refused(world: World) -> None:
    ada = await holder(world)
    passkey = await shown(world, ada.authenticator)
    answer = await show_again(ada, passkey | {"challenge": "A" * len(passkey["challenge"])})
    assert (answer.status_code, reason(answer)) == (401, "sign-in-refused")


async def test_a_count_that_goes_backwards_is_refused_recorded_and_told(world: World, mailed: World) -> None:
    ada = await holder(world)
    ada.account.world = mailed
    await world.sql("UPDATE passkeys SET sign_count = 9")
    passkey = await shown(world, ada.authenticator)
    await world.recorded()
    answer = await show_again(ada, passkey)
    assert (answer.status_code, reason(answer)) == (401, "sign-in-refused")
    record = (await world.recorded())[-1]
    assert (record["action"], record["resource"]["passkey_id"]) == ("passkey.find_copied", ada.passkey_id)
    assert (await world.sql("SELECT sign_count, last_used_at FROM passkeys"))[0] == (9, None)
    (letter,) = await letters(mailed)
    assert letter["address"] == "ada@example.org"
    assert "key ring" in letter["text"]


async def test_an_authenticator_without_a_count_is_taken(world: World) -> None:
    ada = await holder(world)
    for _ in range(2):
        ada.authenticator.device.sign_count = -1
        assert (await show_again(ada, await shown(world, ada.authenticator))).status_code == 200


# Removing


async def test_a_passkey_is_removed_by_its_person_alone(world: World) -> None:
    ada, bob = await holder(world), await present(await join(world, "bob@example.org"))
    await present(ada.account)
    path = f"/users/me/passkeys/{ada.passkey_id}"
    assert (await world.delete(path, bob.actor())).status_code == 404
    assert (await world.delete(path, ada.account.actor())).status_code == 204
    assert (await world.delete(path, ada.account.actor())).status_code == 404
    answer = await show_again(ada, await shown(world, ada.authenticator))
    assert (answer.status_code, reason(answer)) == (401, "sign-in-refused")


@pytest.mark.parametrize(("method", "path"), [("POST", "/users/me/passkeys/options"), ("POST", "/users/me/passkeys")])
async def test_changing_passkeys_needs_a_fresh_factor(world: World, method: str, path: str) -> None:
    answer = await world.request(method, path, person(factor_fresh=False), json={})
    assert (answer.status_code, reason(answer)) == (401, "factor-too-old")


# The rules by themselves


def passkey_row(sign_count: int = 0) -> Passkey:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    fields: dict[str, Any] = {"passkey_id": administrator().user_id, "user_id": administrator().user_id}
    return Passkey(**fields, credential_id=b"c", public_key=STAND_IN_KEY, sign_count=sign_count, name="k", backed_up=False, created_at=now)


@pytest.mark.parametrize(
    ("stored", "new", "right"), [(0, 0, True), (0, 1, True), (1, 2, True), (1, 1, False), (2, 1, False), (1, 0, False)]
)
def test_counts_go_up_or_there_is_none(stored: int, new: int, right: bool) -> None:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    row = passkey_row(stored)
    assert domain.passkeys.use(row, Assertion(None, new, backed_up=True), now) is right
    assert (row.sign_count, row.backed_up, row.last_used_at) == ((new, True, now) if right else (stored, False, None))


def test_what_the_stand_in_key_verifies_is_refused_all_the_same() -> None:
    authenticator = Authenticator()
    authenticator.device.cred_init("localhost", b"nobody")
    authenticator.device.private_key = ec.derive_private_key(RFC_6979_KEY, ec.SECP256R1())
    where = domain.passkeys.site((ORIGIN,))
    credential = authenticator.show(domain.passkeys.request_options(b"c" * 32, where))
    row = passkey_row()
    row.credential_id = authenticator.device.credential_id
    assert domain.passkeys.assertion(credential, row, b"c" * 32, where) == Assertion(b"nobody", 1, backed_up=False)
    assert domain.passkeys.assertion(credential, None, b"c" * 32, where) is None


def test_a_site_is_the_host_of_its_first_origin() -> None:
    where = domain.passkeys.site(("https://hortus.example:8443", "https://other.example"))
    assert (where.rp_id, where.origins) == ("hortus.example", ("https://hortus.example:8443", "https://other.example"))


# Signing in


async def alone(world: World, passkey: dict[str, Any]) -> httpx2.Response:
    return await world.post("/sessions", json={"passkey": passkey})


async def test_a_passkey_alone_opens_a_session(world: World) -> None:
    ada = await holder(world)
    await world.said()
    answer = await alone(world, await shown(world, ada.authenticator))
    assert answer.status_code == 201, answer.text
    assert answer.json()["user"]["username"] == ada.account.username
    (fact,) = [fact for fact in await world.said() if isinstance(fact, Session)]
    assert (fact.user_id, fact.live) == (ada.account.user_id, True)
    (session,) = (await world.get("/sessions", ada.account.actor())).json()["items"]
    assert (session["method"], session["factor_at"]) == ("passkey", session["created_at"])


async def test_a_passkey_is_a_second_factor_beside_a_password(world: World) -> None:
    ada = await holder(world)
    passkey = await shown(world, ada.authenticator)
    body = {"username": ada.account.username, "password": ada.account.password, "passkey": passkey}
    wrong = await world.post("/sessions", json=body | {"password": "another horse battery"})
    assert (wrong.status_code, reason(wrong)) == (401, "sign-in-refused")
    assert (await world.post("/sessions", json=body)).status_code == 201
    (session,) = (await world.get("/sessions", ada.account.actor())).json()["items"]
    assert session["method"] == "password+passkey"


async def test_a_passkey_beside_anothers_password_is_refused(world: World) -> None:
    ada, bob = await holder(world), await join(world, "bob@example.org")
    passkey = await shown(world, ada.authenticator)
    answer = await world.post("/sessions", json={"username": bob.username, "password": bob.password, "passkey": passkey})
    assert (answer.status_code, reason(answer)) == (401, "sign-in-refused")


async def test_wrong_sign_ins_with_a_passkey_are_all_refused_alike(world: World) -> None:
    ada = await holder(world)
    stranger = Authenticator()
    stranger.device.cred_init("localhost", ada.account.user_id.bytes)
    used = await shown(world, ada.authenticator)
    assert (await alone(world, used)).status_code == 201
    without_verification = Authenticator(flags=PRESENT)
    without_verification.device = ada.authenticator.device
    tries = [
        await shown(world, stranger),
        await shown(world, ada.authenticator, origin="https://evil.example"),
        await shown(world, without_verification),
        await shown(world, ada.authenticator) | {"challenge": (await challenge(world))["challenge"]},
        {"challenge": "x", "credential": {}},
        used,
    ]
    answers = [await alone(world, tried) for tried in tries]
    assert {(answer.status_code, answer.text) for answer in answers} == {(401, answers[0].text)}
    assert reason(answers[0]) == "sign-in-refused"


@pytest.mark.parametrize("status", ["blocked", "deactivated"])
async def test_the_passkey_of_an_account_that_is_not_active_is_refused_like_anything_else(world: World, status: str) -> None:
    ada = await holder(world)
    await world.sql("UPDATE users SET status = :status", status=status)
    answer = await alone(world, await shown(world, ada.authenticator))
    assert (answer.status_code, reason(answer)) == (401, "sign-in-refused")


async def test_unknown_passkeys_cost_the_same_work(world: World, statements: list[str]) -> None:
    ada = await holder(world)
    stranger = Authenticator()
    stranger.device.cred_init("localhost", ada.account.user_id.bytes)
    wrong = Authenticator()
    wrong.device.cred_init("localhost", ada.account.user_id.bytes)
    wrong.device.credential_id = ada.authenticator.device.credential_id
    work = []
    for authenticator in (stranger, wrong):
        passkey = await shown(world, authenticator)
        await world.sql("DELETE FROM attempts")
        statements.clear()
        assert (await alone(world, passkey)).status_code == 401
        work.append(list(statements))
    assert work[0] == work[1]
    assert len(work[0]) > 5
