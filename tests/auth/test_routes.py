import asyncio
import json
import logging
import time
from typing import Any
from uuid import UUID, uuid4

import pyotp
import pytest
from argon2 import PasswordHasher

from chassis import tokens
from contracts.events import Session, SigningKey, User, UserStatus
from contracts.roles import NOBODY, Actor, ClusterRole
from services.auth.service import accounts
from tests.auth.people import PASSWORD, another_code, begin, invite, join
from tests.world import World, Worlds, administrator, agent, auditor, job, person, reason

# Who may come in


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/users"), ("GET", "/users"), ("PATCH", f"/users/{UUID(int=1)}")],
)
@pytest.mark.parametrize(
    ("actor", "status"),
    [(NOBODY, 401), (person(), 403), (auditor(), 403), (agent(), 403), (job(UUID(int=5)), 403)],
)
async def test_only_administrators_manage_accounts(world: World, method: str, path: str, actor: Actor, status: int) -> None:
    answer = await world.request(method, path, actor, json={}, version=1)
    assert answer.status_code == status
    assert await world.said() == []
    assert await world.recorded() == []


@pytest.mark.parametrize(("method", "path"), [("GET", "/sessions"), ("GET", "/users/me"), ("DELETE", f"/sessions/{UUID(int=1)}")])
@pytest.mark.parametrize(("actor", "status"), [(NOBODY, 401), (agent(), 403), (job(UUID(int=5)), 403)])
async def test_own_things_are_for_people_who_signed_in(world: World, method: str, path: str, actor: Actor, status: int) -> None:
    assert (await world.request(method, path, actor)).status_code == status


# Inviting


async def test_an_administrator_invites_and_sees_the_token_once(world: World) -> None:
    answer = await invite(world, "Ada.Lovelace@Example.org", ["auditor"])
    assert answer.status_code == 201
    body = answer.json()
    assert (body["username"], body["email"], body["status"]) == ("adalovel", "ada.lovelace@example.org", "invited")
    assert (body["cluster_roles"], body["version"]) == (["auditor"], 1)
    assert answer.headers["etag"] == '"1"'
    assert answer.headers["hortus-facts"] == f"users:{body['user_id']}:1"
    (said,) = await world.said()
    assert said == User(
        version=1,
        user_id=UUID(body["user_id"]),
        username="adalovel",
        status=UserStatus.INVITED,
        cluster_roles=frozenset({ClusterRole.AUDITOR}),
    )
    (record,) = await world.recorded()
    assert (record["action"], record["resource"]) == ("user.create", {"user_id": body["user_id"]})
    listed = (await world.get("/users", administrator())).json()
    assert "invitation" not in listed["items"][0]
    assert body["invitation"] not in json.dumps([said.model_dump(mode="json"), record])


async def test_the_same_key_does_not_show_the_token_again(world: World) -> None:
    root = administrator()
    first = await world.post("/users", root, json={"email": "a@x.org"}, key="k")
    again = await world.post("/users", root, json={"email": "a@x.org"}, key="k")
    other = await world.post("/users", root, json={"email": "b@x.org"}, key="k")
    assert first.status_code == 201
    assert (again.status_code, reason(again)) == (409, "answer-was-secret")
    assert (other.status_code, reason(other)) == (422, "idempotency-key-reused")
    assert len(await world.said()) == 1


async def test_usernames_that_clash_get_a_number(world: World) -> None:
    names = [(await invite(world, email)).json()["username"] for email in ("ada@x.org", "ada@y.org", "a.d.a@z.org", "ada0@x.org")]
    assert names == ["ada00000", "ada00001", "ada00002", "ada00003"]


async def test_ten_clashing_invitations_at_once_all_get_a_name(world: World) -> None:
    answers = await asyncio.gather(*[invite(world, f"ada@x{number}.org") for number in range(10)])
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["username"] for answer in answers}) == 10


async def test_an_address_has_one_account_however_it_is_written(world: World) -> None:
    await join(world, "ada@example.org")
    await world.said()
    answer = await invite(world, "\uff21DA@Example.ORG")
    assert (answer.status_code, reason(answer)) == (409, "email-taken")
    assert await world.said() == []


