"""Watching what is still possible after a deed: questions at a steady pace, more than 20 a second for each surface, or one long transfer."""

import asyncio
import math
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvloop

from examples.wdbc.doors import Lines
from examples.wdbc.transfers import PATIENCE, Transfer
from examples.wdbc.verdicts import Answer, Asked, Outcome, Verdict

INTERVAL = 0.045
LANES = 4
LOOK_SECONDS = 0.02


class Probe:
    """Asks one surface every ``interval`` seconds, ``most`` times; up to four questions are under way, so that slow answers do not slow it down."""

    interval = INTERVAL
    most = math.inf

    def __init__(self, name: str, ask: Callable[[], Awaitable[Answer]], *lines: Lines) -> None:
        """``lines`` are hung up in the end."""
        self.seen = Asked(name)
        self.failure: BaseException | None = None
        self._ask = ask
        self._lines = lines

    @property
    def name(self) -> str:
        """The surface's."""
        return self.seen.name

    @property
    def lets_in(self) -> bool:
        """Whether the newest answer that decides lets the person in."""
        decided = (answer.verdict for answer in reversed(self.seen.answers) if answer.verdict is not Verdict.CANNOT_DECIDE)
        return next(decided, None) is Verdict.LET_IN and not self.over

    @property
    def over(self) -> bool:
        """Whether asking failed."""
        return self.failure is not None

    @property
    def last_words(self) -> str:
        """What the newest answer said."""
        if self.failure or not self.seen.answers:
            return repr(self.failure) if self.failure else "no answer yet"
        return f"{self.seen.answers[-1].verdict.value} {self.seen.answers[-1].words}"

    def refused_since(self, moment: float) -> bool:
        """Whether a refusal has come after ``moment``."""
        return any(answer.verdict is Verdict.REFUSED and answer.at > moment for answer in reversed(self.seen.answers))

    def result(self, moment: float) -> Outcome:
        """What was seen, with ``moment`` (monotonic) as the deed."""
        if self.failure is not None:
            raise self.failure
        return self.seen.outcome(moment)

    async def run(self, stop: threading.Event, delay: float) -> None:
        """Ask until ``stop``, and until what is under way is answered."""
        now = asyncio.get_running_loop().time
        under_way: set[asyncio.Task[None]] = set()
        due = now() + delay
        asked = 0
        while asked < self.most and not (stop.is_set() or self.over):
            await asyncio.sleep(max(0.0, due - now()))
            if len(under_way) == LANES:
                await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            question = asyncio.create_task(self._once())
            under_way.add(question)
            question.add_done_callback(under_way.discard)
            asked += 1
            due = max(due + self.interval, now())
        if under_way:
            await asyncio.wait(under_way)
        for line in self._lines:
            line.close()

    async def _once(self) -> None:
        try:
            self.seen.answers.append(await self._ask())
        except Exception as failure:  # noqa: BLE001 - it is raised in the thread that asks for the result
            self.failure = failure


Watched = Probe | Transfer


@contextmanager
def watching(probes: Iterable[Watched]) -> Iterator[None]:
    """All of them ask and move, each question at another moment, and stop in the end; one thread asks all questions."""
    watched = list(probes)
    asking = [probe for probe in watched if isinstance(probe, Probe)]
    flowing = [probe for probe in watched if isinstance(probe, Transfer)]
    stop = threading.Event()

    async def ask() -> None:
        async with asyncio.TaskGroup() as group:
            for number, probe in enumerate(asking):
                group.create_task(probe.run(stop, probe.interval * number / len(asking)))

    thread = threading.Thread(target=lambda: uvloop.run(ask()), name="asks", daemon=True)
    try:
        for transfer in flowing:
            transfer.start()
        thread.start()
        yield
    finally:
        stop.set()
        for transfer in flowing:
            transfer.stopping.set()
        thread.join(PATIENCE)
        for transfer in flowing:
            transfer.stop()


def shut_out(probes: Iterable[Watched], seconds: float = 20.0) -> list[str]:
    """Wait until all let the person in at the same moment; those that do not, with what they say.

    A transfer is cut also where a busy machine does not know for a moment who may do what: it is begun again.
    """
    watched = list(probes)
    end = time.monotonic() + seconds
    while shut := [probe for probe in watched if not probe.lets_in]:
        if time.monotonic() > end or any(probe.over for probe in shut if isinstance(probe, Probe)):
            break
        for transfer in shut:
            if isinstance(transfer, Transfer) and transfer.over:
                transfer.start()
        time.sleep(LOOK_SECONDS)
    return [f"{probe.name}: {probe.last_words}" for probe in shut]


def watched_on(probes: Iterable[Watched], moment: float, seconds: float = 2.0, most: float = PATIENCE) -> None:
    """Each has refused since ``moment``, or ``most`` seconds are over; and at least ``seconds`` have passed since then."""
    waiting = list(probes)
    while time.monotonic() < moment + most and (waiting := [probe for probe in waiting if not probe.refused_since(moment)]):
        time.sleep(LOOK_SECONDS)
    time.sleep(max(0.0, moment + seconds - time.monotonic()))


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
