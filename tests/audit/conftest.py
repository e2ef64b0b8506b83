"""Records as services and gateways write them, and a chain computed apart from the product."""

import hashlib
import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

BEGINNING = datetime(2026, 6, 1, 12, tzinfo=UTC)
ADA = UUID("01900000-0000-7000-8000-0000000000a1")


def record(number: int, source: str = "auth", **changes: Any) -> bytes:
    """The canonical bytes of a record, written down here by hand and not by the chassis."""
    made: dict[str, Any] = {
        "record_id": str(UUID(int=abs(number) % 2**64)),
        "source": source,
        "number": number,
        "at": (BEGINNING + timedelta(seconds=number if abs(number) < 10**6 else 0)).isoformat().replace("+00:00", "Z"),
        "request_id": f"r{number}",
        "actor": {"principal": "person", "user_id": str(ADA), "username": "ada00000"},
        "action": "session.create",
        "resource": {"sessions": str(number)},
        "outcome": "allowed",
        "reason": "allowed",
    }
    made |= changes
    kept = {name: value for name, value in made.items() if value is not None}
    return json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def chained(values: Iterable[bytes]) -> list[tuple[str, str]]:
    """Leaf and chain hashes (hex) of records in the order of their numbers: RFC 6962 leaves, each link over the one before."""
    link = bytes(32)
    found = []
    for value in values:
        leaf = hashlib.sha256(bytes([0]) + value).digest()
        link = hashlib.sha256(link + leaf).digest()
        found.append((leaf.hex(), link.hex()))
    return found
