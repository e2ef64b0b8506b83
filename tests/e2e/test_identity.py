"""Signing in, staying signed in and being refused, with two gateways and two replicas of auth."""

import secrets
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest

from contracts.policy import API
from tests.e2e.scene import Scene, Somebody, until, works

REFRESH = "__Host-hortus-refresh"
DEVICE = "__Host-hortus-device"
FREE_FAILURES = 5


class Door:
    """A gateway as a program sees it that keeps its cookies by hand."""

    def __init__(self, address: str, scene: Scene, held: ExitStack) -> None:
        context = ssl.create_default_context(cafile=str(scene.suite.root))
        self.http = held.enter_context(httpx2.Client(base_url=address + API, verify=context, timeout=30, trust_env=False))

    def post(self, path: str, cookies: dict[str, str] | None = None, token: str = "", **body: Any) -> httpx2.Response:
        headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in (cookies or {}).items())} if cookies else {}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        return self.http.post(path, json=body or None, headers=headers)

    def get(self, path: str, token: str = "") -> httpx2.Response:
        return self.http.get(path, headers={"Authorization": f"Bearer {token}"} if token else {})


def cookie(answer: httpx2.Response, name: str) -> str:
    (found,) = [line for line in answer.headers.get_list("set-cookie") if line.startswith(f"{name}=")]
    assert {"secure", "httponly", "path=/", "samesite=strict"} <= {part.strip().lower() for part in found.split(";")}
    return str(found.split(";")[0].partition("=")[2])


@pytest.fixture
def doors(doubled: Scene) -> Iterator[list[Door]]:
    with ExitStack() as held:
        yield [Door(address, doubled, held) for address in doubled.suite.addresses]


def done(answer: httpx2.Response, status: int) -> bool:
    """Whether it was done; 202 says so where this gateway has not heard of it yet."""
    return answer.status_code in {status, 202}


def signs_in(person: Somebody, door: Door, cookies: dict[str, str] | None = None) -> httpx2.Response:
    answer = door.post("/sessions", cookies, username=person.username, password=person.password, code=person.code())
    assert done(answer, 201), answer.text
    return answer


def test_a_sign_in_at_one_gateway_is_renewed_and_used_at_the_other(doubled: Scene, doors: list[Door]) -> None:
    first = signs_in(doubled.invite(), doors[0])
    second = doors[1].post("/sessions/refresh", {REFRESH: cookie(first, REFRESH)})
    assert done(second, 200), second.text
    assert second.json()["session_id"] == first.json()["session_id"]
    assert cookie(second, REFRESH) != cookie(first, REFRESH)
    for door in doors:
        for answer in (first, second):
            assert door.get("/users/me", answer.json()["access_token"]).status_code == 200


def test_two_tabs_and_a_lost_answer_get_the_same_successor(doubled: Scene, doors: list[Door]) -> None:
    old = cookie(signs_in(doubled.invite(), doors[0]), REFRESH)
    answers = [door.post("/sessions/refresh", {REFRESH: old}) for door in doors]
    assert all(done(answer, 200) for answer in answers)
    assert len({cookie(answer, REFRESH) for answer in answers}) == 1


def test_a_refresh_token_that_comes_back_late_ends_the_sign_in_at_both_gateways(doubled: Scene, doors: list[Door]) -> None:
    first = signs_in(doubled.invite(), doors[0])
    stolen = cookie(first, REFRESH)
    second = doors[0].post("/sessions/refresh", {REFRESH: stolen})
    third = doors[1].post("/sessions/refresh", {REFRESH: cookie(second, REFRESH)})
    assert done(third, 200)
    thief = doors[1].post("/sessions/refresh", {REFRESH: stolen})
    assert (thief.status_code, thief.headers["hortus-reason"]) == (401, "refresh-token-reused")
    token = third.json()["access_token"]
    for door in doors:
        until(lambda door=door: door.get("/users/me", token).status_code == 401, "the session is over at both gateways", 1.0)  # type: ignore[misc]
    owner = doors[0].post("/sessions/refresh", {REFRESH: cookie(third, REFRESH)})
    assert (owner.status_code, owner.headers["hortus-reason"]) == (401, "session-ended")


