"""The doors of audit on a real database."""

import base64
import json
from typing import Any

import pytest

from contracts.roles import NOBODY, Actor
from hortus.client.audit import check_records
from tests.audit.conftest import ADA, chained, record
from tests.world import OURS, World, administrator, agent, auditor, owner, person, reason

RECORDS = "/audit/records"
CHAINS = "/audit/chains"
AUDITOR = auditor()


async def listed(world: World, query: str = "") -> list[dict[str, Any]]:
    answer = await world.get(f"{RECORDS}?{query}", AUDITOR)
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


async def paged(world: World, query: str, limit: int) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    after = ""
    while True:
        body = (await world.get(f"{RECORDS}?{query}&limit={limit}{after}", AUDITOR)).json()
        items += body["items"]
        if body["next"] is None:
            return items
        after = f"&after={body['next']}"


def numbers(items: list[dict[str, Any]]) -> list[tuple[str, int]]:
    return [(item["source"], item["number"]) for item in items]


async def test_an_auditor_reads_records_with_what_it_takes_to_check_them(world: World) -> None:
    values = [record(1, project_id=str(OURS), bytes_out=5), record(2)]
    await world.hear_raw("audit.auth", *values)
    items = await listed(world)
    assert [base64.b64decode(item["canonical"]) for item in items] == values
    assert [(item["leaf_hash"], item["chain_hash"]) for item in items] == chained(values)
    first = items[0]
    assert (first["actor"]["username"], first["action"], first["outcome"], first["bytes_out"]) == (
        "ada00000",
        "session.create",
        "allowed",
        5,
    )


async def test_the_address_of_a_stranger_is_shown_and_records_of_before_and_of_members_have_none(world: World) -> None:
    stranger = record(2, "gateway-1", actor={"principal": "nobody"}, action="session.create", outcome="refused", address="2001:db8::7")
    await world.hear_raw("audit.gateway-1", record(1, "gateway-1"), stranger, base="audit.gateway")
    items: list[Any] = await listed(world, "source=gateway-1")
    assert [item["address"] for item in items] == [None, "2001:db8::7"]
    assert [base64.b64decode(item["canonical"]) for item in items] == [record(1, "gateway-1"), stranger]
    assert check_records("gateway-1", items).holds
    items[1]["address"] = "2001:db8::8"
    assert not check_records("gateway-1", items).holds


async def test_the_clients_own_check_accepts_the_ledger_and_finds_what_was_changed(world: World) -> None:
    await world.hear_raw("audit.auth", *[record(number) for number in range(1, 8)])
    [chain] = (await world.get(CHAINS, AUDITOR)).json()["items"]
    items: list[Any] = await paged(world, "source=auth", 3)
    assert check_records("auth", items, chain).holds
    items[3]["canonical"] = base64.b64encode(record(4, reason="changed")).decode()
    assert not check_records("auth", items, chain).holds
    assert not check_records("auth", items[:-1], chain).holds


async def test_what_waits_behind_a_gap_is_listed_without_a_chain_hash(world: World) -> None:
    await world.hear_raw("audit.auth", record(1), record(3))
    items = await listed(world)
    assert [item["chain_hash"] is None for item in items] == [False, True]


async def test_one_source_is_listed_in_the_order_of_its_numbers_whatever_its_clock_said(world: World) -> None:
    await world.hear_raw("audit.auth", record(1, at="2026-06-01T12:00:09Z"), record(2, at="2026-06-01T12:00:01Z"), record(3))
    assert numbers(await paged(world, "source=auth", 1)) == [("auth", 1), ("auth", 2), ("auth", 3)]
    assert numbers(await paged(world, "", 1)) == [("auth", 2), ("auth", 3), ("auth", 1)]


