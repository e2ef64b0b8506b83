"""The gateway's audit records: every access and every refusal, as canonical JSON for the spool.

The text of a record is put together by hand, since it is made for every request; ``chassis.audit.canonical`` gives the
same bytes, which a test holds. Every text in it goes through ``_quoted``, whoever is thought to have made it.
"""

import json
import re
import time
from dataclasses import dataclass

from contracts.events import Outcome
from gateway.spool import Spool

_quoted = json.JSONEncoder(ensure_ascii=False).encode
_REASON = re.compile(r"[a-z0-9-]{1,64}")
_LAST = "allowed"
UNKNOWN = "unknown"


@dataclass(slots=True)
class Access:
    """What the records of one request have in common. ``actor`` and ``resource`` are canonical JSON.

    ``address`` is the caller's. It is that of a stranger until ``is_known`` says otherwise.
    """

    request_id: str
    action: str = UNKNOWN
    actor: str = '{"principal":"nobody"}'
    resource: str = "{}"
    project_id: str | None = None
    address: str | None = None

    def is_known(self, actor: str, *, keeps_address: bool) -> None:
        """Name the caller, whose address is no longer recorded unless ``keeps_address``."""
        self.actor = actor
        if not keeps_address:
            self.address = None


@dataclass(slots=True)
class Traffic:
    """Bytes of bodies that crossed the gateway, and the SHA-256 (hex) of those that left."""

    bytes_in: int | None = None
    bytes_out: int | None = None
    sha256: str | None = None


NO_TRAFFIC = Traffic()


class Ledger:
    """Writes records to the spool under this gateway's name, ``gateway-<instance>``."""

    def __init__(self, spool: Spool, source: str) -> None:
        self.spool = spool
        self.source = source
        self._source = _quoted(source)
        self._second = 0
        self._prefix = ""

    def record(
        self, record_id: str, access: Access, outcome: Outcome, reason: str, status: int | None, traffic: Traffic = NO_TRAFFIC
    ) -> int:
        """Append a record and return its number."""
        sizes = ""
        if traffic.bytes_in is not None:
            sizes = f',"bytes_in":{traffic.bytes_in}'
        if traffic.bytes_out is not None:
            sizes += f',"bytes_out":{traffic.bytes_out}'
        project = f',"project_id":{_quoted(access.project_id)}' if access.project_id is not None else ""
        address = f',"address":{_quoted(access.address)}' if access.address is not None else ""
        digest = f',"sha256":{_quoted(traffic.sha256)}' if traffic.sha256 is not None else ""
        answered = f',"status":{status}' if status is not None else ""
        return self.spool.append(
            f'{{"action":{_quoted(access.action)},"actor":{access.actor}{address},"at":"{self._now()}"{sizes},"number":',
            f',"outcome":"{outcome.value}"{project},"reason":{_quoted(reason)},"record_id":{_quoted(record_id)},'
            f'"request_id":{_quoted(access.request_id)},"resource":{access.resource}{digest},"source":{self._source}{answered}}}',
        )

    def _now(self) -> str:
        """This clock's time as pydantic writes it: RFC 3339, UTC, microseconds unless they are zero."""
        second, micros = divmod(time.time_ns() // 1000, 1_000_000)
        if second != self._second:
            self._second = second
            self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._prefix}.{micros:06d}Z" if micros else f"{self._prefix}Z"


def resource_of(names: tuple[str, ...], values: list[str]) -> str:
    """What was acted on, as canonical JSON: the named parameters of the path, of which ``values`` may have more."""
    return "{" + ",".join([f"{_quoted(name)}:{_quoted(value)}" for name, value in sorted(zip(names, values, strict=False))]) + "}"


def outcome_of(status: int, said: str | None) -> tuple[Outcome, str]:
    """How a service's answer counts, and the reason that it named in ``Hortus-Reason``."""
    reason = said if said is not None and _REASON.fullmatch(said) else UNKNOWN
    if status < 400:  # noqa: PLR2004 - RFC 9110: what is below 400 is no refusal
        return Outcome.ALLOWED, _LAST
    if status < 500:  # noqa: PLR2004 - RFC 9110: 4xx is a refusal, 5xx a failure
        return Outcome.REFUSED, reason
    return Outcome.FAILED, reason
