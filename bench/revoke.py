"""How long a right outlives its end: every surface is asked 20 times a second and more while people are removed, expire and are blocked.

``python -m bench.revoke [--trials 200] [--at-once 20] [--each 2] [--replicas 1] [--seed 1] [--long]`` starts a whole suite on real servers with
fsync and performs the trials in waves: as many people at once as ``--at-once``, each holding in a project of their own what the surfaces of
``contracts/surfaces.py`` need, one deed each, in mixed order: an owner removes the member, the membership comes to its end, an administrator blocks
the person. In each trial ``--each`` of the surfaces are asked (or a transfer flows) before, and for at least 2 s after; over the trials all come in
turn. All deeds of a wave fall at the same moment. The second half of the waves has a background load beside it: four more people, or programs,
who list, upload and search as fast as they are answered.

The time counts from the acknowledged answer to the revoking request (the headline, since that is when somebody may rely on it) and, in a second
column, from the moment at which the request was sent; for an expiry both are its instant. What is timed is the first answer that refuses, or the end of
a transfer, so half a question's interval (40 ms) is in it. A stale allow is a question that was sent more than 1 s after the
acknowledgement and let in, or a transfer that flowed for longer. "Cannot decide now" is neither.

A machine that runs jobs is played by the bench: "running job" ends when its machine is told. `make demo` watches the processes themselves.
There is no peer to run beside: no open system offers revocation everywhere within a bound.
"""

import argparse
import json
import math
import multiprocessing
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from bench.gateway import REPOSITORY
from compose.local.home import Home
from compose.local.suite import Suite
from contracts.surfaces import REACHES, Deed, Surface
from examples.wdbc.holdings import Account, Garden, Machine, Place
from examples.wdbc.probes import Door, probes_of, shut_out, watched_on, watching
from examples.wdbc.watch import REVOKED_SECONDS, Outcome, Watched

RESULTS = REPOSITORY / "bench" / "results" / "revoke.json"
SETTINGS = {"HORTUS_TOKEN_S": "36000", "HORTUS_IDLE_S": "36000", "HORTUS_STEP_UP_S": "36000", "HORTUS_RUN_LEASE_S": "600"}
EXPIRES_AFTER = 4.0
WATCHED = 2.0
PATIENCE = 30.0
NEVER = 999.0
ATTEMPTS = 3  # a transfer is cut, too, where a busy machine does not know for 2 s who may do what
LONG = 10_000
WORKERS = 8


@dataclass
class Trial:
    """One deed on one person: what was asked, and what came of it, with times from the acknowledgement and from the sending."""

    number: int
    deed: Deed
    loaded: bool
    garden: Garden
    gateway: int
    acknowledged: float = 0.0
    sent: float = 0.0
    outcomes: dict[Surface, Outcome] = field(default_factory=dict)
    since_sent: dict[Surface, Outcome] = field(default_factory=dict)

    def raw(self) -> dict[str, Any]:
        """As it is kept."""
        return {
            "trial": self.number,
            "deed": self.deed.name,
            "loaded": self.loaded,
            "gateway": self.gateway + 1,
            "acknowledged_after_s": round(self.acknowledged - self.sent, 4),
            "surfaces": {
                surface.value: {
                    **{name: _finite(value) for name, value in asdict(outcome).items()},
                    "refused_since_sent": _finite(self.since_sent[surface].refused),
                }
                for surface, outcome in self.outcomes.items()
            },
        }


def _finite(value: Any) -> Any:
    return min(round(value, 4), NEVER) if isinstance(value, float) else value


