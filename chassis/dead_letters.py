"""Facts that were put aside: where each lies and what went wrong, never what it says. An alarm hangs on the counter and on the log."""

import json
from typing import Any
from uuid import UUID, uuid5

from prometheus_client import Counter
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from chassis.log import logger
from chassis.outbox import NOTIFY

log = logger(__name__)
NAMES = UUID("0b1f6f0e-6d53-5d6e-9f5c-9a1d3f0d2c11")
DEAD = Counter("hortus_consumer_dead_total", "Facts put aside as dead letters", ["topic"])

_DEAD_LETTER = text("""INSERT INTO outbox (topic, key, version, type, event_id, at, actor, traceparent, payload)
                       SELECT CAST(:topic AS text), CAST(:key AS text), 1, 'dead-letter.v1', CAST(:id AS uuid), now(), CAST(:service AS text), '', CAST(:payload AS text)
                       WHERE NOT EXISTS (SELECT FROM heads WHERE topic = :topic AND key = :key) ON CONFLICT DO NOTHING""")


async def put_aside(engine: AsyncEngine, service: str, record: Any, error: Exception) -> None:
    """Tell of a record that was not applied, once however often it is put aside."""
    log.error("dead letter", topic=record.topic, partition=record.partition, offset=record.offset, error=repr(error))
    DEAD.labels(record.topic).inc()
    letter_id = uuid5(NAMES, f"{service} {record.topic} {record.partition} {record.offset}")
    letter = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "key": (record.key or b"").decode(errors="replace"),
        "error": type(error).__name__,
    }
    values = {"topic": f"dead.{service}", "key": str(letter_id), "id": letter_id, "service": service, "payload": json.dumps(letter)}
    async with engine.begin() as connection:
        await connection.execute(_DEAD_LETTER, values)
        await connection.execute(NOTIFY, {"topics": values["topic"]})