async def test_who_has_not_confirmed_is_invited_again_and_the_old_token_is_void(world: World) -> None:
    first = (await invite(world, "ada@x.org")).json()
    await world.said()
    second = (await invite(world, "ada@x.org")).json()
    assert second["user_id"] == first["user_id"]
    assert await world.said() == []
    refused = await world.post("/invitations/acceptance", json={"token": first["invitation"], "password": PASSWORD})
    assert reason(refused) == "invitation-not-open"
    assert (await world.post("/invitations/acceptance", json={"token": second["invitation"], "password": PASSWORD})).status_code == 200


async def test_somebody_who_is_there_already_is_invited_again_only_by_a_fresh_factor(world: World) -> None:
    first = (await invite(world, "ada@x.org")).json()
    body = {"name": "roots", "cluster_roles": ["administrator"]}
    group = (await world.post("/groups", administrator(), json=body)).json()
    await world.put(f"/groups/{group['group_id']}/members/{first['user_id']}", administrator())
    stale = person(cluster_roles=[ClusterRole.ADMINISTRATOR], factor_fresh=False)
    refused = await world.post("/users", stale, json={"email": "ada@x.org"})
    assert (refused.status_code, reason(refused)) == (401, "factor-too-old")
    assert (await world.post("/users", stale, json={"email": "bob@x.org"})).status_code == 201
    accepted = await world.post("/invitations/acceptance", json={"token": first["invitation"], "password": PASSWORD})
    assert accepted.status_code == 200, "the token before is not void"


async def test_inviting_again_with_another_role_says_so(world: World) -> None:
    await invite(world, "ada@x.org")
    await invite(world, "ada@x.org", ["auditor"])
    assert [fact.version for fact in await world.said()] == [1, 2]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"email": "no address"},
        {"email": "a\u0000b@x.org"},
        {"email": "a@x.org", "cluster_roles": ["king"]},
        {"email": "a@x.org", "cluster_roles": "auditor"},
        {"email": "a@x.org", "username": "root"},
        {"email": "a" * 400 + "@x.org"},
        {"email": 7},
        [],
        "a@x.org",
        None,
    ],
)
async def test_a_bad_invitation_is_refused_with_a_sentence_and_nothing_is_stored(world: World, body: Any) -> None:
    answer = await world.post("/users", administrator(), json=body)
    assert answer.status_code == 422
    reason(answer)
    assert await world.said() == []
    assert (await world.sql("SELECT count(*) FROM users"))[0][0] == 0


# Accepting and confirming


async def test_an_invitation_becomes_an_account(world: World) -> None:
    invited = (await invite(world, "ada@x.org")).json()
    await world.said()
    await world.recorded()
    accepted = await world.post("/invitations/acceptance", json={"token": invited["invitation"], "password": PASSWORD})
    assert accepted.status_code == 200
    factor = accepted.json()
    assert factor["username"] == "ada00000"
    assert factor["totp_secret"] in factor["totp_uri"]
    assert await world.said() == []
    confirmed = await world.post(
        "/invitations/confirmation", json={"token": invited["invitation"], "code": pyotp.TOTP(factor["totp_secret"]).now()}
    )
    assert confirmed.status_code == 200
    assert (confirmed.json()["status"], confirmed.json()["version"]) == ("active", 2)
    (said,) = await world.said()
    assert isinstance(said, User)
    assert (said.status, said.version) == (UserStatus.ACTIVE, 2)
    records = await world.recorded()
    assert [(record["action"], record["actor"]["username"]) for record in records] == [
        ("invitation.accept", "ada00000"),
        ("invitation.confirm", "ada00000"),
    ]


