"""The ledger: reading it, and checking it without believing it.

Each record's leaf is SHA-256(0x00 ‖ canonical bytes) (RFC 6962, section 2.1); each source's chain is
SHA-256(chain before ‖ leaf), beginning with 32 zero bytes; the numbers of a source are 1, 2, 3 … without a gap.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

from hortus.client.shapes import AuditRecord, Chain
from hortus.client.wire import Wire

BEGINNING = bytes(32)
HASHES = frozenset({"leaf_hash", "chain_hash", "canonical"})


@dataclass
class SourceCheck:
    """What was found about one source: how many records, the head (hex) after the last, and what is wrong."""

    source: str
    records: int = 0
    head: str = BEGINNING.hex()
    findings: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings


class Audit:
    """The ledger; for auditors."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def records(
        self,
        *,
        source: str | None = None,
        actor: str | None = None,
        action: str | None = None,
        outcome: str | None = None,
        project_id: str | None = None,
        most: int | None = None,
    ) -> Iterator[AuditRecord]:
        """Records, oldest first; ``actor`` is a username or id, ``most`` bounds how many."""
        params = {"source": source, "actor": actor, "action": action, "outcome": outcome, "project_id": project_id}
        yield from self._wire.pages("/audit/records", params, most)

    def chains(self) -> list[Chain]:
        """What the ledger says of its sources."""
        return cast("list[Chain]", list(self._wire.pages("/audit/chains")))

    def verify(self, earlier: Mapping[str, tuple[int, str]] | None = None) -> list[SourceCheck]:
        """Fetch everything and recompute it; ``earlier`` are heads noted before: number and hash (hex) by source."""
        chains = self.chains()
        checks = []
        noted = earlier or {}
        for chain in chains:
            check = check_records(chain["source"], self.records(source=chain["source"]), chain, noted.get(chain["source"]))
            checks.append(check)
        known = {chain["source"] for chain in chains}
        gone = sorted(set(noted) - known)
        return checks + [SourceCheck(source, findings=["The source was there before and is gone."]) for source in gone]


def check_records(
    source: str, records: Iterable[AuditRecord], chain: Chain | None = None, noted: tuple[int, str] | None = None
) -> SourceCheck:
    """Recompute leaves, chain and numbering of one source's records, given oldest first."""
    check = SourceCheck(source)
    marks = _Marks(chain, noted)
    link = BEGINNING
    for record in records:
        check.records += 1
        number = record["number"]
        if number != check.records:
            check.findings.append(f"Where number {check.records} should stand there is number {number}.")
            return check
        canonical = _decoded(record["canonical"])
        leaf = hashlib.sha256(b"\x00" + canonical).digest()
        link = hashlib.sha256(link + leaf).digest()
        if leaf.hex() != record["leaf_hash"]:
            check.findings.append(f"Record {number} does not have the hash that is stored for it.")
        if link.hex() != record["chain_hash"]:
            check.findings.append(f"The chain is broken at record {number}.")
            return check
        if not _says_the_same(record, canonical):
            check.findings.append(f"Record {number} is shown with another content than was hashed.")
        check.findings.extend(marks.pass_by(number, link.hex()))
        check.head = link.hex()
    check.findings.extend(marks.not_reached())
    if chain and chain["gaps"]:
        check.findings.append(f"The ledger itself reports missing numbers: {chain['gaps']}.")
    return check


class _Marks:
    """Heads that the chain has to pass through: the one the ledger names, and one noted earlier."""

    def __init__(self, chain: Chain | None, noted: tuple[int, str] | None) -> None:
        self._left: list[tuple[int, str, str]] = []
        if chain and chain["last"]:
            self._left.append((chain["last"], chain["head"], "the ledger's own head"))
        if noted and noted[0]:
            self._left.append((noted[0], noted[1], "the head noted before"))

    def pass_by(self, number: int, link: str) -> list[str]:
        """What is wrong at this record."""
        met = [mark for mark in self._left if mark[0] == number]
        self._left = [mark for mark in self._left if mark[0] != number]
        return [f"At record {number} the chain is not {what}." for _, head, what in met if head != link]

    def not_reached(self) -> list[str]:
        """What should have come and did not."""
        return [f"The chain ends before {what} at record {number}." for number, _, what in self._left]


def _decoded(canonical: str) -> bytes:
    try:
        return base64.b64decode(canonical, validate=True)
    except binascii.Error:
        return b""


def _says_the_same(record: AuditRecord, canonical: bytes) -> bool:
    try:
        hashed: Any = json.loads(canonical)
    except ValueError:
        return False
    if not isinstance(hashed, dict):
        return False
    shown = {name: value for name, value in record.items() if name not in HASHES}
    return all(_same(name, value, hashed.get(name)) for name, value in shown.items())


def _same(name: str, shown: Any, hashed: Any) -> bool:
    if name == "at" and isinstance(shown, str) and isinstance(hashed, str):
        return datetime.fromisoformat(shown) == datetime.fromisoformat(hashed)
    return bool(shown == hashed)
