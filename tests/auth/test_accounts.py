import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx2
import pyotp
import pytest
from sqlalchemy import text

from contracts.events import ApiKey, Session, User, UserStatus
from contracts.roles import ClusterRole
from services.auth import domain
from services.auth.models import Group
from services.auth.service import sessions
from tests.auth.people import PASSWORD, Account, begin, invite, join, present, refresh
from tests.world import World, Worlds, administrator, person, reason

EMAIL = "ada@example.org"
NOW = datetime(2026, 3, 1, tzinfo=UTC)


# Every state of an account and everything that is done with one


@dataclass
class Subject:
    """Somebody in some state, with everything that they ever had in their hands."""

    world: World
    user_id: UUID
    invitation: str
    totp: pyotp.TOTP
    link: str = ""
    refresh: str = ""

    async def change(self, **wanted: Any) -> httpx2.Response:
        ((version,),) = await self.world.sql("SELECT version FROM users WHERE user_id = :id", id=self.user_id)
        return await self.world.patch(f"/users/{self.user_id}", administrator(), json=wanted, version=version)

    async def status(self) -> str:
        ((status,),) = await self.world.sql("SELECT status FROM users WHERE user_id = :id", id=self.user_id)
        return str(status)


async def confirm(who: Subject) -> httpx2.Response:
    return await who.world.post("/invitations/confirmation", json={"token": who.invitation, "code": who.totp.now()})


async def accepted(world: World) -> Subject:
    made = (await invite(world, EMAIL)).json()
    answer = await world.post("/invitations/acceptance", json={"token": made["invitation"], "password": PASSWORD})
    return Subject(world, UUID(made["user_id"]), made["invitation"], pyotp.TOTP(answer.json()["totp_secret"]))


async def confirmed(world: World) -> Subject:
    """Active, with a session and an open link for a new password."""
    who = await accepted(world)
    account = Account(world, (await confirm(who)).json(), who.totp)
    _, who.refresh = await begin(account)
    who.link = (await world.post(f"/users/{who.user_id}/password-reset", administrator())).json()["link_token"]
    return who


def then(before: Callable[[World], Awaitable[Subject]], status: str) -> Callable[[World], Awaitable[Subject]]:
    async def changed(world: World) -> Subject:
        who = await before(world)
        assert (await who.change(status=status)).status_code == 200
        return who

    return changed


STATES: dict[str, Callable[[World], Awaitable[Subject]]] = {
    "invited": accepted,
    "active": confirmed,
    "blocked": then(confirmed, "blocked"),
    "deactivated": then(confirmed, "deactivated"),
    "blocked before confirming": then(accepted, "blocked"),
    "deactivated before confirming": then(accepted, "deactivated"),
}


def in_a_day() -> str:
    return (datetime.now(UTC) + timedelta(days=1)).isoformat()


async def make_a_key(who: Subject) -> httpx2.Response:
    """In a session that nobody ended."""
    account = Account(who.world, {"user_id": str(who.user_id), "username": "ada00000", "cluster_roles": []}, who.totp)
    wanted = {"name": "k", "scopes": ["project.list"], "expires_at": in_a_day()}
    return await who.world.post("/keys", (await present(account)).actor(), json=wanted)


ACTIONS: dict[str, Callable[[Subject], Awaitable[httpx2.Response]]] = {
    "accept": lambda who: who.world.post("/invitations/acceptance", json={"token": who.invitation, "password": PASSWORD}),
    "confirm": confirm,
    "sign in": lambda who: who.world.post("/sessions", json={"username": EMAIL, "password": PASSWORD, "code": who.totp.at(_next_step())}),
    "go on": lambda who: refresh(who.world, who.refresh or "nothing"),
    "choose a password": lambda who: who.world.post(
        "/password-resets/acceptance", json={"token": who.link or "nothing", "password": PASSWORD + " too"}
    ),
    "make a key": make_a_key,
    "block": lambda who: who.change(status="blocked"),
    "activate": lambda who: who.change(status="active"),
    "deactivate": lambda who: who.change(status="deactivated"),
    "give roles": lambda who: who.change(cluster_roles=["auditor"]),
    "reset password": lambda who: who.world.post(f"/users/{who.user_id}/password-reset", administrator()),
    "reset factor": lambda who: who.world.post(f"/users/{who.user_id}/factor-reset", administrator()),
    "invite again": lambda who: invite(who.world, EMAIL),
}

