"""A process of its own that asks, so that neither the deeds nor the load wait for it, nor it for them: now and then, and often when told to."""

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection

from contracts.surfaces import Surface
from examples.wdbc.probes import Held, probes_of
from examples.wdbc.verdicts import Seen
from examples.wdbc.watch import INTERVAL, Probe, shut_out, watched_on, watching

CALM = 0.25
PATIENCE = 30.0

Wanted = dict[int, tuple[Held, list[Surface]]]


@dataclass(frozen=True)
class Report:
    """What was seen of each, by number and surface; the refresh tokens that they have now; and what part of a core asking took."""

    seen: dict[int, dict[Surface, Seen]]
    refresh: dict[int, str]
    cores: float


class Asker:
    """Asks for everybody who is named, until it has been watched for long enough after their deeds."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def begin(self, wanted: Wanted) -> list[str]:
        """Ask now and then; who is not let in after a while, with what is said. Raises EOFError where the process broke."""
        self._pipe.send(wanted)
        shut: list[str] = self._pipe.recv()
        return shut

    def hurry(self, interval: float = INTERVAL) -> None:
        """Ask more often, from a quarter of a second from now on at the latest."""
        self._pipe.send(interval)

    def finish(self, moments: dict[int, float], seconds: float) -> Report:
        """Ask for ``seconds`` after each moment, and until each has been refused; what was seen. Without moments: from now on."""
        self._pipe.send((moments, seconds))
        report: Report = self._pipe.recv()
        return report


@contextmanager
def asking() -> Iterator[Asker]:
    """The process, for a while."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    try:
        yield Asker(ours)
    finally:
        ours.close()
        process.join(PATIENCE)


def _serve(pipe: Connection) -> None:
    while True:
        try:
            wanted = pipe.recv()
        except EOFError:
            return
        pipe.send(_watched(pipe, wanted))


def _watched(pipe: Connection, wanted: Wanted) -> Report:
    made = {number: probes_of(held, surfaces) for number, (held, surfaces) in wanted.items()}
    probes = [probe for of_one in made.values() for probe in of_one.values()]
    asked = [probe for probe in probes if isinstance(probe, Probe)]
    for probe in asked:
        probe.interval = CALM
    began, processor = time.monotonic(), time.process_time()
    with watching(probes):
        pipe.send(shut_out(probes))
        while isinstance(told := pipe.recv(), float):
            for probe in asked:
                probe.interval = told
            began, processor = time.monotonic(), time.process_time()
        moments, seconds = told
        for number, moment in moments.items():
            watched_on(made[number].values(), moment, seconds, PATIENCE)
        if not moments:
            time.sleep(seconds)
    failed = [probe.failure for probe in asked if probe.failure is not None]
    if failed:
        raise failed[0]
    return Report(
        {number: {surface: probe.seen for surface, probe in of_one.items()} for number, of_one in made.items()},
        {number: held.refresh for number, (held, _) in wanted.items()},
        (time.process_time() - processor) / (time.monotonic() - began),
    )
