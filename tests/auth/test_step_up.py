"""Step-up: a second factor shown once more in a session that is open."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from contracts.events import Session
from contracts.roles import NOBODY, Actor
from services.auth.domain.patience import FREE_IN_SESSION
from tests.auth.factors import recovery_codes, register, shown, sign_in, under
from tests.auth.passkeys import Authenticator
from tests.auth.people import PASSWORD, Account, another_code, join, passing_by
from tests.world import World, administrator, agent, person, reason

STEP_UP = "/sessions/current/factor"


async def signed_in(account: Account) -> Actor:
    answer = await account.sign_in()
    assert answer.status_code == 201, answer.text
    return account.actor(session_id=answer.json()["session_id"])


async def test_a_code_makes_the_factor_fresh_by_the_databases_clock_and_says_so(world: World) -> None:
    ada = await join(world)
    actor = await signed_in(ada)
    await world.sql("UPDATE sessions SET factor_at = factor_at - interval '1 hour'")
    await world.said()
    await world.recorded()
    before = await world.now()
    answer = await world.post(STEP_UP, actor, json={"code": await ada.new_code()})
    assert answer.status_code == 200, answer.text
    (fact,) = await world.said()
    assert isinstance(fact, Session)
    assert (fact.session_id, fact.version, fact.live) == (actor.session_id, 2, True)
    assert before <= fact.factor_at <= before + timedelta(seconds=30)
    assert answer.json() == {
        "session_id": str(fact.session_id),
        "factor_at": fact.factor_at.isoformat().replace("+00:00", "Z"),
        "version": 2,
    }
    assert answer.headers["hortus-facts"] == f"sessions:{actor.session_id}:2"
    (record,) = await world.recorded()
    assert (record["action"], record["resource"]) == (
        "session.step_up",
        {"session_id": str(actor.session_id), "user_id": str(ada.user_id), "factor": "totp"},
    )


async def test_each_kind_of_second_factor_steps_up(world: World) -> None:
    ada = await join(world)
    authenticator = Authenticator()
    await register(ada, authenticator)
    code = (await recovery_codes(ada))[0]
    actor = await signed_in(ada)
    for factor in ({"code": await ada.new_code()}, {"recovery_code": code}, {"passkey": await shown(world, authenticator)}):
        assert (await world.post(STEP_UP, actor, json=factor)).status_code == 200
    (session,) = (await world.get("/sessions", actor)).json()["items"]
    assert (session["version"], session["method"]) == (4, "password+totp")


async def test_a_wrong_factor_changes_nothing_and_grows_a_wait(world: World) -> None:
    ada = await join(world)
    actor = await signed_in(ada)
    await world.said()
    statuses = []
    for _ in range(12):
        answer = await world.post(STEP_UP, actor, json={"code": another_code(ada.totp)})
        statuses.append((answer.status_code, reason(answer)))
    assert statuses[0] == (401, "sign-in-refused")
    assert statuses[-1] == (429, "slow-down")
    assert await world.said() == []
    assert (await world.post(STEP_UP, actor, json={"code": await ada.new_code()})).status_code == 429
    other = await signed_in(ada)
    assert (await world.post(STEP_UP, other, json={"code": await ada.new_code()})).status_code == 200


async def test_of_two_requests_with_one_code_one_wins(world: World) -> None:
    ada = await join(world)
    actor = await signed_in(ada)
    code = await ada.new_code()
    answers = await asyncio.gather(*[world.post(STEP_UP, actor, json={"code": code}) for _ in range(2)])
    assert sorted(answer.status_code for answer in answers) == [200, 401]


@pytest.mark.parametrize("actor", [NOBODY, agent()])
async def test_only_people_with_a_session_step_up(world: World, actor: Actor) -> None:
    answer = await world.post(STEP_UP, actor, json={"code": "000000"})
    assert answer.status_code in (401, 403)


async def refused_as_ended(world: World, actor: Actor, code: str) -> bool:
    answer = await world.post(STEP_UP, actor, json={"code": code})
    return (answer.status_code, reason(answer)) == (401, "session-ended")


async def test_another_persons_session_and_one_that_ended_do_not_count(world: World) -> None:
    ada, bob = await join(world), await join(world, "bob@example.org")
    theirs = await signed_in(ada)
    stolen = bob.actor(session_id=theirs.session_id)
    assert await refused_as_ended(world, stolen, await bob.new_code())
    assert (await world.post(STEP_UP, person(), json={"code": "000000"})).status_code == 404
    await world.delete(f"/sessions/{theirs.session_id}", theirs)
    assert await refused_as_ended(world, theirs, await ada.new_code())
    late = await signed_in(ada)
    await world.sql("UPDATE sessions SET expires_at = clock_timestamp()")
    assert await refused_as_ended(world, late, await ada.new_code())


async def test_a_session_without_a_factor_becomes_a_real_one(world: World) -> None:
    ada = await join(world)
    codes = await recovery_codes(ada)
    await under(ada, "optional")
    async with passing_by(ada) as actor:
        assert (await world.delete("/users/me/totp", actor)).status_code == 204
    await world.said()
    opened = await sign_in(ada)
    assert opened.status_code == 201, opened.text
    actor = ada.actor(session_id=opened.json()["session_id"])
    (session,) = (await world.get("/sessions", actor)).json()["items"]
    assert (session["method"], session["factor_at"]) == ("password", "1970-01-01T00:00:00Z")
    assert (await world.post(STEP_UP, actor, json={"recovery_code": codes[0]})).status_code == 200
    (session,) = (await world.get("/sessions", actor)).json()["items"]
    assert session["method"] == "password+recovery"
    facts = [fact for fact in await world.said() if isinstance(fact, Session)]
    assert facts[0].factor_at.year == 1970
    assert facts[1].factor_at.year != 1970


async def test_a_step_up_obeys_the_policy_of_the_groups(world: World) -> None:
    ada = await join(world)
    authenticator = Authenticator()
    await register(ada, authenticator)
    actor = await signed_in(ada)
    await under(ada, "passkey")
    answer = await world.post(STEP_UP, actor, json={"code": await ada.new_code()})
    assert (answer.status_code, reason(answer)) == (401, "sign-in-refused")
    assert (await world.post(STEP_UP, actor, json={"passkey": await shown(world, authenticator)})).status_code == 200


@pytest.mark.parametrize("body", [{}, {"code": "1"}, {"code": "000000", "recovery_code": "AAAAA-AAAAA"}, {"username": "ada00000"}])
async def test_a_step_up_takes_one_factor(world: World, body: dict[str, Any]) -> None:
    assert (await world.post(STEP_UP, administrator(), json=body)).status_code == 422


async def factorless(world: World) -> tuple[Account, Actor]:
    """Somebody who signed in with their password alone, as their groups allow."""
    ada = await join(world)
    await under(ada, "optional")
    await world.sql("UPDATE credentials SET totp_sealed = NULL, totp_at = NULL WHERE user_id = :id", id=ada.user_id)
    answer = await sign_in(ada)
    assert answer.status_code == 201, answer.text
    return ada, ada.actor(session_id=answer.json()["session_id"])


async def test_who_has_no_factor_shows_their_password_and_gets_their_first_one(world: World) -> None:
    ada, actor = await factorless(world)
    await world.said()
    for wrong in ("another horse battery", PASSWORD.upper()):
        refused = await world.post(STEP_UP, actor, json={"password": wrong})
        assert (refused.status_code, reason(refused)) == (401, "sign-in-refused")
    before = await world.now()
    answer = await world.post(STEP_UP, actor, json={"password": PASSWORD})
    assert answer.status_code == 200, answer.text
    (fact,) = await world.said()
    assert isinstance(fact, Session)
    assert (fact.session_id, fact.factor_at >= before) == (actor.session_id, True)
    (row,) = await world.sql("SELECT method FROM sessions")
    assert row.method == "password"
    authenticator = Authenticator()
    assert (await register(ada, authenticator)).status_code == 201
    again = await world.post(STEP_UP, actor, json={"password": PASSWORD})
    assert (again.status_code, reason(again)) == (401, "sign-in-refused")
    assert (await world.post(STEP_UP, actor, json={"passkey": await shown(world, authenticator)})).status_code == 200


@pytest.mark.parametrize("has", ["totp", "codes", "policy"])
async def test_a_password_stands_in_for_nothing_that_there_is_or_ought_to_be(world: World, has: str) -> None:
    ada, actor = await factorless(world)
    if has == "totp":
        await world.sql("UPDATE credentials SET totp_sealed = 'x'")
    elif has == "codes":
        await recovery_codes(ada)
    else:
        await under(ada, "required", "strict")
    for _ in range(FREE_IN_SESSION):
        answer = await world.post(STEP_UP, actor, json={"password": PASSWORD})
        assert (answer.status_code, reason(answer)) == (401, "sign-in-refused")
    slow = await world.post(STEP_UP, actor, json={"password": PASSWORD})
    assert (slow.status_code, reason(slow)) == (429, "slow-down")
