"""A second factor grows old: some doors ask for it once more, and nothing that has begun is taken away."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from contracts.events import SESSIONS, CertificateKind
from contracts.policy import STEP_UP_S
from tests.gateway.stage import Certificates, Someone, Stage, opened, problem, read, say, until
from tests.gateway.test_transfers import FILE, PROJECT

FRESH_S = 0.8


@pytest.fixture
async def brief(certificates: Certificates, tmp_path: Path) -> AsyncIterator[Stage]:
    """A gateway to which a second factor is old after less than a second."""
    async with opened(certificates, tmp_path, step_up_s=FRESH_S) as made:
        yield made


async def grows_old(someone: Someone, stage: Stage) -> None:
    shown = stage.gateway.projection.get(SESSIONS, str(someone.session_id)).factor_at
    await until(lambda: datetime.now(UTC) - shown > timedelta(seconds=FRESH_S))


async def test_a_door_that_asks_for_a_fresh_factor_is_open_while_it_is_fresh_and_again_when_it_was_shown_once_more(brief: Stage) -> None:
    ada = brief.signs_in()
    client = await brief.client(ada)
    assert (await client.get("/users/me")).status_code == 200
    brief.shows_factor(ada, version=2)  # its time begins when the connection is there
    assert (await client.post("/users/me/totp", json={})).status_code == 200
    actor = brief.actor()
    assert (actor.factor_fresh, actor.session_id) == (True, ada.session_id)
    await grows_old(ada, brief)
    answer = await client.post("/users/me/totp", json={})
    assert (answer.status_code, problem(answer)) == (401, "factor-too-old")
    assert answer.headers["www-authenticate"] == f'Bearer error="insufficient_user_authentication", max_age="{STEP_UP_S}"'
    assert (await client.get("/users/me")).status_code == 200
    actor = brief.actor()
    assert (actor.factor_fresh, actor.factor_at is not None) == (False, True)
    brief.shows_factor(ada, version=3)
    assert (await client.post("/users/me/totp", json={})).status_code == 200
    refusals = [(record["action"], record["reason"]) for record in await brief.records() if record["outcome"] == "refused"]
    assert refusals == [("totp.create", "factor-too-old")]


async def test_five_minutes_are_the_rule(stage: Stage) -> None:
    ada = stage.signs_in()
    client = await stage.client(ada)
    stage.shows_factor(ada, 2, ago=timedelta(seconds=STEP_UP_S - 5))
    assert (await client.post("/users/me/totp", json={})).status_code == 200
    stage.shows_factor(ada, 3, ago=timedelta(seconds=STEP_UP_S + 1))
    assert problem(await client.post("/users/me/totp", json={})) == "factor-too-old"


async def test_a_session_without_a_factor_is_never_fresh(stage: Stage) -> None:
    ada = stage.signs_in()
    stage.shows_factor(ada, 2, ago=datetime.now(UTC) - datetime(1970, 1, 1, tzinfo=UTC))
    client = await stage.client(ada)
    assert problem(await client.post("/users/me/totp", json={})) == "factor-too-old"
    assert (await client.get("/users/me")).status_code == 200


async def test_keys_and_certificates_have_no_factor_and_a_token_beside_a_certificate_keeps_its_own(stage: Stage) -> None:
    ada = stage.signs_in()
    stage.joins(ada, PROJECT)
    holder = stage.holds(CertificateKind.PROJECT, project_id=PROJECT, user_id=ada.user_id)
    machine = await stage.client(holder=holder)
    for client, headers in ((machine, {}), (machine, stage.makes_key(ada).headers), (await stage.client(stage.makes_key(ada)), {})):
        assert (await client.get(f"/projects/{PROJECT}", headers=headers)).status_code == 200
        assert stage.actor().factor_fresh is False
        assert (await client.post("/users/me/totp", json={}, headers=headers)).status_code == 403
    assert (await machine.post("/users/me/totp", json={}, headers=ada.headers)).status_code == 200
    assert stage.actor().factor_fresh is True


async def test_what_was_begun_with_a_fresh_factor_is_finished_although_it_has_grown_old(brief: Stage) -> None:
    ada = brief.signs_in()
    brief.joins(ada, PROJECT)
    go_on = asyncio.Event()

    async def later(_scope: Any, receive: Any, send: Any) -> None:
        await read(receive)
        await go_on.wait()
        await say(send, 200, b"{}")

    client = await brief.client(ada)
    await asyncio.gather(*[client.get("/users/me") for _ in range(2)])
    brief.shows_factor(ada, version=2)
    brief.answer = later
    held = [asyncio.create_task(each) for each in (client.post("/users/me/totp", json={}), client.get(FILE))]
    await until(lambda: len(brief.gateway.in_flight) == 2)
    await until(lambda: all(not flight.standing.actor.factor_fresh for flight in brief.gateway.in_flight))
    assert time.time() < min(flight.standing.until for flight in brief.gateway.in_flight)
    go_on.set()
    assert [(await each).status_code for each in held] == [200, 200]


async def test_an_old_factor_does_not_shield_a_request_from_what_else_is_lost(brief: Stage) -> None:
    ada = brief.signs_in()
    never = asyncio.Event()

    async def waits(_scope: Any, _receive: Any, _send: Any) -> None:
        await never.wait()

    client = await brief.client(ada)
    assert (await client.get("/users/me")).status_code == 200
    brief.shows_factor(ada, version=2)
    brief.answer = waits
    held = asyncio.create_task(client.post("/users/me/totp", json={}))
    await until(lambda: len(brief.gateway.in_flight) == 1)
    await grows_old(ada, brief)
    session = brief.gateway.projection.get(SESSIONS, str(ada.session_id))
    brief.tell(session.model_copy(update={"version": 3, "live": False}))
    answer = await held
    assert (answer.status_code, problem(answer)) == (401, "session-ended")