async def test_accepting_again_replaces_password_and_second_factor(world: World) -> None:
    token = (await invite(world, "ada@x.org")).json()["invitation"]
    first = (await world.post("/invitations/acceptance", json={"token": token, "password": PASSWORD})).json()
    second = (await world.post("/invitations/acceptance", json={"token": token, "password": PASSWORD + "!"})).json()
    assert first["totp_secret"] != second["totp_secret"]
    old = await world.post("/invitations/confirmation", json={"token": token, "code": pyotp.TOTP(first["totp_secret"]).now()})
    assert (old.status_code, reason(old)) == (422, "wrong-code")
    new = await world.post("/invitations/confirmation", json={"token": token, "code": pyotp.TOTP(second["totp_secret"]).now()})
    assert new.status_code == 200


async def test_a_token_is_spent_by_confirming(world: World) -> None:
    token = (await invite(world, "ada@x.org")).json()["invitation"]
    secret = (await world.post("/invitations/acceptance", json={"token": token, "password": PASSWORD})).json()["totp_secret"]
    code = pyotp.TOTP(secret).now()
    assert (await world.post("/invitations/confirmation", json={"token": token, "code": code})).status_code == 200
    for path, rest in (("acceptance", {"password": PASSWORD}), ("confirmation", {"code": code})):
        answer = await world.post(f"/invitations/{path}", json={"token": token, **rest})
        assert (answer.status_code, reason(answer)) == (404, "invitation-not-open")


async def test_the_code_that_confirmed_does_not_sign_in(world: World) -> None:
    token = (await invite(world, "ada@x.org")).json()["invitation"]
    secret = (await world.post("/invitations/acceptance", json={"token": token, "password": PASSWORD})).json()["totp_secret"]
    code = pyotp.TOTP(secret).now()
    await world.post("/invitations/confirmation", json={"token": token, "code": code})
    answer = await world.post("/sessions", json={"username": "ada00000", "password": PASSWORD, "code": code})
    assert (answer.status_code, reason(answer)) == (401, "sign-in-refused")


async def test_confirming_before_accepting_is_refused(world: World) -> None:
    token = (await invite(world, "ada@x.org")).json()["invitation"]
    answer = await world.post("/invitations/confirmation", json={"token": token, "code": "000000"})
    assert (answer.status_code, reason(answer)) == (409, "not-accepted-yet")


@pytest.mark.parametrize("change", ["expired", "blocked", "unknown"])
async def test_an_invitation_that_is_not_open_is_refused(world: World, change: str) -> None:
    invited = (await invite(world, "ada@x.org")).json()
    token = invited["invitation"]
    if change == "expired":
        await world.sql("UPDATE invitations SET expires_at = now()")
    elif change == "blocked":
        await world.patch(f"/users/{invited['user_id']}", administrator(), json={"status": "blocked"}, version=1)
    else:
        token = token[:-1] + ("A" if token[-1] != "A" else "B")
    await world.said()
    for path, rest in (("acceptance", {"password": PASSWORD}), ("confirmation", {"code": "000000"})):
        answer = await world.post(f"/invitations/{path}", json={"token": token, **rest})
        assert (answer.status_code, reason(answer)) == (404, "invitation-not-open")
    assert await world.said() == []


@pytest.mark.parametrize(
    "password", ["", "short", "x" * 11, "x" * 129, "x" * 600, "control\u0007character", "nul\u0000nul\u0000nul\u0000", 12345678901234]
)
async def test_a_password_has_12_to_128_characters_that_a_keyboard_types(world: World, password: Any) -> None:
    token = (await invite(world, "ada@x.org")).json()["invitation"]
    answer = await world.post("/invitations/acceptance", json={"token": token, "password": password})
    assert answer.status_code == 422
    assert not password or str(password) not in answer.text


async def test_a_password_counts_the_same_however_its_letters_are_composed(world: World) -> None:
    token = (await invite(world, "ada@x.org")).json()["invitation"]
    accepted = await world.post("/invitations/acceptance", json={"token": token, "password": "pa\u0308ssword-pa\u0308ssword"})
    totp = pyotp.TOTP(accepted.json()["totp_secret"])
    await world.post("/invitations/confirmation", json={"token": token, "code": totp.now()})
    await world.sql("UPDATE credentials SET last_step = -1")
    answer = await world.post("/sessions", json={"username": "ada00000", "password": "pässword-pässword", "code": totp.now()})
    assert answer.status_code == 201


# Signing in


