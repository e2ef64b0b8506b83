"""Certificates a second from CSR to answer, stored and recorded first, beside step-ca on the same load; and OCSP answers a second.

``python -m bench.ca [--seconds 8] [--runs 5] [--processes 2] [--no-peer] [--no-gateway]`` starts a real PostgreSQL
(fsync on), fills ca's projections with members of one project, and starts ca's doors in as many processes as there are cores
(``python -m chassis ca --only api``). Each client has a connection of its own over mutual TLS, as the gateway has it, and sends one CSR
after the other (closed loop), each with a key of its own and as another member. An answer comes after the intent, the certificate, its fact and both
audit records are committed; after each run they are counted in the database, and it fails when there are fewer than answers.

- step-ca gets the same CSRs from the same clients over HTTPS, with a one-time token each, made before. It stores what it issued (badger v2) and
  writes no audit record. How it opens its store is looked up in /proc.
- Both are asked by 32, 128, 256 and 512 clients: what many ask for at one moment shares its transactions here, so more at once cost less each.
  ``certs_per_s``, ``ratio_peer`` and the figures of processor are those of 512, which is what the cores can do; the others say how many clients in their names.
- ``least``: ``bench._least_certificates``, the same packages with nothing of Hortus around the signing.
- An order with an Idempotency-Key (``keyed``; the client and the command send one) shares its transactions as well, and its answer is kept there; 32, 128 and 512 clients.
- OCSP: POST, one certificate a request, signed for the one who asks; step-ca has no OCSP responder.
- The relay is not in these: it publishes afterwards, and ``bench.events`` measures it. What it would have published is taken away before each run.
- ``gateway``: the same certificates through a real gateway, with a broker and the whole of ca, by 400 people who signed in and 64
  clients: an answer waits until the gateway itself has heard of the certificate.

Nothing is pinned: load, doors and database share the cores. The runs of both sides alternate.
"""

import argparse
import asyncio
import json
import os
import signal
import ssl
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import uvloop

from bench._ca_doors import MEMBERS, REPOSITORY, Asked, Desk, doors, fill, forget_unpublished, requests
from bench._ca_gateway import through_gateway
from bench._closed_loop import closed_loop, connected, post
from bench._step_ca import NotBuilt, StepCa, build
from chassis import db, migrate, patience
from compose.local.pki import Pki
from compose.local.postgres import Postgres

RESULTS = REPOSITORY / "bench" / "results" / "ca.json"
REQUESTS = 4_000
WARM_S = 4.0
PEER_MOST = 4_000  # tokens for each second
CLIENTS = (32, 128, 256, 512)
CROWD = CLIENTS[-1]
KEYED = (32, 128, CROWD)


async def ask_step_ca(server: StepCa, asked: list[Asked], seconds: float, clients: int, most: int) -> dict[str, float]:
    """Certificates a second of step-ca, with tokens made before."""
    names = [asked[number % len(asked)] for number in range(most)]
    orders = [
        post("/1.0/sign", json.dumps({"csr": each.pem, "ott": server.token(each.name)}).encode(), "application/json") for each in names
    ]
    context = ssl.create_default_context(cafile=str(server.root))
    connections = await connected([server.port], context, clients)
    before = server.processor()
    load = await closed_loop(connections, seconds, orders.__getitem__, 201)
    used = server.processor() - before
    figures = load.figures()
    return figures | {"cpu_ms": 1000 * used / figures["count"], "memory_mb": server.memory_mb()}


def ours(clients: int) -> str:
    """What our figures with so many clients are called."""
    return f"certificates, {clients}"


def theirs(clients: int) -> str:
    """The same of step-ca."""
    return f"step-ca, {clients}"


def keyed(clients: int) -> str:
    """The same of ours with an Idempotency-Key each."""
    return f"keyed, {clients}"


