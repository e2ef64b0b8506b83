"""The client before the real auth: the door hands every request to its application, as a gateway would."""

import asyncio
import base64
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import pyotp
import pytest

from contracts.roles import NOBODY, Actor
from hortus.client import Client, FileKeeper, Refused
from tests.auth.people import PASSWORD, Account, hear_all, join
from tests.hortus.door import Answer, Asked, Door
from tests.world import World, Worlds, person

AT_ONCE = 8
T = TypeVar("T")


@pytest.fixture
async def world(worlds: Worlds, tmp_path: Path) -> World:
    master = tmp_path / "master.key"
    master.write_text(base64.urlsafe_b64encode(secrets.token_bytes(32)).decode())
    return await worlds.open("auth", master_key_file=master, setup_file=tmp_path / "setup")


@pytest.fixture
async def ada(world: World, door: Door) -> Account:
    """Somebody with an account; the door leads to auth."""
    loop = asyncio.get_running_loop()

    def forward(asked: Asked) -> Answer:
        headers = {name: asked.headers[name] for name in ("content-type", "cookie", "if-match", "user-agent") if name in asked.headers}
        sent = world.request(
            asked.method,
            asked.path,
            actor_of(asked),
            key=asked.headers.get("idempotency-key"),
            headers={**headers, "Hortus-Source": "192.0.2.1"},
            params=asked.query,
            content=asked.body,
        )
        answer = asyncio.run_coroutine_threadsafe(sent, loop).result(30)
        passed = {name: value for name, value in answer.headers.items() if name in {"content-type", "hortus-facts", "hortus-reason"}}
        return Answer(answer.status_code, answer.content, passed, cookies=answer.headers.get_list("set-cookie"))

    door.otherwise = forward
    account = await join(world)
    await hear_all(world)
    return account


def actor_of(asked: Asked) -> Actor:
    """Who the access token speaks for."""
    token = asked.headers.get("authorization", "").removeprefix("Bearer ")
    if not token:
        return NOBODY
    payload = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return person(UUID(claims["sub"]), session_id=UUID(claims["sid"]))


async def goes(deed: Callable[[], T]) -> T:
    return await asyncio.to_thread(deed)


@pytest.fixture
def keeper(tmp_path: Path) -> FileKeeper:
    return FileKeeper(tmp_path / "own" / "sign-in.json")


@pytest.fixture
async def signed_in(ada: Account, door: Door, keeper: FileKeeper) -> Client:
    code = await ada.new_code()
    client = Client(door.address, door.root, refresh=keeper)
    await goes(lambda: client.sessions.create(ada.username, PASSWORD, code))
    return client


async def generations(world: World) -> list[int]:
    return [row.generation for row in await world.sql("SELECT generation FROM sessions WHERE ended_at IS NULL")]


async def test_many_who_share_a_sign_in_renew_it_once(world: World, door: Door, signed_in: Client, keeper: FileKeeper) -> None:
    with keeper.alone() as kept:
        keeper.write(replace(kept, renew_at=time.time() - 1))
    clients = [Client(door.address, door.root, refresh=keeper) for _ in range(AT_ONCE)]
    shown = await asyncio.gather(*(goes(client.users.me) for client in clients))
    assert len(shown) == AT_ONCE
    assert await generations(world) == [2]
    assert door.paths().count("POST /sessions/refresh") == 1
    assert (await goes(signed_in.users.me))["groups"] == []


async def test_a_lost_answer_costs_nothing(world: World, door: Door, signed_in: Client, keeper: FileKeeper) -> None:
    def lost_once(asked: Asked) -> Answer:
        door.on("POST", "/sessions/refresh", door.otherwise)
        door.otherwise(asked)
        return Answer(lose=True)

    door.on("POST", "/sessions/refresh", lost_once)
    with keeper.alone() as kept:
        keeper.write(replace(kept, renew_at=time.time() - 1))
    client = Client(door.address, door.root, refresh=keeper)
    assert (await goes(client.users.me))["status"] == "active"
    assert await generations(world) == [2]


async def test_a_copy_of_the_sign_in_ends_the_session_for_both(
    world: World, door: Door, signed_in: Client, keeper: FileKeeper, tmp_path: Path
) -> None:
    stolen = FileKeeper(tmp_path / "thief" / "sign-in.json")
    with stolen.alone():
        stolen.write(keeper.read())
    for holder in (keeper, keeper, stolen):
        with holder.alone() as kept:
            holder.write(replace(kept, renew_at=time.time() - 1))
        client = Client(door.address, door.root, refresh=holder)
        if holder is stolen:
            with pytest.raises(Refused) as caught:
                await goes(client.users.me)
            assert (caught.value.status, caught.value.slug) == (HTTPStatus.UNAUTHORIZED, "refresh-token-reused")
        else:
            await goes(client.users.me)
    assert await generations(world) == []


async def test_factors_are_shown_again_changed_and_counted(ada: Account, signed_in: Client) -> None:
    code = await ada.new_code()
    stepped = await goes(lambda: signed_in.sessions.step_up(code))
    assert stepped["session_id"] == signed_in.wire._renewal.current.session_id
    codes = (await goes(signed_in.factors.new_recovery_codes))["codes"]
    factors = await goes(signed_in.factors.list)
    assert (len(codes), factors["recovery_codes_left"], factors["passkeys"]) == (10, 10, [])
    await goes(lambda: signed_in.sessions.step_up(recovery_code=codes[0]))
    fresh = await goes(signed_in.factors.begin_totp)
    assert fresh["totp_svg"].startswith("<svg")
    await goes(lambda: signed_in.factors.confirm_totp(pyotp.TOTP(fresh["totp_secret"]).now()))
    current: list[Any] = await goes(lambda: list(signed_in.sessions.list()))
    assert [session["current"] for session in current] == [True]
    assert current[0]["client"] == "hortus"


async def test_keys_are_made_listed_and_ended(signed_in: Client) -> None:
    ends = (datetime.now(UTC) + timedelta(days=30)).isoformat()
    made = await goes(lambda: signed_in.keys.create("nightly", ("dataset.*",), ends))
    assert made["secret"].startswith("hortus_")
    listed = await goes(lambda: list(signed_in.keys.list()))
    assert [(key["name"], "secret" in key) for key in listed] == [("nightly", False)]
    await goes(lambda: signed_in.keys.end(made["key_id"]))
    assert await goes(lambda: list(signed_in.keys.list())) == []


async def test_a_new_password_ends_every_session(ada: Account, world: World, door: Door, signed_in: Client, keeper: FileKeeper) -> None:
    new = "purple monkey dishwasher"
    await goes(lambda: signed_in.passwords.change(PASSWORD, new))
    assert await generations(world) == []
    code = await ada.new_code()
    with pytest.raises(Refused):
        await goes(lambda: signed_in.sessions.create(ada.username, PASSWORD, code))
    code = await ada.new_code()
    await goes(lambda: signed_in.sessions.create(ada.username, new, code))
    assert len(await generations(world)) == 1
