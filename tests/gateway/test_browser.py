"""Browsers at the gateway: which cookies pass, whose pages may ask for a change, and what auth learns of where a request came from."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from contracts.policy import API, POLICY, Action
from tests.gateway.stage import Certificates, Stage, opened, problem, read, say
from tests.gateway.test_transfers import PROJECT

REFRESH = "__Host-hortus-refresh=AbC-_.~0"
DEVICE = "__Host-hortus-device=xyz=="


async def test_only_our_cookies_reach_a_door_that_takes_cookies_and_as_one_header(stage: Stage) -> None:
    client = await stage.client()
    headers = [("Cookie", f"tracker=1; {REFRESH}; __Host-other=2; __host-hortus-device=3"), ("Cookie", f'{DEVICE}; a="b"; hortus')]
    assert (await client.post("/sessions/refresh", headers=headers)).status_code == 200
    assert stage.seen[-1]["headers"]["cookie"] == f"{REFRESH}; {DEVICE}"
    for odd in ("tracker=1", "__Host-hortus-refresh=a b", "__Host-hortus-Refresh=a", "__Host-hortus-=a", "__Host-hortus-refresh", ";;", ""):
        await client.post("/sessions/refresh", headers={"Cookie": odd})
        assert "cookie" not in stage.seen[-1]["headers"], odd
    twice = await client.post("/sessions/refresh", headers={"Cookie": f"{REFRESH}; __Host-hortus-refresh=other"})
    assert (twice.status_code, problem(twice)) == (400, "malformed-request")


async def test_a_door_that_takes_no_cookies_gets_none_and_sets_none(stage: Stage) -> None:
    ada = stage.signs_in()
    stage.joins(ada, PROJECT)

    async def sets(_scope: Any, receive: Any, send: Any) -> None:
        await read(receive)
        await say(send, 200, b"{}", (b"set-cookie", REFRESH.encode()), (b"set-cookie", b"session=1"))

    stage.answer = sets
    client = await stage.client(ada)
    for path in (f"/projects/{PROJECT}", "/users/me", "/sessions"):
        answer = await client.get(path, headers={"Cookie": REFRESH})
        assert "set-cookie" not in answer.headers
        assert "cookie" not in stage.seen[-1]["headers"]


async def test_a_door_that_takes_cookies_sets_ours_and_no_others_also_when_it_refuses(stage: Stage) -> None:
    attributes = "; Path=/; Secure; HttpOnly; SameSite=Strict"
    ours = [f"{REFRESH}{attributes}", f"__Host-hortus-device={attributes}; Max-Age=0"]
    status = 200

    async def sets(_scope: Any, receive: Any, send: Any) -> None:
        await read(receive)
        cookies = [*ours, "session=1", "__Secure-hortus-x=1", "__Host-hortus-X=1", "__Host-hortus-x"]
        await say(send, status, b"{}", *[(b"set-cookie", cookie.encode()) for cookie in cookies])

    stage.answer = sets
    client = await stage.client()
    for status in (200, 401):
        answer = await client.post("/sessions", json={})
        assert (answer.status_code, answer.headers.get_list("set-cookie")) == (status, ours)


@pytest.mark.parametrize("action", [action for action, rule in POLICY.items() if rule.cookies])
def test_cookies_pass_at_doors_of_auth_alone(action: Action) -> None:
    assert POLICY[action].service == "auth"


async def test_a_change_that_a_foreign_page_asks_for_is_refused_at_every_door(stage: Stage) -> None:
    ada = stage.signs_in()
    stage.joins(ada, PROJECT)
    own = stage.people
    client = await stage.client(ada)
    foreign: list[list[tuple[str, str]]] = [
        [("Origin", "https://evil.example")],
        [("Origin", "null")],
        [("Origin", "")],
        [("Origin", own.replace("https", "http"))],
        [("Origin", own.rpartition(":")[0])],
        [("Origin", own + "/")],
        [("Origin", own), ("Origin", "https://evil.example")],
        [("Origin", own), ("Sec-Fetch-Site", "cross-site")],
        [("Sec-Fetch-Site", "cross-site")],
    ]
    doors = [
        ("POST", "/sessions/refresh"),
        ("DELETE", "/sessions"),
        ("PATCH", f"/projects/{PROJECT}"),
        ("PUT", f"/projects/{PROJECT}/datasets/{PROJECT}/files/a"),
    ]
    for said in foreign:
        for method, path in doors:
            answer = await client.request(method, path, headers=said)
            assert (answer.status_code, problem(answer)) == (403, "foreign-origin"), (said, method)
    assert stage.seen == []
    records = await stage.records()
    assert {(record["outcome"], record["reason"]) for record in records} == {("refused", "foreign-origin")}
    assert {record["action"] for record in records} == {"session.refresh", "session.end_all", "project.change", "file.upload"}


async def test_our_own_pages_and_programs_may_ask_for_changes_and_any_page_may_link_here(stage: Stage) -> None:
    client = await stage.client(stage.signs_in())
    for said in ({}, {"Origin": stage.people}, {"Origin": stage.people, "Sec-Fetch-Site": "same-origin"}):
        assert (await client.post("/sessions/refresh", headers=said)).status_code == 200
        assert not {"origin", "sec-fetch-site"} & set(stage.seen[-1]["headers"])
    link = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    answer = await client.get("/projects", headers=link)
    assert answer.status_code == 200
    assert not any(name.startswith("access-control") for name in answer.headers)


async def test_further_origins_are_a_setting_and_the_usual_port_is_not_written(certificates: Certificates, tmp_path: Path) -> None:
    async with opened(certificates, tmp_path, origins=["https://hortus.example:443", "https://[::1]:8443"]) as stage:
        client = await stage.client()
        for origin, status in (("https://hortus.example", 200), ("https://[::1]:8443", 200), (stage.people, 403)):
            assert (await client.post("/sessions/refresh", headers={"Origin": origin})).status_code == status


@pytest.mark.parametrize("origin", ["http://localhost:8443", "https://localhost:8443/", "https://Hortus.example", "null", "*", "https://"])
def test_a_setting_that_no_browser_would_say_is_refused_at_the_start(certificates: Certificates, tmp_path: Path, origin: str) -> None:
    with pytest.raises(ValidationError):
        Stage(certificates, tmp_path, origins=[origin])


async def test_auth_alone_is_told_where_a_request_comes_from_and_nobody_outside_can_say_it(stage: Stage) -> None:
    ada = stage.signs_in()
    stage.joins(ada, PROJECT)
    client = await stage.client(ada)
    forged = {"Hortus-Source": "9.9.9.9", "X-Forwarded-For": "9.9.9.9", "Forwarded": "for=9.9.9.9", "User-Agent": "a browser"}
    await client.get("/users/me", headers=forged)
    assert stage.seen[-1]["headers"]["hortus-source"] == "127.0.0.1"
    assert stage.seen[-1]["headers"]["user-agent"] == "a browser"
    assert not {"x-forwarded-for", "forwarded"} & set(stage.seen[-1]["headers"])
    await client.get(f"/projects/{PROJECT}", headers=forged)
    assert "hortus-source" not in stage.seen[-1]["headers"]


async def test_a_head_with_sources_of_its_own_reaches_auth_with_ours_alone(stage: Stage) -> None:
    told: list[bytes] = []

    async def listens(scope: Any, receive: Any, send: Any) -> None:
        await read(receive)
        told.extend(value for name, value in scope["headers"] if b"source" in name)
        await say(send, 200, b"{}")

    stage.answer = listens
    reader, writer = await stage.raw()
    head = (
        f"POST {API}/sessions/refresh HTTP/1.1\r\nhost: x\r\nhortus-source: 9.9.9.9\r\nHortus_Source: 9.9.9.9\r\nHORTUS-SOURCE: 8.8.8.8\r\n"
    )
    writer.write((head + "connection: close\r\ncontent-length: 0\r\n\r\n").encode())
    assert (await reader.read()).startswith(b"HTTP/1.1 200")
    writer.close()
    assert told == [b"127.0.0.1"]
