"""Asking a gateway: one question after the other, or hundreds a second with little work for whoever asks."""

import asyncio
import http.client
import ssl
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

API = "/api/v1"
REFRESH_COOKIE = "__Host-hortus-refresh"
TIMEOUT = 10.0
BODILESS = frozenset({204, 304})
Pair = tuple[Path, Path]


@dataclass(frozen=True)
class Reply:
    """An answer of a gateway; status 0 where the connection ended without one. When it was asked and answered is in monotonic seconds."""

    status: int
    reason: str
    body: bytes
    headers: dict[str, str]
    sent: float = field(default=0.0, compare=False)
    at: float = field(default=0.0, compare=False)


class Door:
    """One kept connection to a gateway, for one question at a time."""

    def __init__(self, address: str, root: Path, token: str = "", certificate: Pair | None = None, timeout: float = TIMEOUT) -> None:
        place = urlsplit(address)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        trust = trusting(root, certificate)
        self._connection = http.client.HTTPSConnection(place.hostname or "", place.port, timeout=timeout, context=trust)

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Reply:
        """One question; a name of a header is written with underscores."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        sent = time.monotonic()
        try:
            self._connection.request(method, API + path, body, self._headers | named)
            answer = self._connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as cut:
            self._connection.close()
            return _cut(cut, sent)
        return _reply(answer.status, answer.getheaders(), content, sent)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class Lines:
    """Kept connections to one port of a gateway, as many as questions are under way at once; for one event loop."""

    def __init__(self, address: str, trust: ssl.SSLContext) -> None:
        place = urlsplit(address)
        self._place = (place.hostname or "", place.port or 443)
        self._trust = trust
        self._free: list[_Line] = []

    async def ask(self, request: bytes) -> Reply:
        """One question, made by ``question``."""
        line = None
        sent = time.monotonic()
        try:
            async with asyncio.timeout(TIMEOUT):
                line = await self._take()
                sent = time.monotonic()
                status, headers, body = await line.ask(request)
        except (OSError, EOFError) as cut:
            if line is not None:
                line.transport.abort()
            return _cut(cut, sent)
        self._free.append(line)
        return _reply(status, headers, body, sent)

    def close(self) -> None:
        """Hang up."""
        while self._free:
            self._free.pop().transport.abort()

    async def _take(self) -> "_Line":
        while self._free:
            line = self._free.pop()
            if not line.transport.is_closing():
                return line
        return (await asyncio.get_running_loop().create_connection(_Line, *self._place, ssl=self._trust))[1]


class _Line(asyncio.Protocol):
    """One connection that carries one question at a time."""

    def __init__(self) -> None:
        self.transport: Any = None
        self._seen = b""
        self._answer: asyncio.Future[tuple[int, list[tuple[str, str]], bytes]] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    async def ask(self, request: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """Status, headers and body of the answer."""
        self._answer = asyncio.get_running_loop().create_future()
        self._seen = b""
        self.transport.write(request)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        self._seen += data
        head, found, rest = self._seen.partition(b"\r\n\r\n")
        if not found or self._answer.done():
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        status = int(first[9:12])
        body = b"" if status in BODILESS else _body(dict(headers), rest)
        if body is not None:
            self._answer.set_result((status, headers, body))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._answer.done():
            self._answer.set_exception(exc or EOFError("the connection ended"))
            self._answer.exception()  # where nobody waits for it


def _body(headers: dict[str, str], rest: bytes) -> bytes | None:
    """The body of an answer, once all of it is there."""
    if "transfer-encoding" not in headers:
        length = int(headers.get("content-length", "0"))
        return rest[:length] if len(rest) >= length else None
    pieces: list[bytes] = []
    while True:
        size, found, rest = rest.partition(b"\r\n")
        length = int(size, 16) if found else 0
        if not found or len(rest) < length + 2:
            return None
        if length == 0:
            return b"".join(pieces)
        pieces.append(rest[:length])
        rest = rest[length + 2 :]


def _cut(cut: Exception, sent: float) -> Reply:
    return Reply(0, type(cut).__name__, b"", {}, sent, time.monotonic())


def _reply(status: int, headers: Iterable[tuple[str, str]], body: bytes, sent: float) -> Reply:
    told: dict[str, str] = {}
    for name, value in headers:
        known = told.get(name.lower())
        told[name.lower()] = value if known is None else f"{known}\n{value}"
    return Reply(status, told.get("hortus-reason", ""), body, told, sent, time.monotonic())


def trusting(root: Path, certificate: Pair | None = None) -> ssl.SSLContext:
    """What trusts the root, and shows a certificate where there is one."""
    context = ssl.create_default_context(cafile=str(root))
    if certificate is not None:
        context.load_cert_chain(*certificate)
    return context


def question(method: str, path: str, token: str = "", body: bytes = b"", **headers: str) -> bytes:
    """An HTTP request, as it goes over the line; a name of a header is written with underscores."""
    named = {"Host": "localhost", "Content-Length": str(len(body))} | {name.replace("_", "-"): value for name, value in headers.items()}
    named |= {"Authorization": f"Bearer {token}"} if token else {}
    lines = [f"{method} {API}{path} HTTP/1.1", *(f"{name}: {value}" for name, value in named.items()), "", ""]
    return "\r\n".join(lines).encode() + body


def refresh_token(reply: Reply) -> str:
    """The refresh token in the cookies of a sign-in."""
    cookie = next(line for line in reply.headers["set-cookie"].splitlines() if line.startswith(REFRESH_COOKIE))
    return cookie.split(";")[0].partition("=")[2]
