"""Watching what is still possible after a removal: one thread per surface, at least 20 questions a second."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from hortus.client import Refused, Unreachable

INTERVAL = 0.04
DECIDED = frozenset({401, 403, 404})


class Verdict(Enum):
    """What an answer says."""

    LET_IN = "let in"
    REFUSED = "refused"
    CANNOT_DECIDE = "cannot decide"


@dataclass(frozen=True)
class Answer:
    """When an answer was complete (monotonic seconds), what it says, and its words."""

    at: float
    verdict: Verdict
    words: str = ""


@dataclass(frozen=True)
class Surface:
    """What one surface showed after the removal: seconds until it let in for the last time (0: never again) and until it first refused.

    ``rate`` is how many answers came a second, ``undecided`` how many of them were "cannot decide now".
    """

    name: str
    let_in: float
    refused: float
    rate: float
    words: str
    undecided: int = 0


class Probe:
    """Asks one surface again and again until it is stopped; ``ask`` gives None where it lets in, else why not."""

    def __init__(self, name: str, ask: Callable[[], str | None]) -> None:
        self.name = name
        self._ask = ask
        self._seen: list[Answer] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._go, daemon=True)
        self._failure: BaseException | None = None

    def start(self) -> None:
        """Begin asking."""
        self._thread.start()

    def stop(self) -> None:
        """Ask no more."""
        self._stop.set()
        self._thread.join(10)

    def lets_in(self, seconds: float = 20.0) -> bool:
        """Whether the surface has let the person in (waits for the first such answer)."""
        return _until(lambda: any(answer.verdict is Verdict.LET_IN for answer in self._seen), seconds)

    def refuses(self, moment: float, seconds: float) -> bool:
        """Whether a refusal has come after ``moment`` (waits for it)."""
        return _until(lambda: any(answer.verdict is Verdict.REFUSED and answer.at > moment for answer in self._seen), seconds)

    def result(self, moment: float) -> Surface:
        """What was seen, with ``moment`` (monotonic) as the removal."""
        if self._failure is not None:
            raise self._failure
        after = [answer for answer in self._seen if answer.at >= moment]
        refused = next((answer for answer in after if answer.verdict is Verdict.REFUSED), Answer(math.inf, Verdict.REFUSED, "never"))
        let_in = max((answer.at for answer in after if answer.verdict is Verdict.LET_IN), default=moment)
        span = max(self._seen[-1].at - self._seen[0].at, 1e-9) if self._seen else math.inf
        undecided = sum(1 for answer in after if answer.verdict is Verdict.CANNOT_DECIDE)
        return Surface(self.name, let_in - moment, refused.at - moment, len(self._seen) / span, refused.words, undecided)

    def _go(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            verdict = Verdict.REFUSED
            try:
                words = self._ask()
                verdict = Verdict.REFUSED if words else Verdict.LET_IN
            except Refused as refusal:
                words = f"{refusal.status} {refusal.slug}"
                verdict = Verdict.REFUSED if refusal.status in DECIDED else Verdict.CANNOT_DECIDE
            except Unreachable as cut:
                words = str(cut)
            except BaseException as failure:  # noqa: BLE001 (it is raised in the thread that asks for the result)
                self._failure = failure
                return
            self._seen.append(Answer(time.monotonic(), verdict, words or ""))
            self._stop.wait(max(0.0, INTERVAL - (time.monotonic() - began)))


class Upload:
    """A file that trickles in for as long as it is let."""

    def __init__(self, send: Callable[[Iterator[bytes]], object]) -> None:
        self.sent = 0
        self.ended_at = 0.0
        self.why = ""
        self._began = 0.0
        self._send = send
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._go, daemon=True)

    def start(self) -> None:
        """Begin sending."""
        self._began = time.monotonic()
        self._thread.start()

    def flows(self, pieces: int = 10, seconds: float = 20.0) -> bool:
        """Whether this many pieces went out (waits for them)."""
        return _until(lambda: self.sent >= pieces or self.ended_at > 0, seconds) and self.ended_at == 0

    def result(self, moment: float) -> Surface:
        """What became of it, with ``moment`` (monotonic) as the removal."""
        if not self.ended_at:
            return Surface("upload", math.inf, math.inf, 0.0, "never cut")
        after = self.ended_at - moment
        return Surface("upload", after, after, self.sent / max(self.ended_at - self._began, 1e-9), self.why)

    def cut(self, seconds: float) -> bool:
        """Whether the upload ended by itself (waits for it)."""
        return _until(lambda: self.ended_at > 0, seconds)

    def stop(self) -> None:
        """Send no more."""
        self._stop.set()
        self._thread.join(10)

    def _go(self) -> None:
        try:
            self._send(self._pieces())
            self.why = "it was accepted to its end"
        except (Refused, Unreachable) as end:
            self.why = str(end)
        self.ended_at = time.monotonic()

    def _pieces(self) -> Iterator[bytes]:
        while not self._stop.is_set():
            yield b"row of a table\n" * 256
            self.sent += 1
            self._stop.wait(INTERVAL)


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
