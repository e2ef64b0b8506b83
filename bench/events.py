"""How long a committed fact takes to have its effect in another service: commit → relay → broker → consumer → commit.

Open loop: facts are due at fixed instants, 500 and 2,000 a second, in transactions of 10, and the lag counts from the moment
a transaction's commit returned; a transaction that starts late because the machine is busy is counted from its due time as
well (column `due`). PostgreSQL runs with fsync on, Kafka with mutual TLS and access rights; relay and consumer are processes
of their own, the consumer writes one row for each fact. An authority topic (fenced transactions, read committed) and a plain
one (idempotent producer) are measured in turn; the headline is the slower of the two.

    python -m bench.events [--seconds 10] [--runs 5]
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import uvloop
from sqlalchemy import text
from uuid_utils.compat import uuid7

from chassis import db, migrate, patience
from chassis.consumer import Consumer
from chassis.hears import Hears
from chassis.outbox import UnitOfWork, unit_of_work
from chassis.relay import Relay
from chassis.settings import Settings
from compose.local.kafka import Kafka
from compose.local.pki import Pki
from compose.local.postgres import Postgres
from contracts.events import TOPICS, Fact, Membership, Project, ProjectState
from contracts.roles import Role

RESULTS = Path(__file__).parent / "results" / "events.json"
SETTINGS = "HORTUS_BENCH_SETTINGS"
BATCH = 10
EFFECT = "CREATE TABLE effect (key text PRIMARY KEY, version bigint NOT NULL)"
HAPPEN = text("INSERT INTO effect VALUES (:key, :version) ON CONFLICT (key) DO UPDATE SET version = excluded.version")


def fact(kind: str, aggregate: UUID, version: int) -> Fact:
    """A fact of the size that real ones have."""
    if kind == "state":
        return Project(version=version, project_id=aggregate, name="study", description="A study of the bench.", state=ProjectState.ACTIVE)
    return Membership(
        version=version,
        project_id=aggregate,
        user_id=aggregate,
        username="bench000",
        role=Role.DATA_SCIENTIST,
        purpose="bench",
        starts_at=datetime.now(UTC),
        ends_at=None,
    )


async def relay(settings: Settings) -> None:
    """The relay's process."""
    await Relay(settings).run()


async def consume(settings: Settings, log: Path) -> None:
    """The consumer's process: one row for each fact, and a line with the time when its transaction had committed."""
    hears = Hears("datasets")

    async def effect(heard: Fact, uow: UnitOfWork) -> None:
        await uow.session.execute(HAPPEN, {"key": heard.key, "version": heard.version})

    hears.on(Membership)(effect)
    hears.on(Project)(effect)
    with log.open("a", buffering=1024) as file:
        consumer = Consumer(settings, db.engine(settings.database_url), hears)

        def applied(done: Fact) -> None:
            file.write(f"{done.key} {done.version} {time.time()}\n")

        consumer.applier.on_applied.append(applied)
        await asyncio.gather(consumer.run(), _flush(file))


async def _flush(file: Any) -> None:
    while True:
        await asyncio.sleep(0.2)
        file.flush()


async def load(settings: Settings, kind: str, rate: int, seconds: float) -> dict[tuple[str, int], tuple[float, float]]:
    """Commit facts at their instants; for each the due time and the time when its commit returned."""
    engine = db.engine(settings.database_url, 8)
    committed: dict[tuple[str, int], tuple[float, float]] = {}
    gate = asyncio.Semaphore(8)

    async def transaction(due: float) -> None:
        async with gate:
            facts = [fact(kind, uuid7(), 1) for _ in range(BATCH)]
            async with unit_of_work(engine, "projects", "bench") as uow:
                for each in facts:
                    uow.emit(each)
            now = time.time()
            committed.update({(each.key, each.version): (due, now) for each in facts})

    begin = time.time() + 0.2
    tasks = []
    for number in range(int(rate * seconds / BATCH)):
        due = begin + number * BATCH / rate
        await asyncio.sleep(max(0.0, due - time.time()))
        tasks.append(asyncio.create_task(transaction(due)))
    await asyncio.gather(*tasks)
    await engine.dispose()
    return committed


def applied_in(log: Path) -> dict[tuple[str, int], float]:
    """When each fact had its effect."""
    found: dict[tuple[str, int], float] = {}
    for line in log.read_text().splitlines():
        parts = line.split(" ")
        if len(parts) == 3 and parts[2]:
            found.setdefault((parts[0], int(parts[1])), float(parts[2]))
    return found


