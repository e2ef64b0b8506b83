"""The client's side of a connection: uvicorn's HTTP/1.1 with limits on heads, lingering bodies and slowness.

``scope["extensions"]["connection"]`` is this protocol, so that the data plane can cut it and learn when the client left.
"""
# ruff: noqa: D102 - the callbacks of asyncio and httptools keep their names and meaning

import contextlib
import json
import socket
import struct
from collections.abc import Iterable
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from chassis import tls
from chassis.errors import TYPE_PREFIX
from gateway.connection import Headers
from gateway.inflight import Flight

MAX_HEAD = 32 * 1024
HEAD_S = 10.0
LINGER_S = 10.0
_DROP = struct.pack("ii", 1, 0)
LINGER_BYTES = 16 * 1024 * 1024


class HeadTooLarge(Exception):
    """The request line and headers are larger than ``MAX_HEAD`` bytes."""


class ClientProtocol(tls.protocol(None)):  # type: ignore[misc]
    """One client's connection. ``flight`` is the request that it carries now."""

    flight: Flight | None = None
    head_since = 0.0
    answered_since = 0.0
    _socket: Any = None
    _head_size = 0
    _discarded = 0

    def connection_made(self, transport: Any) -> None:
        self.head_since = self.loop.time()
        self._socket = transport.get_extra_info("socket")
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._socket = None
        flight, self.flight = self.flight, None
        if flight is not None:
            flight.client_left()
        super().connection_lost(exc)

    def cut(self) -> None:
        """End the connection now, once, with whatever it carries; what waits in the kernel for a slow reader is dropped, too."""
        kernel, self._socket = self._socket, None
        if kernel is not None:
            with contextlib.suppress(OSError):  # the client was faster
                kernel.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _DROP)
            self.transport.abort()
        if self.cycle is not None:
            self.cycle.disconnected = True

    def data_received(self, data: bytes) -> None:
        head = self.head_since if self.scope is not None else 0.0
        super().data_received(data)
        # the parser keeps a header back until its line has ended, so an endless one shows only here
        if head and head == self.head_since and not self.transport.is_closing():
            self._head_size += len(data)
            if self._head_size > MAX_HEAD:
                self.send_400_response("")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"]["connection"] = self
        self.head_since = self.loop.time()
        self._head_size = 0
        self._discarded = 0

    def on_url(self, url: bytes) -> None:
        self._head_size += len(url)
        if self._head_size > MAX_HEAD:
            raise HeadTooLarge
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_size += len(name) + len(value)
        if self._head_size > MAX_HEAD:
            raise HeadTooLarge
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self.head_since = 0.0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self.cycle.response_complete:
            self._discarded += len(body)
            if self._discarded > LINGER_BYTES:
                self.transport.abort()
        super().on_body(body)

    def send_400_response(self, _msg: str) -> None:
        status, title = (
            (b"431", "The head of the request is too large") if self._head_size > MAX_HEAD else (b"400", "This is no HTTP request")
        )
        slug = "head-too-large" if self._head_size > MAX_HEAD else "malformed-request"
        body = json.dumps({"type": TYPE_PREFIX + slug, "title": title, "status": int(status)}).encode()
        self.transport.write(
            b"HTTP/1.1 %b Bad Request\r\ncontent-type: application/problem+json\r\nhortus-reason: %b\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
            % (status, slug.encode(), len(body), body)
        )
        self.transport.close()

    def overdue(self, now: float) -> bool:
        """Whether the client takes too long over a head, or over a body whose request was answered. ``now`` is the loop's time."""
        if self.head_since and now - self.head_since > HEAD_S:
            return True
        cycle = self.cycle
        if cycle is None or not cycle.response_complete or not cycle.more_body:
            self.answered_since = 0.0
            return False
        self.answered_since = self.answered_since or now
        return now - self.answered_since > LINGER_S


async def answer_whole(send: Any, status: int, headers: Headers, body: bytes, *, close: bool = False) -> None:
    """Send an answer whose body is all there in one piece: one write, one TLS record.

    ``send`` is the ASGI callable of uvicorn's request cycle; ``headers`` come from a parser or from this program.
    ``close`` ends the connection afterwards.
    """
    cycle = send.__self__
    if cycle.flow.write_paused:
        await cycle.flow.drain()
    if cycle.disconnected:
        return
    content = [STATUS_LINE[status]]
    for name, value in (*cycle.default_headers, *headers):
        content += (name, b": ", value, b"\r\n")
    if close:
        cycle.keep_alive = False
    if not cycle.keep_alive:
        content.append(b"connection: close\r\n")
    content += (b"\r\n", b"" if cycle.scope["method"] == "HEAD" else body)
    cycle.transport.write(b"".join(content))
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()


def sweep(connections: Iterable[Any], now: float) -> None:
    """Cut the connections whose client is too slow."""
    for connection in list(connections):
        if connection.overdue(now):
            connection.cut()