def test_a_session_that_nobody_uses_ends_at_both_gateways_and_one_in_use_goes_on(doubled: Scene, doors: list[Door]) -> None:
    person = doubled.invite()
    used, unused = (signs_in(person, door) for door in doors)
    sessions = {answer.json()["session_id"]: answer.json()["access_token"] for answer in (used, unused)}
    idle = int(doubled.suite.settings["HORTUS_IDLE_S"])
    names = ", ".join(f"'{session_id}'" for session_id in sessions)
    nearly = f"UPDATE sessions SET last_used_at = now() - interval '{idle - 5} seconds' WHERE session_id IN ({names});"
    doubled.suite.postgres.run_sql(nearly, "auth")
    first, second = sessions.values()

    def unused_is_refused() -> bool:
        assert 401 not in [door.get("/users/me", first).status_code for door in doors]
        ended = f"SELECT ended_because FROM sessions WHERE session_id = '{unused.json()['session_id']}';"
        return doubled.suite.postgres.run_sql(ended, "auth").strip() == "idle"

    until(unused_is_refused, "the session that nobody uses has ended", 60)
    for door in doors:
        until(lambda door=door: door.get("/users/me", second).status_code == 401, "its access token is refused", 1.0)  # type: ignore[misc]
        refused = door.post("/sessions/refresh", {REFRESH: cookie(unused, REFRESH)})
        assert (refused.status_code, refused.headers["hortus-reason"]) == (401, "session-ended")
        until(lambda door=door: door.get("/users/me", first).status_code == 200, "the session in use goes on", 5.0)  # type: ignore[misc]


def test_a_guessed_refresh_token_ends_nothing(doubled: Scene, doors: list[Door]) -> None:
    signed_in = signs_in(doubled.invite(), doors[0])
    real = cookie(signed_in, REFRESH)
    guessed = real[:-4] + ("AAAA" if not real.endswith("AAAA") else "BBBB")
    answer = doors[1].post("/sessions/refresh", {REFRESH: guessed})
    assert (answer.status_code, answer.headers["hortus-reason"]) == (401, "refresh-token-invalid")
    assert done(doors[0].post("/sessions/refresh", {REFRESH: real}), 200)


def test_an_api_key_counts_at_both_gateways_for_its_scopes_until_it_is_ended(doubled: Scene) -> None:
    person = doubled.invite()
    ends = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    key = person.at(0).keys.create("night run", scopes=("project.list",), expires_at=ends)
    clients = [person.fresh(gateway, token=key["secret"]) for gateway in (0, 1)]
    for client in clients:
        assert list(client.projects.list()) == []
        assert not works(lambda client=client: client.projects.create(f"study_{secrets.token_hex(6)}"))  # type: ignore[misc]
        assert not works(lambda client=client: client.users.me())  # type: ignore[misc]
    person.at(1).keys.end(key["key_id"])
    for client in clients:
        until(lambda client=client: not works(lambda: list(client.projects.list())), "the key is refused at both gateways", 1.0)  # type: ignore[misc]


def test_wrong_passwords_slow_down_whoever_types_them_at_any_replica_and_not_the_owner(doubled: Scene, doors: list[Door]) -> None:
    person = doubled.invite()
    device = {DEVICE: cookie(signs_in(person, doors[0]), DEVICE)}
    statuses = []
    for attempt in range(3 * FREE_FAILURES):  # on a slow machine the first waits, of 1 and 2 s, are over before the next try
        wrong = doors[attempt % 2].post("/sessions", username=person.username, password="not the password", code="000000")
        statuses.append(wrong.status_code)
    assert statuses[:FREE_FAILURES] == [401] * FREE_FAILURES
    assert 429 in statuses[FREE_FAILURES:]
    signs_in(person, doors[1], device)


def test_a_new_signing_key_is_published_at_both_gateways_and_old_tokens_go_on(doubled: Scene, doors: list[Door]) -> None:
    before = {key["kid"] for key in doors[0].get("/jwks.json").json()["keys"]}
    made = doubled.administrator.at(0).wire.call("POST", "/signing-keys")
    for door in doors:
        until(
            lambda door=door: {key["kid"] for key in door.get("/jwks.json").json()["keys"]} == before | {made["signing_key_id"]},  # type: ignore[misc]
            "both gateways publish the new key beside the old one",
            1.0,
        )
        assert door.get("/users/me", doubled.owner.token).status_code == 200
    signs_in(doubled.invite(), doors[1])


def test_a_request_that_another_site_made_a_browser_send_is_refused(doubled: Scene, doors: list[Door]) -> None:
    signed_in = signs_in(doubled.invite(), doors[0])
    headers = {"Origin": "https://evil.example", "Cookie": f"{REFRESH}={cookie(signed_in, REFRESH)}"}
    answer = doors[0].http.post("/sessions/refresh", headers=headers)
    assert (answer.status_code, answer.headers["hortus-reason"]) == (403, "foreign-origin")
    ours = doors[0].http.post("/sessions/refresh", headers={**headers, "Origin": doubled.suite.address})
    assert done(ours, 200)