async def test_a_person_signs_in_and_gets_a_token_that_verifies(world: World) -> None:
    ada = await join(world)
    await world.said()
    await world.recorded()
    answer = await ada.sign_in()
    assert answer.status_code == 201
    body = answer.json()
    said = await world.said()
    session = next(fact for fact in said if isinstance(fact, Session))
    key = next(fact for fact in said if isinstance(fact, SigningKey))
    assert (str(session.session_id), session.live, session.user_id) == (body["session_id"], True, ada.user_id)
    claims = tokens.verify(body["access_token"], {key.key_id: key.jwk})
    assert (claims.user_id, claims.session_id) == (ada.user_id, session.session_id)
    assert 295 <= claims.expires - time.time() <= 301
    assert body["user"]["username"] == "ada00000"
    assert (session.expires_at - session.factor_at).total_seconds() == 12 * 3600
    (record,) = await world.recorded()
    assert (record["action"], record["actor"]["user_id"]) == ("session.create", str(ada.user_id))
    assert body["access_token"] not in json.dumps(record)


@pytest.mark.parametrize("name", ["ada00000", "ADA00000", "ada@example.org", "Ada@Example.ORG", " ada00000 "])
async def test_a_person_signs_in_by_username_or_address(world: World, name: str) -> None:
    ada = await join(world)
    assert (await ada.sign_in(username=name)).status_code == 201


async def test_all_wrong_sign_ins_get_one_answer(world: World) -> None:
    ada = await join(world)
    await invite(world, "bob@x.org")
    answers = [
        await ada.sign_in(password="wrong password"),
        await ada.sign_in(code=another_code(ada.totp)),
        await ada.sign_in(username="nobody00"),
        await ada.sign_in(username="bob00000"),
        await ada.sign_in(username="nobody@example.org"),
        await ada.sign_in(username="\u202eada"),
    ]
    assert {answer.status_code for answer in answers} == {401}
    assert {answer.text for answer in answers} == {answers[0].text}
    assert reason(answers[0]) == "sign-in-refused"
    assert {tuple(sorted(name for name in answer.headers)) for answer in answers} == {tuple(sorted(answers[0].headers))}


async def test_a_refused_sign_in_says_nothing_but_is_recorded_and_counted(world: World) -> None:
    ada = await join(world)
    await world.said()
    await world.recorded()
    await ada.sign_in(password="wrong password")
    assert await world.said() == []
    assert [record["outcome"] for record in await world.recorded()] == ["refused"]
    assert [row.failures for row in await world.sql("SELECT failures FROM attempts")] == [1, 1, 1, 1, 1]


async def test_a_code_signs_in_once(world: World) -> None:
    ada = await join(world)
    code = await ada.new_code()
    assert (await ada.sign_in(code=code)).status_code == 201
    again = await ada.sign_in(code=code)
    assert (again.status_code, reason(again)) == (401, "sign-in-refused")


async def test_two_sign_ins_with_one_code_at_once_have_one_winner(world: World, worlds: Worlds, settings: dict[str, Any]) -> None:
    ada = await join(world)
    replica = await worlds.open("auth", beside=world, **settings)
    for _ in range(3):
        await world.sql("DELETE FROM attempts")
        await world.said()
        code = await ada.new_code()
        answers = await asyncio.gather(*[ada.sign_in(world=each, code=code) for each in (world, replica, world, replica)])
        assert sorted(answer.status_code for answer in answers) == [201, 401, 401, 401]
        assert len([fact for fact in await world.said() if isinstance(fact, Session)]) == 1


async def test_the_first_sign_ins_ever_make_one_signing_key(world: World) -> None:
    people = [await join(world, f"{name}@x.org") for name in ("ada", "bob", "cyd")]
    await world.said()
    answers = await asyncio.gather(*[each.sign_in() for each in people])
    assert {answer.status_code for answer in answers} == {201}
    assert [fact.type for fact in await world.said()].count("signing-key.v1") == 1


