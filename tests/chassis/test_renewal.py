"""A process shows its next certificate without a restart, and says in time when it gets none.

What ca answers is tested in tests/ca/test_enrolment.py, a whole suite in tests/e2e/test_renewal.py.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
from cryptography import x509

from chassis import pairs, renewal, tls
from chassis.app import https_server
from chassis.renewal import Renewal
from chassis.settings import ProcessSettings
from compose.local.pki import Pki
from compose.local.ports import free_port

DOMAIN = "hortus.internal"


@pytest.fixture(scope="module")
def pki(new_home: Callable[[str], Path]) -> Pki:
    return Pki.create(new_home("renewal"))


@pytest.fixture
def server_dir(pki: Pki, tmp_path: Path) -> Path:
    pki.issue_service_certificate("projects", tmp_path / "projects")
    return tmp_path / "projects"


@pytest.fixture
def client_dir(pki: Pki, tmp_path: Path) -> Path:
    pki.issue_service_certificate("gateway", tmp_path / "gateway")
    return tmp_path / "gateway"


def serial(folder: Path) -> int:
    return pairs.leaf(folder).serial_number


def settings(folder: Path, *addresses: str) -> ProcessSettings:
    return ProcessSettings(service="projects", tls_dir=folder, kafka="localhost:1", state_dir=folder, renewal_addresses=addresses)


class Seen:
    """An application that says whose certificate it sees, and may keep an answer back."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.begun = asyncio.Event()

    async def __call__(self, scope: Any, _receive: Any, send: Any) -> None:
        shown = str(x509.load_der_x509_certificate(scope["extensions"]["tls"]["der"]).serial_number).encode()
        self.begun.set()
        await self.go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(shown)).encode())]})
        await send({"type": "http.response.body", "body": shown})


class Listening:
    """What https_server is told."""

    def __init__(self, folder: Path) -> None:
        self.tls_dir = folder
        self.host, self.port = "127.0.0.1", 0


@contextlib.asynccontextmanager
async def served(folder: Path, app: Any) -> AsyncIterator[int]:
    server = https_server(app, Listening(folder), tls.protocol({tls.service_identity(DOMAIN, "gateway")}))
    task = asyncio.create_task(server.serve())
    try:
        while not server.started:
            await asyncio.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.stop()
        await task


