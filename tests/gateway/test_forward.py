"""The way to the services: whom the gateway talks to, what it makes of odd answers, and which requests it sends again."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta

import pytest
from cryptography import x509

from chassis import pairs, tls
from compose.local.ports import free_port
from gateway import connection as connection_module
from gateway import forward
from gateway.connection import Connection, UpstreamFailed, UpstreamTimeout
from gateway.forward import Forwarder, UpstreamUnavailable
from tests.gateway.stage import DOMAIN, Certificates, until

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
EMPTY = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


@contextlib.asynccontextmanager
async def service(certificates: Certificates, handler: Handler, name: str = "projects", port: int = 0) -> AsyncIterator[int]:
    """A bare TLS server with a service's certificate, for answers that no library would send."""
    port = port or free_port()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, asyncio.CancelledError):
            await handler(reader, writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port, ssl=tls.server_context(certificates.folder(name)))
    try:
        yield port
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.05)


def forwarder(certificates: Certificates, *ports: int) -> Forwarder:
    context = tls.client_context(certificates.folder("gateway"))
    return Forwarder({"projects": [f"https://localhost:{port}" for port in ports]}, context, DOMAIN)


async def ask(made: Forwarder, method: str = "GET", *, repeatable: bool = True, streams: bool = False) -> Connection:
    return await made.exchange(
        "projects",
        f"{method} /x HTTP/1.1\r\n".encode(),
        b"\r\n",
        repeatable=repeatable,
        head=method == "HEAD",
        streams=streams,
        begin=lambda _connection: None,
    )


async def whole(connection: Connection) -> bytes:
    body = b""
    while data := await connection.read():
        body += data
    connection.release()
    return body


