import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx2
import pytest
from uuid_utils.compat import uuid7

from chassis.keys import read_key
from contracts import policy
from contracts.events import ApiKey, Session
from contracts.policy import POLICY, Action
from contracts.roles import NOBODY, Actor, Role
from services.auth import repository
from services.auth.app import tidy
from services.auth.domain.keys import MOST_KEYS
from services.auth.service import keys
from tests.auth.people import Account, join, present
from tests.world import OURS, THEIRS, World, Worlds, administrator, agent, auditor, job, person, reason

DAY = timedelta(days=1)


def of(account: Account, **about: Any) -> Actor:
    """The account's person, a member of OURS who signed in and has just shown their second factor."""
    return person(account.user_id, account.username, projects={OURS: Role.DATA_SCIENTIST}, session_id=account.session_id, **about)


def wanted(**other: Any) -> dict[str, Any]:
    return {"name": "nightly", "scopes": ["dataset.read"], "expires_at": (datetime.now(UTC) + 30 * DAY).isoformat()} | other


async def make(world: World, account: Account, **other: Any) -> dict[str, Any]:
    answer = await world.post("/keys", of(account), json=wanted(**other))
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def own(world: World, account: Account) -> list[str]:
    return [item["key_id"] for item in (await world.get("/keys", of(account))).json()["items"]]


async def expire(world: World, key: dict[str, Any]) -> None:
    await world.sql("UPDATE api_keys SET expires_at = now() - interval '1 second' WHERE key_id = :id", id=UUID(key["key_id"]))


async def tidied(world: World, condition: Callable[[], Awaitable[bool]]) -> None:
    """Let the background work until something holds."""
    async with world.running(tidy), asyncio.timeout(10):
        while not await condition():
            await asyncio.sleep(0.01)


@pytest.fixture
async def ada(world: World) -> Account:
    account = await present(await join(world))
    await world.said()
    await world.recorded()
    return account


@pytest.fixture
async def bob(world: World) -> Account:
    account = await present(await join(world, "bob@example.org"))
    await world.said()
    await world.recorded()
    return account


# Who may come in


@pytest.mark.parametrize(("method", "path"), [("POST", "/keys"), ("GET", "/keys"), ("DELETE", f"/keys/{UUID(int=1)}")])
@pytest.mark.parametrize(
    ("actor", "status"),
    [
        (NOBODY, 401),
        (agent(), 403),
        (job(UUID(int=5)), 403),
        (person().model_copy(update={"session_id": None, "key_id": uuid7(), "scopes": policy.scopes()}), 403),
        (person().model_copy(update={"session_id": None, "certificate_id": "c"}), 403),
    ],
)
async def test_keys_are_made_and_ended_by_people_who_signed_in_and_never_by_a_key(
    world: World, method: str, path: str, actor: Actor, status: int
) -> None:
    assert (await world.request(method, path, actor, json=wanted())).status_code == status
    assert (await world.said(), await world.recorded()) == ([], [])


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize(("actor", "status"), [(NOBODY, 401), (person(), 403), (auditor(), 403), (agent(), 403)])
async def test_only_administrators_see_and_end_the_keys_of_others(
    world: World, ada: Account, method: str, actor: Actor, status: int
) -> None:
    await make(world, ada)
    assert (await world.request(method, f"/users/{ada.user_id}/keys", actor)).status_code == status
    assert len(await own(world, ada)) == 1


async def test_making_a_key_asks_for_a_fresh_second_factor(world: World, ada: Account) -> None:
    answer = await world.post("/keys", of(ada, factor_fresh=False), json=wanted())
    assert (answer.status_code, reason(answer)) == (401, "factor-too-old")
    assert await world.said() == []


# Making


async def test_a_key_is_shown_once_and_only_its_hash_is_kept_told_and_recorded(world: World, ada: Account) -> None:
    made = await make(world, ada, scopes=["dataset.read", "job.*"], project_id=str(OURS))
    shown = read_key(made["secret"])
    assert shown is not None
    assert (str(shown.key_id), made["version"], made["last_used_at"]) == (made["key_id"], 1, None)
    assert made["scopes"] == ["dataset.read", "job.cancel", "job.list", "job.log", "job.read", "job.submit"]
    (fact,) = await world.said()
    assert fact == ApiKey(
        version=1,
        key_id=shown.key_id,
        user_id=ada.user_id,
        secret_sha256=shown.secret_sha256,
        scopes=frozenset(made["scopes"]),
        project_id=OURS,
        expires_at=datetime.fromisoformat(made["expires_at"]),
        live=True,
    )
    (record,) = await world.recorded()
    assert (record["action"], record["resource"]["key_id"]) == ("key.create", made["key_id"])
    listed = (await world.get("/keys", of(ada))).json()["items"]
    assert listed == [{name: value for name, value in made.items() if name != "secret"}]
    (row,) = await world.sql("SELECT * FROM api_keys")
    secret = made["secret"].removeprefix(f"hortus_{shown.key_id.hex}_")
    for kept in (fact.model_dump_json(), json.dumps(record), repr(row), repr(listed)):
        assert secret not in kept


