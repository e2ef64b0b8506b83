"""Authenticators: setting up, replacing, removing, and that each code counts once."""

import asyncio
import json
import time
import xml.etree.ElementTree as ET

import pyotp
import pytest

from services.auth import domain
from tests.auth.factors import letters, register, sign_in, under
from tests.auth.passkeys import Authenticator
from tests.auth.people import PASSWORD, another_code, invite, join, present
from tests.world import World, person, reason

SVG = "{http://www.w3.org/2000/svg}"


async def test_the_invitation_shows_the_secret_as_a_picture(world: World) -> None:
    token = (await invite(world, "ada@example.org")).json()["invitation"]
    accepted = (await world.post("/invitations/acceptance", json={"token": token, "password": PASSWORD})).json()
    picture = ET.fromstring(accepted["totp_svg"])  # noqa: S314 - ours
    assert picture.tag.removeprefix(SVG) == "svg"
    assert {part.tag.removeprefix(SVG) for part in picture.iter()} <= {"svg", "path", "g"}
    assert accepted["totp_svg"] == domain.factors.totp_svg(accepted["totp_uri"])
    assert accepted["totp_secret"] in accepted["totp_uri"]


async def test_a_new_authenticator_counts_once_it_is_confirmed(world: World) -> None:
    ada = await present(await join(world))
    await world.recorded()
    begun = await world.post("/users/me/totp", ada.actor())
    assert begun.status_code == 200, begun.text
    new = pyotp.TOTP(begun.json()["totp_secret"])
    assert (await sign_in(ada, code=new.now())).status_code == 401
    assert (await ada.sign_in()).status_code == 201
    confirmed = await world.post("/users/me/totp/confirmation", ada.actor(), json={"code": new.now()})
    assert confirmed.status_code == 200, confirmed.text
    assert confirmed.json()["totp"]["since"] is not None
    old = await ada.sign_in()
    assert (old.status_code, reason(old)) == (401, "sign-in-refused")
    ada.totp = new
    assert (await ada.sign_in()).status_code == 201
    assert [record["action"] for record in await world.recorded()] == [
        "totp.create",
        "session.refuse",
        "session.create",
        "totp.confirm",
        "session.refuse",
        "session.create",
    ]


async def test_the_code_that_confirms_is_used_up(world: World) -> None:
    ada = await present(await join(world))
    new = pyotp.TOTP((await world.post("/users/me/totp", ada.actor())).json()["totp_secret"])
    code = new.now()
    assert (await world.post("/users/me/totp/confirmation", ada.actor(), json={"code": code})).status_code == 200
    assert (await sign_in(ada, code=code)).status_code == 401
    again = await world.post("/users/me/totp/confirmation", ada.actor(), json={"code": code})
    assert (again.status_code, reason(again)) == (409, "totp-not-begun")


async def test_a_wrong_code_changes_nothing(world: World) -> None:
    ada = await present(await join(world))
    new = pyotp.TOTP((await world.post("/users/me/totp", ada.actor())).json()["totp_secret"])
    answer = await world.post("/users/me/totp/confirmation", ada.actor(), json={"code": another_code(new)})
    assert (answer.status_code, reason(answer)) == (422, "wrong-code")
    assert (await ada.sign_in()).status_code == 201


async def test_a_confirmation_needs_a_beginning(world: World) -> None:
    ada = await present(await join(world))
    answer = await world.post("/users/me/totp/confirmation", ada.actor(), json={"code": ada.totp.now()})
    assert (answer.status_code, reason(answer)) == (409, "totp-not-begun")


async def test_beginning_again_makes_the_secret_before_void(world: World) -> None:
    ada = await present(await join(world))
    first, second = [pyotp.TOTP((await world.post("/users/me/totp", ada.actor())).json()["totp_secret"]) for _ in range(2)]
    assert (await world.post("/users/me/totp/confirmation", ada.actor(), json={"code": first.now()})).status_code == 422
    assert (await world.post("/users/me/totp/confirmation", ada.actor(), json={"code": second.now()})).status_code == 200