GONE = {
    "accept": "invitation-not-open",
    "confirm": "invitation-not-open",
    "sign in": "sign-in-refused",
    "go on": "*",
    "choose a password": "link-not-open",
    "make a key": "*",
    "reset password": "account-not-active",
    "reset factor": "account-not-active",
}
LEFT = {**GONE, "invite again": "email-taken", "block": "has-left", "activate": "→ invited", "deactivate": "=", "give roles": "has-left"}
TABLE = {
    "invited": {
        **GONE,
        "invite again": "=",
        "accept": "=",
        "confirm": "→ active",
        "block": "→ blocked",
        "activate": "not-confirmed-yet",
        "deactivate": "→ deactivated",
        "give roles": "=",
    },
    "active": {
        "invite again": "email-taken",
        "accept": "invitation-not-open",
        "confirm": "invitation-not-open",
        "sign in": "=",
        "go on": "=",
        "choose a password": "=",
        "make a key": "=",
        "block": "→ blocked",
        "activate": "=",
        "deactivate": "→ deactivated",
        "give roles": "=",
        "reset password": "=",
        "reset factor": "=",
    },
    "blocked": {
        **GONE,
        "invite again": "email-taken",
        "block": "=",
        "activate": "→ active",
        "deactivate": "→ deactivated",
        "give roles": "=",
    },
    "deactivated": LEFT,
    "blocked before confirming": {
        **GONE,
        "invite again": "email-taken",
        "block": "=",
        "activate": "→ invited",
        "deactivate": "→ deactivated",
        "give roles": "=",
    },
    "deactivated before confirming": LEFT,
}


def _next_step() -> int:
    """A time whose code was not used yet."""
    return int(time.time()) + 30


@pytest.mark.parametrize("state", STATES)
async def test_every_state_of_an_account_meets_everything_that_is_done_with_one(
    worlds: Worlds, settings: dict[str, Any], state: str
) -> None:
    assert set(TABLE[state]) == set(ACTIONS)
    world = await worlds.open("auth", **settings)
    who = await STATES[state](world)
    before = await who.status()
    refused = {action: slug for action, slug in TABLE[state].items() if slug[0] not in "=→"}
    for action, slug in refused.items():
        answer = await ACTIONS[action](who)
        assert answer.is_client_error, (action, answer.text)
        assert slug in ("*", reason(answer)), action
        assert await who.status() == before, action
    for action in [each for each in ACTIONS if TABLE[state][each] == "="]:
        answer = await ACTIONS[action](who)
        assert answer.is_success, (action, answer.text)
        assert await who.status() == before, action
    for action in [each for each in ACTIONS if TABLE[state][each].startswith("→")]:
        who = await STATES[state](await worlds.open("auth", **settings))
        answer = await ACTIONS[action](who)
        assert answer.is_success, (action, answer.text)
        assert await who.status() == TABLE[state][action].removeprefix("→ "), action


# Leaving and coming back


async def test_who_leaves_is_out_at_once_and_nothing_of_theirs_is_kept_but_the_name(world: World) -> None:
    ada = await join(world, EMAIL, ["auditor"])
    session_id, token = await begin(ada)
    expires = (await world.now() + timedelta(days=1)).isoformat()
    made = await world.post("/keys", ada.actor(session_id), json={"name": "nightly", "scopes": ["project.list"], "expires_at": expires})
    assert made.status_code == 201, made.text
    await world.post("/users/me/recovery-codes", ada.actor(session_id))
    group = (await world.post("/groups", administrator(), json={"name": "staff"})).json()["group_id"]
    await world.put(f"/groups/{group}/members/{ada.user_id}", administrator())
    await world.post(f"/users/{ada.user_id}/password-reset", administrator())
    await world.said()
    answer = await world.patch(f"/users/{ada.user_id}", administrator(), json={"status": "deactivated"}, version=3)
    assert answer.status_code == 200, answer.text
    assert (answer.json()["status"], answer.json()["cluster_roles"], answer.json()["invitation"]) == ("deactivated", [], None)
    said = await world.said()
    (user,) = [fact for fact in said if isinstance(fact, User)]
    assert (user.status, user.cluster_roles, user.groups, user.version) == (UserStatus.DEACTIVATED, frozenset(), frozenset(), 4)
    assert [(fact.session_id, fact.live) for fact in said if isinstance(fact, Session)] == [(session_id, False)]
    assert [(str(fact.key_id), fact.live) for fact in said if isinstance(fact, ApiKey)] == [(made.json()["key_id"], False)]
    for table in ("credentials", "passkeys", "recovery_codes", "links", "invitations", "client_codes", "group_members"):
        assert await world.sql(f"SELECT 1 FROM {table}") == [], table
    assert (await refresh(world, token)).status_code == 401
    assert (await ada.sign_in()).status_code == 401
    ((username, email),) = await world.sql("SELECT username, email FROM users WHERE user_id = :id", id=ada.user_id)
    assert (username, email) == (ada.username, EMAIL)