async def test_the_person_is_told_by_letter_and_the_letter_does_not_hold_the_key(
    worlds: Worlds, settings: dict[str, Any], world: World, ada: Account
) -> None:
    await make(world, ada, name="no mail here")
    mailing = await worlds.open("auth", beside=world, smtp_url="smtps://localhost:1", **settings)
    made = await make(mailing, ada)
    (letter,) = await world.sql("SELECT * FROM letters")
    assert letter.user_id == ada.user_id
    written = mailing.runtime.extra["tools"].vault.open_letter(letter.sealed, letter.letter_id)
    assert "“nightly”" in json.loads(written)["text"]
    assert made["secret"][-43:] not in written


async def test_a_repeated_request_does_not_show_the_key_again(world: World, ada: Account) -> None:
    body, actor = wanted(), of(ada)
    first = await world.post("/keys", actor, json=body, key="k")
    again = await world.post("/keys", actor, json=body, key="k")
    assert (first.status_code, again.status_code, reason(again)) == (201, 409, "answer-was-secret")
    assert len(await own(world, ada)) == 1
    assert await world.sql("SELECT 1 FROM idempotency WHERE body IS NOT NULL") == []


async def test_two_keys_have_nothing_in_common(world: World, ada: Account) -> None:
    one, two = await make(world, ada), await make(world, ada, name="other")
    assert one["key_id"] != two["key_id"]
    assert one["secret"][-43:] != two["secret"][-43:]


@pytest.mark.parametrize(
    "scopes", [[], ["user.create"], ["key.create"], ["*"], ["data*"], [".*"], ["nothing.*"], ["dataset.read", "dataset.erase"], ["run.*"]]
)
async def test_what_a_key_cannot_be_given_is_refused_with_what_it_can_be_given(world: World, ada: Account, scopes: list[str]) -> None:
    answer = await world.post("/keys", of(ada), json=wanted(scopes=scopes))
    assert (answer.status_code, reason(answer)) == (422, "scopes-not-open")
    assert answer.json()["possible"] == sorted(policy.scopes())
    assert answer.json()["unknown"] == [scope for scope in scopes if scope != "dataset.read"]
    assert (await world.said(), await own(world, ada)) == ([], [])


def test_no_scope_opens_a_door_that_needs_a_sign_in_or_belongs_to_administrators() -> None:
    for scope in policy.scopes():
        rule = POLICY[Action(scope)]
        assert not rule.session
        assert rule.who & (policy.SIGNED_IN | policy.MEMBER)


@pytest.mark.parametrize("project", [THEIRS, UUID(int=9)])
async def test_a_key_is_bound_to_a_project_of_the_caller_and_no_answer_tells_which_others_exist(
    world: World, ada: Account, project: UUID
) -> None:
    answer = await world.post("/keys", of(ada), json=wanted(project_id=str(project)))
    assert (answer.status_code, reason(answer)) == (422, "project-not-yours")
    assert "detail" not in answer.json()


@pytest.mark.parametrize("after", [-DAY, timedelta(0), 365 * DAY + timedelta(hours=1)])
async def test_a_key_expires_in_the_future_and_within_a_year(world: World, ada: Account, after: timedelta) -> None:
    answer = await world.post("/keys", of(ada), json=wanted(expires_at=(datetime.now(UTC) + after).isoformat()))
    assert (answer.status_code, reason(answer)) == (422, "bad-expiry")
    assert await world.said() == []


async def test_a_key_may_live_for_a_year(world: World, ada: Account) -> None:
    await make(world, ada, expires_at=(datetime.now(UTC) + 365 * DAY - timedelta(minutes=1)).isoformat())


