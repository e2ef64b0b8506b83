"""The rules of the ledger, without a database."""

import json
import random
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.audit import canonical
from contracts.events import AuditRecord
from services.audit import domain
from services.audit.domain import NotARecord
from services.audit.models import Anomaly, Head, Range
from tests.audit.conftest import ADA, chained, record

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def entry(number: int, source: str = "auth", **changes: Any) -> domain.Entry:
    return domain.read(record(number, source, **changes), number)


def test_the_records_of_these_tests_are_written_as_the_chassis_writes_them() -> None:
    value = record(7, bytes_out=5, project_id=str(ADA))
    assert canonical(AuditRecord.model_validate_json(value)) == value


NO_RECORDS = {
    "nothing": b"",
    "no JSON": b"hello",
    "no UTF-8": b'{"source": "\xff"}',
    "a list": b"[]",
    "null": b"null",
    "half a record": record(1)[:-5],
    "no number": json.dumps({**json.loads(record(1)), "number": "one"}).encode(),
    "a number that is none": record(1).replace(b'"number":1', b'"number":NaN'),
    "a fraction": record(1).replace(b'"number":1', b'"number":1.5'),
    "another outcome": record(1, outcome="maybe"),
    "no time zone": record(1, at="2026-06-01T12:00:00"),
    "a time before time": record(1, at="0001-01-01T00:00:00+14:00"),
    "a half surrogate": record(1).replace(b"session.create", b"\\ud800"),
    "a thousand brackets": b"[" * 1000 + b"]" * 1000,
}


RECORD = record(1, status=200, project_id=str(ADA), resource={"a": "b"}, later={"b": 1.5, "a": None})
OTHERWISE_WRITTEN = {
    "a name twice": RECORD.replace(b'"outcome":"allowed"', b'"outcome":"refused","outcome":"allowed"'),
    "a name twice further in": RECORD.replace(b'{"a":"b"}', b'{"a":"c","a":"b"}'),
    "a new name twice": RECORD.replace(b'"later":', b'"later":{},"later":'),
    "another order": b'{"status":200,' + RECORD[1:].replace(b',"status":200', b""),
    "another order further in": RECORD.replace(b'{"a":null,"b":1.5}', b'{"b":1.5,"a":null}'),
    "a space": RECORD.replace(b'"number":1', b'"number": 1'),
    "a line's end": RECORD + b"\n",
    "a number as text": RECORD.replace(b'"number":1', b'"number":"1"'),
    "a number as a truth": RECORD.replace(b'"number":1', b'"number":true'),
    "a fraction of nothing": RECORD.replace(b'"number":1', b'"number":1.0'),
    "a power": RECORD.replace(b'"status":200', b'"status":2e2'),
    "a status as text": RECORD.replace(b'"status":200', b'"status":"200"'),
    "zeros that say nothing": RECORD.replace(b"1.5", b"1.50"),
    "no number at all": RECORD.replace(b"1.5", b"NaN"),
    "an escaped letter": RECORD.replace(b"allowed", b"\\u0061llowed"),
    "an id in capitals": RECORD.replace(str(ADA).encode(), str(ADA).upper().encode()),
    "another time zone": RECORD.replace(b'Z","later', b'+00:00","later'),
    "nothing": RECORD.replace(b'"status":200', b'"sha256":null'),
}


def test_a_record_that_the_odd_ones_are_made_of_is_one() -> None:
    assert domain.read(RECORD, 0).record.number == 1


@pytest.mark.parametrize("case", OTHERWISE_WRITTEN)
def test_what_can_be_read_in_two_ways_is_no_record(case: str) -> None:
    assert OTHERWISE_WRITTEN[case] != RECORD
    with pytest.raises(NotARecord):
        domain.read(OTHERWISE_WRITTEN[case], 0)


@pytest.mark.parametrize("case", NO_RECORDS)
def test_what_is_no_record_is_told_apart(case: str) -> None:
    with pytest.raises(NotARecord) as refused:
        domain.read(NO_RECORDS[case], 0)
    assert str(refused.value)


@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: record(1, action=text)))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    try:
        read = domain.read(data, 0)
    except NotARecord:
        return
    row = domain.row_of(read, NOW)
    assert row.canonical == data
    assert "\0" not in row.action