async def test_who_comes_back_is_invited_anew_under_the_same_name_and_without_roles(world: World) -> None:
    ada = await join(world, EMAIL, ["auditor"])
    await world.patch(f"/users/{ada.user_id}", administrator(), json={"status": "deactivated"}, version=2)
    back = await world.patch(f"/users/{ada.user_id}", administrator(), json={"status": "active"}, version=3)
    assert back.status_code == 200, back.text
    body = back.json()
    assert (body["status"], body["username"], body["cluster_roles"], body["mailed"]) == ("invited", ada.username, [], False)
    accepted = await world.post("/invitations/acceptance", json={"token": body["invitation"], "password": PASSWORD})
    ada.totp = pyotp.TOTP(accepted.json()["totp_secret"])
    done = await world.post("/invitations/confirmation", json={"token": body["invitation"], "code": ada.totp.now()})
    assert (done.status_code, done.json()["status"]) == (200, "active")
    assert (await ada.sign_in()).status_code == 201


async def test_who_comes_back_is_invited_only_by_a_fresh_factor(world: World) -> None:
    ada = await join(world, EMAIL)
    await world.patch(f"/users/{ada.user_id}", administrator(), json={"status": "deactivated"}, version=2)
    stale = person(cluster_roles=[ClusterRole.ADMINISTRATOR], factor_fresh=False)
    refused = await world.patch(f"/users/{ada.user_id}", stale, json={"status": "active"}, version=3)
    assert (refused.status_code, reason(refused)) == (401, "factor-too-old")
    assert await world.sql("SELECT 1 FROM invitations") == []


async def test_who_comes_back_is_told_by_letter_where_mail_is_configured(worlds: Worlds, settings: dict[str, Any]) -> None:
    world = await worlds.open("auth", **settings, smtp_url="smtps://localhost:1")
    invited = await invite(world, EMAIL)
    assert (invited.json()["invitation"], invited.json()["mailed"]) == (None, True)
    user_id = invited.json()["user_id"]
    await world.patch(f"/users/{user_id}", administrator(), json={"status": "deactivated"}, version=1)
    assert await world.sql("SELECT 1 FROM letters") == [], "a letter that was not sent yet is void"
    back = await world.patch(f"/users/{user_id}", administrator(), json={"status": "active"}, version=2)
    assert (back.json()["invitation"], back.json()["mailed"]) == (None, True)
    ((letter_id, sealed),) = await world.sql("SELECT letter_id, sealed FROM letters")
    written = world.runtime.extra["tools"].vault.open_letter(sealed, letter_id)
    assert "/setup#invitation_" in written
    assert EMAIL in written


async def test_a_directorys_person_who_comes_back_is_active_and_has_no_invitation(world: World) -> None:
    ada = await join(world, EMAIL)
    await world.sql("UPDATE users SET source = 'ldap', provider = 'ldap', external_id = 'x' WHERE user_id = :id", id=ada.user_id)
    left = await world.patch(f"/users/{ada.user_id}", administrator(), json={"status": "deactivated"}, version=2)
    assert left.status_code == 200, left.text
    answer = await world.patch(f"/users/{ada.user_id}", administrator(), json={"status": "active"}, version=3)
    assert answer.status_code == 200, answer.text
    back = answer.json()
    assert (back["status"], back["invitation"], back["mailed"]) == ("active", None, False)


async def test_a_blocked_persons_keys_are_ended_and_do_not_come_back_with_the_person(world: World) -> None:
    ada = await present(await join(world, EMAIL))
    expires = (await world.now() + timedelta(days=1)).isoformat()
    await world.post("/keys", ada.actor(), json={"name": "nightly", "scopes": ["project.list"], "expires_at": expires})
    await world.said()
    await world.patch(f"/users/{ada.user_id}", administrator(), json={"status": "blocked"}, version=2)
    assert [(fact.version, fact.live) for fact in await world.said() if isinstance(fact, ApiKey)] == [(2, False)]
    await world.patch(f"/users/{ada.user_id}", administrator(), json={"status": "active"}, version=3)
    assert [fact for fact in await world.said() if isinstance(fact, ApiKey)] == []


async def test_a_link_of_before_a_block_is_void_after_it(world: World) -> None:
    ada = await join(world, EMAIL)
    token = (await world.post(f"/users/{ada.user_id}/password-reset", administrator())).json()["link_token"]
    await world.patch(f"/users/{ada.user_id}", administrator(), json={"status": "blocked"}, version=2)
    await world.patch(f"/users/{ada.user_id}", administrator(), json={"status": "active"}, version=3)
    answer = await world.post("/password-resets/acceptance", json={"token": token, "password": PASSWORD + " too"})
    assert (answer.status_code, reason(answer)) == (404, "link-not-open")