@pytest.mark.parametrize(
    "other",
    [
        {"name": ""},
        {"name": "   "},
        {"name": "x" * 65},
        {"name": "a\u0000b"},
        {"name": "two\nlines"},
        {"name": "\u202eover"},
        {"name": 7},
        {"expires_at": None},
        {"expires_at": "2030-01-01T00:00:00"},
        {"expires_at": "soon"},
        {"scopes": "dataset.read"},
        {"scopes": ["x" * 65]},
        {"scopes": None},
        {"project_id": "ours"},
        {"secret": "mine"},
    ],
)
async def test_a_bad_request_for_a_key_is_refused_and_nothing_is_stored(world: World, ada: Account, other: dict[str, Any]) -> None:
    answer = await world.post("/keys", of(ada), json=wanted(**other))
    assert answer.status_code == 422
    reason(answer)
    assert (await world.said(), await own(world, ada)) == ([], [])


@pytest.mark.parametrize("name", ["x", "x" * 64, "Ü-Skript 7", "data:base64=="])
async def test_a_name_has_1_to_64_characters_that_can_be_seen(world: World, ada: Account, name: str) -> None:
    assert (await make(world, ada, name=f"  {name} "))["name"] == name


async def test_a_name_tells_one_live_key_of_a_person_from_the_others(world: World, ada: Account, bob: Account) -> None:
    first = await make(world, ada)
    again = await world.post("/keys", of(ada), json=wanted())
    assert (again.status_code, reason(again)) == (409, "key-name-taken")
    await make(world, bob)
    await world.delete(f"/keys/{first['key_id']}", of(ada))
    await make(world, ada)


async def test_ten_requests_for_one_name_at_once_make_one_key(world: World, ada: Account) -> None:
    answers = await asyncio.gather(*[world.post("/keys", of(ada), json=wanted()) for _ in range(10)])
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 9
    assert len(await own(world, ada)) == 1


async def test_nobody_has_more_than_fifty_live_keys_not_even_by_asking_at_once(world: World, ada: Account) -> None:
    await make(world, ada, name="the last to go")
    await world.sql(
        "INSERT INTO api_keys SELECT gen_random_uuid(), user_id, 'k' || n, secret_hash, scopes, project_id, created_at, expires_at, NULL, NULL, 1"
        " FROM api_keys, generate_series(1, :n) AS n",
        n=MOST_KEYS - 2,
    )
    answers = await asyncio.gather(*[world.post("/keys", of(ada), json=wanted(name=f"more {n}")) for n in range(4)])
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]
    assert {reason(answer) for answer in answers if answer.status_code == 409} == {"too-many-keys"}


# Listing and ending


async def test_a_list_of_keys_is_paged(world: World, ada: Account) -> None:
    made = [(await make(world, ada, name=f"k{n}"))["key_id"] for n in range(3)]
    first = (await world.get("/keys", of(ada), params={"limit": 2})).json()
    rest = (await world.get("/keys", of(ada), params={"limit": 2, "after": first["next"]})).json()
    assert [item["key_id"] for item in first["items"] + rest["items"]] == made
    assert rest["next"] is None


async def test_ending_a_key_is_told_once(world: World, ada: Account) -> None:
    made = await make(world, ada)
    await world.said()
    await world.recorded()
    assert (await world.delete(f"/keys/{made['key_id']}", of(ada))).status_code == 204
    (fact,) = await world.said()
    assert isinstance(fact, ApiKey)
    assert (fact.version, fact.live, str(fact.key_id)) == (2, False, made["key_id"])
    (record,) = await world.recorded()
    assert (record["action"], record["resource"]) == ("key.end", {"key_id": made["key_id"]})
    assert (await world.delete(f"/keys/{made['key_id']}", of(ada))).status_code == 204
    assert (await world.said(), await world.recorded(), await own(world, ada)) == ([], [], [])


async def test_another_persons_key_does_not_exist(world: World, ada: Account, bob: Account) -> None:
    made = await make(world, ada)
    await world.said()
    others = await world.delete(f"/keys/{made['key_id']}", of(bob))
    nobodys = await world.delete(f"/keys/{uuid7()}", of(bob))
    assert (others.status_code, others.json()) == (nobodys.status_code, nobodys.json()) == (404, nobodys.json())
    assert (await world.said(), await own(world, bob), len(await own(world, ada))) == ([], [], 1)


