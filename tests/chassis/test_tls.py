"""A service's listener: who shows no certificate of the services' issuer, or another identity, gets no answer."""

import asyncio
import contextlib
import secrets
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from chassis import tls
from chassis.app import OperatorsOnly, https_server
from compose.local.pki import Pki

DOMAIN = "hortus.internal"


@pytest.fixture(scope="module")
def pki(new_home: Callable[[str], Path]) -> Pki:
    made = Pki.create(new_home("tls"))
    for name in ("projects", "gateway", "runner", "datasets"):
        made.issue_service_certificate(name, made.home.tls_folder(name))
    return made


@pytest.fixture(scope="module")
def strangers(new_home: Callable[[str], Path]) -> Pki:
    made = Pki.create(new_home("other-tls"))
    made.issue_service_certificate("gateway", made.home.tls_folder("gateway"))
    return made


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


class Listener:
    """What the test's server is told."""

    def __init__(self, tls_dir: Path) -> None:
        self.tls_dir = tls_dir
        self.host, self.port = "127.0.0.1", 0


@contextlib.asynccontextmanager
async def serving(app: Any, pki: Pki, *peers: str, drain: int = 5, room: int = 0) -> AsyncIterator[int]:
    """The port at which an application is served to these peers, as projects serves; in the end it is told to stop, and awaited.

    ``drain``: how many seconds it waits for what is under way; ``room``: how many bytes the kernel holds for a peer, if not as many as usual.
    """
    accepting = tls.protocol([tls.service_identity(DOMAIN, name) for name in peers])

    class Narrow(accepting):  # type: ignore[misc, valid-type]
        def connection_made(self, transport: Any) -> None:
            if room:
                transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, room)
            super().connection_made(transport)

    server = https_server(app, Listener(pki.home.tls_folder("projects")), Narrow)
    server.config.timeout_graceful_shutdown = drain
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await task


@pytest.fixture
async def port(pki: Pki) -> AsyncIterator[int]:
    async with serving(OperatorsOnly(hello, DOMAIN), pki, "gateway", "runner") as made:
        yield made


CHUNK, CHUNKS = b"x" * 16_384, 2_000
taken: list[int] = []


async def flow(scope: Any, receive: Any, send: Any) -> None:
    taken.clear()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for number in range(CHUNKS):
        await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
        taken.append(number)
    await send({"type": "http.response.body", "body": b""})


@pytest.fixture
async def flowing(pki: Pki) -> AsyncIterator[int]:
    async with serving(flow, pki, "gateway") as made:
        yield made


async def ask(port: int, context: ssl.SSLContext, path: str = "/api/v1/projects") -> bytes:
    reader, writer = await asyncio.open_connection("localhost", port, ssl=context)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        return await reader.read()
    finally:
        writer.close()


async def refused(port: int, context: ssl.SSLContext) -> bool:
    """Whether the connection ends without an answer; a TLS 1.3 client may learn of it only when it reads."""
    try:
        return await ask(port, context) == b""
    except (ssl.SSLError, ConnectionError):
        return True


async def test_the_gateway_is_answered(pki: Pki, port: int) -> None:
    answer = await ask(port, tls.client_context(pki.home.tls_folder("gateway")))
    assert answer.startswith(b"HTTP/1.1 200")


def asked(port: int, context: ssl.SSLContext, room: int = 0) -> ssl.SSLSocket:
    """A connection on which something was asked, by somebody who reads only when they want to."""
    plain = socket.socket()
    if room:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    plain.connect(("127.0.0.1", port))
    channel = context.wrap_socket(plain, server_hostname="localhost")
    channel.sendall(b"GET /api/v1/projects HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return channel


async def test_who_keeps_a_connection_and_asks_nothing_is_not_waited_for_when_a_process_ends(pki: Pki) -> None:
    context = tls.client_context(pki.home.tls_folder("gateway"))
    async with asyncio.timeout(20), serving(hello, pki, "gateway", drain=600) as port:
        idle = await asyncio.to_thread(asked, port, context)
        assert (await asyncio.to_thread(idle.recv, 4096)).startswith(b"HTTP/1.1 200")
    with idle:
        assert await asyncio.to_thread(idle.recv, 4096) in {b"", b"hello"}
        assert await asyncio.to_thread(idle.recv, 4096) == b"", "it was told of the end"


async def test_an_answer_that_is_all_written_is_taken_to_its_end_when_a_process_ends(pki: Pki) -> None:
    written, ending, body = asyncio.Event(), asyncio.Event(), secrets.token_bytes(200_000)

    async def large(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})
        written.set()

    def rest(channel: ssl.SSLSocket) -> bytes:
        with channel:
            return b"".join(iter(lambda: channel.recv(65_536), b""))

    async def later(channel: ssl.SSLSocket) -> bytes:
        await ending.wait()
        await asyncio.sleep(5 * tls.LEAVE_S)  # it would be gone by then
        return await asyncio.to_thread(rest, channel)

    context = tls.client_context(pki.home.tls_folder("gateway"))
    async with asyncio.timeout(60), serving(large, pki, "gateway", drain=600, room=8192) as port:
        taking = asyncio.create_task(later(await asyncio.to_thread(asked, port, context, 8192)))
        await written.wait()
        ending.set()
    assert (await taking).partition(b"\r\n\r\n")[2] == body


