"""What trials of ``bench/revoke.py`` saw, what counts of it, and the tables that come of it."""

import argparse
import json
import math
import os
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.gateway import REPOSITORY
from contracts.surfaces import REACHES, Deed, Surface
from examples.wdbc.holdings import Garden
from examples.wdbc.verdicts import REVOKED_SECONDS, Outcome, Seen

RESULTS = REPOSITORY / "bench" / "results" / "revoke.json"
NEVER = 999.0
LEAST_LOAD = 5.0


@dataclass
class Trial:
    """One deed on one person: what is asked, and what came of it."""

    number: int
    deed: Deed
    loaded: bool
    garden: Garden
    gateway: int
    surfaces: list[Surface]
    acknowledged: float = 0.0
    sent: float = 0.0
    seen: dict[Surface, Seen] = field(default_factory=dict)

    @property
    def outcomes(self) -> dict[Surface, Outcome]:
        """With times from the acknowledgement."""
        return {surface: seen.outcome(self.acknowledged) for surface, seen in self.seen.items()}

    @property
    def since_sent(self) -> dict[Surface, Outcome]:
        """With times from the sending."""
        return {surface: seen.outcome(self.sent) for surface, seen in self.seen.items()}

    @property
    def flaws(self) -> list[str]:
        """Why this trial says nothing; none where it does, and where it saw what must not be."""
        if any(seen.breaks(self.acknowledged) for seen in self.seen.values()):
            return []
        return [f"{surface} {flaw}" for surface, seen in self.seen.items() if (flaw := seen.flaw(self.sent, self.acknowledged))]

    def raw(self) -> dict[str, Any]:
        """As it is kept."""
        since_sent = self.since_sent
        return {
            "trial": self.number,
            "deed": self.deed.name,
            "loaded": self.loaded,
            "gateway": self.gateway + 1,
            "acknowledged_after_s": round(self.acknowledged - self.sent, 4),
            "flaws": self.flaws,
            "surfaces": {
                surface.value: {
                    **{name: _finite(value) for name, value in asdict(outcome).items()},
                    "lasted_since_sent": _finite(since_sent[surface].lasted),
                }
                for surface, outcome in self.outcomes.items()
            },
        }


def _finite(value: Any) -> Any:
    return min(round(value, 4), NEVER) if isinstance(value, float) else value


@dataclass
class Measured:
    """The trials that count and those that do not, what the background load was answered, and how much was asked."""

    trials: list[Trial] = field(default_factory=list)
    invalid: list[Trial] = field(default_factory=list)
    load_per_s: float = 0.0
    most_per_s: float = 0.0
    cores: float = 0.0

    def took(self, trial: Trial) -> bool:
        """Keep a trial; whether it counts."""
        (self.invalid if trial.flaws else self.trials).append(trial)
        return not trial.flaws

    def asked_per_s(self, at_once: int) -> float:
        """How many questions a second were asked of all people of a wave together, in the second second after their deeds."""
        return round(
            at_once * sum(outcome.rate for trial in self.trials for outcome in trial.outcomes.values()) / max(len(self.trials), 1), 1
        )


def quantile(values: list[float], part: float) -> float:
    """The value that this part of all do not exceed."""
    return sorted(values)[max(0, math.ceil(part * len(values)) - 1)] if values else 0.0


def figures(trials: list[Trial]) -> dict[str, dict[str, float]]:
    """For each surface, and for all: how often, p50, p99 and the most from the acknowledgement and from the sending, stale allows, answers a second."""
    table: dict[str, dict[str, float]] = {}
    for surface in [*Surface, None]:
        chosen = [(each, trial) for trial in trials for each in trial.seen if surface in (None, each)]
        told = [min(trial.outcomes[each].lasted, NEVER) for each, trial in chosen]
        sent = [min(trial.since_sent[each].lasted, NEVER) for each, trial in chosen]
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
            "least_rate": min(rates, default=0),
        }
    return table