async def test_a_blocked_account_comes_back_into_cluster_roles_only_by_a_fresh_factor(world: World) -> None:
    root = await join(world, "root@example.org", ["administrator"])
    ada, bob = await join(world, EMAIL, ["auditor"]), await join(world, "bob@example.org")
    stale = person(root.user_id, root.username, cluster_roles=[ClusterRole.ADMINISTRATOR], factor_fresh=False)
    for who in (ada, bob):
        assert (await world.patch(f"/users/{who.user_id}", stale, json={"status": "blocked"}, version=2)).status_code == 200
    refused = await world.patch(f"/users/{ada.user_id}", stale, json={"status": "active"}, version=3)
    assert (refused.status_code, reason(refused)) == (401, "factor-too-old")
    assert (await world.patch(f"/users/{bob.user_id}", stale, json={"status": "active"}, version=3)).status_code == 200
    assert (await world.patch(f"/users/{ada.user_id}", root.actor(), json={"status": "active"}, version=3)).status_code == 200


async def test_the_last_administrator_does_not_leave_either(world: World) -> None:
    root = await join(world, "root@example.org", ["administrator"])
    answer = await world.patch(f"/users/{root.user_id}", root.actor(), json={"status": "deactivated"}, version=2)
    assert (answer.status_code, reason(answer)) == (409, "last-administrator-stays")
    assert (await root.sign_in()).status_code == 201


async def test_an_administrator_whom_the_directory_does_not_let_in_is_not_the_one_who_stays(world: World) -> None:
    root, missed = await join(world, "root@example.org", ["administrator"]), await join(world, EMAIL, ["administrator"])
    group = (await world.post("/groups", administrator(), json={"name": "it", "cluster_roles": ["administrator"]})).json()["group_id"]
    await world.sql("UPDATE users SET source = 'ldap', provider = 'main', external_id = 'x', gone_at = now() WHERE email = :e", e=EMAIL)
    changes: list[dict[str, Any]] = [{"status": "deactivated"}, {"status": "blocked"}, {"cluster_roles": []}]
    for wanted in changes:
        answer = await world.patch(f"/users/{root.user_id}", root.actor(), json=wanted, version=2)
        assert (answer.status_code, reason(answer)) == (409, "last-administrator-stays"), wanted
    await world.put(f"/groups/{group}/members/{root.user_id}", administrator())
    assert (await world.patch(f"/users/{root.user_id}", root.actor(), json={"cluster_roles": []}, version=3)).status_code == 200
    answer = await world.delete(f"/groups/{group}/members/{root.user_id}", administrator())
    assert (answer.status_code, reason(answer)) == (409, "last-administrator-stays")
    assert (await world.patch(f"/users/{missed.user_id}", root.actor(), json={"status": "deactivated"}, version=2)).status_code == 200


async def test_of_administrators_whom_the_directory_does_not_let_in_one_stays_too(world: World) -> None:
    missed = [await join(world, email, ["administrator"]) for email in (EMAIL, "eve@example.org")]
    await world.sql("UPDATE users SET source = 'ldap', provider = 'main', external_id = email, gone_at = now()")
    answers = [await world.patch(f"/users/{each.user_id}", administrator(), json={"status": "deactivated"}, version=2) for each in missed]
    assert [answer.status_code for answer in answers] == [200, 409]


async def test_taking_a_persons_own_role_leaves_what_their_group_gives(world: World) -> None:
    root = await join(world, "root@example.org", ["administrator"])
    group = (await world.post("/groups", administrator(), json={"name": "it", "cluster_roles": ["administrator"]})).json()["group_id"]
    await world.put(f"/groups/{group}/members/{root.user_id}", administrator())
    answer = await world.patch(f"/users/{root.user_id}", administrator(), json={"cluster_roles": []}, version=3)
    assert answer.status_code == 200, answer.text
    assert answer.json()["cluster_roles"] == ["administrator"]
    detail = (await world.get(f"/users/{root.user_id}", administrator())).json()
    assert (detail["own_roles"], detail["cluster_roles"], detail["groups"]) == ([], ["administrator"], ["it"])