def test_a_refusal_does_not_repeat_the_bytes() -> None:
    with pytest.raises(NotARecord) as refused:
        domain.read(record(1, outcome="a secret"), 0)
    assert "secret" not in str(refused.value)


def test_a_field_that_is_not_known_yet_is_kept_in_the_bytes() -> None:
    value = record(1, later="more")
    assert domain.row_of(domain.read(value, 0), NOW).canonical == value


@pytest.mark.parametrize(("topic", "source"), [("audit.auth", "auth"), ("audit.gateway-1", "gateway-1"), ("audit.gateway-2", "gateway-2")])
def test_a_topic_holds_the_records_of_one_source(topic: str, source: str) -> None:
    assert domain.source_of(topic) == source
    assert domain.wrong(entry(1, source), domain.source_of(topic)) is None
    assert domain.wrong(entry(1, source + "0"), domain.source_of(topic)) is Anomaly.OTHER_SOURCE


@pytest.mark.parametrize("number", [0, -1, 2**63, -(2**63), 10**30])
def test_a_number_that_is_none_cannot_stand_in_a_chain(number: int) -> None:
    read = entry(number)
    assert domain.wrong(read, "auth") is Anomaly.NO_NUMBER
    row = domain.odd("audit.auth", read, Anomaly.NO_NUMBER, NOW)
    assert row.number is None or abs(row.number) < 2**63


def test_the_same_number_with_the_same_bytes_is_a_repeat_and_with_others_an_anomaly() -> None:
    stored = {1: entry(1).leaf}
    batch = domain.sort_out([entry(1), entry(1, reason="another"), entry(3), entry(2), entry(3), entry(2, reason="x")], "auth", stored)
    assert [each.record.number for each in batch.fresh] == [2, 3]
    assert batch.repeated == 2
    assert [(each.record.number, kind) for each, kind in batch.odd] == [(1, Anomaly.NUMBER_TWICE), (2, Anomaly.NUMBER_TWICE)]


@pytest.mark.parametrize(
    ("highest", "numbers", "opened"),
    [
        (0, [1, 2, 3], []),
        (0, [2], [Range(1, 1)]),
        (5, [6, 8, 9, 12], [Range(7, 7), Range(10, 11)]),
        (5, [2, 3], []),
        (5, [3, 7], [Range(6, 6)]),
        (0, [2**63 - 1], [Range(1, 2**63 - 2)]),
    ],
)
def test_a_gap_is_what_lies_between_the_highest_number_and_the_next(highest: int, numbers: list[int], opened: list[Range]) -> None:
    assert domain.gaps(highest, numbers) == opened


def test_a_chain_goes_as_far_as_the_numbers_do() -> None:
    leaves = [(number, entry(number).leaf) for number in (1, 2, 4)]
    links = domain.link(Head(), leaves)
    assert [each.number for each in links] == [1, 2]
    assert [each.chain.hex() for each in links] == [chain for _, chain in chained([record(1), record(2)])]
    assert domain.link(links[-1], leaves[2:]) == []


@given(st.integers(1, 40), st.randoms())
def test_a_chain_does_not_depend_on_where_it_was_interrupted(count: int, chance: random.Random) -> None:
    leaves = [(number, entry(number).leaf) for number in range(1, count + 1)]
    head = Head()
    while head.number < count:
        links = domain.link(head, leaves[head.number : head.number + chance.randint(1, 7)])
        head = links[-1]
    assert head.chain.hex() == chained(record(number) for number in range(1, count + 1))[-1][1]


@pytest.mark.parametrize(
    ("actor", "who"),
    [
        ({"principal": "person", "user_id": "u", "username": "ada"}, ("u", "ada")),
        ({"principal": "service", "service": "ca"}, ("ca", None)),
        ({"principal": "agent", "agent_id": "g"}, ("g", None)),
        ({"principal": "job", "run_id": "r", "user_id": "u"}, ("u", None)),
        ({"principal": "nobody"}, ("nobody", None)),
        ({}, ("", None)),
        ({"user_id": ["a"], "username": {"a": "\0"}}, ("['a']", "{'a': '\\x00'}")),
    ],
)
def test_whoever_acted_is_found_by_id_or_name(actor: dict[str, Any], who: tuple[str, str | None]) -> None:
    row = domain.row_of(entry(1, actor=actor), NOW)
    assert (row.actor, row.username) == who
