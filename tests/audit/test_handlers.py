"""What audit does with what it hears, on a real database, as the role that serves."""

import asyncio
import random
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import DBAPIError

from services.audit.app import watch_gaps
from services.audit.models import Table
from services.audit.service import ANOMALIES, GAPS, OPEN_GAPS, UNREADABLE
from tests.audit.conftest import chained, record
from tests.world import World, Worlds, auditor

TOPIC = "audit.auth"
KEPT = ("sources", "records", "links", "gaps", "anomalies", "unreadable")


async def told(world: World, *numbers: int) -> None:
    assert await world.hear_raw(TOPIC, *[record(number) for number in numbers]) == len(numbers)


async def links(world: World, source: str = "auth") -> list[tuple[int, str, str]]:
    rows = await world.sql(
        """SELECT l.number, encode(r.leaf, 'hex') AS leaf, encode(l.chain, 'hex') AS chain
           FROM links l JOIN records r USING (source, number) WHERE source = :source ORDER BY number""",
        source=source,
    )
    return [(row.number, row.leaf, row.chain) for row in rows]


def expected(*numbers: int) -> list[tuple[int, str, str]]:
    hashes = chained(record(number) for number in numbers)
    return [(number, leaf, chain) for number, (leaf, chain) in zip(numbers, hashes, strict=True)]


async def chain(world: World, source: str = "auth") -> dict[str, Any]:
    answer = await world.get("/audit/chains", auditor())
    found: list[dict[str, Any]] = [each for each in answer.json()["items"] if each["source"] == source]
    return found[0]


def shown(state: dict[str, Any]) -> list[tuple[int, int]]:
    return [(gap["first"], gap["last"]) for gap in state["gaps"]]


async def test_records_are_kept_as_received_and_chained(world: World) -> None:
    await told(world, 1, 2, 3)
    assert [row[0] for row in await world.sql("SELECT canonical FROM records ORDER BY number")] == [record(1), record(2), record(3)]
    assert await links(world) == expected(1, 2, 3)


async def test_hearing_says_nothing_and_records_nothing(world: World) -> None:
    """A record about each record would never end."""
    await told(world, 1, 2)
    assert await world.said() == []
    assert await world.recorded() == []


async def test_what_is_heard_again_changes_nothing(world: World) -> None:
    await told(world, 1, 2, 3)
    before = [await world.sql(f"SELECT * FROM {table}") for table in KEPT]
    await told(world, 1, 2, 3)
    await told(world, 2)
    assert [await world.sql(f"SELECT * FROM {table}") for table in KEPT] == before


async def test_a_missing_number_is_an_alarm_and_what_follows_waits(world: World) -> None:
    counted = GAPS.labels("auth")._value.get()
    await told(world, 1, 2, 4, 5)
    assert await links(world) == expected(1, 2)
    state = await chain(world)
    assert (state["last"], state["count"], state["waiting"]) == (2, 2, 2)
    assert shown(state) == [(3, 3)]
    assert GAPS.labels("auth")._value.get() == counted + 1
    [row] = await world.sql("SELECT first, last FROM gaps")
    assert tuple(row) == (3, 3)


async def test_a_gap_is_filled_when_its_numbers_come_and_stays_on_record(world: World) -> None:
    await told(world, 1, 5)
    await told(world, 3)
    assert shown(await chain(world)) == [(2, 2), (4, 4)]
    await told(world, 2)
    assert await links(world) == expected(1, 2, 3)
    await told(world, 4)
    assert await links(world) == expected(1, 2, 3, 4, 5)
    state = await chain(world)
    assert (state["gaps"], state["waiting"], state["head"]) == ([], 0, expected(1, 2, 3, 4, 5)[-1][2])
    [row] = await world.sql("SELECT first, last FROM gaps")
    assert tuple(row) == (2, 4)


async def test_numbers_that_come_in_another_order_within_a_batch_are_no_gap(world: World) -> None:
    await told(world, 3, 1, 2)
    assert await links(world) == expected(1, 2, 3)
    assert await world.sql("SELECT 1 FROM gaps") == []


