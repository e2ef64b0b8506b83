"""What gives or keeps a way in, asked for in the moment in which a way in is taken away."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any

import httpx2
import pyotp
import pytest
from sqlalchemy import text

from chassis.outbox import UnitOfWork
from contracts.events import UserStatus
from services.auth.service import accounts, enrolments, new_passwords, sessions
from services.auth.service.tools import About, Tools
from tests.auth.factors import register, under
from tests.auth.passkeys import Authenticator
from tests.auth.people import PASSWORD, Account, begin, join, present
from tests.world import World, Worlds, administrator, reason

TABLES = ("credentials", "passkeys", "recovery_codes", "api_keys", "client_codes", "links", "invitations", "sessions")
WAYS_IN = " UNION ALL ".join(f"SELECT '{table} ' || to_jsonb(t)::text AS kept FROM {table} t" for table in TABLES) + " ORDER BY kept"
NEW = "seven green otters swim"

Deed = Callable[[], Coroutine[Any, Any, httpx2.Response]]
Takes = Callable[[UnitOfWork, Tools, Account], Awaitable[object]]


async def deeds(world: World, ada: Account) -> dict[str, Deed]:
    """Everything that somebody signed in can do to have a way in, in one session, each ready to be done."""
    removed = (await register(ada, Authenticator())).json()["passkey_id"]
    session_id, _ = await begin(ada)
    actor = ada.actor(session_id)
    asked = (await world.post("/users/me/passkeys/options", actor, json={})).json()
    passkey = {"challenge": asked["challenge"], "credential": Authenticator().make(asked["options"]), "name": "late"}
    pending = pyotp.TOTP((await world.post("/users/me/totp", actor)).json()["totp_secret"])
    key = {"name": "late", "scopes": ["project.list"], "expires_at": (await world.now() + timedelta(days=1)).isoformat()}
    code = await ada.new_code()

    def post(path: str, **body: Any) -> Deed:
        return lambda: world.post(path, actor, json=body)

    return {
        "begin an authenticator": lambda: world.post("/users/me/totp", actor),
        "confirm an authenticator": post("/users/me/totp/confirmation", code=pending.now()),
        "remove the authenticator": lambda: world.delete("/users/me/totp", actor),
        "add a passkey": post("/users/me/passkeys", **passkey),
        "remove a passkey": lambda: world.delete(f"/users/me/passkeys/{removed}", actor),
        "make recovery codes": lambda: world.post("/users/me/recovery-codes", actor),
        "change the password": post("/users/me/password", password=PASSWORD, new_password=NEW),
        "make a key": post("/keys", **key),
        "make a client code": post("/client-codes", challenge="A" * 43),
        "step up": post("/sessions/current/factor", code=code),
    }


async def block(uow: UnitOfWork, tools: Tools, ada: Account) -> None:
    await accounts.change_user(uow, tools, ada.user_id, 2, UserStatus.BLOCKED, None)


async def deactivate(uow: UnitOfWork, tools: Tools, ada: Account) -> None:
    await accounts.change_user(uow, tools, ada.user_id, 2, UserStatus.DEACTIVATED, None)


async def reset_the_factor(uow: UnitOfWork, tools: Tools, ada: Account) -> None:
    await enrolments.reset(uow, tools, ada.user_id)


async def reset_the_password(uow: UnitOfWork, tools: Tools, ada: Account) -> None:
    async def later() -> UnitOfWork:
        return uow

    link = (await ada.world.post(f"/users/{ada.user_id}/password-reset", administrator())).json()["link_token"]
    await new_passwords.accept_reset(later, tools, link, "another battery staple 7", About())


async def end_the_sessions(uow: UnitOfWork, _tools: Tools, ada: Account) -> None:
    await sessions.end_of(uow, ada.user_id)


@pytest.mark.parametrize("takes_away", [block, deactivate, reset_the_factor, reset_the_password, end_the_sessions])
async def test_what_waits_while_a_way_in_is_taken_away_is_refused_and_leaves_nothing(
    worlds: Worlds, settings: dict[str, Any], world: World, takes_away: Takes
) -> None:
    ada = await join(world)
    ready = await deeds(await worlds.open("auth", beside=world, **settings), ada)
    async with world.work(administrator()) as uow:
        await takes_away(uow, world.runtime.extra["tools"], ada)
        asked = {name: asyncio.create_task(deed()) for name, deed in ready.items()}
        await world.somebody_waits(len(ready))
        left = list((await uow.session.execute(text(WAYS_IN))).scalars())
    answers = {name: await answer for name, answer in asked.items()}
    assert {name: (answer.status_code, reason(answer) if answer.is_error else "") for name, answer in answers.items()} == dict.fromkeys(
        ready, (401, "session-ended")
    )
    assert [row.kept for row in await world.sql(WAYS_IN)] == left


async def changes_the_password(ada: Account) -> httpx2.Response:
    return await ada.world.post("/users/me/password", ada.actor(), json={"password": PASSWORD, "new_password": NEW})


async def resets_the_password(ada: Account) -> httpx2.Response:
    link = (await ada.world.post(f"/users/{ada.user_id}/password-reset", administrator())).json()["link_token"]
    return await ada.world.post("/password-resets/acceptance", json={"token": link, "password": NEW})


async def signs_out_everywhere(ada: Account) -> httpx2.Response:
    return await ada.world.delete("/sessions", ada.actor())


async def is_signed_out_everywhere(ada: Account) -> httpx2.Response:
    return await ada.world.delete(f"/users/{ada.user_id}/sessions", administrator())


@pytest.mark.parametrize("ends", [changes_the_password, resets_the_password, signs_out_everywhere, is_signed_out_everywhere])
async def test_who_stopped_at_setting_up_a_factor_does_not_go_on_when_all_sessions_have_ended(
    world: World, ends: Callable[[Account], Awaitable[httpx2.Response]]
) -> None:
    """Or whoever knew the password and one code had the whole account by a passkey of their own."""
    ada = await present(await join(world))
    await under(ada, "passkey")
    stopped = await ada.sign_in()
    assert reason(stopped) == "factor-enrolment-needed"
    token = stopped.json()["enrolment"]
    asked = (await world.post("/factor-enrolments/acceptance", json={"token": token})).json()["passkey"]
    assert (await ends(ada)).status_code == 204
    passkey = {"challenge": asked["challenge"], "credential": Authenticator().make(asked["options"]), "name": "not hers"}
    late = await world.post("/factor-enrolments/confirmation", json={"token": token, "passkey": passkey})
    assert (late.status_code, reason(late)) == (404, "link-not-open")
    assert await world.sql("SELECT 1 FROM passkeys") == []