def percentile(values: list[float], share: float) -> float:
    """The value that ``share`` of the values do not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def processor_seconds() -> dict[str, float]:
    """What each part has used so far: this process is the load, the others are its children."""
    used = dict.fromkeys(("load", "relay", "consume", "kafka", "postgres"), 0.0)
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            words = " ".join(process.cmdline())
            name = next((name for name in ("relay", "consume") if f"--role {name}" in words), None)
            name = name or ("kafka" if "java" in words else "postgres" if "postgres" in words else "load")
            times = process.cpu_times()
            used[name] += times.user + times.system
    return used


async def run(settings: Settings, log: Path, kind: str, rate: int, seconds: float) -> dict[str, Any]:
    """One run: load, then wait until every fact had its effect."""
    before = processor_seconds()
    committed = await load(settings, kind, rate, seconds)
    after = processor_seconds()
    deadline = time.time() + 60
    while not committed.keys() <= (applied := applied_in(log)).keys():
        if time.time() > deadline:
            raise TimeoutError(f"{len(committed.keys() - applied.keys())} facts never arrived")
        await asyncio.sleep(0.3)
    lags = [1000 * (applied[place] - done) for place, (_, done) in committed.items()]
    dues = [1000 * (applied[place] - due) for place, (due, _) in committed.items()]
    return {
        "kind": kind,
        "rate": rate,
        "facts": len(lags),
        "lag_ms": {"p50": statistics.median(lags), "p99": percentile(lags, 0.99), "max": max(lags)},
        "due_ms": {"p50": statistics.median(dues), "p99": percentile(dues, 0.99)},
        "cpu": {name: round((after[name] - before[name]) / seconds, 2) for name in after},
    }


async def prepare(postgres: Postgres, name: str) -> str:
    """A database with the chassis' tables and a table of effects."""
    _, owner = await asyncio.to_thread(postgres.create_database, f"{name}_bench", owner=f"{name}_owner", runtime=name)
    await asyncio.to_thread(migrate.migrate, name, owner)
    connection = db.engine(owner)
    async with connection.begin() as statements:
        await statements.execute(text(EFFECT))
        await statements.execute(text(f"GRANT SELECT, INSERT, UPDATE ON effect TO {name}"))
    await connection.dispose()
    return postgres.url(name, postgres.home.secret(f"postgres/{name}"), f"{name}_bench")


async def every_combination(settings: Settings, log: Path, seconds: float, runs: int) -> list[dict[str, Any]]:
    """Both rates and both kinds of topic in turn, ``runs`` times."""
    results: list[dict[str, Any]] = []
    for kind in ("authority", "state"):  # the broker's code gets warm
        await run(settings, log, kind, 2000, seconds / 2)
    for number in range(runs):
        for rate in (500, 2000):
            for kind in ("authority", "state"):
                result = await run(settings, log, kind, rate, seconds)
                results.append({"run": number, **result})
                lag, due = result["lag_ms"], result["due_ms"]
                print(
                    f"{number + 1:>3}  {rate:>5}/s  {kind:<9}  lag p50 {lag['p50']:7.1f}  p99 {lag['p99']:7.1f}  max {lag['max']:7.1f} ms"
                    f"   from due p99 {due['p99']:7.1f} ms   cores "
                    + " ".join(f"{name} {share:.2f}" for name, share in result["cpu"].items()),
                    flush=True,
                )
    return results


async def measure(folder: Path, seconds: float, runs: int) -> list[dict[str, Any]]:
    """Start the servers and both processes, run everything interleaved, stop everything."""
    pki = Pki.create(folder)
    postgres, kafka = Postgres(folder, fsync=True), Kafka(folder, pki)
    children: list[subprocess.Popen[bytes]] = []
    try:
        postgres.start()
        kafka.start()
        kafka.apply_catalogue(TOPICS)
        log = folder / "applied"
        log.touch()
        made: dict[str, Settings] = {}
        for name in ("projects", "datasets"):
            pki.issue_service_certificate(name, kafka.home.tls_folder(name))
            url = await prepare(postgres, name)
            made[name] = Settings(
                service=name, tls_dir=kafka.home.tls_folder(name), kafka=kafka.bootstrap, state_dir=folder, database_url=url
            )
        for role, name in (("relay", "projects"), ("consume", "datasets")):
            command = [sys.executable, "-m", "bench.events", "--role", role, "--log", str(log)]
            environment = {**os.environ, SETTINGS: made[name].model_dump_json()}  # it holds a password: not for the list of processes
            children.append(subprocess.Popen(command, env=environment, stderr=(folder / f"{role}.log").open("wb")))
        results = await every_combination(made["projects"], log, seconds, runs)
    except TimeoutError:
        for role in ("relay", "consume"):
            print((folder / f"{role}.log").read_text()[-3000:], file=sys.stderr)
        raise
    finally:
        for child in children:
            child.terminate()
        for child in children:
            child.wait(10)
        kafka.stop()
        postgres.stop()
    return results


def main() -> None:
    """Read the command line, measure, print the table and the RESULT line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.events", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="length of one run")
    parser.add_argument("--runs", type=int, default=5, help="runs of each combination, interleaved")
    parser.add_argument("--role", choices=["relay", "consume"], help=argparse.SUPPRESS)
    parser.add_argument("--log", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role:
        settings = Settings.model_validate_json(os.environ[SETTINGS])
        patience.collect_less()
        uvloop.run(relay(settings) if arguments.role == "relay" else consume(settings, arguments.log))
        return
    with tempfile.TemporaryDirectory(prefix="hortus-bench-") as folder:
        Path(folder).chmod(0o711)
        results = uvloop.run(measure(Path(folder), arguments.seconds, arguments.runs))
    headline = {}
    for rate in (500, 2000):
        by_kind = [
            statistics.median([r["lag_ms"]["p99"] for r in results if r["rate"] == rate and r["kind"] == kind])
            for kind in ("authority", "state")
        ]
        headline[f"lag_p99_ms_{rate}"] = round(max(by_kind), 1)
    machine = {"cores": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps({"machine": machine, "fsync": True, "tls": True, "runs": results, "headline": headline}, indent=1) + "\n")
    print("RESULT " + json.dumps(headline))


if __name__ == "__main__":
    main()