class Town:
    """The suite's people: an administrator, an owner who stays, and those who lose their rights again and again."""

    def __init__(self, suite: Suite, folder: Path, people: int) -> None:
        self.suite = suite
        self.folder = folder
        self.places = [
            Place(gateway, certificates, suite.root)
            for gateway, certificates in zip(suite.addresses, suite.certificate_addresses, strict=True)
        ]
        link = suite.setup_link()
        assert link is not None
        self.administrator = Account(self.places[0], link.rpartition("#")[2])
        with self.administrator.client() as root:
            self.machine = Machine(root, self.places[0], folder)
        self.owner = self.invite()
        print(f"an administrator, an owner and a machine are in; {people} more people come, each with a project", flush=True)
        with ThreadPoolExecutor(WORKERS) as pool:
            self.gardens = list(pool.map(lambda _: self.plant(), range(people)))
        print("everybody is in", flush=True)

    def invite(self) -> Account:
        """Somebody new."""
        with self.administrator.client() as root:
            invited = root.users.create(f"p{time.monotonic_ns()}@hospital.example")
        return Account(self.places[0], str(invited["invitation"]))

    def plant(self) -> Garden:
        """Somebody new with a project to lose."""
        garden = Garden(self.owner, self.invite(), self.machine, self.folder)
        garden.admit()
        return garden

    def revive(self, trial: Trial) -> None:
        """Give back what the deed took."""
        if trial.deed is not Deed.BLOCKED:
            trial.garden.admit()
            return
        with self.administrator.client() as root:
            known = root.users.get(trial.garden.person.user_id)
            root.users.change(known["user_id"], status="active", version=known["version"])
        trial.garden.person.sign_in()


def wave(town: Town, trials: list[Trial], each: int) -> None:
    """Perform trials at once: everybody holds something, all is asked, the deeds fall, and it is watched on."""
    order = list(Surface)
    wanted = {trial.number: [order[(trial.number * each + place) % len(order)] for place in range(each)] for trial in trials}
    with ThreadPoolExecutor(WORKERS) as pool:
        held = dict(
            pool.map(lambda t: (t.number, t.garden.held(town.places[t.gateway], wanted[t.number])), trials),
        )
        list(pool.map(lambda t: t.garden.queue(held[t.number]) if Surface.QUEUED_JOB in wanted[t.number] else None, trials))
    for attempt in range(ATTEMPTS):
        made = {trial.number: probes_of(held[trial.number], wanted[trial.number]) for trial in trials}
        probes: list[Watched] = [probe for of_trial in made.values() for probe in of_trial.values()]
        with watching(probes):
            shut = shut_out(probes)
            if not shut:
                perform(town, trials)
                for trial in trials:
                    watched_on(made[trial.number].values(), trial.acknowledged, WATCHED, PATIENCE)
                break
        print(f"before the deeds somebody was not let in, attempt {attempt + 1}: {'; '.join(shut)}", flush=True)
    else:
        raise RuntimeError(f"before the deeds somebody is not let in: {shut}")
    for trial in trials:
        trial.outcomes = {surface: probe.result(trial.acknowledged) for surface, probe in made[trial.number].items()}
        trial.since_sent = {surface: probe.result(trial.sent) for surface, probe in made[trial.number].items()}
        trial.garden.keep(held[trial.number])
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(town.revive, trials))


def perform(town: Town, trials: list[Trial]) -> None:
    """All deeds at the same moment, which is the instant at which memberships end that were told to before."""
    expiring = [trial for trial in trials if trial.deed is Deed.EXPIRED]
    falling = [trial for trial in trials if trial.deed is not Deed.EXPIRED]
    with ExitStack() as open_connections, ThreadPoolExecutor(max(len(trials), 1)) as pool:
        ready = {Deed.REMOVED: _removing, Deed.BLOCKED: _blocking}
        deeds = [ready[trial.deed](town, trial, open_connections) for trial in falling]
        instant, end = time.monotonic() + EXPIRES_AFTER, datetime.now(UTC) + timedelta(seconds=EXPIRES_AFTER)
        list(pool.map(lambda trial: _expiring(town, trial, end), expiring))
        for trial in expiring:
            trial.sent = trial.acknowledged = instant
        if time.monotonic() > instant:
            raise RuntimeError(f"memberships were told their end {time.monotonic() - instant:.2f} s after it")
        time.sleep(instant - time.monotonic())

        def do(number: int) -> None:
            falling[number].sent = time.monotonic()
            deeds[number]()
            falling[number].acknowledged = time.monotonic()

        list(pool.map(do, range(len(falling))))


def _expiring(town: Town, trial: Trial, end: datetime) -> None:
    with town.owner.client() as owner:
        member = owner.members.find(trial.garden.project, trial.garden.person.username)
        owner.members.change(trial.garden.project, member["user_id"], ends_at=end.isoformat(), version=member["version"])