async def test_a_peer_without_a_certificate_fails_in_the_handshake(pki: Pki, port: int) -> None:
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    bare.load_verify_locations(pki.home.tls_folder("gateway") / tls.TRUST)
    assert await refused(port, bare)


async def test_a_peer_whose_certificate_another_issuer_signed_fails_in_the_handshake(pki: Pki, strangers: Pki, port: int) -> None:
    context = tls.client_context(pki.home.tls_folder("gateway"))
    folder = strangers.home.tls_folder("gateway")
    context.load_cert_chain(folder / tls.CERTIFICATE, folder / tls.KEY)
    assert await refused(port, context)


async def test_a_sibling_service_is_cut_off_right_after_the_handshake(pki: Pki, port: int) -> None:
    assert await refused(port, tls.client_context(pki.home.tls_folder("datasets")))


async def test_the_runner_reaches_the_operators_doors_and_nothing_else(pki: Pki, port: int) -> None:
    context = tls.client_context(pki.home.tls_folder("runner"))
    assert (await ask(port, context, "/readyz")).startswith(b"HTTP/1.1 200")
    assert (await ask(port, context)).startswith(b"HTTP/1.1 404")


async def test_older_tls_is_not_spoken(pki: Pki, port: int) -> None:
    context = tls.client_context(pki.home.tls_folder("gateway"))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await ask(port, context)


async def test_a_server_that_is_not_of_the_services_issuer_is_not_trusted(pki: Pki, strangers: Pki, port: int) -> None:
    context = tls.client_context(strangers.home.tls_folder("gateway"))
    with pytest.raises(ssl.SSLCertVerificationError):
        await ask(port, context)


class Wire:
    """What a transport beneath was told, in order."""

    def __init__(self) -> None:
        self.told: list[bytes | str] = []

    def write(self, data: bytes) -> None:
        self.told.append(data)

    def close(self) -> None:
        self.told.append("close")


async def test_what_is_written_in_one_turn_is_sent_in_one_piece_and_in_order() -> None:
    wire = Wire()
    gathering = tls.Gathering(wire, asyncio.get_running_loop())
    gathering.write(b"head ")
    gathering.write(b"body")
    assert wire.told == []
    await asyncio.sleep(0)
    assert wire.told == [b"head body"]
    gathering.write(b"a")
    gathering.write(b"b" * tls.GATHERED)
    assert wire.told[1:] == [b"a" + b"b" * tls.GATHERED]
    await asyncio.sleep(0)
    gathering.write(b"last")
    gathering.close()
    await asyncio.sleep(0)
    assert wire.told[2:] == [b"last", "close"]


def test_a_connection_that_was_lost_a_moment_ago_waits_for_nothing() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    ours.close()
    for left in (None, ours):  # uvloop has no socket any more, asyncio a closed one
        assert tls.unacknowledged(SimpleNamespace(get_extra_info=lambda _name, left=left: left)) == 0


async def test_who_reads_slowly_is_waited_for_and_gets_all(pki: Pki, flowing: int) -> None:
    reader, writer = await asyncio.open_connection("localhost", flowing, ssl=tls.client_context(pki.home.tls_folder("gateway")))
    try:
        writer.write(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        stands_still = -1
        while not taken or stands_still != len(taken):  # the socket's buffers fill, and then nothing more is taken
            stands_still = len(taken)
            await asyncio.sleep(0.3)
        assert 0 < len(taken) < CHUNKS
        rest = await reader.read()
        assert len(taken) == CHUNKS
        assert rest.count(CHUNK[:1]) == len(CHUNK) * CHUNKS
    finally:
        writer.close()
