"""Passwords that were hashed with parameters of an earlier release: hashed anew when their person has signed in, by nobody else's leave."""

import asyncio
from typing import Any

import httpx2
import pytest
import uvicorn
from structlog.testing import capture_logs

from chassis.errors import CannotDecide
from compose.local.ports import free_port
from contracts.policy import API
from services.auth.vault import Passwords
from tests.auth.hashing import COST, counted, older
from tests.auth.people import PASSWORD, Account, another_code, join, present
from tests.world import World

NOW = "m=19456,t=2,p=1"


@pytest.fixture
def passwords(world: World) -> Passwords:
    found: Passwords = world.runtime.extra["tools"].passwords
    return found


async def with_older_hash(world: World) -> tuple[Account, str]:
    ada, old = await join(world), older(PASSWORD)
    await world.sql("UPDATE credentials SET password_hash = :old", old=old)
    return ada, old


async def stored(world: World) -> str:
    return str((await world.sql("SELECT password_hash FROM credentials"))[0][0])


async def test_who_signs_in_is_hashed_anew_once_and_signs_in_again(
    world: World, passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, _ = await with_older_hash(world)
    spent = counted(passwords, monkeypatch)
    assert (await ada.sign_in()).status_code == 201
    assert NOW in (renewed := await stored(world))
    assert sum(spent) == 2 * COST
    spent.clear()
    assert (await ada.sign_in()).status_code == 201
    assert (spent, await stored(world)) == ([COST], renewed)


async def test_a_right_password_without_the_rest_is_not_hashed_anew(world: World) -> None:
    ada, old = await with_older_hash(world)
    assert (await ada.sign_in(code=another_code(ada.totp))).status_code == 401
    await world.sql("UPDATE users SET status = 'blocked'")
    assert (await ada.sign_in()).status_code == 401
    assert await stored(world) == old


async def test_while_a_password_is_hashed_anew_the_session_is_there_and_nothing_is_held(
    world: World, passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, _ = await with_older_hash(world)
    hash_it = passwords.hash
    seen: list[Any] = []

    async def looked_at(password: str, source: str = "") -> str:
        seen.append(world.runtime.engine.pool.checkedout())  # type: ignore[attr-defined]
        seen.extend(await world.sql("SELECT method FROM sessions"))
        await world.sql("SELECT FROM users JOIN credentials USING (user_id) FOR UPDATE NOWAIT")
        seen.append(source)
        return await hash_it(password, source)

    monkeypatch.setattr(passwords, "hash", looked_at)
    assert (await ada.sign_in()).status_code == 201
    assert seen == [0, ("password+totp",), "192.0.2.1/32"]
    assert NOW in await stored(world)


async def test_nobody_waits_for_a_password_to_be_hashed_anew(world: World, passwords: Passwords, monkeypatch: pytest.MonkeyPatch) -> None:
    ada, old = await with_older_hash(world)
    hash_it, may_go_on = passwords.hash, asyncio.Event()

    async def held_up(password: str, source: str = "") -> str:
        await may_go_on.wait()
        return await hash_it(password, source)

    monkeypatch.setattr(passwords, "hash", held_up)
    server = uvicorn.Server(uvicorn.Config(world.app, port=free_port(), lifespan="off", log_config=None))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    shown = {"username": ada.username, "password": PASSWORD, "code": await ada.new_code()}
    try:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{server.config.port}") as client:
            answer = await client.post(f"{API}/sessions", json=shown)
            assert (answer.status_code, await stored(world)) == (201, old)
            assert (await client.get("/livez")).status_code == 200
    finally:
        may_go_on.set()
        server.should_exit = True
        await serving
    assert NOW in await stored(world)


async def test_a_password_that_was_changed_meanwhile_stays(world: World, passwords: Passwords, monkeypatch: pytest.MonkeyPatch) -> None:
    ada, _ = await with_older_hash(world)
    newer = await passwords.hash("another correct horse")
    hash_it = passwords.hash

    async def changed_meanwhile(password: str, source: str = "") -> str:
        await world.sql("UPDATE credentials SET password_hash = :newer", newer=newer)
        return await hash_it(password, source)

    monkeypatch.setattr(passwords, "hash", changed_meanwhile)
    assert (await ada.sign_in()).status_code == 201
    assert await stored(world) == newer


@pytest.mark.parametrize(("meanwhile", "right"), [("hashed anew", True), ("changed", False)])
async def test_a_right_password_that_is_hashed_anew_while_it_is_looked_at_is_right_still(
    world: World, passwords: Passwords, monkeypatch: pytest.MonkeyPatch, meanwhile: str, right: bool
) -> None:
    ada, old = await with_older_hash(world)
    await present(ada)
    newer = await passwords.hash(PASSWORD)
    check = passwords.check

    async def looked_at(password: str, stored: str | None, source: str = "") -> tuple[bool, bool]:
        found = await check(password, stored, source)
        await world.sql("UPDATE credentials SET password_hash = :newer", newer=newer)
        if meanwhile == "changed":
            await world.sql("UPDATE credentials SET password_at = clock_timestamp()")
        return found

    monkeypatch.setattr(passwords, "check", looked_at)
    assert (await ada.sign_in()).status_code == (201 if right else 401)
    await world.sql("UPDATE credentials SET password_hash = :old", old=old)
    body = {"password": PASSWORD, "new_password": "seven green otters swim"}
    assert (await world.post("/users/me/password", ada.actor(), json=body)).status_code == (204 if right else 422)
    assert bool(await world.sql("SELECT 1 FROM attempts WHERE failures > 0")) is not right


@pytest.mark.parametrize("failure", [CannotDecide("Too many people sign in at this moment.", retry_after=1), RuntimeError("no memory")])
async def test_when_hashing_anew_fails_the_session_is_open_and_the_next_sign_in_does_it(
    world: World, passwords: Passwords, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    ada, old = await with_older_hash(world)

    async def fails(password: str, source: str = "") -> str:
        raise failure

    with monkeypatch.context() as for_now, capture_logs() as logs:
        for_now.setattr(passwords, "hash", fails)
        assert (await ada.sign_in()).status_code == 201
    assert [each["error"] for each in logs if each["event"] == "password not hashed anew"] == [type(failure).__name__]
    assert PASSWORD not in str(logs)
    assert await stored(world) == old
    assert (await ada.sign_in()).status_code == 201
    assert NOW in await stored(world)
