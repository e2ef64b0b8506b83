"""The certificates that the runner keeps young while the suite is up: its own, the broker's and the index's.

Services have their own renewed at ca. One whose certificate grows old all the same, because ca was away or the machine slept, finds
a new one in its folder, too.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from chassis import pairs
from chassis.pairs import Life

LOOK_SECONDS = 0.5
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0

Due = Callable[[Life, datetime], bool]


def at_half(life: Life, now: datetime) -> bool:
    """A certificate is renewed when half of its life is over."""
    return now >= life.half


def when_low(life: Life, now: datetime) -> bool:
    """A certificate that somebody else should have renewed at half of its life is renewed when it has little left."""
    return life.is_low(now)


@dataclass
class _Kept:
    folder: Path
    renew: Callable[[], None]
    due: Due
    pause: float = FIRST_PAUSE_SECONDS
    next_try: float = 0.0


class Renewals:
    """Looks at certificates in a thread of its own, twice a second, and has those renewed that are due; a failure is told and tried again."""

    def __init__(self, progress: Callable[[str], None]) -> None:
        self._progress = progress
        self._kept: dict[str, _Kept] = {}
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def watch(self, name: str, folder: Path, renew: Callable[[], None], due: Due = at_half) -> None:
        """From now on have ``renew`` called when the certificate in ``folder`` is due."""
        self._kept[name] = _Kept(folder, renew, due)

    def start(self) -> None:
        """Begin to look."""
        self._ended.clear()
        self._thread = threading.Thread(target=self._run, name="renewals", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no longer; a renewal that has begun is awaited. Safe to repeat."""
        self._ended.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
            self._thread = None
        self._kept.clear()

    def look(self, now: datetime) -> None:
        """Renew what is due at ``now``."""
        for name, kept in list(self._kept.items()):
            if now.timestamp() >= kept.next_try and not self._ended.is_set():
                self._look_at(name, kept, now)

    def _run(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            self.look(datetime.now(UTC))

    def _look_at(self, name: str, kept: _Kept, now: datetime) -> None:
        if not (kept.folder / pairs.CERTIFICATE).exists():
            return
        try:
            if kept.due(pairs.life_of(pairs.leaf(kept.folder)), now):
                kept.renew()
        except Exception as error:  # noqa: BLE001 - whatever it is, the others are looked at, and this one again
            self._progress(f"the certificate of {name} was not renewed: {type(error).__name__}: {error}")
            kept.next_try = now.timestamp() + kept.pause
            kept.pause = min(kept.pause * 2, LONGEST_PAUSE_SECONDS)
            return
        kept.pause = FIRST_PAUSE_SECONDS