def _removing(town: Town, trial: Trial, opened: ExitStack) -> Callable[[], object]:
    owner = opened.enter_context(town.owner.client())
    owner.projects.get(trial.garden.project)
    return lambda: owner.members.remove(trial.garden.project, trial.garden.person.user_id)


def _blocking(town: Town, trial: Trial, opened: ExitStack) -> Callable[[], object]:
    root = opened.enter_context(town.administrator.client())
    known = root.users.get(trial.garden.person.user_id)
    return lambda: root.users.change(known["user_id"], status="blocked", version=known["version"])


def busy(gateway: str, root: Path, token: str, project: str, dataset: str, stop: Event, done: Any) -> None:
    """The background load, in a process of its own: two who list, one who uploads, one who searches, as fast as they are answered."""
    content = os.urandom(256 * 1024)

    def go(number: int) -> None:
        door, count = Door(gateway, root, token), 0
        while not stop.is_set():
            count += 1
            if number == 0:
                door.ask("PUT", f"/projects/{project}/datasets/{dataset}/files/load-{count % 50}.bin", content)
            elif number == 1:
                door.ask("GET", "/search?q=xylem")
            else:
                door.ask("GET", f"/projects/{project}/datasets")
            with done.get_lock():
                done.value += 1

    threads = [threading.Thread(target=go, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@contextmanager
def background(town: Town) -> Iterator[Callable[[], float]]:
    """The load, for a while; gives how many requests a second it was answered."""
    context = multiprocessing.get_context("spawn")
    stop, done = context.Event(), context.Value("q", 0)
    garden = Garden(town.owner, town.owner, town.machine, town.folder)
    given = (town.places[0].gateway, town.places[0].root, town.owner.token, garden.project, garden.dataset, stop, done)
    process = context.Process(target=busy, args=given, daemon=True)
    process.start()
    began = time.monotonic()
    try:
        yield lambda: done.value / (time.monotonic() - began)
    finally:
        stop.set()
        process.join(PATIENCE)


def quantile(values: list[float], part: float) -> float:
    """The value that this part of all do not exceed."""
    return sorted(values)[max(0, math.ceil(part * len(values)) - 1)] if values else 0.0


def figures(trials: list[Trial]) -> dict[str, dict[str, float]]:
    """For each surface, and for all: how often, p50, p99 and the most from the acknowledgement and from the sending, stale allows, answers a second."""
    table: dict[str, dict[str, float]] = {}
    for surface in [*Surface, None]:
        chosen = [(each, trial) for trial in trials for each in trial.outcomes if surface in (None, each)]
        told = [min(trial.outcomes[each].refused, NEVER) for each, trial in chosen]
        sent = [min(trial.since_sent[each].refused, NEVER) for each, trial in chosen]
        rates = [trial.outcomes[each].rate for each, trial in chosen if REACHES[each].asks]
        table[surface.value if surface else "all"] = {
            "n": len(told),
            "p50_s": round(quantile(told, 0.5), 3),
            "p99_s": round(quantile(told, 0.99), 3),
            "max_s": round(max(told, default=0.0), 3),
            "sent_p50_s": round(quantile(sent, 0.5), 3),
            "sent_p99_s": round(quantile(sent, 0.99), 3),
            "sent_max_s": round(max(sent, default=0.0), 3),
            "stale": sum(trial.outcomes[each].stale for each, trial in chosen),
            "least_rate": round(min(rates, default=0.0), 1),
        }
    return table


def show(title: str, table: dict[str, dict[str, float]]) -> None:
    print(f"\n{title:34}{'from the acknowledgement':>27}{'from the sending':>24}")
    print(f"{'':22}{'n':>6}{'p50':>10}{'p99':>8}{'max':>8}{'p50':>10}{'p99':>8}{'max':>8}{'stale':>8}{'asked/s':>9}")
    for name, row in table.items():
        times = "".join(f"{row[key]:>{width}.3f}" for key, width in zip(list(row)[1:7], (10, 8, 8, 10, 8, 8), strict=True))
        print(f"{name:22}{row['n']:>6}{times}{row['stale']:>8}{row['least_rate'] or '':>9}")


def plan(count: int, seed: int) -> list[Deed]:
    """The deeds, each as often as the others, in mixed order."""
    deeds = [list(Deed)[number % len(Deed)] for number in range(count)]
    random.Random(seed).shuffle(deeds)  # noqa: S311 - no secret
    return deeds


def measure(arguments: argparse.Namespace, suite: Suite, folder: Path) -> tuple[list[Trial], dict[str, float]]:
    """All trials, and what the background load was answered."""
    count, at_once = arguments.trials, arguments.at_once
    town = Town(suite, folder, min(3 * at_once, count))
    deeds, trials = plan(count, arguments.seed), []
    load = {"answers_per_s": 0.0}

    def go(numbers: range, *, loaded: bool) -> None:
        for first in range(numbers.start, numbers.stop, at_once):
            some = [
                Trial(number, deeds[number], loaded, town.gardens[number % len(town.gardens)], number % suite.replicas)
                for number in range(first, min(first + at_once, numbers.stop))
            ]
            wave(town, some, arguments.each)
            trials.extend(some)
            worst = max(min(outcome.refused, NEVER) for trial in some for outcome in trial.outcomes.values())
            stale = sum(outcome.stale for trial in some for outcome in trial.outcomes.values())
            print(
                f"trials {first + 1}-{first + len(some)}{' with load' if loaded else ''}: slowest {worst:.3f} s, {stale} stale", flush=True
            )

    half = -(-count // (2 * at_once)) * at_once if count > at_once else count // 2
    go(range(half), loaded=False)
    with background(town) as answered:
        go(range(half, count), loaded=True)
        load["answers_per_s"] = round(answered(), 1)
    return trials, load


def main() -> None:
    """Read the command line, measure, write the results; ends with 1 where something was allowed that must not be."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.revoke", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--long", action="store_true", help=f"{LONG:,} trials")
    parser.add_argument("--at-once", type=int, default=20, help="people whose rights end at the same moment")
    parser.add_argument("--each", type=int, default=2, help="surfaces that are asked in each trial")
    parser.add_argument(
        "--replicas", type=int, default=1, help="of every service and of the gateway; people are asked at all gateways in turn"
    )
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.long:
        arguments.trials = LONG
    home = Home.temporary()
    suite = Suite(home, agent=False, replicas=arguments.replicas, settings=SETTINGS)
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="hortus-bench-") as folder:
            suite.start()
            trials, load = measure(arguments, suite, Path(folder))
    finally:
        suite.stop()
        home.erase()
    everything = figures(trials)
    tables = {"quiet": figures([t for t in trials if not t.loaded]), "loaded": figures([t for t in trials if t.loaded]), "both": everything}
    for title, table in tables.items():
        show({"quiet": "first half, seconds", "loaded": "second half, with load", "both": "all trials"}[title], table)
    surfaces = {name: {"p99_s": row["p99_s"], "max_s": row["max_s"]} for name, row in everything.items() if name != "all" and row["n"]}
    result = {key: everything["all"][key] for key in ("p99_s", "max_s")} | {
        "stale_allows": everything["all"]["stale"],
        "surfaces": surfaces,
    }
    setting = {
        "trials": len(trials),
        "at_once": arguments.at_once,
        "surfaces_in_each": arguments.each,
        "replicas": arguments.replicas,
        "deeds": {deed.name: sum(trial.deed is deed for trial in trials) for deed in Deed},
        "stale_after_s": REVOKED_SECONDS,
        "background": "4 closed loops from the second half on: 2 list, 1 uploads 256 KiB, 1 searches",
        "background_answers_per_s": load["answers_per_s"],
        "durability": "fsync on PostgreSQL and the gateway's spool; Kafka as the suite configures it",
        "cores": os.cpu_count(),
        "python": sys.version.split()[0],
        "load_average_at_the_end": os.getloadavg(),
        "took_s": round(time.monotonic() - began, 1),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    kept = {"result": result, "setting": setting, "tables": tables, "trials": [trial.raw() for trial in trials]}
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
    print(f"\n{len(trials)} trials in {setting['took_s']} s; the load was answered {load['answers_per_s']} times a second")
    print("RESULT " + json.dumps(result))
    sys.exit(1 if result["stale_allows"] else 0)


if __name__ == "__main__":
    main()
