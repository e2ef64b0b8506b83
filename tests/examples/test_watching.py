"""Those who watch hear of an end when it comes, whatever they are doing, and ask on while an answer is due."""

import asyncio
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from chassis import pairs
from compose.local.pki import Pki
from examples.wdbc.doors import Lines, Reply, question, trusting
from examples.wdbc.transfers import Download, Transfer, Upload
from examples.wdbc.verdicts import Answer, Verdict
from examples.wdbc.watch import LANES, Probe, shut_out, watched_on, watching

LENGTH = 256 * 1024
PATIENCE = 20.0
Talk = Callable[[ssl.SSLSocket], None]
ABORT = struct.pack("ii", 1, 0)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    pki = Pki.create(tmp_path_factory.mktemp("home"))
    pki.issue_service_certificate("gateway", pki.home.tls_folder("gateway"))
    return pki


@contextmanager
def gateway(pki: Pki, *talks: Talk) -> Iterator[str]:
    """A gateway, played: the first connections go as ``talks`` say, and stay open until the end where they do not close them."""
    pair = pairs.place(pki.home.tls_folder("gateway"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair / pairs.CERTIFICATE, pair / pairs.KEY)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        kept = []

        def serve() -> None:
            for talk in talks:
                connection = context.wrap_socket(listening.accept()[0], server_side=True)
                kept.append(connection)
                talk(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"https://localhost:{listening.getsockname()[1]}"
        thread.join(PATIENCE)
        for connection in kept:
            connection.close()


def let_in(connection: ssl.SSLSocket) -> None:
    """Take the head of an upload, and let the rest come."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += connection.recv(65536)
    assert b"\r\nExpect: 100-continue\r\n" in head
    connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")


def taken(connection: ssl.SSLSocket, pieces: int) -> None:
    """Let an upload in, and take so many pieces of it."""
    let_in(connection)
    got = b""
    while got.count(b"\r\nrow of a table") < pieces:
        got += connection.recv(65536)


def reset(connection: ssl.SSLSocket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
    connection.close()


def refuse(connection: ssl.SSLSocket) -> None:
    """Answer an upload in its midst, and neither read on nor hang up."""
    taken(connection, 15)
    connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")


def break_off(connection: ssl.SSLSocket) -> None:
    taken(connection, 15)
    reset(connection)


def hang_up(connection: ssl.SSLSocket) -> None:
    taken(connection, 15)
    connection.shutdown(socket.SHUT_WR)


def hold(connection: ssl.SSLSocket) -> None:
    """Say in the end that nothing can be decided, however much was sent."""
    while not connection.recv(65536).endswith(b"\r\n\r\n"):
        pass
    connection.settimeout(0.2)
    with pytest.raises(TimeoutError):
        connection.recv(65536)
    connection.sendall(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


def store(connection: ssl.SSLSocket) -> None:
    let_in(connection)
    got = b""
    while not got.endswith(b"\r\n0\r\n\r\n"):
        got += connection.recv(65536)
    connection.sendall(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")


def upload(pki: Pki, address: str) -> Upload:
    return Upload(address, pki.root, "token", "/projects/p/datasets/d/files/trickle.csv")


@pytest.mark.parametrize(("talk", "why"), [(refuse, "answered 403"), (break_off, "cut ("), (hang_up, "cut (")])
def test_an_upload_hears_of_its_end_while_it_writes(pki: Pki, talk: Talk, why: str) -> None:
    with gateway(pki, talk) as address:
        sending = upload(pki, address)
        with watching([sending]):
            assert sending.flows(seconds=PATIENCE)
            assert sending.cut(PATIENCE)
        assert sending.why.startswith(why)
        assert sending.seen.flowed_at < sending.ended_at


def test_an_upload_that_is_let_is_finished_when_nobody_watches_any_more(pki: Pki) -> None:
    with gateway(pki, store) as address:
        sending = upload(pki, address)
        with watching([sending]):
            assert shut_out([sending]) == []
    assert (sending.why, sending.ended_at) == ("it was accepted to its end", 0.0)
    assert sending.seen.breaks(time.monotonic()), "it was never cut"


def test_an_upload_that_ends_before_all_are_let_in_is_begun_again(pki: Pki) -> None:
    with gateway(pki, break_off, store) as address:
        sending = upload(pki, address)
        with watching([sending]):
            assert sending.cut(PATIENCE)
            assert shut_out([sending], PATIENCE) == []
    assert sending.why == "it was accepted to its end"


def test_an_upload_flows_only_once_it_was_let_in(pki: Pki) -> None:
    with gateway(pki, hold, store) as address:
        sending = upload(pki, address)
        with watching([sending]):
            assert sending.flows(1, PATIENCE)
    assert sending.why == "it was accepted to its end"


def sends(size: int, end: Talk) -> Talk:
    """Send so much of a file, wherever it waits, and then ``end``."""

    def talk(connection: ssl.SSLSocket) -> None:
        while not connection.recv(4096).endswith(b"\r\n\r\n"):
            pass
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LENGTH + bytes(size))
        end(connection)

    return talk


def test_a_download_hears_of_its_end_while_bytes_still_wait_for_it(pki: Pki) -> None:
    seen = threading.Event()

    def end(connection: ssl.SSLSocket) -> None:
        seen.wait(PATIENCE)
        reset(connection)

    with gateway(pki, sends(LENGTH // 2, end)) as address:
        taking = Download(address, pki.root, "token", "/file", pause=0.005)
        with watching([taking]):
            assert taking.flows(seconds=PATIENCE)
            deed = time.monotonic()
            seen.set()
            assert taking.cut(PATIENCE)
    assert 0 < taking.got < taking.length == LENGTH
    assert taking.seen.flaw(deed, 0.0) == ""


def test_a_download_that_comes_to_its_end_was_not_cut(pki: Pki) -> None:
    with gateway(pki, sends(LENGTH, lambda _: None)) as address:
        taking: Transfer = Download(address, pki.root, "token", "/file", piece=65536, pause=0.0)
        with watching([taking]):
            assert not taking.cut(PATIENCE)
    assert taking.why == "it came to its end"


def answers(*texts: bytes) -> Talk:
    """Answer question after question with these; an empty one hangs up."""

    def talk(connection: ssl.SSLSocket) -> None:
        for text in texts:
            while not connection.recv(4096).endswith(b"\r\n\r\n"):
                pass
            if not text:
                connection.close()
                return
            for start in range(0, len(text), 7):
                connection.sendall(text[start : start + 7])

    return talk


def test_a_line_reads_answers_as_they_come_and_is_opened_again_when_it_ended(pki: Pki) -> None:
    first = answers(
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\n\r\nhello",
        b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        b"",
    )
    again = answers(b"HTTP/1.1 403 Forbidden\r\nHortus-Reason: not-a-member\r\nContent-Length: 0\r\n\r\n")

    async def ask(address: str) -> list[Reply]:
        lines = Lines(address, trusting(pki.root))
        replies = [await lines.ask(question("GET", "/x")) for _ in range(5)]
        lines.close()
        return replies

    with gateway(pki, first, again) as address:
        said = asyncio.run(ask(address))
    assert [(reply.status, reply.body) for reply in said] == [(200, b"hello"), (304, b""), (200, b"abcde"), (0, b""), (403, b"")]
    assert said[0].headers["set-cookie"] == "a=1\nb=2"
    assert said[1].headers["etag"] == "x"
    assert said[4].reason == "not-a-member"
    assert all(reply.sent <= reply.at for reply in said)


def test_questions_are_asked_while_others_wait_for_their_answers() -> None:
    under_way: set[int] = set()
    together = asyncio.Event()

    async def ask() -> Answer:
        sent = time.monotonic()
        under_way.add(len(under_way))
        if len(under_way) == LANES:
            together.set()
        await together.wait()
        return Answer(sent, time.monotonic(), Verdict.LET_IN)

    probe = Probe("slow", ask)
    with watching([probe]):
        assert shut_out([probe], PATIENCE) == []
    assert len(probe.seen.answers) >= LANES


def test_a_probe_asks_as_often_as_it_shall_and_no_more() -> None:
    asked = {"twice": 0, "endless": 0}
    enough = threading.Event()

    async def ask(name: str) -> Answer:
        asked[name] += 1
        if asked["endless"] > 5:
            enough.set()
        now = time.monotonic()
        return Answer(now, now, Verdict.LET_IN)

    probes = [Probe(name, partial(ask, name)) for name in asked]
    probes[0].most = 2
    with watching(probes):
        assert enough.wait(PATIENCE)
    assert [len(probe.seen.answers) > 2 for probe in probes] == [False, True]
    assert asked["twice"] == 2


def test_a_probe_is_watched_until_it_refuses_and_what_goes_wrong_in_it_is_told() -> None:
    deed = threading.Event()

    async def ask() -> Answer:
        now = time.monotonic()
        return Answer(now, now, Verdict.REFUSED if deed.is_set() else Verdict.LET_IN, "gone" if deed.is_set() else "")

    async def fail() -> Answer:
        raise ZeroDivisionError

    good, bad = Probe("good", ask), Probe("bad", fail)
    with watching([good]):
        assert shut_out([good], PATIENCE) == []
        moment = time.monotonic()
        deed.set()
        watched_on([good], moment, 0.0, PATIENCE)
    assert good.result(moment).words == "gone"
    with watching([bad]):
        assert shut_out([bad], PATIENCE) == ["bad: ZeroDivisionError()"]
    with pytest.raises(ZeroDivisionError):
        bad.result(moment)
