"""Watching what is still possible after a deed: one thread for each surface, at least 20 questions a second, or one long transfer."""

import math
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from urllib.parse import urlsplit

from hortus.client import Refused, Unreachable

INTERVAL = 0.04
REVOKED_SECONDS = 1.0
SMALL_WINDOW = 32 * 1024
PATIENCE = 60.0


class Verdict(Enum):
    """What an answer says."""

    LET_IN = "let in"
    REFUSED = "refused"
    CANNOT_DECIDE = "cannot decide"


@dataclass(frozen=True)
class Answer:
    """When a question was sent and its answer complete (monotonic seconds), what it says, and its words."""

    sent: float
    at: float
    verdict: Verdict
    words: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a surface showed after a deed: seconds until it let in for the last time (0: never again) and until it first refused.

    ``stale``: how many questions that were sent more than a second afterwards were let in. ``rate`` is how many answers came a
    second since then, ``undecided`` how many of them were "cannot decide now".
    """

    name: str
    let_in: float
    refused: float
    rate: float
    words: str
    undecided: int = 0
    stale: int = 0


class Probe:
    """Asks one surface again and again until it is stopped, every ``interval`` seconds."""

    interval = INTERVAL

    def __init__(self, name: str, ask: Callable[[], tuple[Verdict, str]]) -> None:
        self.name = name
        self._ask = ask
        self._seen: list[Answer] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._go, name=name, daemon=True)
        self._failure: BaseException | None = None

    def start(self) -> None:
        """Begin asking."""
        self._thread.start()

    def stop(self) -> None:
        """Ask no more."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(10)

    def lets_in(self, seconds: float = 20.0) -> bool:
        """Whether the surface has let the person in (waits for the first such answer)."""
        return _until(lambda: self._failure is not None or any(answer.verdict is Verdict.LET_IN for answer in self._seen), seconds)

    def refuses(self, moment: float, seconds: float) -> bool:
        """Whether a refusal has come after ``moment`` (waits for it)."""
        return _until(lambda: any(answer.verdict is Verdict.REFUSED and answer.at > moment for answer in self._seen), seconds)

    def result(self, moment: float) -> Outcome:
        """What was seen, with ``moment`` (monotonic) as the deed."""
        if self._failure is not None:
            raise self._failure
        after = [answer for answer in list(self._seen) if answer.at >= moment]
        refused = next(
            (answer for answer in after if answer.verdict is Verdict.REFUSED), Answer(math.inf, math.inf, Verdict.REFUSED, "never")
        )
        let_in = [answer for answer in after if answer.verdict is Verdict.LET_IN]
        span = max(after[-1].at - moment, 1e-9) if after else math.inf
        return Outcome(
            self.name,
            max((answer.at for answer in let_in), default=moment) - moment,
            refused.at - moment,
            len(after) / span,
            refused.words,
            sum(1 for answer in after if answer.verdict is Verdict.CANNOT_DECIDE),
            sum(1 for answer in let_in if answer.sent > moment + REVOKED_SECONDS),
        )

    @property
    def last_words(self) -> str:
        """What the newest answer said."""
        return f"{self._seen[-1].verdict.value} {self._seen[-1].words}" if self._seen else str(self._failure or "no answer yet")

    def _go(self) -> None:
        while not self._stop.is_set():
            sent = time.monotonic()
            try:
                verdict, words = self._ask()
            except BaseException as failure:  # noqa: BLE001 (it is raised in the thread that asks for the result)
                self._failure = failure
                return
            self._seen.append(Answer(sent, time.monotonic(), verdict, words))
            self._stop.wait(max(0.0, self.interval - (time.monotonic() - sent)))


FLOWING = 10
BEGIN_SECONDS = 20.0


