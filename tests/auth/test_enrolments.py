"""An administrator's reset of a second factor, and the one-time link with which a new one is set up."""

import asyncio
import json
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pyotp
import pytest

from contracts.events import ApiKey, Session
from contracts.roles import NOBODY, Actor, ClusterRole
from services.auth.domain.patience import FREE_BESIDE_PROOF
from services.auth.routes.cookies import PENDING
from services.auth.service import factors
from services.auth.service.pending import PENDING as PENDING_PURPOSE
from tests.auth.factors import letters, recovery_codes, register, reset, shown, sign_in, under
from tests.auth.passkeys import Authenticator
from tests.auth.people import PASSWORD, Account, another_code, join, present
from tests.world import World, administrator, auditor, person, reason

ACCEPT = "/factor-enrolments/acceptance"
CONFIRM = "/factor-enrolments/confirmation"
NEW = "seven green otters swim"


async def newcomer(world: World, email: str = "ada@example.org") -> Account:
    """Somebody whose account a directory made: they have a password that is right, and have never had a second factor."""
    account = await join(world, email)
    await world.sql("UPDATE credentials SET totp_sealed = NULL, totp_at = NULL WHERE user_id = :id", id=account.user_id)
    await world.sql("UPDATE users SET factor_enrolled_at = NULL WHERE user_id = :id", id=account.user_id)
    return account


