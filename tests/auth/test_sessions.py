"""Sessions: what each state allows, how their use is heard, and how they end."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from prometheus_client import REGISTRY

from contracts.events import Activity
from contracts.events import Session as SessionFact
from contracts.roles import NOBODY, Actor
from services.auth import domain, repository
from services.auth.app import end_sessions
from services.auth.routes.cookies import REFRESH
from services.auth.service import sessions
from services.auth.service.tools import About
from tests.auth.people import Account, begin, cookie, hear_all, join, refresh
from tests.world import World, Worlds, administrator, agent, auditor, job, person, reason

# Each state of a session and each thing that can be done with it

NEVER_USED = "UPDATE sessions SET last_used_at = last_used_at - interval '16 minutes'"


async def as_it_is(world: World, ada: Account) -> None:
    await hear_all(world)


async def unheard(world: World, ada: Account) -> None:
    await world.sql(NEVER_USED)


async def idle(world: World, ada: Account) -> None:
    await world.sql(NEVER_USED)
    await hear_all(world)


async def expired(world: World, ada: Account) -> None:
    await world.sql("UPDATE sessions SET expires_at = now()")
    await hear_all(world)


async def ended(world: World, ada: Account) -> None:
    await world.sql("UPDATE sessions SET ended_at = now(), version = 2, ended_because = 'signed-out'")


async def blocked(world: World, ada: Account) -> None:
    answer = await world.patch(f"/users/{ada.user_id}", administrator(), json={"status": "blocked"}, version=2)
    assert answer.status_code == 200


async def opened(world: World, ada: Account) -> tuple[UUID, str]:
    """A session as a sign-in opens it."""
    tools = world.runtime.extra["tools"]
    async with world.work() as uow:
        user = await repository.accounts.user(uow.session, ada.user_id)
        assert user is not None
        made = await sessions.open_session(uow, tools, user, "password+totp", uow.now, About())
    return made.session.session_id, made.refresh_token


State = Callable[[World, Account], Awaitable[None]]


@pytest.mark.parametrize(
    ("state", "refreshed", "listed", "told_at_sign_out", "ended_by_itself"),
    [
        (as_it_is, (200, ""), True, True, None),
        (unheard, (503, "cannot-decide"), True, True, None),
        (idle, (401, "session-ended"), False, True, "idle"),
        (expired, (401, "session-ended"), False, True, "expired"),
        (ended, (401, "session-ended"), False, False, "signed-out"),
        (blocked, (401, "session-ended"), False, False, "blocked"),
    ],
)
@pytest.mark.parametrize(
    "action", ["refresh", "step up", "list", "be listed", "sign out", "sign out everywhere", "be signed out", "be used", "wait"]
)
async def test_each_state_of_a_session_and_each_action(
    world: World,
    state: State,
    refreshed: tuple[int, str],
    listed: bool,
    told_at_sign_out: bool,
    ended_by_itself: str | None,
    action: str,
) -> None:
    ada = await join(world)
    session_id, token = await opened(world, ada)
    await state(world, ada)
    await world.said()
    actor = ada.actor(session_id)
    ends = False
    if action == "refresh":
        answer = await refresh(world, token)
        assert (answer.status_code, "" if answer.status_code == 200 else reason(answer)) == refreshed
    elif action == "step up":
        await ada.new_code()
        answer = await world.post("/sessions/current/factor", actor, json={"code": ada.totp.now()})
        assert (answer.status_code, "" if answer.status_code == 200 else reason(answer)) == refreshed
        ends = answer.status_code == 200
    elif action in ("list", "be listed"):
        who, path = (actor, "/sessions") if action == "list" else (administrator(), f"/users/{ada.user_id}/sessions")
        items = (await world.get(path, who)).json()["items"]
        assert [item["session_id"] for item in items] == ([str(session_id)] if listed else [])
    elif action == "be used":
        before = (await world.sql("SELECT last_used_at FROM sessions"))[0][0]
        assert await hear(world, f"session:{session_id}", await world.now()) == 1
        assert (await world.sql("SELECT last_used_at FROM sessions"))[0][0] > before
    elif action == "wait":
        async with world.work(action="session.end_over") as uow:
            await sessions.end_over(uow, world.runtime.extra["tools"])
        assert (await world.sql("SELECT ended_because FROM sessions"))[0][0] == ended_by_itself
        ends = ended_by_itself in ("idle", "expired")
    else:
        path, who = {
            "sign out": (f"/sessions/{session_id}", actor),
            "sign out everywhere": ("/sessions", actor),
            "be signed out": (f"/users/{ada.user_id}/sessions", administrator()),
        }[action]
        assert (await world.delete(path, who)).status_code == 204
        ends = told_at_sign_out
    facts = [(fact.session_id, fact.version) for fact in await world.said() if isinstance(fact, SessionFact)]
    assert facts == ([(session_id, 2)] if ends else [])


# The doors


async def test_a_session_is_listed_with_all_that_is_known_of_it(world: World) -> None:
    ada = await join(world)
    shown = {"username": ada.username, "password": ada.password, "code": await ada.new_code()}
    headers = {"Hortus-Source": "2001:DB8:0:0:0:0:0:7", "User-Agent": "hortus/1 \x7f" + "x" * 300}
    session_id = (await world.post("/sessions", json=shown, headers=headers)).json()["session_id"]
    (item,) = (await world.get("/sessions", ada.actor(UUID(session_id)))).json()["items"]
    assert (item["client"], item["source"], item["method"]) == ("hortus/1 " + "x" * 119, "2001:db8::7", "password+totp")
    assert item["created_at"] == item["last_used_at"] == item["factor_at"]
    assert (item["current"], item["version"], item["session_id"]) == (True, 1, session_id)
    assert datetime.fromisoformat(item["session_expires_at"]) - datetime.fromisoformat(item["created_at"]) == timedelta(hours=12)
    assert set(item) == {
        "session_id",
        "created_at",
        "session_expires_at",
        "last_used_at",
        "factor_at",
        "method",
        "client",
        "source",
        "current",
        "version",
    }


@pytest.mark.parametrize(
    ("agent_header", "stored"),
    [("curl/8", "curl/8"), ("", ""), ("a\u00a0b\x00c", "abc"), ("ö" * 200, "ö" * 128), ("\u202eevil", "evil")],
)
def test_what_a_client_calls_itself_is_short_and_printable(agent_header: str, stored: str) -> None:
    assert domain.sessions.shown_client(agent_header) == stored


@pytest.mark.parametrize(("header", "stored"), [("192.0.2.1", "192.0.2.1"), ("", ""), ("unix", ""), ("192.0.2.1, 10.0.0.1", "")])
def test_a_source_is_an_address_or_nothing(header: str, stored: str) -> None:
    assert domain.sessions.shown_source(header) == stored


async def test_signing_out_takes_the_cookie_of_the_session_that_asks(world: World) -> None:
    ada = await join(world)
    mine, _ = await begin(ada)
    other, _ = await begin(ada)
    assert cookie(await world.delete(f"/sessions/{other}", ada.actor(mine)), REFRESH) is None
    assert cookie(await world.delete(f"/sessions/{mine}", ada.actor(mine)), REFRESH) == ""


async def test_signing_out_everywhere_ends_all_of_ones_own_sessions_and_nobody_elses(world: World) -> None:
    ada, bob = await join(world), await join(world, "bob@x.org")
    made = {(await begin(ada))[0] for _ in range(3)}
    await begin(bob)
    await world.said()
    answer = await world.delete("/sessions", ada.actor())
    assert (answer.status_code, cookie(answer, REFRESH)) == (204, "")
    assert {(fact.session_id, fact.live) for fact in await world.said() if isinstance(fact, SessionFact)} == {
        (each, False) for each in made
    }
    assert len((await world.get("/sessions", bob.actor())).json()["items"]) == 1


async def test_an_administrator_lists_and_ends_somebodys_sessions(world: World) -> None:
    ada = await join(world)
    made = [str((await begin(ada))[0]) for _ in range(3)]
    path = f"/users/{ada.user_id}/sessions"
    first = (await world.get(path + "?limit=2", administrator())).json()
    second = (await world.get(path + f"?limit=2&after={first['next']}", administrator())).json()
    assert [item["session_id"] for item in first["items"] + second["items"]] == made
    assert {item["current"] for item in first["items"]} == {False}
    await world.said()
    await world.recorded()
    assert (await world.delete(path, administrator())).status_code == 204
    assert [fact.version for fact in await world.said()] == [2, 2, 2]
    (record,) = await world.recorded()
    assert (record["action"], record["resource"]) == ("user.session_end_all", {"user_id": str(ada.user_id), "sessions": "3"})
    assert {row[0] for row in await world.sql("SELECT ended_because FROM sessions")} == {"ended-by-administrator"}


async def _own(world: World, ada: Account) -> None:
    assert (await world.delete("/sessions", ada.actor())).status_code == 204


async def _by_administrator(world: World, ada: Account) -> None:
    assert (await world.delete(f"/users/{ada.user_id}/sessions", administrator())).status_code == 204


async def _at_provider(world: World, _: Account) -> None:
    async with world.work() as uow:
        for session in await repository.oidc.sessions_of(uow.session, "hospital", "ada", None, uow.now):
            session.ended_at = uow.now


@pytest.mark.parametrize("end", [_own, _by_administrator, _at_provider])
async def test_somebody_who_signs_in_while_all_their_sessions_end_keeps_none(
    world: World, end: Callable[[World, Account], Awaitable[None]]
) -> None:
    ada = await join(world)
    await world.sql("UPDATE users SET source = 'oidc', provider = 'hospital', external_id = 'ada'")
    async with world.work() as uow:
        user = await repository.accounts.user(uow.session, ada.user_id, lock=True)
        assert user is not None
        tools = world.runtime.extra["tools"]
        await sessions.open_session(uow, tools, user, "oidc:hospital", uow.now, About(provider="hospital"))
        await uow.session.flush()
        ending = asyncio.ensure_future(end(world, ada))
        await asyncio.sleep(0.5)
        assert not ending.done()
    await ending
    assert await world.sql("SELECT 1 FROM sessions WHERE ended_at IS NULL") == []


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_the_sessions_of_nobody_are_not_found(world: World, method: str) -> None:
    answer = await world.request(method, f"/users/{uuid4()}/sessions", administrator())
    assert (answer.status_code, reason(answer)) == (404, "not-found")


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize(("actor", "status"), [(NOBODY, 401), (person(), 403), (auditor(), 403), (agent(), 403), (job(UUID(int=5)), 403)])
async def test_only_administrators_look_after_somebodys_sessions(world: World, method: str, actor: Actor, status: int) -> None:
    assert (await world.request(method, f"/users/{uuid4()}/sessions", actor)).status_code == status


# Hearing of their use


async def hear(world: World, subject: str, at: datetime) -> int:
    return await world.hear_raw("activity", Activity(version=1, subject=subject, at=at).model_dump_json().encode())


async def last_used(world: World, session_id: UUID) -> datetime:
    used: datetime = (await world.sql("SELECT last_used_at FROM sessions WHERE session_id = :id", id=session_id))[0][0]
    return used


async def test_use_moves_forward_only_and_never_beyond_now(world: World) -> None:
    session_id, _ = await begin(await join(world))
    began = await last_used(world, session_id)
    await hear(world, f"session:{session_id}", began - timedelta(minutes=1))
    assert await last_used(world, session_id) == began
    later = await world.now()
    for _ in range(2):
        await hear(world, f"session:{session_id}", later)
        assert await last_used(world, session_id) == later
    await hear(world, f"session:{session_id}", later + timedelta(days=3))
    assert later < await last_used(world, session_id) <= await world.now()
    assert await world.said() != []
    await hear(world, f"session:{session_id}", later + timedelta(days=3))
    assert await world.said() == []


async def test_a_batch_moves_sessions_and_keys_at_once_and_passes_by_what_cannot_be_read(world: World) -> None:
    ada = await join(world)
    made = [(await begin(ada))[0] for _ in range(3)]
    key = uuid4()
    await world.sql(
        """INSERT INTO api_keys (key_id, user_id, name, secret_hash, scopes, created_at, expires_at, version)
           VALUES (:key, :ada, 'k', '\\x00', '{}', now(), now() + interval '1 day', 1)""",
        key=key,
        ada=ada.user_id,
    )
    now = await world.now()
    good = [(f"session:{each}", now - timedelta(microseconds=1)) for each in made[:2]]
    good += [(f"session:{made[0]}", now), (f"key:{key}", now), (f"session:{uuid4()}", now)]
    bad = [
        b"",
        b"{",
        b"[]",
        b"\xff",
        json.dumps({"version": 1, "subject": f"session:{made[2]}"}).encode(),
        json.dumps({"version": 1, "subject": f"session:{made[2]}", "at": "2026-01-01T00:00:00"}).encode(),
        json.dumps({"version": 1, "subject": str(made[2]), "at": now.isoformat()}).encode(),
        json.dumps({"version": 1, "subject": "session:ada", "at": now.isoformat()}).encode(),
        json.dumps({"version": 1, "subject": f"user:{made[2]}", "at": now.isoformat()}).encode(),
        json.dumps({"version": 1, "subject": f"session:{made[2]}", "at": "infinity"}).encode(),
    ]
    before = await last_used(world, made[2])
    skipped = REGISTRY.get_sample_value("hortus_auth_activity_skipped_total") or 0
    values = [Activity(version=1, subject=subject, at=at).model_dump_json().encode() for subject, at in good]
    assert await world.hear_raw("activity", *values[:2], *bad, *values[2:]) == len(good) + len(bad)
    assert REGISTRY.get_sample_value("hortus_auth_activity_skipped_total") == skipped + len(bad)
    assert [await last_used(world, each) for each in made] == [now, now - timedelta(microseconds=1), before]
    assert (await world.sql("SELECT last_used_at FROM api_keys"))[0][0] == now


async def test_a_batch_costs_one_statement(world: World, statements: list[str]) -> None:
    ada = await join(world)
    made = [(await begin(ada))[0] for _ in range(3)]
    values = [Activity(version=1, subject=f"session:{each}", at=await world.now()).model_dump_json().encode() for each in made]
    statements.clear()
    await world.hear_raw("activity", *values)
    assert len([each for each in statements if "UPDATE" in each]) == 1


# Ending by themselves


async def test_idle_and_expired_sessions_end_by_themselves_and_it_is_said(world: World) -> None:
    ada = await join(world)
    unused, over, used = [(await begin(ada))[0] for _ in range(3)]
    await world.sql("UPDATE sessions SET last_used_at = now() - interval '15 minutes 10 seconds' WHERE session_id = :id", id=unused)
    await world.sql("UPDATE sessions SET expires_at = now() WHERE session_id = :id", id=over)
    await hear_all(world)
    await world.said()
    await world.recorded()
    async with world.running(end_sessions) as task:
        async with asyncio.timeout(10):
            while len(await world.sql("SELECT 1 FROM sessions WHERE ended_at IS NOT NULL")) < 2:
                assert not task.done()
                await asyncio.sleep(0.02)
    facts = [fact for fact in await world.said() if isinstance(fact, SessionFact)]
    assert [(fact.session_id, fact.live, fact.version) for fact in facts] == [(unused, False, 2), (over, False, 2)]
    rows = {row.session_id: row.ended_because for row in await world.sql("SELECT session_id, ended_because FROM sessions")}
    assert rows == {unused: "idle", over: "expired", used: None}
    (record,) = await world.recorded()
    assert (record["action"], record["actor"]) == ("session.end_over", {"principal": "service", "service": "auth"})


@pytest.mark.parametrize("heard", ["", "('activity', 0, now())", "('activity', 0, now()), ('activity', 1, now() - interval '1 minute')"])
async def test_nobody_is_idle_while_it_is_not_known_of_each_partition_what_was_told_there(world: World, heard: str) -> None:
    await begin(await join(world))
    await world.sql("UPDATE sessions SET last_used_at = now() - interval '15 minutes 30 seconds'")
    if heard:
        await world.sql(f"INSERT INTO partitions_heard (topic, partition, awake_at) VALUES {heard}")
    async with world.work() as uow:
        await sessions.end_over(uow, world.runtime.extra["tools"])
    assert await world.sql("SELECT 1 FROM sessions WHERE ended_at IS NOT NULL") == []


async def test_the_next_look_is_when_the_next_session_is_over(world: World) -> None:
    tools = world.runtime.extra["tools"]

    async def pause() -> float:
        async with world.work() as uow:
            return await sessions.end_over(uow, tools)

    assert await pause() == 30
    await begin(await join(world))
    assert await pause() == 30
    await world.sql("UPDATE sessions SET last_used_at = now() - interval '14 minutes 50 seconds'")
    assert 8 < await pause() <= 10
    await world.sql("UPDATE sessions SET last_used_at = now() - interval '15 minutes 30 seconds'")
    assert await pause() == 1
    await hear_all(world)
    assert await pause() == 0


async def test_two_replicas_end_many_sessions_each_once(world: World, worlds: Worlds, settings: dict[str, Any]) -> None:
    replica = await worlds.open("auth", beside=world, **settings)
    ada = await join(world)
    await begin(ada)
    await world.sql(
        """INSERT INTO sessions (session_id, user_id, created_at, expires_at, version, rotated_at, factor_at, last_used_at)
           SELECT gen_random_uuid(), :ada, now(), now(), 1, now(), now(), now() FROM generate_series(1, 450)""",
        ada=ada.user_id,
    )
    await world.said()

    async def finish(each: World) -> None:
        pause = 0.0
        while not pause:
            async with each.work() as uow:
                pause = await sessions.end_over(uow, each.runtime.extra["tools"])

    await asyncio.gather(finish(world), finish(replica))
    facts = await world.said()
    assert len(facts) == len({fact.key for fact in facts}) == 450


async def test_somebody_who_uses_a_session_while_it_is_judged_keeps_it_or_hears_that_it_ended(
    world: World, worlds: Worlds, settings: dict[str, Any]
) -> None:
    replica = await worlds.open("auth", beside=world, **settings)
    session_id, token = await begin(await join(world))
    await world.sql(NEVER_USED)
    await hear_all(world)
    async with world.work() as uow:
        await sessions.end_over(uow, world.runtime.extra["tools"])
        refreshing = asyncio.create_task(refresh(replica, token))
        await world.somebody_waits()
    assert reason(await refreshing) == "session-ended"
    assert [fact.version for fact in await world.said() if isinstance(fact, SessionFact) and fact.session_id == session_id] == [1, 2]