async def test_an_old_hash_is_replaced_when_its_person_signs_in(world: World) -> None:
    ada = await join(world)
    old = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1).hash(PASSWORD)
    await world.sql("UPDATE credentials SET password_hash = :old", old=old)
    assert (await ada.sign_in()).status_code == 201
    assert "m=19456,t=2,p=1" in (await world.sql("SELECT password_hash FROM credentials"))[0][0]


@pytest.mark.parametrize(
    "change",
    [
        {"code": "12345"},
        {"code": "1234567"},
        {"code": "abcdef"},
        {"code": "١٢٣٤٥٦"},
        {"code": 123456},
        {"code": None},
        {"password": ""},
        {"password": "x" * 600},
        {"username": ""},
        {"username": "x" * 400},
        {"username": "a\u0000b"},
        {"remember": True},
    ],
)
async def test_a_sign_in_of_the_wrong_shape_is_refused(world: World, change: dict[str, Any]) -> None:
    body = {"username": "ada00000", "password": PASSWORD, "code": "123456"} | change
    answer = await world.post("/sessions", json=body)
    assert answer.status_code == 422
    assert PASSWORD not in answer.text


async def test_no_secret_is_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    ada = await join(world)
    await ada.sign_in()
    await ada.sign_in(password="wrong password")
    await world.post("/sessions", json={"username": "ada00000", "password": "wrong password"})
    for secret in (PASSWORD, "wrong password", ada.totp.secret):
        assert secret not in caplog.text


async def test_a_signed_in_caller_leaves_no_hash_of_the_password_behind(world: World) -> None:
    ada = await join(world)
    session_id, _ = await begin(ada)
    actor = ada.actor(session_id)
    body = {"username": ada.username, "password": PASSWORD, "code": await ada.new_code()}
    assert (await world.post("/sessions", actor, json=body, key="k")).status_code == 201
    changed = await world.post("/users/me/password", actor, json={"password": PASSWORD, "new_password": PASSWORD + " anew"}, key="l")
    assert changed.status_code == 204
    assert (await world.post("/sessions/current/factor", actor, json={"password": PASSWORD}, key="m")).status_code == 401
    assert await world.sql("SELECT 1 FROM idempotency") == []


# Sessions


async def test_a_person_lists_their_own_sessions_in_pages(world: World) -> None:
    ada = await join(world)
    bob = await join(world, "bob@x.org")
    made = [(await ada.sign_in()).json()["session_id"] for _ in range(3)]
    await bob.sign_in()
    actor = ada.actor(UUID(made[1]))
    first = (await world.get("/sessions?limit=2", actor)).json()
    second = (await world.get(f"/sessions?limit=2&after={first['next']}", actor)).json()
    assert [item["session_id"] for item in first["items"] + second["items"]] == made
    assert [item["current"] for item in first["items"]] == [False, True]
    assert second["next"] is None


async def test_a_person_signs_out(world: World) -> None:
    ada = await join(world)
    session_id = (await ada.sign_in()).json()["session_id"]
    await world.said()
    answer = await world.delete(f"/sessions/{session_id}", ada.actor())
    assert answer.status_code == 204
    assert answer.headers["hortus-facts"] == f"sessions:{session_id}:2"
    (said,) = await world.said()
    assert isinstance(said, Session)
    assert (said.live, said.version) == (False, 2)
    assert (await world.get("/sessions", ada.actor())).json()["items"] == []


async def test_signing_out_twice_says_it_once(world: World) -> None:
    ada = await join(world)
    session_id = (await ada.sign_in()).json()["session_id"]
    await world.said()
    answers = await asyncio.gather(*[world.delete(f"/sessions/{session_id}", ada.actor()) for _ in range(3)])
    assert {answer.status_code for answer in answers} == {204}
    assert len(await world.said()) == 1


async def test_nobody_ends_somebody_elses_session(world: World) -> None:
    ada = await join(world)
    session_id = (await ada.sign_in()).json()["session_id"]
    await world.said()
    for actor in (person(), administrator()):
        answer = await world.delete(f"/sessions/{session_id}", actor)
        assert (answer.status_code, reason(answer)) == (404, "not-found")
    assert await world.said() == []


