"""Second factors through the gateways: a passkey as the only factor, and a step-up that counts at both."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.auth.passkeys import Authenticator
from tests.e2e.scene import Scene, Somebody, until
from tests.e2e.test_identity import Door, done


@pytest.fixture
def doors(doubled: Scene) -> Iterator[list[Door]]:
    with ExitStack() as held:
        yield [Door(address, doubled, held) for address in doubled.suite.addresses]


def register(door: Door, token: str, authenticator: Authenticator) -> dict[str, Any]:
    asked = door.http.post("/users/me/passkeys/options", json={}, headers={"Authorization": f"Bearer {token}"}).json()
    made = door.post(
        "/users/me/passkeys", token=token, challenge=asked["challenge"], credential=authenticator.make(asked["options"]), name="k"
    )
    assert made.status_code == 201, made.text
    return dict(made.json())


def answer(door: Door, authenticator: Authenticator) -> dict[str, Any]:
    asked = door.http.post("/passkey-challenges", json={}).json()
    return {"challenge": asked["challenge"], "credential": authenticator.show(asked["options"])}


def without_a_factor(scene: Scene, door: Door, person: Somebody) -> tuple[str, list[str]]:
    """Put somebody into a group that asks for no second factor and take theirs away; a session opened by the password alone, and codes."""
    token = person.token
    codes = door.post("/users/me/recovery-codes", token=token).json()["codes"]
    administrator = scene.administrator.at(0)
    group = administrator.groups.create(f"optional-{person.username}", factor_policy="optional")
    administrator.groups.add(group["group_id"], person.user_id)
    assert done(door.http.delete("/users/me/totp", headers={"Authorization": f"Bearer {token}"}), 204)
    opened = door.post("/sessions", username=person.username, password=person.password)
    assert done(opened, 201), opened.text
    return str(opened.json()["access_token"]), codes


def test_a_passkey_from_one_gateway_signs_in_alone_at_the_other_and_its_answer_counts_once(doubled: Scene, doors: list[Door]) -> None:
    person = doubled.invite()
    authenticator = Authenticator(origin=doubled.suite.origins[0])
    register(doors[0], person.token, authenticator)
    shown = answer(doors[0], authenticator)
    opened = doors[1].post("/sessions", passkey=shown)
    assert done(opened, 201), opened.text
    assert opened.json()["user"]["username"] == person.username
    for door in doors:
        assert door.get("/users/me", opened.json()["access_token"]).status_code == 200
        replayed = door.post("/sessions", passkey=shown)
        assert (replayed.status_code, replayed.headers["hortus-reason"]) == (401, "sign-in-refused")


def test_a_step_up_is_in_force_when_it_is_answered_and_soon_at_the_other_gateway(doubled: Scene, doors: list[Door]) -> None:
    token, codes = without_a_factor(doubled, doors[0], doubled.invite())
    for door in doors:
        refused = door.post("/users/me/recovery-codes", token=token)
        assert (refused.status_code, refused.headers["hortus-reason"]) == (401, "factor-too-old")
        assert 'error="insufficient_user_authentication"' in refused.headers["www-authenticate"]
    stepped = doors[0].post("/sessions/current/factor", token=token, recovery_code=codes[0])
    assert stepped.status_code == 200, stepped.text
    assert doors[0].http.post("/users/me/passkeys/options", json={}, headers={"Authorization": f"Bearer {token}"}).status_code == 200

    def also_there() -> bool:
        return doors[1].http.post("/users/me/passkeys/options", json={}, headers={"Authorization": f"Bearer {token}"}).status_code == 200

    until(also_there, "the second factor is fresh at the other gateway", 1.0)


def test_a_reset_by_an_administrator_ends_the_sessions_at_both_gateways(doubled: Scene, doors: list[Door]) -> None:
    person = doubled.invite()
    token = person.token
    reset = doors[0].post(f"/users/{person.user_id}/factor-reset", token=doubled.administrator.token)
    assert done(reset, 201), reset.text
    for door in doors:
        until(lambda door=door: door.get("/users/me", token).status_code == 401, "the session is over at both gateways", 1.0)  # type: ignore[misc]
    link = reset.json()["link_token"]
    assert doors[1].http.post("/factor-enrolments/acceptance", json={"token": link}).status_code == 422
    assert doors[1].http.post("/factor-enrolments/acceptance", json={"token": link, "password": person.password}).status_code == 200
