"""How facts look on Kafka (CloudEvents 1.0, Kafka binary mode) and how clients reach the broker (mutual TLS)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from chassis import tls
from chassis.settings import ProcessSettings
from contracts.events import FACTS, Fact

POSITION = "position.v1"
POSITION_KEY = b"position"
JSON = b"application/json"
RETRY_MS = 250  # with 50 the consumers of a suite whose broker is away take the processor that it needs to start

Headers = list[tuple[str, bytes]]


class Undecodable(Exception):
    """A record that is no fact of the catalogue."""


@dataclass(frozen=True)
class Position:
    """All that was committed before ``at`` (the writer's database clock) stands before this record in its partition."""

    at: datetime


def producer(settings: ProcessSettings, transactional_id: str | None = None, max_batch_size: int = 16 * 1024) -> AIOKafkaProducer:
    """An idempotent producer, or a transactional one with a fixed id that fences its predecessors; sizes in bytes."""
    return AIOKafkaProducer(
        bootstrap_servers=settings.kafka,
        security_protocol="SSL",
        ssl_context=tls.client_context(settings.tls_dir),
        client_id=f"{settings.service}-{settings.instance}",
        enable_idempotence=True,
        transactional_id=transactional_id,
        transaction_timeout_ms=10_000,
        linger_ms=0,
        max_batch_size=max_batch_size,
        request_timeout_ms=10_000,
        retry_backoff_ms=50,
    )


def consumer(
    settings: ProcessSettings, *topics: str, group: str | None = None, pattern: str | None = None, committed: bool = True
) -> AIOKafkaConsumer:
    """A consumer that commits offsets by hand, and sees only what was ``committed`` or all."""
    made = AIOKafkaConsumer(
        *topics,
        bootstrap_servers=settings.kafka,
        security_protocol="SSL",
        ssl_context=tls.client_context(settings.tls_dir),
        client_id=f"{settings.service}-{settings.instance}",
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed" if committed else "read_uncommitted",
        fetch_max_wait_ms=50 if group else 500,  # what a group paused is only asked for again with the next fetch
        session_timeout_ms=10_000,
        heartbeat_interval_ms=1_000,
        metadata_max_age_ms=10_000,
        retry_backoff_ms=RETRY_MS,
    )
    if pattern is not None:
        made.subscribe(pattern=pattern)
    return made


def headers(name: str, event_id: str, source: str, subject: str, at: str, actor: str = "", traceparent: str = "") -> Headers:
    """The CloudEvents headers of a record."""
    made = {
        "ce_specversion": "1.0",
        "ce_id": event_id,
        "ce_type": name,
        "ce_source": source,
        "ce_subject": subject,
        "ce_time": at,
        "ce_actor": actor,
        "traceparent": traceparent,
    }
    return [("content-type", JSON), *((header, value.encode()) for header, value in made.items() if value)]


def position_record(at: datetime) -> bytes:
    """The value of a position."""
    return json.dumps({"at": at.isoformat()}).encode()


def read(record: Any) -> Fact | Position | None:
    """What a record says; None for a tombstone. Raises Undecodable."""
    names: Sequence[tuple[str, bytes]] = record.headers
    name = next((value for header, value in names if header == "ce_type"), b"").decode(errors="replace")
    if record.value is None:
        return None
    try:
        if name == POSITION:
            return Position(datetime.fromisoformat(json.loads(record.value)["at"]))
        fact = FACTS[name].model_validate_json(record.value)
    except (KeyError, ValueError, TypeError) as error:
        raise Undecodable(f"{record.topic}[{record.partition}]@{record.offset}: {name or 'no type'}") from error
    if fact.topic.name != record.topic or fact.key.encode() != record.key or fact.version < 1:
        raise Undecodable(f"{record.topic}[{record.partition}]@{record.offset}: key or topic is not that of {name}")
    return fact
