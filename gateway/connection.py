"""One connection to a service, parsed by httptools, and the exchange that it carries.

Bodies are never gathered: what arrives waits in a buffer of bounded size, and reading from the socket stops while the
buffer is full.
"""
# ruff: noqa: D102 - the callbacks of asyncio and httptools keep their names and meaning

import asyncio
import math
from typing import Any, Protocol

import httptools

from chassis.errors import Problem
from chassis.log import logger

log = logger(__name__)
FIRST_BYTE_S = 60.0
BUFFER = 256 * 1024
MAX_HEAD = 64 * 1024
_INTERIM = 200
BODILESS = (204, 304)

Headers = list[tuple[bytes, bytes]]


class UpstreamFailed(Problem):
    """The service's connection ended or made no sense before there was an answer."""

    status = 502
    title = "The service did not answer properly"


class UpstreamTimeout(Problem):
    """The service took too long to begin its answer."""

    status = 504
    title = "The service took too long to answer"


class Owner(Protocol):
    """Where a connection belongs: it says when it is busy, idle or gone."""

    name: str
    host_line: bytes
    idle: list["Connection"]
    busy: set["Connection"]

    def forget(self, connection: "Connection") -> None:
        """The connection has ended."""


class Connection(asyncio.Protocol):
    """One connection to one replica, and the answer of the exchange that it carries.

    ``complete`` says that the whole answer has arrived; ``read`` hands out the body piece by piece. From ``retires`` on (the loop's
    time) it carries no further exchange: the certificates that it was made with grow old.
    """

    def __init__(self, replica: Owner) -> None:
        self.replica = replica
        self.used = 0
        self.idle_since = 0.0
        self.retires = math.inf
        self.deadline = 0.0
        self._aborted = False
        self.status = 0
        self.headers: Headers = []
        self.headed = False
        self.complete = False
        self.sent = False
        self.error: BaseException | None = None
        self._transport: Any = None
        self._parser: Any = httptools.HttpResponseParser(self)
        self._busy = False
        self._headless = False
        self._interim = False
        self._keep = False
        self._head_size = 0
        self._chunks: list[bytes] = []
        self._size = 0
        self._paused = False
        self._reader: asyncio.Future[None] | None = None
        self._writable: asyncio.Event | None = None
        self._loop = asyncio.get_running_loop()

    # What the data plane calls

    def start(self, request_line: bytes, rest: bytes, *, head: bool = False, streams: bool = False) -> None:
        """Send a request: its line, ``Host``, then ``rest``: headers, their closing empty line, and a body that is all there.

        ``head``: the answer to it has no body, whatever its headers say. ``streams``: ``write`` and ``finish`` follow.
        """
        self.used += 1
        self.status = 0
        self.headers = []
        self.headed = self.complete = self._interim = False
        self.error = None
        self.sent = not streams
        self._busy = True
        self._headless = head
        self._head_size = 0
        self.deadline = self._loop.time() + FIRST_BYTE_S
        self.replica.busy.add(self)
        self._transport.write(request_line + self.replica.host_line + rest)

    async def write(self, data: bytes) -> None:
        """Send a piece of the request's body; returns when the connection takes more. Raises what ended the exchange."""
        if self.error is not None:
            raise self.error
        self.deadline = self._loop.time() + FIRST_BYTE_S
        self._transport.write(data)
        if self._writable is not None:
            await self._writable.wait()
            if self.error is not None:
                raise self.error

    def finish(self) -> None:
        """Say that the request's body is sent."""
        self.sent = True
        self.deadline = self._loop.time() + FIRST_BYTE_S

    async def head(self) -> None:
        """Wait for the answer's status and headers. Raises UpstreamFailed, UpstreamTimeout or what ``fail`` was given."""
        while not self.headed:
            if self.error is not None:
                raise self.error
            self._reader = self._loop.create_future()
            await self._reader

    async def read(self) -> bytes:
        """The next piece of the answer's body; empty at its end. Raises when the answer was cut short."""
        while not self._chunks:
            if self.complete:
                return b""
            if self.error is not None:
                raise self.error
            self.deadline = self._loop.time() + FIRST_BYTE_S
            self._reader = self._loop.create_future()
            await self._reader
        self.deadline = 0.0
        return self.take()

    async def small(self, headers: Headers) -> None:
        """Wait for the whole of an answer that says that it fits into the buffer. Raises when it was cut short."""
        length = next((value for name, value in headers if name == b"content-length"), b"")
        if not length.isdigit() or int(length) > BUFFER:
            return
        while not self.complete:
            if self.error is not None:
                raise self.error
            self.deadline = self._loop.time() + FIRST_BYTE_S
            self._reader = self._loop.create_future()
            await self._reader

    def take(self) -> bytes:
        """What has arrived of the answer's body and was not handed out yet."""
        chunks = self._chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self._size = 0
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        return data

    def _abort(self) -> None:
        if not self._aborted:  # some event loops take it once only
            self._aborted = True
            self._transport.abort()

    def fail(self, error: BaseException) -> None:
        """End the exchange and the connection now; whoever waits gets ``error``."""
        if self.error is None:
            self.error = error
        self.replica.busy.discard(self)
        self._abort()
        self._wake()

    def release(self) -> None:
        """The exchange is over: keep the connection when it is clean, else close it."""
        self.replica.busy.discard(self)
        self._busy = False
        clean = self.complete and self.sent and self.error is None and not self._chunks and self._writable is None
        if not clean or not self._keep or not self.usable:
            self._abort()
            self.replica.forget(self)
            return
        if self._headless:
            self._parser = httptools.HttpResponseParser(self)
        self.idle_since = self._loop.time()
        self.replica.idle.append(self)

    def close(self) -> None:
        """Close an idle connection."""
        self._transport.close()

    @property
    def usable(self) -> bool:
        """Whether it can carry another exchange: it is still open, and young enough."""
        return not self._transport.is_closing() and self._loop.time() < self.retires

    def _wake(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None and not reader.done():
            reader.set_result(None)
        if self._writable is not None and self.error is not None:
            self._writable.set()

    # asyncio.Protocol

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if not self._busy or self.complete:
            self.error = UpstreamFailed()
            self._abort()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            log.warning("a service's answer cannot be read", upstream=self.replica.name, error=type(error).__name__)
            self.fail(UpstreamFailed())
            return
        self._wake()

    def connection_lost(self, _exc: Exception | None) -> None:
        if self.error is None:
            self.error = UpstreamFailed()
        self.replica.forget(self)
        self._wake()

    def pause_writing(self) -> None:
        if self._writable is None:
            self._writable = asyncio.Event()

    def resume_writing(self) -> None:
        if self._writable is not None:
            self._writable.set()
            self._writable = None

    # httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_size += len(name) + len(value)
        if self._head_size > MAX_HEAD:
            raise ValueError("the head of the answer is too large")
        if not self.headed:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < _INTERIM:
            if status == 101:  # noqa: PLR2004 - Switching Protocols was not asked for
                raise ValueError("the service switched protocols")
            self._interim = True
            self.headers = []
            return
        self.status = status
        if self._headless:
            self.complete = self._keep = True
        elif status not in BODILESS and not any(name in (b"content-length", b"transfer-encoding") for name, _ in self.headers):
            raise ValueError("the end of the answer cannot be told from a cut connection")
        self.headed = True

    def on_body(self, body: bytes) -> None:
        if self._headless:
            raise ValueError("an answer to HEAD has a body")
        self._chunks.append(body)
        self._size += len(body)
        if self._size > BUFFER and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
            return
        self.complete = True
        self.deadline = 0.0
        self._keep = self._parser.should_keep_alive()
