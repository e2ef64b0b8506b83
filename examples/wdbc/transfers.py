"""Long transfers that are watched: when one ends is when its client hears of it, which reads while it writes."""

import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from examples.wdbc.doors import API, trusting
from examples.wdbc.verdicts import Flow, Outcome

FLOWING = 10
BEGIN_SECONDS = 20.0
ACCEPTED = "it was accepted to its end"
PATIENCE = 60.0
SMALL_WINDOW = 32 * 1024
PIECE = b"row of a table\n" * 256
CHUNK = b"%x\r\n%s\r\n" % (len(PIECE), PIECE)
PIECE_SECONDS = 0.04
LAST_CHUNK = b"0\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Transfer:
    """One long transfer. Before it flows, a moment at which nothing can be decided is waited out."""

    name = ""
    window = 0

    def __init__(self, address: str, root: Path, token: str, path: str) -> None:
        self.seen = Flow(self.name)
        self._path = path
        self._token = token
        place = urlsplit(address)
        self._place = (place.hostname or "localhost", place.port or 443)
        self._trust = trusting(root)
        self._noticed = 0.0
        self._began = 0.0
        self.stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def ended_at(self) -> float:
        """When it ended by itself; 0 until then."""
        return self.seen.ended_at

    @property
    def why(self) -> str:
        """How it ended."""
        return self.seen.why

    @property
    def lets_in(self) -> bool:
        """Whether it flows."""
        return self.seen.flowed_at > 0 and not self.over

    @property
    def over(self) -> bool:
        """Whether nothing more comes."""
        return self.seen.ended_at > 0

    @property
    def last_words(self) -> str:
        """How it goes."""
        return self.why or f"{self.seen.moved} pieces moved"

    def start(self) -> None:
        """Begin, also again after its end."""
        self.seen = Flow(self.name)
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._go, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Finish it; how that went is in ``why``."""
        self.stopping.set()
        if self._thread is not None:
            self._thread.join(PATIENCE)

    def flows(self, pieces: int = FLOWING, seconds: float = BEGIN_SECONDS) -> bool:
        """Whether this many pieces moved (waits for them)."""
        return _until(lambda: self.seen.moved >= pieces or self.over, seconds) and not self.over

    def cut(self, seconds: float) -> bool:
        """Whether it was cut (waits for it)."""
        return _until(lambda: self.over, seconds) and self.seen.cut

    def refused_since(self, _moment: float) -> bool:
        """Whether it has ended."""
        return self.over

    def result(self, moment: float) -> Outcome:
        """What became of it, with ``moment`` (monotonic) as the deed."""
        return self.seen.outcome(moment)

    def _go(self) -> None:
        self._try()
        while not self.seen.flowed_at and not self.stopping.is_set() and time.monotonic() - self._began < BEGIN_SECONDS:
            self.stopping.wait(0.2)
            self.seen.moved = 0
            self._try()
        if not self.stopping.is_set():
            self.seen.ended_at = self._noticed

    def _try(self) -> None:
        self._noticed = 0.0
        try:
            with self._connected() as connection:
                self.seen.cut, self.seen.why = self._move(connection)
        except OSError as end:
            # A cut connection ends with a reset.
            self.seen.cut, self.seen.why = True, f"cut ({type(end).__name__})"
        self._noticed = self._noticed or time.monotonic()

    def _connected(self) -> ssl.SSLSocket:
        plain = socket.socket()
        if self.window:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.window)
        plain.settimeout(PATIENCE)
        plain.connect(self._place)
        return self._trust.wrap_socket(plain, server_hostname="localhost")

    def _move(self, connection: ssl.SSLSocket) -> tuple[bool, str]:
        """Move bytes until it ends; whether it was cut, and how it ended."""
        raise NotImplementedError

    def _moved(self) -> None:
        self.seen.moved += 1
        if self.seen.moved == FLOWING:
            self.seen.flowed_at = time.monotonic()

    def _asked(self, method: str, *headers: str) -> bytes:
        lines = [f"{method} {API}{self._path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {self._token}", *headers, "", ""]
        return "\r\n".join(lines).encode()


class Upload(Transfer):
    """A file that trickles in for as long as it is let; an answer before its end is a cut, too.

    It waits to be let in (RFC 9110 section 10.1.1): what a client has sent says nothing of whether anybody takes it.
    """

    name = "open upload"

    def _move(self, connection: ssl.SSLSocket) -> tuple[bool, str]:
        poll = select.poll()
        poll.register(connection, select.POLLIN | select.POLLRDHUP)
        connection.sendall(self._asked("PUT", "Transfer-Encoding: chunked", "Expect: 100-continue"))
        answer = _some(connection, 4096)
        if answer == CONTINUE:
            answer = b""
        while not (answer or self.stopping.is_set()):
            if select.select([], [connection], [], 0)[1]:  # who is not read goes on listening
                connection.sendall(CHUNK)
                self._moved()
            if poll.poll(PIECE_SECONDS * 1000):
                answer = _arrived(connection)
        if answer:
            self._noticed = time.monotonic()
        else:
            connection.sendall(LAST_CHUNK)
            answer = connection.recv(4096)
        status = answer[9:12].decode()
        accepted = status.startswith("2")
        return not accepted, ACCEPTED if accepted else f"answered {status}" if status else "cut"


class Download(Transfer):
    """Bytes that are taken slowly through a small window, so that most of them wait at the gateway; ``got`` of ``length`` came."""

    name = "open download"
    window = SMALL_WINDOW

    def __init__(self, address: str, root: Path, token: str, path: str, piece: int = 8 * 1024, pause: float = 0.05) -> None:
        super().__init__(address, root, token, path)
        self.got = 0
        self.status = 0
        self.length = 0
        self._piece = piece
        self._pause = pause

    def _move(self, connection: ssl.SSLSocket) -> tuple[bool, str]:
        # The end of the connection is heard of although bytes that came before it have not been taken yet.
        ends = select.poll()
        ends.register(connection, select.POLLRDHUP)
        connection.sendall(self._asked("GET"))
        data = b""
        while b"\r\n\r\n" not in data:
            data += _some(connection, 4096)
        head, _, body = data.partition(b"\r\n\r\n")
        self.status = int(head.split()[1])
        self.length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        self.got = len(body)
        while self.got < self.length:
            self.got += len(_some(connection, self._piece))
            self._moved()
            if ends.poll(0 if self.stopping.is_set() else self._pause * 1000) and not self._noticed:
                self._noticed = time.monotonic()
        return False, "it came to its end"


def _some(connection: ssl.SSLSocket, size: int) -> bytes:
    """Bytes that came. Raises ConnectionError where none will."""
    got = connection.recv(size)
    if not got:
        raise ConnectionAbortedError
    return got


def _arrived(connection: ssl.SSLSocket) -> bytes:
    """What of an answer is there; nothing where only TLS itself had something to say. Raises ConnectionError where none will come."""
    connection.settimeout(0)
    try:
        return _some(connection, 4096)
    except ssl.SSLWantReadError:
        return b""
    finally:
        connection.settimeout(PATIENCE)


def _until(holds: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