async def test_all_sources_are_listed_by_time_page_by_page(world: World) -> None:
    await world.hear_raw("audit.auth", *[record(number) for number in range(1, 6)])
    await world.hear_raw("audit.projects", *[record(number, "projects") for number in range(1, 6)])
    expected = [(source, number) for number in range(1, 6) for source in ("auth", "projects")]
    for limit in (1, 3, 10, 200):
        assert numbers(await paged(world, "", limit)) == expected


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("source=projects", [2]),
        ("actor=bob00000", [3]),
        (f"actor={ADA}", [1, 4]),
        ("actor=ada00000", [1, 4]),
        ("actor=ca", [2]),
        ("action=file.download", [4]),
        ("outcome=refused", [3]),
        (f"project_id={OURS}", [3, 4]),
        (f"project_id={OURS}&outcome=allowed", [4]),
        (f"source=auth&actor={ADA}&project_id={OURS}", [4]),
        ("source=nobody", []),
        ("actor=%25", []),
    ],
)
async def test_records_are_filtered(world: World, query: str, found: list[int]) -> None:
    service: dict[str, str] = {"principal": "service", "service": "ca"}
    bob = {"principal": "person", "user_id": "u-bob", "username": "bob00000"}
    await world.hear_raw("audit.projects", record(1, "projects"), record(2, "projects", actor=service))
    await world.hear_raw("audit.auth", record(1), record(2), record(3, actor=bob, outcome="refused", project_id=str(OURS)))
    await world.hear_raw("audit.auth", record(4, action="file.download", project_id=str(OURS)))
    everything = {("projects", 2): 2, ("auth", 1): 1, ("auth", 3): 3, ("auth", 4): 4}
    items = [everything.get(place, 0) for place in numbers(await listed(world, query))]
    assert sorted(set(items) - {0}) == found


async def test_chains_say_how_far_they_go_and_what_is_missing(world: World) -> None:
    assert (await world.get(CHAINS, AUDITOR)).json() == {"items": [], "next": None}
    await world.hear_raw("audit.auth", record(1), record(2), record(4))
    await world.hear_raw("audit.projects", record(1, "projects"))
    first = (await world.get(CHAINS + "?limit=1", AUDITOR)).json()
    rest = (await world.get(f"{CHAINS}?limit=1&after={first['next']}", AUDITOR)).json()
    assert rest["next"] is None
    auth, projects = first["items"] + rest["items"]
    head = chained([record(1), record(2)])[-1][1]
    gaps = auth.pop("gaps")
    assert auth == {"source": "auth", "first": 1, "last": 2, "count": 2, "head": head, "waiting": 1}
    assert [(gap["first"], gap["last"]) for gap in gaps] == [(3, 3)]
    assert gaps[0]["since"]
    assert (projects["source"], projects["last"], projects["gaps"]) == ("projects", 1, [])


@pytest.mark.parametrize("path", [RECORDS, CHAINS])
@pytest.mark.parametrize(("actor", "status"), [(NOBODY, 401), (person(), 403), (administrator(), 403), (owner(OURS), 403), (agent(), 403)])
async def test_only_auditors_read_the_ledger(world: World, path: str, actor: Actor, status: int) -> None:
    await world.hear_raw("audit.auth", record(1))
    answer = await world.get(path, actor)
    assert answer.status_code == status
    assert "ada00000" not in answer.text


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=201",
        "limit=x",
        "outcome=maybe",
        "project_id=x",
        "source=",
        f"actor={'x' * 300}",
        "action=%00",
    ],
)
async def test_a_filter_that_makes_no_sense_is_refused(world: World, query: str) -> None:
    answer = await world.get(f"{RECORDS}?{query}", AUDITOR)
    assert answer.status_code == 422
    assert reason(answer) == "unprocessable"


@pytest.mark.parametrize(
    "query", ["after=x", "after=WzFd", "source=auth&after=WyJhIl0", "source=auth&after=Wy0xXQ", "source=auth&after=WzFlNDAwXQ"]
)
async def test_a_cursor_of_another_list_is_refused(world: World, query: str) -> None:
    answer = await world.get(f"{RECORDS}?{query}", AUDITOR)
    assert (answer.status_code, reason(answer)) == (422, "invalid-cursor")


@pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
async def test_no_door_writes(world: World, method: str) -> None:
    answer = await getattr(world, method)(RECORDS, AUDITOR)
    assert answer.status_code == 405


async def test_reading_says_and_records_nothing_here(world: World) -> None:
    """The gateway records who read the ledger; a read is no write."""
    await listed(world)
    await world.get(CHAINS, AUDITOR)
    assert await world.said() == []
    assert await world.recorded() == []


async def test_an_unknown_field_of_a_record_stays_in_its_bytes(world: World) -> None:
    value = record(1, later="more")
    await world.hear_raw("audit.auth", value)
    [item] = await listed(world)
    assert json.loads(base64.b64decode(item["canonical"]))["later"] == "more"