@pytest.mark.parametrize(
    ("own", "of_groups", "together"),
    [
        ([], [], []),
        (["auditor"], [], ["auditor"]),
        (["auditor"], [["auditor"], []], ["auditor"]),
        ([], [["auditor"], ["administrator"]], ["administrator", "auditor"]),
    ],
)
def test_own_roles_and_those_of_groups_count_together(own: list[str], of_groups: list[list[str]], together: list[str]) -> None:
    groups = [
        Group(group_id=UUID(int=1), name="g", factor_policy=None, cluster_roles=roles, external=[], version=1, created_at=NOW)
        for roles in of_groups
    ]
    assert domain.accounts.effective(own, groups) == together


# Looking


async def names(world: World, query: str) -> list[str]:
    answer = await world.get(f"/users?{query}", administrator())
    assert answer.status_code == 200, answer.text
    return [item["username"] for item in answer.json()["items"]]


async def test_people_are_found_by_status_and_by_how_their_username_or_address_begins(world: World) -> None:
    for email in ("ada@x.org", "adam@x.org", "bob@x.org", "under_score@x.org"):
        await invite(world, email)
    carol = await join(world, "carol@x.org")
    assert await names(world, "q=ad") == ["ada00000", "adam0000"]
    assert await names(world, "q=ADA%40X") == ["ada00000"]
    assert await names(world, "q=under_") == ["undersco"], "only an address has this sign"
    assert await names(world, "q=u%25") == []
    assert await names(world, "status=active") == [carol.username]
    assert await names(world, "status=invited&q=b") == ["bob00000"]
    assert await names(world, "q=a&limit=1") == ["ada00000"]
    assert len(await names(world, "")) == 5


@pytest.mark.parametrize("query", ["status=king", "q=" + "x" * 321])
async def test_a_search_of_the_wrong_shape_is_refused(world: World, query: str) -> None:
    assert (await world.get(f"/users?{query}", administrator())).status_code == 422


async def test_a_search_reads_an_index_not_the_table(world: World) -> None:
    async with world.runtime.engine.connect() as connection:
        await connection.execute(text("SET LOCAL enable_seqscan = off"))
        await connection.execute(text("SET LOCAL enable_indexscan = off"))
        plan = await connection.execute(text("EXPLAIN SELECT * FROM users WHERE username LIKE 'ad%' OR email LIKE 'ad%'"))
        shown = "\n".join(row[0] for row in plan)
    assert "users_by_username_prefix" in shown
    assert "users_by_email_prefix" in shown


async def test_an_administrator_sees_what_somebody_signs_in_with_and_when_they_last_did(world: World) -> None:
    ada = await join(world, EMAIL, ["auditor"])
    detail = (await world.get(f"/users/{ada.user_id}", administrator())).json()
    assert detail["last_sign_in_at"] is None
    assert detail["factors"] == {"totp": True, "passkeys": 0, "recovery_codes_left": 0}
    session_id, _ = await begin(ada)
    await world.post("/users/me/recovery-codes", ada.actor(session_id))
    answer = await world.get(f"/users/{ada.user_id}", administrator())
    assert answer.headers["etag"] == '"2"'
    detail = answer.json()
    assert (began := detail["last_sign_in_at"]) is not None
    assert detail["factors"]["recovery_codes_left"] == 10
    assert (detail["source"], detail["own_roles"], detail["groups"]) == ("local", ["auditor"], [])
    assert (await world.get(f"/users/{UUID(int=9)}", administrator())).status_code == 404
    assert (await world.get(f"/users/{ada.user_id}", ada.actor())).status_code == 403

    await world.sql("UPDATE sessions SET ended_at = now() - interval '25 h'")
    async with world.work() as uow:
        await sessions.erase_ended(uow)
    assert await world.sql("SELECT 1 FROM sessions") == []
    await ada.sign_in(password="not the password")
    detail = (await world.get(f"/users/{ada.user_id}", administrator())).json()
    assert (detail["last_sign_in_at"], detail["version"]) == (began, 2)
    await begin(ada)
    assert (await world.get(f"/users/{ada.user_id}", administrator())).json()["last_sign_in_at"] > began


async def test_roles_that_come_back_with_an_account_that_a_directory_deactivated_ask_for_a_fresh_factor(world: World) -> None:
    ada = await join(world, "ada@example.org", ["administrator"])
    await world.sql("UPDATE users SET status = 'deactivated', source = 'ldap', provider = 'main', external_id = 'ada', gone_at = now()")
    stale = administrator().model_copy(update={"factor_fresh": False})
    change = {"json": {"status": "active"}, "version": 2}
    assert reason(await world.patch(f"/users/{ada.user_id}", stale, **change)) == "factor-too-old"
    answer = await world.patch(f"/users/{ada.user_id}", administrator(), **change)
    assert (answer.status_code, answer.json()["cluster_roles"]) == (200, ["administrator"])
