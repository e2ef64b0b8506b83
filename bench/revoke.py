"""How long a right outlives its end: every surface is asked 20 times a second and more while people are removed, expire and are blocked.

``python -m bench.revoke [--trials 200] [--at-once 3] [--each 4] [--replicas 1] [--seed 1] [--long]`` starts a whole suite on real servers with
fsync and performs the trials in waves: as many people at once as ``--at-once``, each holding in a project of their own what the surfaces of
``contracts/surfaces.py`` need, one deed each, in mixed order: an owner removes the member, the membership comes to its end, an administrator blocks
the person. In each trial ``--each`` of the surfaces are asked (or a transfer flows) before, and for at least 2 s after; over the trials all come in
turn. All deeds of a wave fall at the same moment. The second half of the waves has a background load beside it: four more people, or programs,
who list, upload and search, ten times a second each where they are answered as fast.

The load is sized to what it is asked of: everything runs on the same cores, and who asks more than is answered measures a queue of their own
making. One process apart asks everything, by prepared requests on kept connections: 4 times a second until shortly before the deeds, and every 45 ms then, with up to
four questions of a surface under way. Three people with four surfaces each are 220 to 260 questions a second until the deeds; afterwards the gateway answers most of them alone, which
costs little. Before the trials as many people ask without a pause, and the output says how many questions a second were answered then, how many were asked in the trials, and
what part of a core the asking took. More at once is an option (``--at-once 20 --each 2``) for a machine that bears it; on one that does not, trials are invalid.

The time counts from the acknowledged answer to the revoking request (the headline, since that is when somebody may rely on it) and, in a second
column, from the moment at which the request was sent; for an expiry both are its instant. It ends with the first refusal or the last answer that
lets in, whichever is later, or with the end of a transfer as its client hears of it; half a question's interval is in it. A stale allow is a question that was sent
more than 1 s after the acknowledgement and let in, or a transfer that flowed for longer. "Cannot decide now" is neither.

A trial counts where each surface let in by the last answer before the deed was sent (a transfer flowed, and was cut afterwards and not at its own end), and was asked at least 20 times in the
second second after it. Any other is invalid and performed again; how many were is in the output. One that saw a stale allow, or no refusal at all, counts however it was asked.

A machine that runs jobs is played by the bench: "running job" ends when its machine is told. `make demo` watches the processes themselves.
There is no peer to run beside: no open system offers revocation everywhere within a bound.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bench._asker import Asker, Wanted, asking
from bench._town import WORKERS, Town, background
from bench._trials import Measured, Trial, report, tell
from compose.local.home import Home
from compose.local.suite import Suite
from contracts.surfaces import Deed, Surface
from examples.wdbc.holdings import Garden
from examples.wdbc.verdicts import Asked

SETTINGS = {"HORTUS_TOKEN_S": "36000", "HORTUS_IDLE_S": "36000", "HORTUS_STEP_UP_S": "36000", "HORTUS_RUN_LEASE_S": "600"}
EXPIRES_AFTER = 2.5
HURRY_BEFORE = 0.3
WATCHED = 2.1
ATTEMPTS = 3  # a transfer is cut, too, where a busy machine does not know for 2 s who may do what
LONG = 10_000
LEAST_PEOPLE = 18  # somebody who was blocked needs a new one-time code, and those come slowly
FULL_SECONDS = 4.0


def plan(count: int, seed: int) -> list[Deed]:
    """The deeds, each as often as the others, in mixed order."""
    deeds = [list(Deed)[number % len(Deed)] for number in range(count)]
    random.Random(seed).shuffle(deeds)  # noqa: S311 - no secret
    return deeds


def turn(number: int, each: int) -> list[Surface]:
    """Whose turn it is in a trial: all come equally often, and not always beside the same others."""
    order = list(Surface)
    first = number * each + number * each // len(order)
    return [order[(first + place) % len(order)] for place in range(each)]


def hold(town: Town, trials: list[Trial]) -> Wanted:
    """Everybody holds what is asked for in their trial."""
    with ThreadPoolExecutor(WORKERS) as pool:
        held = list(pool.map(lambda trial: trial.garden.held(town.places[trial.gateway], trial.surfaces), trials))
        waiting = [(trial, each) for trial, each in zip(trials, held, strict=True) if Surface.QUEUED_JOB in trial.surfaces]
        list(pool.map(lambda pair: pair[0].garden.queue(pair[1]), waiting))
    return {trial.number: (each, trial.surfaces) for trial, each in zip(trials, held, strict=True)}


def wave(town: Town, asker: Asker, trials: list[Trial]) -> None:
    """Perform trials at once: everybody holds something, all is asked, the deeds fall, and it is watched on."""
    wanted = hold(town, trials)
    for attempt in range(ATTEMPTS):
        shut = asker.begin(wanted)
        if not shut:
            break
        keep(trials, wanted, asker.finish({}, 0.0).refresh)
        print(f"before the deeds somebody was not let in, attempt {attempt + 1}: {'; '.join(shut)}", flush=True)
    else:
        raise RuntimeError(f"before the deeds somebody is not let in: {shut}")
    perform(town, asker, trials)
    found = asker.finish({trial.number: trial.acknowledged for trial in trials}, WATCHED)
    keep(trials, wanted, found.refresh)
    for trial in trials:
        trial.seen = found.seen[trial.number]
    town.cores.append(found.cores)
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(town.revive, trials))


def keep(trials: list[Trial], wanted: Wanted, refresh: dict[int, str]) -> None:
    """Take over the refresh tokens that the asking process has got meanwhile."""
    for trial in trials:
        held = wanted[trial.number][0]
        held.refresh = refresh[trial.number]
        trial.garden.keep(held)


def most(town: Town, asker: Asker, trials: list[Trial]) -> float:
    """How many questions a second are answered when the same people ask without a pause."""
    wanted = hold(town, trials)
    asker.begin(wanted)
    asker.hurry(0.0)
    found = asker.finish({}, FULL_SECONDS)
    keep(trials, wanted, found.refresh)
    answers = [answer for of_one in found.seen.values() for seen in of_one.values() if isinstance(seen, Asked) for answer in seen.answers]
    end = max(answer.at for answer in answers)
    return sum(answer.at > end - FULL_SECONDS / 2 for answer in answers) / (FULL_SECONDS / 2)


def perform(town: Town, asker: Asker, trials: list[Trial]) -> None:
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
        time.sleep(max(0.0, instant - HURRY_BEFORE - time.monotonic()))
        asker.hurry()
        time.sleep(max(0.0, instant - time.monotonic()))

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


def measure(arguments: argparse.Namespace, suite: Suite, folder: Path) -> Measured:
    """All trials."""
    count, at_once, each = arguments.trials, arguments.at_once, arguments.each
    town = Town(suite, folder, max(min(3 * at_once, count), min(LEAST_PEOPLE, count)))
    deeds, measured = plan(count, arguments.seed), Measured()

    def trial(number: int, garden: Garden, *, loaded: bool = False) -> Trial:
        return Trial(number, deeds[number], loaded, garden, number % suite.replicas, turn(number, each))

    def go(asker: Asker, numbers: range, *, loaded: bool) -> None:
        waiting = deque(numbers)
        while waiting and len(measured.invalid) <= count:
            some = [trial(waiting.popleft(), town.gardens[place], loaded=loaded) for place in range(min(at_once, len(waiting)))]
            town.gardens = town.gardens[len(some) :] + town.gardens[: len(some)]
            wave(town, asker, some)
            waiting.extend(one.number for one in some if not measured.took(one))
            tell(some, loaded=loaded)

    half = -(-count // (2 * at_once)) * at_once if count > at_once else count // 2
    with asking() as asker:
        measured.most_per_s = most(town, asker, [trial(number, town.gardens[number]) for number in range(min(at_once, count))])
        print(f"asked without a pause, {measured.most_per_s:.0f} questions a second are answered", flush=True)
        go(asker, range(half), loaded=False)
        with background(town) as answered:
            go(asker, range(half, count), loaded=True)
            measured.load_per_s = round(answered(), 1)
    measured.cores = round(sum(town.cores) / len(town.cores), 2)
    return measured


def main() -> None:
    """Read the command line, measure, write the results; ends with 1 where it was not as promised."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.revoke", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--long", action="store_true", help=f"{LONG:,} trials")
    parser.add_argument("--at-once", type=int, default=3, help="people whose rights end at the same moment")
    parser.add_argument("--each", type=int, default=4, help="surfaces that are asked in each trial")
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
            measured = measure(arguments, suite, Path(folder))
    finally:
        suite.stop()
        home.erase()
    failures = report(arguments, measured, time.monotonic() - began)
    for failure in failures:
        print(f"not as promised: {failure}")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
