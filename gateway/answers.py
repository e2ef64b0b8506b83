"""What an answer carries to the outside: the headers that pass, those that the gateway adds, and the pages of its own."""

from dataclasses import dataclass

from gateway.connection import Headers

SAFETY: Headers = [
    (b"strict-transport-security", b"max-age=63072000"),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
]
_NOT_HANDED_OUT = frozenset(
    {b"connection", b"keep-alive", b"proxy-authenticate", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"date", b"server"}
    | {b"hortus-identity", b"set-cookie"}
    | {name for name, _ in SAFETY}
)
_FACTS = b"hortus-facts"
_REASON = b"hortus-reason"


@dataclass(frozen=True)
class Page:
    """Something that the gateway answers itself, to everybody."""

    action: str
    media_type: bytes
    body: bytes


def handed_out(received: Headers) -> tuple[Headers, bytes | None, str | None]:
    """The headers of a service's answer that the client gets, and what ``Hortus-Facts`` and ``Hortus-Reason`` say."""
    headers: Headers = []
    facts: bytes | None = None
    reason: str | None = None
    for header in received:
        name = header[0]
        if name in _NOT_HANDED_OUT:
            continue
        if name == _FACTS:
            facts = header[1]
        elif name == _REASON:
            reason = header[1].decode("latin-1")
        headers.append(header)
    headers += SAFETY
    return headers, facts, reason
