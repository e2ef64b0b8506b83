"""Watching what is still possible after a removal: one thread per surface, at least 20 questions a second."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hortus.client import Refused, Unreachable

INTERVAL = 0.04


@dataclass(frozen=True)
class Surface:
    """What one surface showed: seconds from the removal to the first refusal, how often it was asked, and its words."""

    name: str
    seconds: float
    asked: int
    rate: float
    answer: str
    allowed_after: int


class Probe:
    """Asks one surface again and again until it is stopped; ``ask`` gives None while allowed, else why not."""

    def __init__(self, name: str, ask: Callable[[], str | None]) -> None:
        self.name = name
        self._ask = ask
        self._seen: list[tuple[float, str | None]] = []
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

    def allowed_once(self, seconds: float = 20.0) -> bool:
        """Whether the surface lets the person in now (waits for the first such answer)."""
        return _until(lambda: any(why is None for _, why in self._seen), seconds)

    def refused_since(self, moment: float, seconds: float) -> bool:
        """Whether a refusal has come after ``moment`` (waits for it)."""
        return _until(lambda: any(why is not None and at > moment for at, why in self._seen), seconds)

    def result(self, moment: float) -> Surface:
        """What was seen, with ``moment`` (monotonic) as the removal."""
        if self._failure is not None:
            raise self._failure
        after = [(at, why) for at, why in self._seen if at >= moment]
        refused = [(at, why) for at, why in after if why is not None]
        if not refused:
            return Surface(self.name, float("inf"), len(after), 0.0, "never refused", len(after))
        first, why = refused[0]
        span = max(self._seen[-1][0] - self._seen[0][0], 1e-9)
        allowed_after = sum(1 for at, answer in after if answer is None and at > first)
        return Surface(self.name, first - moment, len(after), len(self._seen) / span, why or "", allowed_after)

    def _go(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                why = self._ask()
            except Refused as refusal:
                if refusal.status not in {401, 403, 404}:
                    # "Cannot decide now" is neither a yes nor the refusal that is waited for.
                    continue
                why = f"{refusal.status} {refusal.slug}"
            except Unreachable as cut:
                why = str(cut)
            except BaseException as failure:  # noqa: BLE001 (it is raised in the thread that asks for the result)
                self._failure = failure
                return
            self._seen.append((time.monotonic(), why))
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
            return Surface("upload", float("inf"), self.sent, 0.0, "never cut", self.sent)
        rate = self.sent / max(self.ended_at - self._began, 1e-9)
        return Surface("upload", self.ended_at - moment, self.sent, rate, self.why, 0)

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