class _Transfer:
    """One long transfer; what counts is when it ended. Before it flows, a moment at which nothing can be decided is waited out."""

    name = ""

    def __init__(self) -> None:
        self.moved = 0
        self.ended_at = 0.0
        self.why = ""
        self._began = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._go, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._began = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """Move no more."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(PATIENCE)

    def lets_in(self, seconds: float = 20.0) -> bool:
        """Whether it flows (waits for it)."""
        return self.flows(seconds=seconds)

    def flows(self, pieces: int = FLOWING, seconds: float = 20.0) -> bool:
        """Whether this many pieces moved (waits for them)."""
        return _until(lambda: self.moved >= pieces or self.ended_at > 0, seconds) and self.ended_at == 0

    def refuses(self, _moment: float, seconds: float) -> bool:
        """Whether it was cut (waits for it)."""
        return self.cut(seconds)

    def cut(self, seconds: float) -> bool:
        """Whether it ended by itself (waits for it)."""
        return _until(lambda: self.ended_at > 0, seconds)

    def result(self, moment: float) -> Outcome:
        """What became of it, with ``moment`` (monotonic) as the deed."""
        if not self.ended_at:
            return Outcome(self.name, math.inf, math.inf, 0.0, "never cut", stale=1)
        after = self.ended_at - moment
        rate = self.moved / max(self.ended_at - self._began, 1e-9)
        return Outcome(self.name, after, after, rate, self.why, stale=int(after > REVOKED_SECONDS))

    @property
    def last_words(self) -> str:
        """How it goes."""
        return self.why or f"{self.moved} pieces moved"

    def _go(self) -> None:
        self._move()
        while self.moved < FLOWING and not self._stop.is_set() and time.monotonic() - self._began < BEGIN_SECONDS:
            self._stop.wait(0.2)
            self.moved = 0
            self._move()
        self.ended_at = time.monotonic()

    def _move(self) -> None:
        """Move bytes until it ends, and say why it did."""
        raise NotImplementedError


class Upload(_Transfer):
    """A file that trickles in for as long as it is let."""

    name = "open upload"

    def __init__(self, send: Callable[[Iterator[bytes]], object]) -> None:
        super().__init__()
        self._send = send

    @property
    def sent(self) -> int:
        """How many pieces went out."""
        return self.moved

    def _move(self) -> None:
        try:
            self._send(self._pieces())
            self.why = "it was accepted to its end"
        except (Refused, Unreachable) as end:
            self.why = str(end)

    def _pieces(self) -> Iterator[bytes]:
        while not self._stop.is_set():
            yield b"row of a table\n" * 256
            self.moved += 1
            self._stop.wait(INTERVAL)


class Download(_Transfer):
    """Bytes that are taken slowly through a small window, so that most of them wait at the gateway; ``got`` of ``length`` came."""

    name = "open download"

    def __init__(self, address: str, root: Path, token: str, path: str, piece: int = 8 * 1024, pause: float = 0.05) -> None:
        super().__init__()
        self.got = 0
        self.status = 0
        self.length = 0
        self._piece = piece
        self._pause = pause
        place = urlsplit(address)
        self._place = (place.hostname or "localhost", place.port or 443)
        self._context = ssl.create_default_context(cafile=str(root))
        self._head = f"GET /api/v1{path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n".encode()

    def finish(self) -> None:
        """Take what is left without pausing."""
        self.stop()

    def _move(self) -> None:
        try:
            with self._connected() as connection:
                connection.sendall(self._head)
                data = b""
                while b"\r\n\r\n" not in data:
                    data += connection.recv(4096)
                head, _, body = data.partition(b"\r\n\r\n")
                self.status = int(head.split()[1])
                self.length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
                self.got = len(body)
                while self.got < self.length and (piece := connection.recv(self._piece)):
                    self.got += len(piece)
                    self.moved += 1
                    self._stop.wait(self._pause)
                self.why = "cut" if self.got < self.length else "it came to its end"
        except OSError as end:
            # A cut connection ends with a reset.
            self.status = self.status or -1
            self.why = f"cut ({type(end).__name__})"

    def _connected(self) -> ssl.SSLSocket:
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_WINDOW)
        plain.settimeout(PATIENCE)
        plain.connect(self._place)
        return self._context.wrap_socket(plain, server_hostname="localhost")


Watched = Probe | Upload | Download


def processes_with(mark: str) -> list[int]:
    """The processes of this machine whose command line holds ``mark``."""
    pids = [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit()]
    return [pid for pid in pids if runs_with(pid, mark)]


def runs_with(pid: int, mark: str) -> bool:
    """Whether this process runs, with ``mark`` in its command line."""
    try:
        return mark.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _until(holds: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