async def test_an_expired_session_is_not_listed(world: World) -> None:
    ada = await join(world)
    await ada.sign_in()
    await world.sql("UPDATE sessions SET expires_at = now()")
    assert (await world.get("/sessions", ada.actor())).json()["items"] == []


# Accounts


async def test_a_person_reads_their_own_account(world: World) -> None:
    ada = await join(world)
    answer = await world.get("/users/me", ada.actor())
    assert answer.json() == ada.user
    assert answer.headers["etag"] == '"2"'
    assert (await world.get("/users/me", person())).status_code == 404


async def test_an_administrator_lists_accounts_in_pages(world: World) -> None:
    for number in range(5):
        await invite(world, f"u{number}@x.org")
    root = administrator()
    names: list[str] = []
    after = ""
    for _ in range(3):
        page = (await world.get(f"/users?limit=2{after}", root)).json()
        names += [item["email"] for item in page["items"]]
        after = f"&after={page['next']}"
    assert names == [f"u{number}@x.org" for number in range(5)]
    assert page["next"] is None


async def test_blocking_ends_every_session_and_no_sign_in_works_any_more(world: World) -> None:
    root = await join(world, "root@x.org", ["administrator"])
    ada = await join(world)
    made = {(await ada.sign_in()).json()["session_id"] for _ in range(2)}
    await world.said()
    answer = await world.patch(f"/users/{ada.user_id}", root.actor(), json={"status": "blocked"}, version=2)
    assert answer.status_code == 200
    assert (answer.json()["status"], answer.json()["version"]) == ("blocked", 3)
    said = await world.said()
    blocked = [fact for fact in said if isinstance(fact, User)]
    ended = [fact for fact in said if isinstance(fact, Session)]
    assert [(fact.status, fact.version) for fact in blocked] == [(UserStatus.BLOCKED, 3)]
    assert {(str(fact.session_id), fact.live, fact.version) for fact in ended} == {(each, False, 2) for each in made}
    refused = await ada.sign_in()
    assert (refused.status_code, reason(refused)) == (401, "sign-in-refused")


async def test_unblocking_lets_the_person_sign_in_again(world: World) -> None:
    ada = await join(world)
    await world.patch(f"/users/{ada.user_id}", administrator(), json={"status": "blocked"}, version=2)
    answer = await world.patch(f"/users/{ada.user_id}", administrator(), json={"status": "active"}, version=3)
    assert answer.json()["status"] == "active"
    assert (await ada.sign_in()).status_code == 201


async def test_who_is_being_blocked_while_signing_in_is_refused(world: World, worlds: Worlds, settings: dict[str, Any]) -> None:
    replica = await worlds.open("auth", beside=world, **settings)
    ada = await join(world)
    code = await ada.new_code()
    async with world.work(administrator()) as uow:
        await accounts.change_user(uow, world.runtime.extra["tools"], ada.user_id, 2, UserStatus.BLOCKED, None)
        signing_in = asyncio.create_task(ada.sign_in(code=code, world=replica))
        await world.somebody_waits()
    answer = await signing_in
    assert (answer.status_code, reason(answer)) == (401, "sign-in-refused")
    assert await world.sql("SELECT 1 FROM sessions") == []


async def test_a_session_opened_while_being_blocked_is_ended(world: World, worlds: Worlds, settings: dict[str, Any]) -> None:
    replica = await worlds.open("auth", beside=world, **settings)
    ada = await join(world)
    code = await ada.new_code()
    answers = await asyncio.gather(
        ada.sign_in(code=code, world=replica),
        world.patch(f"/users/{ada.user_id}", administrator(), json={"status": "blocked"}, version=2),
    )
    assert answers[1].status_code == 200
    assert await world.sql("SELECT 1 FROM sessions WHERE ended_at IS NULL") == []


async def test_an_administrator_gives_and_takes_cluster_roles(world: World) -> None:
    ada = await join(world)
    await world.said()
    given = await world.patch(f"/users/{ada.user_id}", administrator(), json={"cluster_roles": ["auditor", "administrator"]}, version=2)
    assert given.json()["cluster_roles"] == ["administrator", "auditor"]
    (said,) = await world.said()
    assert isinstance(said, User)
    assert said.cluster_roles == {ClusterRole.ADMINISTRATOR, ClusterRole.AUDITOR}