async def test_a_source_whose_beginning_is_missing_is_not_chained(world: World) -> None:
    await told(world, 7, 8)
    state = await chain(world)
    assert (state["first"], state["last"], state["count"], state["head"], state["waiting"]) == (0, 0, 0, "0" * 64, 2)
    assert shown(state) == [(1, 6)]


async def test_the_same_number_with_other_bytes_is_an_anomaly_and_the_first_one_stays(world: World) -> None:
    counted = ANOMALIES.labels("auth", "number twice")._value.get()
    await told(world, 1)
    forged = record(1, reason="nothing happened")
    assert await world.hear_raw(TOPIC, forged, record(2)) == 2
    [row] = await world.sql("SELECT kind, source, number, value FROM anomalies")
    assert tuple(row) == ("number twice", "auth", 1, forged)
    assert await links(world) == expected(1, 2)
    assert ANOMALIES.labels("auth", "number twice")._value.get() == counted + 1


async def test_a_record_of_another_source_does_not_enter_its_chain(world: World) -> None:
    foreign = record(1, "projects")
    assert await world.hear_raw(TOPIC, foreign, record(1)) == 2
    [row] = await world.sql("SELECT topic, kind, source, value FROM anomalies")
    assert tuple(row) == (TOPIC, "other source", "projects", foreign)
    assert [row[0] for row in await world.sql("SELECT source FROM records")] == ["auth"]


async def test_gateways_have_chains_of_their_own(world: World) -> None:
    for instance in ("gateway-1", "gateway-2"):
        value = record(1, instance)
        assert await world.hear_raw(f"audit.{instance}", value, base="audit.gateway") == 1
        [(_, leaf, link)] = await links(world, instance)
        assert [(leaf, link)] == chained([value])
    assert await world.hear_raw("audit.gateway-1", record(2, "gateway-2"), base="audit.gateway") == 1
    assert len(await world.sql("SELECT 1 FROM anomalies")) == 1


@pytest.mark.parametrize(
    "value", [b"", b"hello", b"\0\xff", record(1)[:-1], record(1, outcome="maybe"), record(1, at="2026-01-01T00:00:00")]
)
async def test_what_is_no_record_is_stored_raw_and_stops_nothing(world: World, value: bytes) -> None:
    counted = UNREADABLE.labels("auth")._value.get()
    assert await world.hear_raw(TOPIC, record(1), value, record(2)) == 3
    [row] = await world.sql("SELECT topic, kafka_partition, value, reason FROM unreadable")
    assert tuple(row)[:3] == (TOPIC, 0, value)
    assert row.reason
    assert await links(world) == expected(1, 2)
    assert UNREADABLE.labels("auth")._value.get() == counted + 1


async def test_a_record_that_can_be_read_in_two_ways_is_stored_raw_and_takes_no_number(world: World) -> None:
    forged = record(1).replace(b'"outcome":"allowed"', b'"outcome":"refused","outcome":"allowed"')
    assert await world.hear_raw(TOPIC, forged, record(1)) == 2
    [row] = await world.sql("SELECT value, reason FROM unreadable")
    assert tuple(row) == (forged, "not canonical")
    assert await links(world) == expected(1)
    assert await world.sql("SELECT 1 FROM anomalies") == []


@pytest.mark.parametrize("number", [0, -5, 2**63, 10**40])
async def test_a_number_out_of_range_is_an_anomaly(world: World, number: int) -> None:
    assert await world.hear_raw(TOPIC, record(number), record(1)) == 2
    [row] = await world.sql("SELECT kind FROM anomalies")
    assert row.kind == "no number"
    assert await links(world) == expected(1)


async def test_a_number_far_away_is_one_gap(world: World) -> None:
    await told(world, 1)
    await told(world, 2**63 - 1)
    assert shown(await chain(world)) == [(2, 2**63 - 2)]


async def test_texts_that_the_database_cannot_hold_are_kept_in_the_bytes(world: World) -> None:
    value = record(1, action="a\0b", actor={"username": "x\0", "user_id": "\0"})
    assert b"\\u0000" in value
    assert await world.hear_raw(TOPIC, value) == 1
    [row] = await world.sql("SELECT canonical, action FROM records")
    assert tuple(row) == (value, "a\N{REPLACEMENT CHARACTER}b")


