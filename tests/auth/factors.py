"""Second factors of the tests: people with them, and the letters that tell of them."""

import json
from typing import Any

import httpx2
from sqlalchemy import text

from services.auth.service.tools import Tools
from tests.auth.passkeys import Authenticator
from tests.auth.people import Account, passing_by
from tests.world import World, administrator


async def register(account: Account, authenticator: Authenticator, name: str = "key ring") -> httpx2.Response:
    """Make a passkey and register it, through the doors."""
    async with passing_by(account) as actor:
        asked = (await account.world.post("/users/me/passkeys/options", actor, json={})).json()
        made = {"challenge": asked["challenge"], "credential": authenticator.make(asked["options"]), "name": name}
        return await account.world.post("/users/me/passkeys", actor, json=made)


async def challenge(world: World) -> dict[str, Any]:
    """A challenge for a sign-in."""
    answer = await world.post("/passkey-challenges", json={})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def shown(world: World, authenticator: Authenticator, **other: Any) -> dict[str, Any]:
    """A passkey's answer to a fresh challenge."""
    asked = await challenge(world)
    return {"challenge": asked["challenge"], "credential": authenticator.show(asked["options"], **other)}


async def recovery_codes(account: Account) -> list[str]:
    """Ten new recovery codes."""
    async with passing_by(account) as actor:
        answer = await account.world.post("/users/me/recovery-codes", actor)
    assert answer.status_code == 201, answer.text
    return list(answer.json()["codes"])


async def sign_in(account: Account, **factor: Any) -> httpx2.Response:
    """Sign in with the right password and this second factor, or none."""
    body = {"username": account.username, "password": account.password, **factor}
    return await account.world.post("/sessions", json=body)


async def reset(account: Account) -> str:
    """An administrator resets somebody's second factor; the link's token."""
    answer = await account.world.post(f"/users/{account.user_id}/factor-reset", administrator())
    assert answer.status_code == 201, answer.text
    return str(answer.json()["link_token"])


async def under(account: Account, policy: str, name: str = "staff") -> None:
    """Put somebody into a group with this policy."""
    world = account.world
    group = (await world.post("/groups", administrator(), json={"name": name, "factor_policy": policy})).json()
    answer = await world.put(f"/groups/{group['group_id']}/members/{account.user_id}", administrator())
    assert answer.status_code == 204, answer.text


async def letters(world: World) -> list[dict[str, str]]:
    """The letters that wait, oldest first, with address, subject and text; they are taken out."""
    tools: Tools = world.runtime.extra["tools"]
    async with world.runtime.engine.begin() as connection:
        rows = (await connection.execute(text("DELETE FROM letters RETURNING letter_id, sealed"))).all()
    return [json.loads(tools.vault.open_letter(row.sealed, row.letter_id)) for row in sorted(rows, key=lambda row: str(row.letter_id))]