async def test_the_secret_is_shown_once_and_sealed_at_rest(world: World) -> None:
    ada = await present(await join(world))
    first = await world.post("/users/me/totp", ada.actor(), key="k")
    again = await world.post("/users/me/totp", ada.actor(), key="k")
    assert (again.status_code, reason(again)) == (409, "answer-was-secret")
    secret = first.json()["totp_secret"]
    (row,) = await world.sql("SELECT pending_totp_sealed FROM credentials WHERE user_id = :id", id=ada.user_id)
    assert secret.encode() not in row[0]
    assert secret not in json.dumps(await world.recorded())


async def test_the_authenticator_is_removed_where_a_passkey_stays(world: World) -> None:
    ada = await present(await join(world))
    alone = await world.delete("/users/me/totp", ada.actor())
    assert (alone.status_code, reason(alone)) == (409, "a-factor-stays")
    assert (await register(ada, Authenticator())).status_code == 201
    assert (await world.delete("/users/me/totp", ada.actor())).status_code == 204
    assert (await world.get("/users/me/factors", ada.actor())).json()["totp"] is None
    assert (await world.delete("/users/me/totp", ada.actor())).status_code == 404
    assert (await ada.sign_in()).status_code == 401


async def test_of_two_removals_at_once_one_factor_stays(world: World) -> None:
    ada = await present(await join(world))
    passkey_id = (await register(ada, Authenticator())).json()["passkey_id"]
    answers = await asyncio.gather(
        world.delete("/users/me/totp", ada.actor()), world.delete(f"/users/me/passkeys/{passkey_id}", ada.actor())
    )
    assert sorted(answer.status_code for answer in answers) == [204, 409]


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/users/me/totp"), ("POST", "/users/me/totp/confirmation"), ("DELETE", "/users/me/totp")]
)
async def test_changing_the_authenticator_needs_a_fresh_factor(world: World, method: str, path: str) -> None:
    answer = await world.request(method, path, person(factor_fresh=False), json={"code": "000000"})
    assert (answer.status_code, reason(answer)) == (401, "factor-too-old")


async def test_a_code_counts_once_at_a_sign_in_and_a_step_up_together(world: World) -> None:
    ada = await join(world)
    session = (await ada.sign_in()).json()["session_id"]
    code = await ada.new_code()
    actor = ada.actor(session_id=session)
    answers = await asyncio.gather(world.post("/sessions/current/factor", actor, json={"code": code}), sign_in(ada, code=code))
    assert sorted(answer.status_code for answer in answers) in ([200, 401], [201, 401])
    assert (await world.post("/sessions/current/factor", actor, json={"code": code})).status_code == 401


async def test_a_step_once_used_stays_used_after_a_newer_one(world: World) -> None:
    ada = await join(world)
    step = int(time.time()) // domain.factors.STEP_S
    await world.sql("UPDATE credentials SET last_step = :step", step=step - 2)
    assert (await sign_in(ada, code=ada.totp.at(step * domain.factors.STEP_S))).status_code == 201
    assert (await sign_in(ada, code=ada.totp.at((step - 1) * domain.factors.STEP_S))).status_code == 401


async def test_a_change_is_told_by_letter_and_ends_no_session(world: World, mailed: World) -> None:
    ada = await present(await join(world))
    await ada.sign_in()
    await world.said()
    ada.world = mailed
    new = pyotp.TOTP((await mailed.post("/users/me/totp", ada.actor())).json()["totp_secret"])
    assert await letters(mailed) == []
    await mailed.post("/users/me/totp/confirmation", ada.actor(), json={"code": new.now()})
    (letter,) = await letters(mailed)
    assert (letter["address"], "an authenticator was set up" in letter["text"]) == ("ada@example.org", True)
    assert new.secret not in letter["text"]
    assert await world.said() == []


async def test_a_person_whose_groups_ask_for_a_passkey_keeps_one(world: World) -> None:
    ada = await present(await join(world))
    passkey_id = (await register(ada, Authenticator())).json()["passkey_id"]
    await under(ada, "passkey")
    answer = await world.delete(f"/users/me/passkeys/{passkey_id}", ada.actor())
    assert (answer.status_code, reason(answer)) == (409, "a-factor-stays")
    assert (await world.delete("/users/me/totp", ada.actor())).status_code == 204
