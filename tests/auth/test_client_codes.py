"""A browser hands its sign-in over to a client on the same machine."""

import asyncio
import base64
import hashlib
import secrets
from typing import Any
from uuid import UUID

import httpx2
import pytest

from contracts.events import Session, UserStatus
from contracts.roles import NOBODY, Actor
from services.auth import repository
from services.auth.domain import client_codes
from services.auth.domain.flows import s256
from services.auth.service import accounts
from services.auth.service import client_codes as service
from tests.auth.people import Account, another_code, join
from tests.world import World, administrator, agent, job, reason


def verifier_and_challenge() -> tuple[str, str]:
    verifier = secrets.token_urlsafe(32)
    return verifier, base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


async def browser_of(ada: Account) -> dict[str, Any]:
    """The browser's sign-in."""
    opened = await ada.sign_in()
    assert opened.status_code == 201, opened.text
    session: dict[str, Any] = opened.json()
    return session


async def code_for(world: World, ada: Account, session: dict[str, Any], challenge: str) -> str:
    made = await world.post("/client-codes", ada.actor(UUID(session["session_id"])), json={"challenge": challenge})
    assert made.status_code == 201, made.text
    code: str = made.json()["code"]
    return code


async def redeem(world: World, code: str, verifier: str) -> httpx2.Response:
    return await world.post("/sessions", json={"client_code": code, "verifier": verifier}, headers={"User-Agent": "hortus/0.1"})


async def sessions(world: World) -> list[Session]:
    return [fact for fact in await world.said() if isinstance(fact, Session)]


async def test_the_client_gets_a_session_of_its_own_and_the_browsers_ends(world: World) -> None:
    ada = await join(world)
    browser = await browser_of(ada)
    (opened,) = await sessions(world)
    verifier, challenge = verifier_and_challenge()
    code = await code_for(world, ada, browser, challenge)
    answer = await redeem(world, code, verifier)
    assert answer.status_code == 201, answer.text
    assert answer.json()["user"]["username"] == ada.username
    assert answer.json()["session_id"] != browser["session_id"]
    assert "__Host-hortus-refresh" in answer.headers["set-cookie"]
    over, new = await sessions(world)
    assert (str(over.session_id), over.live) == (browser["session_id"], False)
    assert (str(new.session_id), new.live, new.factor_at) == (answer.json()["session_id"], True, opened.factor_at)
    rows = await world.sql("SELECT method, client, ended_because, created_at FROM sessions ORDER BY session_id")
    assert [tuple(row)[:3] for row in rows] == [("password+totp", rows[0].client, "handed-over"), ("password+totp", "hortus/0.1", None)]
    assert [row.last_sign_in_at for row in await world.sql("SELECT last_sign_in_at FROM users")] == [rows[0].created_at]


async def test_what_an_identity_provider_vouched_for_stays_so_and_ends_when_it_says(world: World) -> None:
    ada = await join(world)
    browser = await browser_of(ada)
    sealed = world.runtime.extra["tools"].vault.seal_id_token("an id_token", UUID(browser["session_id"]))
    await world.sql("UPDATE sessions SET provider = 'hospital', provider_session = 's1', id_token_sealed = :sealed", sealed=sealed)
    verifier, challenge = verifier_and_challenge()
    answer = await redeem(world, await code_for(world, ada, browser, challenge), verifier)
    (row,) = await world.sql("SELECT session_id, provider, provider_session, id_token_sealed FROM sessions WHERE ended_at IS NULL")
    assert (str(row.session_id), row.provider, row.provider_session) == (answer.json()["session_id"], "hospital", "s1")
    assert world.runtime.extra["tools"].vault.open_id_token(row.id_token_sealed, row.session_id) == "an id_token"


async def test_a_code_is_kept_as_a_hash_and_said_to_nobody(world: World) -> None:
    ada = await join(world)
    _, challenge = verifier_and_challenge()
    code = await code_for(world, ada, await browser_of(ada), challenge)
    (row,) = await world.sql("SELECT code_hash FROM client_codes")
    assert row.code_hash == hashlib.sha256(code.encode()).digest()
    assert code not in str(await world.recorded())
    assert code not in str(await world.said())


async def test_a_code_counts_once_also_for_two_at_the_same_moment(world: World) -> None:
    ada = await join(world)
    verifier, challenge = verifier_and_challenge()
    code = await code_for(world, ada, await browser_of(ada), challenge)
    answers = await asyncio.gather(*[redeem(world, code, verifier) for _ in range(4)])
    assert sorted(answer.status_code for answer in answers) == [201, 401, 401, 401]
    assert reason(await redeem(world, code, verifier)) == "sign-in-refused"


async def test_another_verifier_opens_nothing_and_uses_the_code_up(world: World) -> None:
    ada = await join(world)
    verifier, challenge = verifier_and_challenge()
    code = await code_for(world, ada, await browser_of(ada), challenge)
    assert reason(await redeem(world, code, secrets.token_urlsafe(32))) == "sign-in-refused"
    assert reason(await redeem(world, code, verifier)) == "sign-in-refused"


async def test_a_code_is_good_for_a_minute(world: World) -> None:
    ada = await join(world)
    verifier, challenge = verifier_and_challenge()
    code = await code_for(world, ada, await browser_of(ada), challenge)
    (row,) = await world.sql("SELECT extract(epoch FROM expires_at - now()) AS left FROM client_codes")
    assert 55 < row.left <= 60
    await world.sql("UPDATE client_codes SET expires_at = now()")
    assert reason(await redeem(world, code, verifier)) == "sign-in-refused"


