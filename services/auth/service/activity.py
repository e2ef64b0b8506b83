"""What gateways tell about the use of sessions and API keys."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from prometheus_client import Counter
from pydantic import ValidationError

from chassis.hears import RawRecord
from chassis.log import logger
from chassis.outbox import UnitOfWork
from contracts.events import Activity
from services.auth import repository

log = logger(__name__)
SUBJECTS = ("session", "key")
SKIPPED = Counter("hortus_auth_activity_skipped_total", "Records of use that could not be read")


async def heard(uow: UnitOfWork, records: Sequence[RawRecord]) -> None:
    """Move the last use forward of whatever was used. What cannot be read is counted and passed by: no decision waits for it."""
    newest: dict[UUID, datetime] = {}
    for record in records:
        try:
            subject, at = read(record.value)
        except ValueError as error:
            SKIPPED.inc()
            log.warning("activity cannot be read", partition=record.partition, offset=record.offset, error=type(error).__name__)
            continue
        newest[subject] = max(at, newest.get(subject, at))
    if newest:
        await repository.sessions.used(uow.session, newest)


def read(value: bytes) -> tuple[UUID, datetime]:
    """Which session or API key was used, and when. Raises ValueError."""
    try:
        told = Activity.model_validate_json(value)
    except ValidationError as error:
        raise ValueError("no activity") from error
    kind, _, number = told.subject.partition(":")
    if kind not in SUBJECTS or told.at.tzinfo is None:
        raise ValueError(kind)
    return UUID(number), told.at
