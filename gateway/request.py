"""One request as the gateway reads it: what is forwarded of its head, and what only the gateway uses."""

import functools
import ipaddress
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import uuid_utils

from chassis.errors import Problem
from gateway.connection import Headers
from gateway.doors import MAX_QUERY, Door
from gateway.ledger import Access

AFTER = b"hortus-after"
DIGEST = b"hortus-content-sha256"
COOKIE = b"cookie"
ORIGIN = b"origin"
FETCH_SITE = b"sec-fetch-site"
MAX_AFTER = 64
MAX_LENGTH_DIGITS = 15
_OURS = b"hortus"
_HOP_BY_HOP = {
    b"connection",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"upgrade",
}
_OF_BROWSERS = {COOKIE, ORIGIN, FETCH_SITE}
_READ = {b"authorization", b"content-length", b"transfer-encoding", AFTER, b"connection", b"upgrade", b"expect"} | _OF_BROWSERS
_DROPPED = _HOP_BY_HOP | {
    b"host",
    b"traceparent",
    b"tracestate",
    b"forwarded",
    b"via",
    b"x-real-ip",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-proto",
}
_NOT_FORWARDED = frozenset(_READ | _DROPPED)


class MalformedRequest(Problem):
    """The head of the request contradicts itself or asks for what is not offered."""

    status = 400
    title = "The request is malformed"


class Request:
    """A request's head. ``length`` is its body's size, None when it is chunked; ``has_body`` is False when there is none.

    ``forwarded`` are the header lines that go on to the service as they came; ``browser`` are the values of the headers that
    a browser adds by itself, by name.
    """

    __slots__ = (
        "access",
        "after",
        "authorization",
        "browser",
        "chunked",
        "client",
        "der",
        "door",
        "expects",
        "forwarded",
        "has_body",
        "length",
        "line",
        "method",
        "peer",
        "raw_path",
        "trace",
        "values",
    )

    def __init__(self, scope: Mapping[str, Any]) -> None:
        self.method: str = scope["method"]
        self.raw_path: bytes = scope["raw_path"]
        extensions = scope["extensions"]
        self.client: Any = extensions["connection"]
        self.peer: str = scope["client"][0]
        self.der: bytes | None = extensions["tls"]["der"]
        request_id = str(uuid_utils.uuid7())
        self.access = Access(request_id, address=self.peer)
        plain = request_id.replace("-", "")
        self.trace = f"hortus-request: {request_id}\r\ntraceparent: 00-{plain}-{plain[16:]}-01\r\n".encode()
        self.door: Door | None = None
        self.values: list[str] = []
        self.authorization: bytes | None = None
        self.after: bytes | None = None
        self.browser: dict[bytes, list[bytes]] = {}
        self.length: int | None = None
        self.chunked = False
        self.expects = False
        self.has_body = False
        self.forwarded: list[bytes] = []
        self.line = b""

    def read(self, scope: Mapping[str, Any]) -> None:
        """Read the headers. Raises MalformedRequest."""
        query: bytes = scope["query_string"]
        if len(query) > MAX_QUERY:
            raise MalformedRequest("The query is longer than 8 KiB.")
        target = self.raw_path + b"?" + query if query else self.raw_path
        self.line = b"%b %b HTTP/1.1\r\n" % (self.method.encode("ascii"), target)
        headers: Headers = scope["headers"]
        forwarded = self.forwarded
        named: set[bytes] | None = None
        for name, value in headers:
            if name in _NOT_FORWARDED:
                if name in _READ:
                    named = self._special(name, value) or named
            elif not name.startswith(_OURS) or name == DIGEST:
                forwarded.append(b"%b: %b\r\n" % (name, value))
        if named:
            self.forwarded = [line for line in forwarded if line.partition(b":")[0] not in named]
        self._frame()

    def _frame(self) -> None:
        """Say to the service how long the body is, in the gateway's own words."""
        if self.chunked:
            self.forwarded.append(b"transfer-encoding: chunked\r\n")
        elif self.length is not None:
            self.forwarded.append(b"content-length: %d\r\n" % self.length)
        elif self.method in ("POST", "PUT", "PATCH"):
            self.forwarded.append(b"content-length: 0\r\n")
        if self.after is not None:
            self.forwarded.append(b"hortus-after: %b\r\n" % self.after)

    def _special(self, name: bytes, value: bytes) -> set[bytes] | None:
        """Keep what the gateway itself needs; the names that ``Connection`` takes out of the forwarded headers."""
        if name == b"authorization":
            if self.authorization is not None:
                raise MalformedRequest("Send one credential.")
            self.authorization = value
        elif name in (b"content-length", b"transfer-encoding"):
            self._body(name, value)
        elif name == AFTER:
            self.after = value if self.after is None else self.after + b", " + value
        elif name in _OF_BROWSERS:
            self.browser.setdefault(name, []).append(value)
        elif name == b"expect":
            self.expects = True
        elif name == b"upgrade":
            raise MalformedRequest("No other protocol is spoken here.")
        elif name == b"connection" and value.lower() not in (b"keep-alive", b"close"):
            return {part.strip().lower() for part in value.split(b",")}
        return None

    def _body(self, name: bytes, value: bytes) -> None:
        """Learn the body's size."""
        if name == b"content-length":
            if not value.isdigit() or len(value) > MAX_LENGTH_DIGITS:
                raise MalformedRequest("Content-Length is no number.")
            self.length = int(value)
            self.has_body = self.length > 0
        else:
            if value.strip().lower() != b"chunked":
                raise MalformedRequest("Only the chunked transfer encoding is taken.")
            self.chunked = self.has_body = True

    def wanted(self) -> dict[tuple[str, str], int]:
        """The versions that ``Hortus-After`` names, by (topic, key). Raises MalformedRequest."""
        if not self.after:
            return {}
        wanted = facts_named(self.after)
        if len(wanted) > MAX_AFTER:
            raise MalformedRequest("Hortus-After names too many facts.")
        return wanted


def facts_named(value: bytes) -> dict[tuple[str, str], int]:
    """The versions that ``topic:key:version, …`` names, by (topic, key); keys are percent-encoded. Raises MalformedRequest."""
    wanted: dict[tuple[str, str], int] = {}
    try:
        for item in filter(None, (part.strip() for part in value.decode("ascii").split(","))):
            topic, key, version = item.split(":")
            place = (topic, unquote(key, errors="strict"))
            wanted[place] = max(int(version), wanted.get(place, 0))
    except ValueError as error:
        raise MalformedRequest("Hortus-After is not a list of topic:key:version.") from error
    return wanted


@functools.lru_cache(maxsize=4096)
def network_of(peer: str) -> str:
    """Where strangers count as one: an IPv4 address, or the 64 bits of an IPv6 network, in which one machine has any number."""
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return peer
    if isinstance(address, ipaddress.IPv4Address):
        return peer
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address), 64), strict=False))