def headline(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures in one line: medians over the runs."""

    def middle(kind: str, key: str) -> float:
        return float(statistics.median(run[kind][key] for run in runs))

    def ratio(ours: str, theirs: str) -> float:
        return round(float(statistics.median(run[ours]["per_s"] / run[theirs]["per_s"] for run in runs)), 3)

    def spent(part: dict[str, float]) -> float:
        return part["ca_cpu_ms"] + part["postgres_cpu_ms"] + part["load_cpu_ms"]

    crowd = ours(CROWD)
    figures: dict[str, Any] = {
        "certs_per_s": round(middle(crowd, "per_s")),
        "cert_cpu_ms": round(statistics.median(spent(run[crowd]) for run in runs), 3),
        "ca_cpu_ms": round(middle(crowd, "ca_cpu_ms"), 3),
        "postgres_cpu_ms": round(middle(crowd, "postgres_cpu_ms"), 3),
        "load_cpu_ms": round(middle(crowd, "load_cpu_ms"), 3),
        "least_per_s": round(middle("least", "per_s")),
        "least_cpu_ms": round(statistics.median(spent(run["least"]) for run in runs), 3),
        "keyed_per_s": round(middle(keyed(CROWD), "per_s")),
        "keyed_cpu_ms": round(statistics.median(spent(run[keyed(CROWD)]) for run in runs), 3),
        "ocsp_per_s": round(middle("ocsp", "per_s")),
        "ocsp_p99_ms": round(middle("ocsp", "p99_ms"), 1),
        "ocsp_cpu_ms": round(middle("ocsp", "ca_cpu_ms"), 3),
    }
    sides = {"certs": ours, "peer": theirs} if theirs(CROWD) in runs[0] else {"certs": ours}
    for side, of in sides.items():
        for clients in CLIENTS:
            figures[f"{side}_per_s_{clients}"] = round(middle(of(clients), "per_s"))
            for key in ("p50_ms", "p99_ms"):
                figures[f"{side}_{key}_{clients}"] = round(middle(of(clients), key), 1)
    figures |= {f"keyed_per_s_{clients}": round(middle(keyed(clients), "per_s")) for clients in KEYED}
    if "peer" in sides:
        figures["ratio_peer"] = ratio(ours(CROWD), theirs(CROWD))
        figures |= {f"ratio_peer_{clients}": ratio(ours(clients), theirs(clients)) for clients in CLIENTS}
        figures["peer_cpu_ms"] = round(middle(theirs(CROWD), "cpu_ms"), 3)
    if "gateway" in runs[0]:
        figures["gateway_per_s"] = round(middle("gateway", "per_s"))
    return figures


def peer(folder: Path, *, wanted: bool) -> tuple[StepCa | None, str]:
    """step-ca, started; or None and why there is none."""
    if not wanted:
        return None, "left out"
    try:
        server = StepCa(build(), folder / "step-ca")
        server.start()
    except (NotBuilt, TimeoutError, OSError) as error:
        return None, f"{type(error).__name__}: {error}"
    return server, ""


async def warm_up(desk: Desk, server: StepCa | None, asked: list[Asked]) -> str:
    """Both sides work for a while, uncounted; what step-ca does meanwhile to be durable."""
    await desk.certificates(WARM_S, desk.order)
    await desk.settle()
    if server is None:
        return ""
    await ask_step_ca(server, asked, WARM_S, CLIENTS[0], int(WARM_S * PEER_MOST))
    return f"badger v2 as step-ca opens it, its log with {server.durability()}"


async def one_run(
    number: int, desk: Desk, least: Desk, server: StepCa | None, asked: list[Asked], arguments: argparse.Namespace
) -> dict[str, Any]:
    """Each side once."""
    found: dict[str, Any] = {}
    for clients in CLIENTS:
        found[ours(clients)] = await desk.certificates(arguments.seconds, desk.order, clients)
        if server is not None:
            found[theirs(clients)] = await ask_step_ca(server, asked, arguments.seconds, clients, int(arguments.seconds * PEER_MOST))
    found["least"] = await least.certificates(arguments.seconds / 4, least.order, CROWD)
    for clients in KEYED:
        found[keyed(clients)] = await desk.certificates(arguments.seconds / 2, desk.keyed, clients)
    found["ocsp"] = await desk.answers(arguments.seconds)
    for name, figures in found.items():
        print(f"run {number + 1}  {name:18}", "  ".join(f"{key} {value:,.2f}" for key, value in figures.items()), flush=True)
    return found


async def run(arguments: argparse.Namespace, folder: Path) -> None:
    """Start everything, measure, stop everything, write the results."""
    mine = asyncio.current_task()
    if mine is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, mine.cancel)  # so that everything is stopped then, too
    asked = requests(REQUESTS)
    pki = Pki.create(folder / "home")
    for name in ("ca", "gateway"):
        pki.issue_service_certificate(name, pki.home.tls_folder(name))
    server, why_not = peer(folder, wanted=not arguments.no_peer)
    print(f"step-ca: {why_not or 'started'}", flush=True)
    postgres = Postgres(pki.home, fsync=True)
    runs: list[dict[str, Any]] = []
    durability = ""
    try:
        postgres.start()
        url, owner = await asyncio.to_thread(postgres.provision, "ca")
        await asyncio.to_thread(migrate.migrate, "ca", owner)
        identities = await fill(db.plain_dsn(owner))
        with doors(folder, pki, url, arguments.processes) as door, doors(folder, pki, url, arguments.processes, least=True) as bare:
            await door.until_open()
            await bare.until_open()
            desk, least = (Desk(each, db.plain_dsn(owner), identities, asked, CLIENTS[0]) for each in (door, bare))
            durability = await warm_up(desk, server, asked)
            print(f"step-ca's disk: {durability}", flush=True)
            for number in range(arguments.runs):
                await forget_unpublished(db.plain_dsn(owner))
                runs.append(await one_run(number, desk, least, server, asked, arguments))
        if not arguments.no_gateway:
            await forget_unpublished(db.plain_dsn(owner))
            for found, figures in zip(runs, await through_gateway(folder, pki, url, asked, arguments), strict=True):
                found["gateway"] = figures
                print("through the gateway", "  ".join(f"{key} {value:,.2f}" for key, value in figures.items()), flush=True)
    finally:
        postgres.stop()
        if server is not None:
            server.stop()
    result = headline(runs)
    setting = {
        "cores": os.cpu_count(),
        "load": {"clients": CLIENTS, "closed_loop_s": arguments.seconds, "members": MEMBERS, "csrs": REQUESTS},
        "processes": arguments.processes,
        "durability": "PostgreSQL with fsync; each answer after the commit of certificate, fact and record",
        "tls": "ca: 1.3 with client certificates; step-ca: 1.3 without",
        "step-ca": {"not_measured": why_not, "disk": durability},
        "python": sys.version.split()[0],
        "load_average_at_the_end": os.getloadavg(),
    }
    if arguments.write:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps({"result": result, "setting": setting, "runs": runs}, indent=1) + "\n")
    for name, value in result.items():
        print(f"{name:24}{value:>12,}")
    print("RESULT " + json.dumps(result))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.ca", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each closed loop")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="with ca's doors")
    parser.add_argument("--no-peer", action="store_true", help="leave step-ca out")
    parser.add_argument("--no-gateway", action="store_true", help="leave the gateway out")
    parser.add_argument("--no-write", dest="write", action="store_false", help="keep the results of the last time")
    arguments = parser.parse_args()
    patience.collect_less()
    with tempfile.TemporaryDirectory(prefix="hortus-bench-") as folder:
        Path(folder).chmod(0o711)
        uvloop.run(run(arguments, Path(folder)))


if __name__ == "__main__":
    main()
