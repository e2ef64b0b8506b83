"""The shapes of audit's answers."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict

from contracts.events import AuditRecord


class RecordView(AuditRecord):
    """A record with what it takes to check it.

    ``canonical`` is base64 of the bytes as received, ``leaf_hash`` (hex) is SHA-256(0x00 ‖ those bytes) (RFC 6962), and
    ``chain_hash`` (hex) is SHA-256(chain hash of the number before ‖ leaf hash), beginning with 32 zero bytes; it is null
    while a number before is missing.
    """

    leaf_hash: str
    chain_hash: str | None
    canonical: str


class GapView(BaseModel):
    """Numbers from ``first`` to ``last`` that are missing."""

    model_config = ConfigDict(from_attributes=True)

    first: int
    last: int
    since: datetime


class ChainView(BaseModel):
    """A source's chain: ``count`` linked records from ``first`` to ``last`` (0 for none), ``head`` the chain hash (hex) at ``last``.

    ``waiting`` records lie behind a gap. At most 100 gaps are shown.
    """

    source: str
    first: int
    last: int
    count: int
    head: str
    waiting: int
    gaps: list[GapView]