async def test_an_administrator_lists_and_ends_all_keys_of_a_person_and_of_nobody_else(world: World, ada: Account, bob: Account) -> None:
    made = [(await make(world, ada, name=f"k{n}"))["key_id"] for n in range(2)]
    await make(world, bob)
    await world.said()
    await world.recorded()
    listed = (await world.get(f"/users/{ada.user_id}/keys", administrator())).json()
    assert [item["key_id"] for item in listed["items"]] == made
    assert (await world.delete(f"/users/{ada.user_id}/keys", administrator())).status_code == 204
    said = await world.said()
    assert [(fact.key, fact.version) for fact in said] == [(key_id, 2) for key_id in made]
    (record,) = await world.recorded()
    assert (record["action"], record["resource"]) == ("user.key_end_all", {"user_id": str(ada.user_id), "keys": "2"})
    assert (await own(world, ada), len(await own(world, bob))) == ([], 1)
    for method in ("GET", "DELETE"):
        assert (await world.request(method, f"/users/{uuid7()}/keys", administrator())).status_code == 404


async def test_a_key_that_is_made_while_all_are_ended_does_not_slip_through(world: World, ada: Account) -> None:
    await make(world, ada)
    async with world.work() as uow:
        await keys.end_keys_of(uow, ada.user_id)
        making = asyncio.create_task(world.post("/keys", of(ada), json=wanted(name="late")))
        await world.somebody_waits()
    assert (await making).status_code == 201
    assert [item["name"] for item in (await world.get("/keys", of(ada))).json()["items"]] == ["late"]


# Time


async def test_a_key_that_expires_is_ended_and_told_and_a_day_later_it_is_gone_from_table_and_topic(world: World, ada: Account) -> None:
    gone, kept = await make(world, ada), await make(world, ada, name="kept")
    await world.said()
    await expire(world, gone)
    assert await own(world, ada) == [kept["key_id"]]

    async def ended() -> bool:
        return bool(await world.sql("SELECT 1 FROM api_keys WHERE ended_at IS NOT NULL"))

    await tidied(world, ended)
    (fact,) = await world.said()
    assert isinstance(fact, ApiKey)
    assert (fact.key, fact.version, fact.live) == (gone["key_id"], 2, False)
    assert await world.erased() == []
    await world.sql("UPDATE api_keys SET ended_at = ended_at - interval '1 day' WHERE ended_at IS NOT NULL")

    async def erased() -> bool:
        return len(await world.erased()) > 0

    await tidied(world, erased)
    assert await world.erased() == [("credentials", gone["key_id"], 3)]
    assert [str(row.key_id) for row in await world.sql("SELECT key_id FROM api_keys")] == [kept["key_id"]]
    assert await world.said() == []


async def test_expired_keys_are_ended_in_bounded_batches(world: World, ada: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "BATCH", 2)
    for made in [await make(world, ada, name=f"k{n}") for n in range(5)]:
        await expire(world, made)
    await world.recorded()

    async def ended() -> bool:
        return not await world.sql("SELECT 1 FROM api_keys WHERE ended_at IS NULL")

    await tidied(world, ended)
    records = [record for record in await world.recorded() if record["action"] == "key.expire"]
    assert [record["resource"] for record in records] == [{"keys": "2"}, {"keys": "2"}, {"keys": "1"}]


async def test_a_key_that_somebody_holds_is_left_to_the_next_round(world: World, ada: Account) -> None:
    held, free = await make(world, ada), await make(world, ada, name="free")
    for key in (held, free):
        await expire(world, key)
    async with world.work() as uow:
        await repository.keys.key_of(uow.session, ada.user_id, UUID(held["key_id"]))
        async with world.work() as other:
            assert not await keys.end_expired(other)
    rows = await world.sql("SELECT key_id FROM api_keys WHERE ended_at IS NOT NULL")
    assert [str(row.key_id) for row in rows] == [free["key_id"]]


async def test_sessions_go_from_table_and_topic_a_day_after_they_ended_or_expired(world: World, ada: Account) -> None:
    answers = [await ada.sign_in() for _ in range(3)]
    ended, expired, open_one = [UUID(answer.json()["session_id"]) for answer in answers]
    await world.delete(f"/sessions/{ended}", ada.actor())
    await world.sql("UPDATE sessions SET ended_at = ended_at - interval '25 h' WHERE session_id = :id", id=ended)
    await world.sql("UPDATE sessions SET expires_at = now() - interval '25 h' WHERE session_id = :id", id=expired)
    await world.sql("UPDATE sessions SET created_at = now() - interval '25 h' WHERE session_id = :id", id=open_one)
    await world.sql("INSERT INTO client_codes VALUES ('x', :user, :id, 'challenge', now() - interval '25 h')", user=ada.user_id, id=ended)
    versions = {fact.key: fact.version for fact in await world.said() if isinstance(fact, Session)}

    async def erased() -> bool:
        return len(await world.erased()) > 0

    await tidied(world, erased)
    assert set(await world.erased()) == {("sessions", str(each), versions[str(each)] + 1) for each in (ended, expired)}
    assert {row.session_id for row in await world.sql("SELECT session_id FROM sessions")} == {open_one, ada.session_id}