async def accept(world: World, token: str, password: str | None = PASSWORD) -> dict[str, Any]:
    """Take a link; that of a reset asks for the password beside it."""
    body = {"token": token, "password": password} if password else {"token": token}
    answer = await world.post(ACCEPT, json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


# The reset


async def test_a_reset_takes_every_factor_away_ends_the_sessions_and_gives_a_link(world: World) -> None:
    ada = await join(world)
    authenticator = Authenticator()
    await register(ada, authenticator)
    codes = await recovery_codes(ada)
    session = (await ada.sign_in()).json()["session_id"]
    await world.said()
    await world.recorded()
    answer = await world.post(f"/users/{ada.user_id}/factor-reset", administrator())
    assert answer.status_code == 201, answer.text
    body = answer.json()
    assert (body["user_id"], body["mailed"]) == (str(ada.user_id), False)
    (fact,) = await world.said()
    assert isinstance(fact, Session)
    assert (str(fact.session_id), fact.live) == (session, False)
    (record,) = await world.recorded()
    assert (record["action"], record["resource"]) == ("user.factor_reset", {"user_id": str(ada.user_id), "sessions": "1", "keys": "0"})
    assert body["link_token"] not in json.dumps(record)
    for factor in ({"code": await ada.new_code()}, {"recovery_code": codes[0]}, {"passkey": await shown(world, authenticator)}, {}):
        refused = await sign_in(ada, **factor)
        assert (refused.status_code, reason(refused)) == (401, "sign-in-refused")
    alone = await world.post("/sessions", json={"passkey": await shown(world, authenticator)})
    assert (alone.status_code, reason(alone)) == (401, "sign-in-refused")


async def test_a_link_sets_up_an_authenticator_once(world: World) -> None:
    ada = await join(world)
    token = await reset(ada)
    await world.recorded()
    given = await accept(world, token)
    assert (given["username"], given["policy"]) == (ada.username, "required")
    ada.totp = pyotp.TOTP(given["totp_secret"])
    wrong = await world.post(CONFIRM, json={"token": token, "code": another_code(ada.totp)})
    assert (wrong.status_code, reason(wrong)) == (422, "wrong-code")
    confirmed = await world.post(CONFIRM, json={"token": token, "code": ada.totp.now()})
    assert (confirmed.status_code, confirmed.json()["username"]) == (200, ada.username)
    assert (await ada.sign_in()).status_code == 201
    for path, body in ((ACCEPT, {"token": token}), (CONFIRM, {"token": token, "code": ada.totp.now()})):
        again = await world.post(path, json=body)
        assert (again.status_code, reason(again)) == (404, "link-not-open")
    records = [(record["action"], record["resource"], record["actor"]["user_id"]) for record in await world.recorded()][:2]
    ids = {"user_id": str(ada.user_id)}
    done = {**ids, "factor": "totp", "sessions": "0"}
    assert records == [("enrolment.accept", ids, str(ada.user_id)), ("enrolment.confirm", done, str(ada.user_id))]


async def test_a_link_sets_up_a_passkey(world: World) -> None:
    ada = await join(world)
    await under(ada, "passkey")
    token = await reset(ada)
    given = await accept(world, token)
    assert given["policy"] == "passkey"
    code = pyotp.TOTP(given["totp_secret"]).now()
    weak = await world.post(CONFIRM, json={"token": token, "code": code})
    assert (weak.status_code, reason(weak)) == (422, "passkey-needed")
    authenticator = Authenticator()
    asked = given["passkey"]
    passkey = {"challenge": asked["challenge"], "credential": authenticator.make(asked["options"]), "name": "key ring"}
    confirmed = await world.post(CONFIRM, json={"token": token, "passkey": passkey})
    assert confirmed.status_code == 200, confirmed.text
    assert (await world.post("/sessions", json={"passkey": await shown(world, authenticator)})).status_code == 201


async def test_of_two_confirmations_at_once_one_wins(world: World) -> None:
    ada = await join(world)
    token = await reset(ada)
    code = pyotp.TOTP((await accept(world, token))["totp_secret"]).now()
    answers = await asyncio.gather(*[world.post(CONFIRM, json={"token": token, "code": code}) for _ in range(2)])
    assert sorted(answer.status_code for answer in answers) == [200, 404]


async def test_a_confirmation_ends_the_sessions_that_were_opened_meanwhile(world: World) -> None:
    ada = await join(world)
    token = await reset(ada)
    new = pyotp.TOTP((await accept(world, token))["totp_secret"])
    await world.sql(
        "INSERT INTO sessions (session_id, user_id, created_at, expires_at, version, rotated_at, factor_at, last_used_at)"
        " VALUES (:id, :user, now(), now() + interval '1 hour', 1, now(), now(), now())",
        id=uuid4(),
        user=ada.user_id,
    )
    await world.said()
    assert (await world.post(CONFIRM, json={"token": token, "code": new.now()})).status_code == 200
    (fact,) = await world.said()
    assert isinstance(fact, Session)
    assert fact.live is False


async def test_another_reset_makes_the_link_before_void(world: World) -> None:
    ada = await join(world)
    first, second = [await reset(ada) for _ in range(2)]
    assert (await world.post(ACCEPT, json={"token": first})).status_code == 404
    assert await accept(world, second)


async def test_the_link_of_a_reset_alone_sets_up_nothing(world: World) -> None:
    ada = await join(world)
    token = await reset(ada)
    refused = await world.post(ACCEPT, json={"token": token})
    assert (refused.status_code, reason(refused)) == (422, "first-factor-needed")
    await world.recorded()
    for _ in range(FREE_BESIDE_PROOF):
        wrong = await world.post(ACCEPT, json={"token": token, "password": "another horse battery"})
        assert (wrong.status_code, reason(wrong)) == (422, "wrong-password")
    slow = await world.post(ACCEPT, json={"token": token, "password": PASSWORD})
    assert (slow.status_code, reason(slow)) == (429, "slow-down")
    assert await world.sql("SELECT 1 FROM credentials WHERE pending_totp_sealed IS NOT NULL") == []
    assert token not in json.dumps(await world.recorded())
    await world.sql("DELETE FROM attempts")
    assert await accept(world, token)


async def test_what_the_link_of_a_reset_gave_out_beside_the_old_password_is_void_beside_the_new_one(world: World) -> None:
    ada = await join(world)
    token = await reset(ada)
    old = await accept(world, token)
    link = (await world.post(f"/users/{ada.user_id}/password-reset", administrator())).json()["link_token"]
    chosen = await world.post("/password-resets/acceptance", json={"token": link, "password": NEW})
    assert chosen.status_code == 204, chosen.text

    def passkey(given: dict[str, Any]) -> dict[str, Any]:
        asked = given["passkey"]
        return {"passkey": {"challenge": asked["challenge"], "credential": Authenticator().make(asked["options"]), "name": "key ring"}}

    for factor, slug in (({"code": pyotp.TOTP(old["totp_secret"]).now()}, "totp-not-begun"), (passkey(old), "wrong-passkey")):
        late = await world.post(CONFIRM, json={"token": token, **factor})
        assert reason(late) == slug
    new = await accept(world, token, NEW)
    assert (await world.post(CONFIRM, json={"token": token, **passkey(new)})).status_code == 200


async def test_who_signs_in_with_a_provider_does_so_before_the_link_of_a_reset(world: World) -> None:
    ada, eve = await join(world), await join(world, "eve@example.org")
    token = await reset(ada)
    await world.sql("UPDATE users SET source = 'oidc', provider = 'hospital', external_id = user_id::text")
    refused = await world.post(ACCEPT, json={"token": token, "password": PASSWORD})
    assert (refused.status_code, reason(refused)) == (422, "first-factor-needed")

    async def shown(who: Account, at: datetime) -> int:
        carried = {"user_id": str(who.user_id), "provider": "hospital", "session": None, "token": None, "at": at.timestamp()}
        cookie = world.runtime.extra["tools"].vault.carry(PENDING_PURPOSE, json.dumps(carried).encode())
        return (await world.post(ACCEPT, json={"token": token}, jar={PENDING: cookie})).status_code

    now = await world.now()
    assert [await shown(eve, now), await shown(ada, now - timedelta(minutes=6)), await shown(ada, now)] == [422, 422, 200]


async def test_a_reset_ends_the_api_keys(world: World) -> None:
    ada = await present(await join(world))
    expires = (await world.now() + timedelta(days=1)).isoformat()
    made = await world.post("/keys", ada.actor(), json={"name": "nightly", "scopes": ["project.list"], "expires_at": expires})
    assert made.status_code == 201, made.text
    await world.said()
    await reset(ada)
    assert [(fact.version, fact.live) for fact in await world.said() if isinstance(fact, ApiKey)] == [(2, False)]


async def test_a_link_grows_old_after_a_day(world: World) -> None:
    ada = await join(world)
    token = await reset(ada)
    (row,) = await world.sql("SELECT expires_at - created_at FROM links")
    assert row[0].total_seconds() == 24 * 3600
    await world.sql("UPDATE links SET expires_at = clock_timestamp()")
    answer = await world.post(ACCEPT, json={"token": token})
    assert (answer.status_code, reason(answer)) == (404, "link-not-open")


@pytest.mark.parametrize("status", ["blocked", "deactivated"])
async def test_a_link_is_for_an_account_that_is_active(world: World, status: str) -> None:
    ada = await join(world)
    token = await reset(ada)
    await world.sql("UPDATE users SET status = :status", status=status)
    assert (await world.post(ACCEPT, json={"token": token})).status_code == 404
    again = await world.post(f"/users/{ada.user_id}/factor-reset", administrator())
    assert (again.status_code, reason(again)) == (409, "account-not-active")


async def test_a_link_for_a_password_sets_up_no_factor(world: World) -> None:
    ada = await join(world)
    token = await reset(ada)
    await world.sql("UPDATE links SET purpose = 'password-reset'")
    answer = await world.post(ACCEPT, json={"token": token})
    assert (answer.status_code, reason(answer)) == (404, "link-not-open")


@pytest.mark.parametrize("first", ["password-reset", "factor-reset"])
async def test_no_administrator_is_shown_both_halves_of_somebodys_sign_in(world: World, first: str) -> None:
    ada, bob, root, other = await join(world), await join(world, "bob@x.org"), administrator(), administrator()
    second = {"password-reset": "factor-reset", "factor-reset": "password-reset"}[first]
    for _ in range(2):
        assert (await world.post(f"/users/{ada.user_id}/{first}", root)).status_code == 201
    answer = await world.post(f"/users/{ada.user_id}/{second}", root)
    assert (answer.status_code, reason(answer)) == (409, "other-half-is-yours")
    assert (await world.post(f"/users/{bob.user_id}/{second}", root)).status_code == 201
    await world.sql("UPDATE spent SET expires_at = now() - interval '1 second'")
    async with world.work() as uow:
        await factors.forget_spent(uow)
    assert (await world.post(f"/users/{ada.user_id}/{second}", root)).status_code == 201, "a week later"
    assert (await world.post(f"/users/{ada.user_id}/{first}", other)).status_code == 201, "another administrator"


async def test_where_the_person_gets_the_links_themselves_one_administrator_may_send_both(world: World, mailed: World) -> None:
    ada, root = await join(world), administrator()
    assert (await mailed.post(f"/users/{ada.user_id}/factor-reset", root)).json()["mailed"]
    assert (await mailed.post(f"/users/{ada.user_id}/password-reset", root)).json()["mailed"]


async def test_nobody_resets_their_own_factor(world: World) -> None:
    root = await join(world, "root@example.org", ["administrator"])
    answer = await world.post(f"/users/{root.user_id}/factor-reset", root.actor())
    assert (answer.status_code, reason(answer)) == (409, "own-factor-reset")
    assert (await root.sign_in()).status_code == 201


@pytest.mark.parametrize(("actor", "status"), [(NOBODY, 401), (person(), 403), (auditor(), 403)])
async def test_only_administrators_reset_factors(world: World, actor: Actor, status: int) -> None:
    assert (await world.post(f"/users/{uuid4()}/factor-reset", actor)).status_code == status


async def test_a_reset_needs_a_fresh_factor_and_an_account(world: World) -> None:
    stale = person(cluster_roles=[ClusterRole.ADMINISTRATOR], factor_fresh=False)
    assert reason(await world.post(f"/users/{uuid4()}/factor-reset", stale)) == "factor-too-old"
    assert (await world.post(f"/users/{uuid4()}/factor-reset", administrator())).status_code == 404


async def test_with_mail_the_link_goes_to_the_person_alone(world: World, mailed: World) -> None:
    ada = await join(world)
    answer = await mailed.post(f"/users/{ada.user_id}/factor-reset", administrator())
    assert (answer.json()["link_token"], answer.json()["mailed"]) == (None, True)
    (letter,) = await letters(mailed)
    assert letter["address"] == "ada@example.org"
    token = letter["text"].partition("/factor-enrolment#")[2].split()[0]
    new = pyotp.TOTP((await accept(mailed, token))["totp_secret"])
    assert (await mailed.post(CONFIRM, json={"token": token, "code": new.now()})).status_code == 200
    (told,) = await letters(mailed)
    assert "a second factor was set up" in told["text"]


# People who never had a second factor


async def test_who_never_had_a_factor_sets_one_up_after_the_right_password(world: World) -> None:
    ada = await newcomer(world)
    await world.said()
    await world.recorded()
    answer = await sign_in(ada)
    assert (answer.status_code, reason(answer)) == (401, "factor-enrolment-needed")
    assert [fact for fact in await world.said() if isinstance(fact, Session)] == []
    (record,) = await world.recorded()
    assert (record["action"], record["resource"]) == ("enrolment.give", {"user_id": str(ada.user_id)})
    token = answer.json()["enrolment"]
    ada.totp = pyotp.TOTP((await accept(world, token, None))["totp_secret"])
    assert (await world.post(CONFIRM, json={"token": token, "code": ada.totp.now()})).status_code == 200
    assert (await ada.sign_in()).status_code == 201
    refused = await sign_in(ada)
    assert (refused.status_code, reason(refused)) == (401, "sign-in-refused")


async def test_a_wrong_password_gives_no_enrolment(world: World) -> None:
    ada = await newcomer(world)
    answer = await world.post("/sessions", json={"username": ada.username, "password": "another horse battery"})
    assert (answer.status_code, reason(answer)) == (401, "sign-in-refused")
    assert await world.sql("SELECT 1 FROM links") == []


async def test_an_enrolment_from_a_sign_in_is_short_and_the_one_before_is_void(world: World) -> None:
    ada = await newcomer(world)
    first, second = [(await sign_in(ada)).json()["enrolment"] for _ in range(2)]
    assert (await world.post(ACCEPT, json={"token": first})).status_code == 404
    assert (await world.post(ACCEPT, json={"token": second})).status_code == 200
    (row,) = await world.sql("SELECT expires_at - created_at FROM links")
    assert row[0].total_seconds() == 15 * 60


async def test_after_a_reset_the_password_alone_gives_no_enrolment(world: World) -> None:
    ada = await join(world)
    await reset(ada)
    answer = await sign_in(ada)
    assert (answer.status_code, reason(answer)) == (401, "sign-in-refused")


@pytest.mark.parametrize("body", [{}, {"code": "000000", "passkey": {"challenge": "x", "credential": {}, "name": "k"}}])
async def test_a_confirmation_takes_a_code_or_a_passkey(world: World, body: dict[str, Any]) -> None:
    assert (await world.post(CONFIRM, json={"token": "x", **body})).status_code == 422