def says(*answers: bytes) -> Handler:
    """Answers the first request with the first bytes, and so on; then closes."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()

    return handler


async def test_a_connection_is_used_again(certificates: Certificates) -> None:
    opened = 0

    async def counts(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        await says(*[EMPTY] * 10)(reader, writer)

    async with service(certificates, counts) as port:
        made = forwarder(certificates, port)
        for _ in range(5):
            assert await whole(await ask(made)) == b""
        assert opened == 1
        made.close()


async def test_when_another_certificate_is_shown_connections_are_made_anew_and_what_is_on_its_way_arrives(
    certificates: Certificates,
) -> None:
    shown: list[int] = []
    go_on = asyncio.Event()

    async def notes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        shown.append(x509.load_der_x509_certificate(der).serial_number)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel")
        await go_on.wait()
        writer.write(b"lo")
        await says(*[EMPTY] * 9)(reader, writer)

    folder = certificates.folder("gateway")
    async with service(certificates, notes) as port:
        made = forwarder(certificates, port)
        go_on.set()
        assert await whole(await ask(made)) == b"hello"
        assert await whole(await ask(made)) == b""
        go_on.clear()
        kept, on_its_way = [await ask(made) for _ in range(2)]
        await whole(kept)
        first = pairs.leaf(folder).serial_number
        assert shown == [first, first]
        certificates.pki.issue_service_certificate("gateway", folder)
        tls.show_anew(folder)
        made.retire()
        go_on.set()
        assert await whole(on_its_way) == b"hello"
        assert not on_its_way.usable
        assert await whole(await ask(made)) == b"hello"
        assert shown == [first, first, pairs.leaf(folder).serial_number]
        made.close()


async def test_a_connection_made_with_a_services_old_certificate_is_left_before_that_ends(certificates: Certificates) -> None:
    folder = certificates.folder("projects")
    certificates.pki.issue_service_certificate("projects", folder, lifetime=timedelta(seconds=100))
    opened = 0

    async def counts(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        await says(*[EMPTY] * 10)(reader, writer)

    try:
        async with service(certificates, counts) as port:
            made = forwarder(certificates, port)
            connection = await ask(made)
            await whole(connection)
            assert 70 < connection.retires - asyncio.get_running_loop().time() <= 75
            await whole(await ask(made))
            assert opened == 1
            connection.retires = asyncio.get_running_loop().time()
            await whole(await ask(made))
            assert opened == 2
            made.close()
    finally:
        certificates.pki.issue_service_certificate("projects", folder)


async def test_lengths_chunks_interim_answers_and_bodiless_ones_are_read_rightly(certificates: Certificates) -> None:
    answers = {
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello": (200, b"hello"),
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\nx-trailer: 1\r\n\r\n": (200, b"hello"),
        b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\nok": (
            201,
            b"ok",
        ),
        b"HTTP/1.1 204 No Content\r\n\r\n": (204, b""),
        b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n": (304, b""),
    }
    async with service(certificates, says(*answers)) as port:
        made = forwarder(certificates, port)
        for status, body in answers.values():
            connection = await ask(made)
            assert connection.status == status
            assert not any(name in (b"link", b"x-trailer") for name, _ in connection.headers)
            assert await whole(connection) == body
            assert connection.used <= len(answers)
        assert connection.used == len(answers)
        made.close()


async def test_an_answer_to_head_has_no_body_and_leaves_the_connection_clean(certificates: Certificates) -> None:
    async with service(
        certificates, says(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")
    ) as port:
        made = forwarder(certificates, port)
        connection = await ask(made, "HEAD")
        assert (b"content-length", b"5") in connection.headers
        assert await whole(connection) == b""
        again = await ask(made)
        assert again is connection
        assert await whole(again) == b"hello"
        made.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"",
    ],
)
async def test_an_answer_that_makes_no_sense_is_a_failure(certificates: Certificates, answer: bytes) -> None:
    async with service(certificates, says(answer)) as port:
        made = forwarder(certificates, port)
        with pytest.raises(UpstreamFailed):
            await ask(made)
        made.close()


async def test_an_answer_that_is_cut_short_is_never_taken_for_whole(certificates: Certificates) -> None:
    for answer in (
        b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n",
    ):
        async with service(certificates, says(answer)) as port:
            made = forwarder(certificates, port)
            connection = await ask(made)
            with pytest.raises(UpstreamFailed):
                await whole(connection)
            connection.release()
            made.close()


async def test_only_a_repeatable_request_on_a_reused_connection_is_sent_again(certificates: Certificates) -> None:
    requests = 0

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        await reader.readuntil(b"\r\n\r\n")
        requests += 1
        writer.write(EMPTY)
        await reader.readuntil(b"\r\n\r\n")
        requests += 1

    async with service(certificates, once) as port:
        made = forwarder(certificates, port)
        await whole(await ask(made))
        await whole(await ask(made))
        assert requests == 3
        with pytest.raises(UpstreamFailed):
            await ask(made, "POST", repeatable=False)
        assert requests == 4
        made.close()


async def test_a_service_that_shows_another_identity_is_refused_before_a_byte_is_sent(certificates: Certificates) -> None:
    heard: list[bytes] = []

    async def listens(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(1))

    async with service(certificates, listens, "datasets") as port:
        made = forwarder(certificates, port)
        with pytest.raises(UpstreamUnavailable):
            await ask(made)
        await asyncio.sleep(0.1)
        assert not any(heard)


async def test_replicas_take_turns_and_a_dead_one_is_skipped(certificates: Certificates) -> None:
    turns: list[int] = []

    def names(number: int) -> Handler:
        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                turns.append(number)
                writer.write(EMPTY)

        return handler

    async with service(certificates, names(2)) as second:
        async with service(certificates, names(1)) as first:
            made = forwarder(certificates, first, second)
            for _ in range(6):
                await whole(await ask(made))
            assert sorted(turns) == [1, 1, 1, 2, 2, 2]
        turns.clear()
        for _ in range(4):
            await whole(await ask(made))
        assert turns == [2, 2, 2, 2]
        made.close()


async def test_an_overdue_answer_is_a_timeout(certificates: Certificates) -> None:
    async def never(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with service(certificates, never) as port:
        made = forwarder(certificates, port)
        asking = asyncio.create_task(ask(made))
        (replica,) = made._upstreams["projects"].replicas
        await until(lambda: replica.busy)
        made.sweep(asyncio.get_running_loop().time() + connection_module.FIRST_BYTE_S + 1)
        with pytest.raises(UpstreamTimeout):
            await asking
        made.close()


async def test_a_connection_that_idled_for_long_is_closed(certificates: Certificates) -> None:
    async with service(certificates, says(EMPTY, EMPTY)) as port:
        made = forwarder(certificates, port)
        connection = await ask(made)
        await whole(connection)
        made.sweep(asyncio.get_running_loop().time() + forward.IDLE_S + 1)
        assert not connection.usable
        assert await whole(await ask(made)) == b""
        made.close()


async def test_a_full_replica_is_not_a_dead_one(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "MAX_CONNECTIONS", 1)
    async with service(certificates, says(*[EMPTY] * 9)) as one, service(certificates, says(*[EMPTY] * 9)) as other:
        made = forwarder(certificates, one, other)
        replicas = made._upstreams["projects"].replicas
        held = [await ask(made, "POST", streams=True), await ask(made, "POST", streams=True)]
        assert {connection.replica.name for connection in held} == {replica.name for replica in replicas}
        with pytest.raises(UpstreamUnavailable):
            await ask(made)
        assert [replica.dead_until for replica in replicas] == [0.0, 0.0]
        held[0].finish()
        await held[0].head()
        assert await whole(held[0]) == b""
        for _ in range(2):
            assert await whole(await ask(made)) == b""
        held[1].release()
        made.close()