@pytest.mark.parametrize(
    "what", ["UPDATE sessions SET ended_at = now()", "UPDATE sessions SET expires_at = now()", "UPDATE users SET status = 'blocked'"]
)
async def test_the_browsers_session_and_its_person_must_still_count(world: World, what: str) -> None:
    ada = await join(world)
    verifier, challenge = verifier_and_challenge()
    code = await code_for(world, ada, await browser_of(ada), challenge)
    await world.sql(what)
    assert reason(await redeem(world, code, verifier)) == "sign-in-refused"


async def test_a_code_that_is_shown_while_its_person_is_deactivated_holds_nobody_up(world: World) -> None:
    ada = await join(world)
    verifier, challenge = verifier_and_challenge()
    code = await code_for(world, ada, await browser_of(ada), challenge)
    async with world.work(administrator()) as uow:
        await repository.accounts.user(uow.session, ada.user_id, lock=True)
        redeeming = asyncio.create_task(redeem(world, code, verifier))
        await world.somebody_waits()
        await accounts.change_user(uow, world.runtime.extra["tools"], ada.user_id, 2, UserStatus.DEACTIVATED, None)
    assert reason(await redeeming) == "sign-in-refused"
    assert await world.sql("SELECT 1 FROM sessions WHERE ended_at IS NULL") == []


async def test_an_old_sign_in_makes_no_code(world: World) -> None:
    ada = await join(world)
    browser = await browser_of(ada)
    await world.sql("UPDATE sessions SET created_at = now() - interval '301 s', factor_at = now() - interval '301 s'")
    _, challenge = verifier_and_challenge()
    answer = await world.post("/client-codes", ada.actor(UUID(browser["session_id"])), json={"challenge": challenge})
    assert (answer.status_code, reason(answer)) == (401, "factor-too-old")
    await world.sql("UPDATE sessions SET factor_at = now()")
    assert await code_for(world, ada, browser, challenge)


@pytest.mark.parametrize("factor_at", ["created_at", "'epoch'"])
async def test_a_chain_of_hand_overs_renews_nothing(world: World, factor_at: str) -> None:
    ada = await join(world)
    session = await browser_of(ada)
    await world.sql("UPDATE sessions SET created_at = now() - interval '200 s', expires_at = now() + interval '1 h'")
    await world.sql(f"UPDATE sessions SET factor_at = {factor_at}")
    (first,) = await world.sql("SELECT created_at, expires_at, factor_at FROM sessions")
    await world.said()
    for _ in range(2):
        verifier, challenge = verifier_and_challenge()
        session = (await redeem(world, await code_for(world, ada, session, challenge), verifier)).json()
        _, new = await sessions(world)
        assert (new.expires_at, new.factor_at) == (first.expires_at, first.factor_at)
    rows = await world.sql("SELECT created_at, expires_at, factor_at FROM sessions WHERE ended_at IS NULL")
    assert [tuple(row) for row in rows] == [tuple(first)]
    await world.sql("UPDATE sessions SET created_at = created_at - interval '101 s', factor_at = factor_at - interval '101 s'")
    answer = await world.post("/client-codes", ada.actor(UUID(session["session_id"])), json={"challenge": challenge})
    assert (answer.status_code, reason(answer)) == (401, "factor-too-old")


async def test_a_session_that_is_not_the_callers_makes_no_code(world: World) -> None:
    ada, eve = await join(world), await join(world, "eve@example.org")
    browser = await browser_of(ada)
    _, challenge = verifier_and_challenge()
    answer = await world.post("/client-codes", eve.actor(UUID(browser["session_id"])), json={"challenge": challenge})
    assert (answer.status_code, reason(answer)) == (401, "session-ended")


@pytest.mark.parametrize(("actor", "status"), [(NOBODY, 401), (agent(), 403), (job(UUID(int=5)), 403), (administrator(), 404)])
async def test_codes_are_for_people_who_signed_in(world: World, actor: Actor, status: int) -> None:
    _, challenge = verifier_and_challenge()
    assert (await world.post("/client-codes", actor, json={"challenge": challenge})).status_code == status


@pytest.mark.parametrize("challenge", ["", "x", "A" * 42, "A" * 44, "A" * 42 + "=", "A" * 42 + "\n"])
async def test_a_challenge_is_one_of_s256(world: World, challenge: str) -> None:
    answer = await world.post("/client-codes", administrator(), json={"challenge": challenge})
    assert answer.status_code == 422


async def test_failures_count_where_they_come_from(world: World) -> None:
    for _ in range(3):
        await redeem(world, "client_guessed", secrets.token_urlsafe(32))
    assert (await world.sql("SELECT sum(failures) FROM attempts"))[0][0] == 3


async def test_codes_that_nobody_took_are_forgotten(world: World) -> None:
    ada = await join(world)
    _, challenge = verifier_and_challenge()
    await code_for(world, ada, await browser_of(ada), challenge)
    await world.sql("UPDATE client_codes SET expires_at = now() - interval '1 s'")
    async with world.work() as uow:
        await service.prune(uow)
    assert await world.sql("SELECT 1 FROM client_codes") == []


def test_the_challenge_is_that_of_the_rfc() -> None:
    assert s256("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk") == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
    assert client_codes.LIFE.total_seconds() == 60


async def test_who_hands_a_session_over_and_over_has_no_new_tries_in_it(world: World) -> None:
    ada = await join(world)
    session, answers = await browser_of(ada), []
    for _ in range(2):
        actor = ada.actor(UUID(session["session_id"]))
        answers += [await world.post("/sessions/current/factor", actor, json={"code": another_code(ada.totp)}) for _ in range(6)]
        verifier, challenge = verifier_and_challenge()
        session = (await redeem(world, await code_for(world, ada, session, challenge), verifier)).json()
    assert [answer.status_code for answer in answers] == [401] * 10 + [429] * 2
    assert reason(answers[-1]) == "slow-down"