# Every state of a key and everything that is done with one


async def live(_world: World, _ada: Account, _key: dict[str, Any]) -> None:
    """Nothing happened."""


async def expired(world: World, _ada: Account, key: dict[str, Any]) -> None:
    await expire(world, key)


async def ended(world: World, ada: Account, key: dict[str, Any]) -> None:
    await world.delete(f"/keys/{key['key_id']}", of(ada))


async def blocked(world: World, ada: Account, _key: dict[str, Any]) -> None:
    await world.sql("UPDATE users SET status = 'blocked' WHERE user_id = :id", id=ada.user_id)


async def left(world: World, ada: Account, _key: dict[str, Any]) -> None:
    """Their project is no more among theirs: ``lost`` speaks for them."""


def lost(account: Account) -> Actor:
    return person(account.user_id, account.username, session_id=account.session_id)


States = Callable[[World, Account, dict[str, Any]], Awaitable[None]]


@pytest.mark.parametrize(
    ("state", "shown", "same_name", "told_by_end", "told_by_end_all", "told_by_expiry"),
    [
        (live, True, 409, 1, 1, 0),
        (expired, False, 201, 1, 1, 1),
        (ended, False, 201, 0, 0, 0),
        (blocked, True, 401, 1, 1, 0),
        (left, True, 409, 1, 1, 0),
    ],
)
async def test_every_state_of_a_key_meets_everything_that_is_done_with_one(
    world: World,
    ada: Account,
    state: States,
    shown: bool,
    same_name: int,
    told_by_end: int,
    told_by_end_all: int,
    told_by_expiry: int,
) -> None:
    speaker = lost(ada) if state is left else of(ada)
    key = await make(world, ada, project_id=str(OURS))
    await state(world, ada, key)
    await world.said()

    async def undone(deed: Callable[[], Awaitable[httpx2.Response | None]]) -> tuple[int | None, list[tuple[int, bool]]]:
        """Do something, say what it answered and told of this key, and put the table back to where it was."""
        before = await world.sql("SELECT ended_at, version FROM api_keys WHERE key_id = :id", id=UUID(key["key_id"]))
        answer = await deed()
        told = [(fact.version, fact.live) for fact in await world.said() if isinstance(fact, ApiKey) and fact.key == key["key_id"]]
        await world.sql("DELETE FROM api_keys WHERE key_id <> :id", id=UUID(key["key_id"]))
        await world.sql("DELETE FROM outbox")
        await world.sql(
            "UPDATE api_keys SET ended_at = :ended, version = :version WHERE key_id = :id",
            ended=before[0].ended_at,
            version=before[0].version,
            id=UUID(key["key_id"]),
        )
        return answer.status_code if answer is not None else None, told

    async def all_ended() -> None:
        async with world.work() as uow:
            await keys.end_all(uow, ada.user_id)

    async def expiry() -> None:
        async with world.work() as uow:
            await keys.end_expired(uow)

    over = (2, False)
    listed = [item["key_id"] for item in (await world.get("/keys", speaker)).json()["items"]]
    by_administrator = [item["key_id"] for item in (await world.get(f"/users/{ada.user_id}/keys", administrator())).json()["items"]]
    assert listed == by_administrator == ([key["key_id"]] if shown else [])
    made = await undone(lambda: world.post("/keys", speaker, json=wanted()))
    assert made == (same_name, [over] if state is expired else [])
    assert await undone(lambda: world.delete(f"/keys/{key['key_id']}", speaker)) == (204, [over] * told_by_end)
    assert await undone(lambda: world.delete(f"/users/{ada.user_id}/keys", administrator())) == (204, [over] * told_by_end_all)
    assert await undone(all_ended) == (None, [over] * told_by_end_all)
    assert await undone(expiry) == (None, [over] * told_by_expiry)


async def test_whoever_lost_the_project_binds_no_new_key_to_it(world: World, ada: Account) -> None:
    answer = await world.post("/keys", lost(ada), json=wanted(project_id=str(OURS)))
    assert (answer.status_code, reason(answer)) == (422, "project-not-yours")


async def test_a_key_says_in_its_id_when_it_was_made(world: World, ada: Account) -> None:
    shown = read_key((await make(world, ada))["secret"])
    assert shown is not None
    assert abs(shown.made_at - time.time()) < 5