async def test_more_waiting_records_than_are_linked_at_once_are_all_linked(world: World) -> None:
    numbers = list(range(1, 2302))
    for start in range(1, 2301, 200):
        await told(world, *numbers[start : start + 200])
    assert await links(world) == []
    await told(world, 1)
    assert await links(world) == expected(*numbers)


_sources = iter(range(1, 10**9))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 30), st.lists(st.integers(0, 29), max_size=15), st.randoms(use_true_random=False), st.integers(1, 6))
async def test_whatever_is_late_or_repeated_the_chain_is_the_same(
    world: World, count: int, repeats: list[int], chance: random.Random, most: int
) -> None:
    source = f"gateway-{next(_sources)}"
    values = [record(number, source) for number in range(1, count + 1)]
    order = values + [values[index % count] for index in repeats]
    chance.shuffle(order)
    heard: set[bytes] = set()
    while order:
        size = chance.randint(1, most)
        batch, order = order[:size], order[size:]
        assert await world.hear_raw(f"audit.{source}", *batch, base="audit.gateway") == len(batch)
        heard |= set(batch)
        contiguous = next((number for number, value in enumerate(values) if value not in heard), count)
        assert (await chain(world, source))["last"] == contiguous
    assert [(leaf, link) for _, leaf, link in await links(world, source)] == chained(values)
    state = await chain(world, source)
    assert (state["last"], state["waiting"], state["gaps"]) == (count, 0, [])
    assert await world.sql("SELECT 1 FROM anomalies") == []


async def test_two_replicas_that_hear_the_same_batch_make_one_chain(worlds: Worlds) -> None:
    import asyncio  # noqa: PLC0415 - the only test that needs it

    one = await worlds.open("audit")
    other = await worlds.open("audit", beside=one)
    numbers = list(range(1, 61))
    batches = [[record(number) for number in numbers[start : start + 10]] for start in range(0, 60, 10)]
    await asyncio.gather(*[world.hear_raw(TOPIC, *batch) for batch in batches for world in (one, other)])
    assert await links(one) == expected(*numbers)
    assert await one.sql("SELECT 1 FROM anomalies") == []


def test_every_table_of_the_ledger_is_append_only() -> None:
    assert {table.name for table in Table.metadata.tables.values() if table.info.get("append_only")} == set(KEPT)


@pytest.mark.parametrize(
    "statement", ["UPDATE {} SET {} = 'x'", "DELETE FROM {}", "TRUNCATE {}", "DROP TABLE {}", "ALTER TABLE {} ADD x int"]
)
async def test_the_serving_role_cannot_change_what_is_in_the_ledger(world: World, statement: str) -> None:
    await told(world, 1, 3)
    for table in KEPT:
        with pytest.raises(DBAPIError) as refused:
            await world.sql(statement.format(table, "topic" if table == "unreadable" else "source"))
        assert isinstance(refused.value.orig.__cause__ if refused.value.orig else None, asyncpg.InsufficientPrivilegeError)
    assert await links(world) == expected(1)


async def test_the_serving_role_may_clear_its_queues_away_and_no_other_table(world: World) -> None:
    found = await world.sql("""SELECT relname FROM pg_class
        WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND has_table_privilege(oid, 'MAINTAIN') ORDER BY relname""")
    assert [row[0] for row in found] == ["audit_outbox", "outbox"]


async def test_the_database_does_not_take_a_leaf_that_is_not_of_the_bytes(world: World) -> None:
    await told(world, 1)
    with pytest.raises(DBAPIError, match="check"):
        await world.sql(
            """INSERT INTO records SELECT source, 2, at, actor, username, action, outcome, project_id, canonical || 'x', leaf,
               kafka_offset, received_at FROM records"""
        )


async def test_open_gaps_are_shown_in_the_metrics(world: World) -> None:
    await told(world, 1, 3, 5)
    async with world.running(watch_gaps), asyncio.timeout(15):
        while OPEN_GAPS.labels("auth")._value.get() != 2:
            await asyncio.sleep(0.01)
    metrics = (await world.client.get("/metrics")).text
    assert 'hortus_audit_open_gaps{source="auth"} 2.0' in metrics
    assert 'hortus_audit_waiting_records{source="auth"} 2.0' in metrics