async def test_a_change_that_changes_nothing_says_nothing(world: World) -> None:
    ada = await join(world)
    await world.said()
    same: list[dict[str, Any]] = [{}, {"status": "active"}, {"cluster_roles": []}]
    for body in same:
        answer = await world.patch(f"/users/{ada.user_id}", administrator(), json=body, version=2)
        assert (answer.status_code, answer.json()["version"]) == (200, 2)
    assert await world.said() == []


@pytest.mark.parametrize("body", [{"status": "blocked"}, {"cluster_roles": []}, {"cluster_roles": ["auditor"]}])
async def test_the_last_active_administrator_stays(world: World, body: dict[str, Any]) -> None:
    root = await join(world, "root@x.org", ["administrator"])
    await invite(world, "next@x.org", ["administrator"])
    await world.said()
    answer = await world.patch(f"/users/{root.user_id}", root.actor(), json=body, version=2)
    assert (answer.status_code, reason(answer)) == (409, "last-administrator-stays")
    assert await world.said() == []


async def test_two_administrators_who_block_each_other_at_once_leave_one(world: World, worlds: Worlds, settings: dict[str, Any]) -> None:
    replica = await worlds.open("auth", beside=world, **settings)
    ada = await join(world, "ada@x.org", ["administrator"])
    bob = await join(world, "bob@x.org", ["administrator"])
    async with world.work(ada.actor()) as uow:
        await accounts.change_user(uow, world.runtime.extra["tools"], bob.user_id, 2, UserStatus.BLOCKED, None)
        back = asyncio.create_task(replica.patch(f"/users/{ada.user_id}", bob.actor(), json={"status": "blocked"}, version=2))
        await world.somebody_waits()
    answer = await back
    assert (answer.status_code, reason(answer)) == (409, "last-administrator-stays")


async def test_an_invited_account_is_not_made_active_for_its_person(world: World) -> None:
    invited = (await invite(world, "ada@x.org")).json()
    answer = await world.patch(f"/users/{invited['user_id']}", administrator(), json={"status": "active"}, version=1)
    assert (answer.status_code, reason(answer)) == (409, "not-confirmed-yet")


async def test_a_change_needs_the_version_that_was_read(world: World) -> None:
    ada = await join(world)
    path = f"/users/{ada.user_id}"
    without = await world.patch(path, administrator(), json={"status": "blocked"})
    other = await world.patch(path, administrator(), json={"status": "blocked"}, version=1)
    assert (without.status_code, reason(without)) == (428, "precondition-required")
    assert (other.status_code, reason(other)) == (412, "precondition-failed")


async def test_two_changes_of_one_version_at_once_have_one_winner(world: World, worlds: Worlds, settings: dict[str, Any]) -> None:
    replica = await worlds.open("auth", beside=world, **settings)
    ada = await join(world)
    await world.said()
    answers = await asyncio.gather(
        world.patch(f"/users/{ada.user_id}", administrator(), json={"cluster_roles": ["auditor"]}, version=2),
        replica.patch(f"/users/{ada.user_id}", administrator(), json={"cluster_roles": ["administrator"]}, version=2),
    )
    assert sorted(answer.status_code for answer in answers) == [200, 412]
    assert [fact.version for fact in await world.said()] == [3]


@pytest.mark.parametrize("body", [{"status": "invited"}, {"status": "left"}, {"email": "x@x.org"}, {"cluster_roles": ["x"]}, []])
async def test_a_change_of_the_wrong_shape_is_refused(world: World, body: Any) -> None:
    ada = await join(world)
    assert (await world.patch(f"/users/{ada.user_id}", administrator(), json=body, version=2)).status_code == 422


async def test_an_account_that_is_not_there_is_not_found(world: World) -> None:
    assert (await world.patch(f"/users/{uuid4()}", administrator(), json={}, version=1)).status_code == 404
    assert (await world.patch("/users/me%00", administrator(), json={}, version=1)).status_code == 422
