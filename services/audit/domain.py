"""The rules of the ledger: what is a record, which numbers fit, what is missing, and how leaves are chained."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import ValidationError

from chassis.audit import chain_hash, is_canonical, leaf_hash
from contracts.events import AuditRecord
from services.audit.models import Anomaly, Head, Odd, Range, Record, Unreadable

TOPIC_PREFIX = "audit."
NUMBER_MAX = 2**63 - 1


class NotARecord(Exception):
    """The bytes are no audit record; the message says why, without the bytes."""


@dataclass(frozen=True)
class Entry:
    """A record that can be read, with the bytes as received and where they lay."""

    record: AuditRecord
    data: bytes
    leaf: bytes
    kafka_offset: int


@dataclass(frozen=True)
class Sorted:
    """A batch of one source, sorted out: entries to add in the order of their numbers, those that were there, and what is wrong."""

    fresh: list[Entry]
    repeated: int
    odd: list[tuple[Entry, Anomaly]]


def source_of(topic: str) -> str:
    """The only source that may stand in a topic's records (``audit.<source>``)."""
    return topic.removeprefix(TOPIC_PREFIX)


def read(data: bytes, kafka_offset: int) -> Entry:
    """Read a record. Raises NotARecord, also for bytes that another reader could take for another record."""
    try:
        record = AuditRecord.model_validate_json(data)
        record.at.astimezone(UTC)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise NotARecord(f"{'.'.join(str(part) for part in first['loc'])}: {first['type']}".lstrip(": ")) from None
    except (OverflowError, ValueError) as error:
        raise NotARecord("at: out of range") from error
    if record.at.tzinfo is None:
        raise NotARecord("at: without a time zone")
    if not is_canonical(data, record):
        raise NotARecord("not canonical")
    return Entry(record, data, leaf_hash(data), kafka_offset)


def wrong(entry: Entry, source: str) -> Anomaly | None:
    """What keeps a record out of a source's chain whatever else is in it; None when nothing does."""
    if entry.record.source != source:
        return Anomaly.OTHER_SOURCE
    if not 1 <= entry.record.number <= NUMBER_MAX:
        return Anomaly.NO_NUMBER
    return None


def sort_out(entries: Iterable[Entry], source: str, stored: Mapping[int, bytes]) -> Sorted:
    """Sort a batch against the leaves stored under its numbers: a number with the same bytes is a repeat, with others an anomaly."""
    known = dict(stored)
    fresh: list[Entry] = []
    odd: list[tuple[Entry, Anomaly]] = []
    repeated = 0
    for entry in entries:
        number = entry.record.number
        anomaly = wrong(entry, source)
        if anomaly is not None:
            odd.append((entry, anomaly))
        elif number not in known:
            known[number] = entry.leaf
            fresh.append(entry)
        elif known[number] == entry.leaf:
            repeated += 1
        else:
            odd.append((entry, Anomaly.NUMBER_TWICE))
    fresh.sort(key=lambda entry: entry.record.number)
    return Sorted(fresh, repeated, odd)


def gaps(highest: int, numbers: Sequence[int]) -> list[Range]:
    """The gaps that open when ascending ``numbers`` are added to a source whose highest number was ``highest``."""
    opened = []
    for number in numbers:
        if number > highest + 1:
            opened.append(Range(highest + 1, number - 1))
        highest = max(highest, number)
    return opened


def link(head: Head, leaves: Iterable[tuple[int, bytes]]) -> list[Head]:
    """The links that follow ``head``: as far as the ascending numbers go on without a gap."""
    links = []
    for number, leaf in leaves:
        if number != head.number + 1:
            break
        head = Head(number, chain_hash(head.chain, leaf))
        links.append(head)
    return links


def row_of(entry: Entry, now: datetime) -> Record:
    """A record's row: the bytes as received and what it is found by."""
    record = entry.record
    return Record(
        source=record.source,
        number=record.number,
        at=record.at,
        actor=storable(_who(record)),
        username=storable(str(record.actor["username"])) if record.actor.get("username") else None,
        action=storable(record.action),
        outcome=record.outcome.value,
        project_id=record.project_id,
        canonical=entry.data,
        leaf=entry.leaf,
        kafka_offset=entry.kafka_offset,
        received_at=now,
    )


def _who(record: AuditRecord) -> str:
    for name in ("user_id", "agent_id", "run_id", "service", "principal"):
        if record.actor.get(name):
            return str(record.actor[name])
    return ""


def storable(text: str) -> str:
    """A text as the database can hold it; the bytes it was taken from are kept as they are."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def odd(topic: str, entry: Entry, kind: Anomaly, now: datetime) -> Odd:
    """The row of a record that cannot stand in the chain."""
    number = entry.record.number
    return Odd(
        topic=topic,
        kafka_offset=entry.kafka_offset,
        leaf=entry.leaf,
        kind=kind.value,
        source=storable(entry.record.source),
        number=number if abs(number) <= NUMBER_MAX else None,
        value=entry.data,
        seen_at=now,
    )


def unreadable(topic: str, partition: int, offset: int, key: bytes | None, value: bytes, reason: str, now: datetime) -> Unreadable:
    """The row of what is no record."""
    return Unreadable(
        topic=topic,
        kafka_offset=offset,
        leaf=leaf_hash(value),
        kafka_partition=partition,
        key=key,
        value=value,
        reason=storable(reason),
        received_at=now,
    )