class Connection:
    """One connection that is kept: which certificates either side sees on it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def made(cls, port: int, context: ssl.SSLContext) -> "Connection":
        return cls(*await asyncio.open_connection("localhost", port, ssl=context))

    @property
    def server(self) -> int:
        return x509.load_der_x509_certificate(self.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)).serial_number

    async def ask(self) -> int:
        self.writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return int(await self.reader.readexactly(length))

    async def ended(self) -> bool:
        return await asyncio.wait_for(self.reader.read(), 10) == b""

    def close(self) -> None:
        self.writer.close()


async def test_a_listener_shows_the_next_certificate_to_new_connections_and_keeps_the_old_ones(
    pki: Pki, server_dir: Path, client_dir: Path
) -> None:
    context, first = tls.client_context(client_dir), serial(server_dir)
    keeper = Renewal(settings(server_dir))
    async with served(server_dir, Seen()) as port:
        old = await Connection.made(port, context)
        assert (old.server, await old.ask()) == (first, serial(client_dir))
        pki.issue_service_certificate("projects", server_dir)
        before = await Connection.made(port, context)
        assert before.server == first
        keeper.follow()
        new = await Connection.made(port, context)
        assert new.server == serial(server_dir) != first
        assert [await each.ask() for each in (old, before, new)] == [serial(client_dir)] * 3
        for each in (old, before, new):
            each.close()


async def test_a_client_shows_its_next_certificate_on_new_connections_and_keeps_the_old_ones(
    pki: Pki, server_dir: Path, client_dir: Path
) -> None:
    context, first = tls.client_context(client_dir), serial(client_dir)
    changes: list[int] = []
    keeper = Renewal(settings(client_dir), lambda: changes.append(serial(client_dir)))
    async with served(server_dir, Seen()) as port:
        old = await Connection.made(port, context)
        pki.issue_service_certificate("gateway", client_dir)
        keeper.follow()
        keeper.follow()
        new = await Connection.made(port, context)
        assert [await old.ask(), await new.ask(), await old.ask()] == [first, serial(client_dir), first]
        assert changes == [serial(client_dir)]
        for each in (old, new):
            each.close()


async def test_contexts_that_are_gone_are_forgotten_and_each_folder_is_by_itself(pki: Pki, server_dir: Path, client_dir: Path) -> None:
    kept, other = tls.client_context(client_dir), tls.client_context(server_dir)
    for _ in range(50):
        tls.client_context(client_dir)
    assert len(tls._showing[client_dir]) < 10
    assert kept in tls._showing[client_dir]
    assert other not in tls._showing[client_dir]


async def test_a_connection_ends_with_the_peers_certificate(pki: Pki, server_dir: Path, client_dir: Path) -> None:
    pki.issue_service_certificate("gateway", client_dir, lifetime=timedelta(seconds=3))
    ends, seen = pairs.leaf(client_dir).not_valid_after_utc, Seen()
    context = tls.client_context(client_dir)
    async with served(server_dir, seen) as port:
        idle, busy = await Connection.made(port, context), await Connection.made(port, context)
        assert await idle.ask() == serial(client_dir)
        seen.go_on.clear()
        seen.begun.clear()
        asking = asyncio.create_task(busy.ask())
        await seen.begun.wait()
        assert await idle.ended()
        assert datetime.now(UTC) >= ends - timedelta(milliseconds=50)
        assert not asking.done()
        seen.go_on.set()
        assert await asking == serial(client_dir)
        assert await busy.ended()
        for each in (idle, busy):
            each.close()


async def test_a_pair_that_cannot_be_read_changes_nothing(server_dir: Path, client_dir: Path, pki: Pki) -> None:
    context, first = tls.client_context(client_dir), serial(server_dir)
    keeper = Renewal(settings(server_dir))
    async with served(server_dir, Seen()) as port:
        place = pairs.place(server_dir)
        whole = {name: (place / name).read_bytes() for name in (pairs.CERTIFICATE, pairs.KEY)}
        for broken in ({pairs.CERTIFICATE: b"x"}, {pairs.KEY: b"x"}, {pairs.CERTIFICATE: pki.certify_service("projects")[1]}):
            for name, content in (whole | broken).items():
                (place / name).write_bytes(content)
            keeper.follow()
            connection = await Connection.made(port, context)
            assert connection.server == first
            assert await connection.ask() == serial(client_dir)
            connection.close()
        for name in (pairs.CERTIFICATE, pairs.KEY):
            (server_dir / name).unlink()
        keeper.follow()
        assert keeper.missing() == []
        pki.issue_service_certificate("projects", server_dir)
        keeper.follow()
        connection = await Connection.made(port, context)
        assert connection.server == serial(server_dir) != first
        connection.close()


async def test_what_is_put_into_the_folder_is_taken_up_by_itself(server_dir: Path, pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renewal, "LOOK_S", 0.02)
    taken = asyncio.Event()
    keeper = Renewal(settings(server_dir), taken.set)
    task = asyncio.create_task(keeper.run())
    pki.issue_service_certificate("projects", server_dir, lifetime=timedelta(hours=1))
    await asyncio.wait_for(taken.wait(), 10)
    assert 3500 < keeper.left() < 3601
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_failure_is_tried_again_ever_more_seldom_counted_and_warned_of(
    server_dir: Path, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody listens where ca should be. The clock is the test's, the pauses are counted in looks."""
    monkeypatch.setattr(renewal, "LOOK_S", 0.001)
    monkeypatch.setattr(renewal, "FIRST_PAUSE_S", 0.001)
    life = pairs.life_of(pairs.leaf(server_dir))
    now = [life.issued_at]
    keeper = Renewal(settings(server_dir, f"https://localhost:{free_port()}"), clock=lambda: now[0])
    tried: list[float] = []
    real = renewal.renew

    def counting(*arguments: Any) -> None:
        tried.append(asyncio.run_coroutine_threadsafe(_now(), loop).result())
        real(*arguments)

    async def _now() -> float:
        return loop.time()

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(renewal, "renew", counting)
    before = failures()
    task = asyncio.create_task(keeper.run())
    await asyncio.sleep(0.1)
    assert tried == []
    assert (keeper.missing(), keeper.warnings()) == ([], [])
    now[0] = life.half
    async with asyncio.timeout(20):
        while len(tried) < 6:
            await asyncio.sleep(0.005)
    assert failures() - before >= 5
    assert (keeper.missing(), keeper.warnings()) == ([], [])
    now[0] = life.ends_at - timedelta(seconds=100)
    assert keeper.missing() == []
    assert keeper.warnings() == [f"certificate: it ends at {life.ends_at.isoformat()}: ConnectionRefusedError"]
    assert gauge() == 100
    now[0] = life.ends_at
    assert keeper.missing() == [f"certificate: it ended at {life.ends_at.isoformat()}"]
    pki.issue_service_certificate("projects", server_dir, lifetime=timedelta(days=30))
    async with asyncio.timeout(20):
        while keeper.missing():
            await asyncio.sleep(0.005)
    assert keeper.warnings() == []
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("body", [b"nothing", b"[]", b"{}", b'{"chain": 1}', b'{"chain": ""}', b"\xff"])
async def test_an_answer_that_says_something_else_is_a_failed_renewal(server_dir: Path, client_dir: Path, body: bytes) -> None:
    async def answers(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 201, "headers": [(b"content-length", str(len(body)).encode())]})
        await send({"type": "http.response.body", "body": body})

    before = serial(client_dir)
    async with served(server_dir, answers) as port:
        with pytest.raises(renewal.UNRENEWED):
            await asyncio.to_thread(renewal.renew, client_dir, f"https://localhost:{port}", tls.service_identity(DOMAIN, "projects"))
    assert serial(client_dir) == before


def test_the_pause_doubles_up_to_a_minute_and_stays_short_when_little_is_left() -> None:
    pauses = [renewal.next_pause(before, left) for before, left in ((1, 9e9), (2, 9e9), (40, 9e9), (60, 9e9), (60, 80), (60, 1), (60, -5))]
    assert pauses == [2, 4, 60, 60, 10, 1, 1]


def gauge() -> float:
    value = prometheus_client.REGISTRY.get_sample_value("hortus_certificate_seconds_left")
    assert value is not None
    return value


def failures() -> float:
    return prometheus_client.REGISTRY.get_sample_value("hortus_certificate_renewals_failed_total") or 0.0