def show(title: str, table: dict[str, dict[str, float]]) -> None:
    print(f"\n{title:34}{'from the acknowledgement':>27}{'from the sending':>24}")
    print(f"{'':22}{'n':>6}{'p50':>10}{'p99':>8}{'max':>8}{'p50':>10}{'p99':>8}{'max':>8}{'stale':>8}{'asked/s':>9}")
    for name, row in table.items():
        times = "".join(f"{row[key]:>{width}.3f}" for key, width in zip(list(row)[1:7], (10, 8, 8, 10, 8, 8), strict=True))
        print(f"{name:22}{row['n']:>6}{times}{row['stale']:>8}{row['least_rate'] or '':>9}")


def tell(some: list[Trial], *, loaded: bool) -> None:
    """A line for a wave, and one for each trial that does not count."""
    worst = max(min(outcome.lasted, NEVER) for trial in some for outcome in trial.outcomes.values())
    stale = sum(outcome.stale for trial in some for outcome in trial.outcomes.values())
    numbers = ", ".join(str(trial.number + 1) for trial in some)
    print(f"trials {numbers}{' with load' if loaded else ''}: slowest {worst:.3f} s, {stale} stale", flush=True)
    for trial in some:
        if trial.flaws:
            print(f"  trial {trial.number + 1} ({trial.deed.name}) does not count: {'; '.join(trial.flaws)}", flush=True)


def report(arguments: argparse.Namespace, measured: Measured, took: float) -> list[str]:
    """Print the tables, keep them and all trials; what is not as promised."""
    trials, load = measured.trials, measured.load_per_s
    everything = figures(trials)
    tables = {"quiet": figures([t for t in trials if not t.loaded]), "loaded": figures([t for t in trials if t.loaded]), "both": everything}
    for title, table in tables.items():
        show({"quiet": "first half, seconds", "loaded": "second half, with load", "both": "all trials"}[title], table)
    result = {key: everything["all"][key] for key in ("p99_s", "max_s", "n", "least_rate")} | {
        "stale_allows": everything["all"]["stale"],
        "invalid": len(measured.invalid),
        "surfaces": {name: {key: row[key] for key in ("p99_s", "max_s", "n")} for name, row in everything.items() if name != "all"},
    }
    setting = {
        "trials": len(trials),
        "at_once": arguments.at_once,
        "surfaces_in_each": arguments.each,
        "replicas": arguments.replicas,
        "deeds": {deed.name: sum(trial.deed is deed for trial in trials) for deed in Deed},
        "invalid": Counter(flaw for trial in measured.invalid for flaw in trial.flaws),
        "stale_after_s": REVOKED_SECONDS,
        "asked_per_s": measured.asked_per_s(arguments.at_once),
        "most_per_s": round(measured.most_per_s, 1),
        "cores_of_asking": measured.cores,
        "background": "from the second half on, each at most 10 times a second: 2 list, 1 uploads 256 KiB, 1 searches",
        "background_2xx_per_s": load,
        "durability": "fsync on PostgreSQL and the gateway's spool; Kafka as the suite configures it",
        "cores": os.cpu_count(),
        "python": sys.version.split()[0],
        "load_average_at_the_end": os.getloadavg(),
        "took_s": round(took, 1),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    kept = {"result": result, "setting": setting, "tables": tables, "trials": [trial.raw() for trial in (*trials, *measured.invalid)]}
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
    print(
        f"\n{len(trials)} trials count and {len(measured.invalid)} do not, in {took:.1f} s; the load got {load} answers with 2xx a second"
    )
    print(
        f"{setting['asked_per_s']} questions a second were asked, of at most {setting['most_per_s']} that are answered; "
        f"asking took {measured.cores} of a core"
    )
    print("RESULT " + json.dumps(result))
    return broken(result, load, arguments.trials - len(trials))


def broken(result: dict[str, Any], load: float, missing: int = 0) -> list[str]:
    """What is not as promised."""
    failures = {
        f"{result['stale_allows']} stale allows": result["stale_allows"] > 0,
        f"p99 is {result['p99_s']} s": result["p99_s"] > REVOKED_SECONDS,
        "something was never refused": result["max_s"] >= NEVER,
        f"{missing} trials are missing, since more are invalid than were asked for: the machine does not bear so many questions": missing
        > 0,
        f"the background load got {load} answers a second, and needs {LEAST_LOAD}": load < LEAST_LOAD,
    }
    return [sentence for sentence, holds in failures.items() if holds]
