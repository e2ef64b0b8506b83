"""Audit records: their canonical bytes and their hashes.

The canonical bytes are JSON with sorted keys and no spaces (after RFC 8785), the leaf hash is that of RFC 6962
section 2.1, and until there is a tree the leaves of one source form a chain.
"""

import hashlib
import json
from typing import Any

from contracts.events import AuditRecord

CHAIN_START = bytes(32)


def canonical(record: AuditRecord) -> bytes:
    """The bytes of a record that are stored, sent and hashed."""
    return _written(record.model_dump(mode="json", exclude_none=True))


def is_canonical(data: bytes, record: AuditRecord) -> bool:
    """Whether ``data``, from which ``record`` was read, can be read in no other way. Fields that are not known yet are kept.

    A name that comes twice, names in another order, spaces, and numbers, times or texts written otherwise are not canonical.
    """
    try:
        told: dict[str, Any] = json.loads(data)
        more = {name: value for name, value in told.items() if name not in AuditRecord.model_fields}
        return _written({**more, **record.model_dump(mode="json", exclude_none=True)}) == data
    except (ValueError, RecursionError):
        return False


def _written(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def leaf_hash(data: bytes) -> bytes:
    """SHA-256(0x00 ‖ data), 32 bytes (RFC 6962 section 2.1)."""
    return hashlib.sha256(b"\x00" + data).digest()


def chain_hash(previous: bytes, leaf: bytes) -> bytes:
    """The next link: SHA-256(previous ‖ leaf), 32 bytes."""
    return hashlib.sha256(previous + leaf).digest()
