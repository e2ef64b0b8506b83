"""Certificates a second from CSR to answer, stored and recorded first, beside step-ca on the same load; and OCSP answers a second.

``python -m bench.ca [--seconds 8] [--runs 5] [--clients 32] [--processes 2] [--no-peer] [--no-gateway]`` starts a real PostgreSQL
(fsync on), fills ca's projections with members of one project, and starts ca's doors in as many processes as there are cores
(``python -m chassis ca --only api``). Each client has a connection of its own over mutual TLS, as the gateway has it, and sends one CSR
after the other (closed loop), each with a key of its own and as another member. An answer comes after the intent, the certificate, its fact and both
audit records are committed; after each run they are counted in the database, and it fails when there are fewer than answers.

- step-ca gets the same CSRs from the same clients over HTTPS, with a one-time token each, made before. It stores what it issued (badger v2) and
  writes no audit record. How it opens its store is looked up in /proc.
- An order with an Idempotency-Key (``keyed``; the client and the command send one) shares its transaction with no other.
- OCSP: POST, one certificate a request, signed for the one who asks; step-ca has no OCSP responder.
- The relay is not in these: it publishes afterwards, and ``bench.events`` measures it.
- ``gateway``: the same certificates through a real gateway, with a broker and the whole of ca, by 400 people who signed in and twice as many
  clients: an answer waits until the gateway itself has heard of the certificate.

Nothing is pinned: load, doors and database share the cores. The runs of both sides alternate.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import psutil
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import NameOID
from uuid_utils.compat import uuid7

from bench._closed_loop import Client, closed_loop, connected, post
from bench._step_ca import NotBuilt, StepCa, build
from bench.gateway import WRITERS, Site, tell
from chassis import db, patience, tls, tokens
from chassis.guard import IDENTITY_HEADER, write_identity
from compose.local.kafka import Kafka
from compose.local.pki import Pki
from compose.local.ports import free_port
from compose.local.postgres import Postgres
from contracts.events import MEMBERSHIPS, TOPICS, USERS, Fact, Membership, Project, ProjectState, Session, SigningKey, User, UserStatus
from contracts.policy import API
from contracts.roles import Actor, Principal, Role

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "bench" / "results" / "ca.json"
MEMBERS = 2_000
REQUESTS = 4_000
OCSP_SERIALS = 1_000
HEARD = datetime.now(UTC) + timedelta(days=1)
CROWD = 400
WARM_S = 4.0
PEER_MOST = 4_000  # tokens for each second
START_S = 60.0
PROJECT = UUID("01900000-0000-7000-8000-000000000001")


@dataclass(frozen=True)
class Asked:
    """A CSR, in the two forms that the sides take it, and the name in it."""

    name: str
    pem: str
    body: bytes


def requests(count: int) -> list[Asked]:
    """As many CSRs, each by a key of its own."""
    made = []
    for number in range(count):
        name = f"u{number % MEMBERS:07d}"
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        alternative = x509.SubjectAlternativeName([x509.DNSName(name)])
        builder = x509.CertificateSigningRequestBuilder().subject_name(subject).add_extension(alternative, critical=False)
        pem = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(Encoding.PEM).decode()
        made.append(Asked(name, pem, json.dumps({"csr": pem}).encode()))
    return made


# Ca's doors


async def fill(dsn: str) -> list[str]:
    """A project with members, as ca keeps them, and that all was heard, which stays so; the identity header of each."""
    people = [(uuid7(), f"u{number:07d}") for number in range(MEMBERS)]
    began = datetime.now(UTC) - timedelta(days=1)
    connection = await asyncpg.connect(dsn)
    await connection.execute("INSERT INTO projects VALUES ($1, 'bench', true, 1)", PROJECT)
    await connection.copy_records_to_table("people", records=[(user, name, True, 1) for user, name in people])
    members = [(PROJECT, user, name, "data_scientist", began, None, 1) for user, name in people]
    await connection.copy_records_to_table("members", records=members)
    heard = [(topic.name, number, began, HEARD) for topic in (USERS, MEMBERSHIPS) for number in range(topic.partitions)]
    await connection.copy_records_to_table("partitions_heard", records=heard, columns=["topic", "partition", "awake_at", "position_at"])
    await connection.execute("ANALYZE")
    await connection.close()
    return [
        write_identity(
            Actor(
                principal=Principal.PERSON,
                user_id=user,
                username=name,
                session_id=uuid7(),
                factor_fresh=True,
                project_id=PROJECT,
                role=Role.DATA_SCIENTIST,
                versions={f"users:{user}": 1, f"memberships:{PROJECT}:{user}": 1},
            )
        )
        for user, name in people
    ]


@dataclass
class Doors:
    """The processes with ca's doors, reached as the gateway reaches them."""

    ports: list[int]
    children: list[subprocess.Popen[bytes]]
    context: ssl.SSLContext

    async def until_open(self) -> None:
        """Wait for the first answer of each."""
        async with asyncio.timeout(START_S):
            for port in self.ports:
                while True:
                    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                        client = await Client.open(port, self.context)
                        await client.send(f"GET {API}/issuers/people HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                        client.close()
                        break
                    await asyncio.sleep(0.05)

    def processor(self) -> float:
        """Seconds of the processor that they have used."""
        return sum(sum(psutil.Process(child.pid).cpu_times()[:2]) for child in self.children)


@contextlib.contextmanager
def doors(folder: Path, pki: Pki, database_url: str, processes: int, kafka: str = "") -> Iterator[Doors]:
    """Ca's doors as an operator starts them; with ``kafka`` the whole service."""
    ports = [free_port() for _ in range(processes)]
    children = []
    for number, port in enumerate(ports):
        state = folder / f"ca-{number}{'-whole' if kafka else ''}"
        state.mkdir()
        environment = {
            **os.environ,
            "HORTUS_SERVICE": "ca",
            "HORTUS_INSTANCE": str(number + 1),
            "HORTUS_LISTEN": f"127.0.0.1:{port}",
            "HORTUS_TLS_DIR": str(pki.home.tls_folder("ca")),
            "HORTUS_KAFKA": kafka or "127.0.0.1:1",
            "HORTUS_STATE_DIR": str(state),
            "HORTUS_DATABASE_URL": database_url,
            "HORTUS_ISSUERS_DIR": str(pki.issuers_folder),
            "HORTUS_LOG_LEVEL": "WARNING",
        }
        with (folder / f"{state.name}.log").open("wb") as log:
            command = [sys.executable, "-m", "chassis", "ca", *([] if kafka else ["--only", "api"])]
            children.append(subprocess.Popen(command, env=environment, cwd=REPOSITORY, stdout=log, stderr=log))
    try:
        yield Doors(ports, children, tls.client_context(pki.home.tls_folder("gateway")))
    finally:
        for child in children:
            child.terminate()
        for child in children:
            child.wait(15)


def database_processor() -> float:
    """Seconds of the processor that PostgreSQL has used, ended backends included."""
    used = 0.0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.name() == "postgres":
                times = process.cpu_times()
                used += times.user + times.system + times.children_user + times.children_system
    return used


class Desk:
    """What the clients do at ca's doors; no member holds more certificates than they may."""

    def __init__(self, door: Doors, dsn: str, identities: list[str], asked: list[Asked], clients: int) -> None:
        self.door = door
        self.dsn = dsn
        self.identities = identities
        self.asked = asked
        self.clients = clients
        self.sent = 0

    def order(self, _number: int, *more: str) -> bytes:
        """An order of a certificate, by the next member."""
        place, self.sent = self.sent, self.sent + 1
        identity = self.identities[place % len(self.identities)]
        body = self.asked[place % len(self.asked)].body
        return post(
            f"{API}/projects/{PROJECT}/certificates",
            body,
            "application/json",
            f"{IDENTITY_HEADER}: {identity}",
            f"Hortus-Request: {uuid7()}",
            *more,
        )

    def keyed(self, number: int) -> bytes:
        """The same with an Idempotency-Key, as ``hortus certificate create`` sends it: such an order shares its transaction with no other."""
        return self.order(number, f"Idempotency-Key: {uuid7()}")

    async def certificates(self, seconds: float, order: Callable[[int], bytes]) -> dict[str, float]:
        """Certificates a second, and the processor that one took, in ms, by who used it."""
        clients = await connected(self.door.ports, self.door.context, self.clients)
        had = await self._stored()
        before = (self.door.processor(), database_processor(), time.process_time())
        load = await closed_loop(clients, seconds, order, 201)
        after = (self.door.processor(), database_processor(), time.process_time())
        figures = load.figures()
        stored = [late - early for early, late in zip(had, await self._stored(), strict=True)]
        if any(count < figures["count"] for count in stored):
            raise RuntimeError(f"{figures['count']} answers, and {stored} certificates, facts, intents and records")
        each = 1000 / figures["count"]
        spent = [(late - early) * each for early, late in zip(before, after, strict=True)]
        return figures | dict(zip(("ca_cpu_ms", "postgres_cpu_ms", "load_cpu_ms"), spent, strict=True))

    async def settle(self) -> None:
        """Let the database learn how large its tables are, as one does that is an hour old: plans of empty tables read them whole."""
        connection = await asyncpg.connect(self.dsn)
        await connection.execute("ANALYZE")
        await connection.close()

    async def _stored(self) -> tuple[int, ...]:
        """How many certificates count, and how many facts, intents and records of them there are."""
        connection = await asyncpg.connect(self.dsn)
        found = await connection.fetchrow(
            """SELECT (SELECT count(*) FROM certificates WHERE state = 'live'), (SELECT count(*) FROM outbox),
                      (SELECT count(*) FROM audit_outbox WHERE record ->> 'action' = 'certificate.intend'),
                      (SELECT count(*) FROM audit_outbox WHERE record ->> 'action' = 'certificate.create')"""
        )
        await connection.close()
        return tuple(found)

    async def answers(self, seconds: float) -> dict[str, float]:
        """OCSP answers a second, about certificates that were issued before."""
        connection = await asyncpg.connect(self.dsn)
        rows = await connection.fetch("SELECT chain FROM certificates WHERE state = 'live' LIMIT $1", OCSP_SERIALS)
        await connection.close()
        asked = [_question(row[0]) for row in rows]
        clients = await connected(self.door.ports, self.door.context, self.clients)
        _, first = await clients[0].send(asked[0])
        assert ocsp.load_der_ocsp_response(first).certificate_status is ocsp.OCSPCertStatus.GOOD
        before = (self.door.processor(), database_processor())
        load = await closed_loop(clients, seconds, lambda number: asked[number % len(asked)])
        after = (self.door.processor(), database_processor())
        figures = load.figures()
        each = 1000 / figures["count"]
        return figures | {"ca_cpu_ms": (after[0] - before[0]) * each, "postgres_cpu_ms": (after[1] - before[1]) * each}


def _question(chain: str) -> bytes:
    leaf, issuer = x509.load_pem_x509_certificates(chain.encode())
    made = ocsp.OCSPRequestBuilder().add_certificate(leaf, issuer, hashes.SHA1()).build()  # noqa: S303 - names an issuer
    return post(f"{API}/ocsp", made.public_bytes(Encoding.DER), "application/ocsp-request")


# The peer


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


# Through the gateway


class Crowd(Site):
    """People who signed in, members of one project, at a gateway whose only service is ca."""

    def __init__(self, folder: Path, pki: Pki, kafka: Kafka, services: list[int]) -> None:
        super().__init__(folder, pki, kafka)
        self.services = services
        self.people = [(uuid7(), uuid7(), f"g{number:07d}") for number in range(CROWD)]

    def facts(self) -> list[Fact]:
        """What makes them members."""
        now = datetime.now(UTC)
        later = now + timedelta(hours=8)
        public = {name: value for name, value in self.key.items() if name != "d"}
        told: list[Fact] = [
            SigningKey(version=1, key_id="bench", jwk=public, live=True),
            Project(version=1, project_id=self.project, name="bench", description="", state=ProjectState.ACTIVE),
        ]
        for user, session, name in self.people:
            told += [
                User(version=1, user_id=user, username=name, status=UserStatus.ACTIVE, cluster_roles=frozenset()),
                Session(version=1, session_id=session, user_id=user, live=True, factor_at=now, expires_at=later),
                Membership(
                    version=1,
                    project_id=self.project,
                    user_id=user,
                    username=name,
                    role=Role.DATA_SCIENTIST,
                    purpose="bench",
                    starts_at=now - timedelta(hours=1),
                    ends_at=later,
                ),
            ]
        return told

    def tokens(self) -> list[str]:
        """An access token for each."""
        now = datetime.now(UTC)
        return [tokens.issue(self.key, "bench", user, session, now, timedelta(minutes=5))[0] for user, session, _ in self.people]

    def environment(self, people: int) -> dict[str, str]:
        """The gateway's environment."""
        upstreams = {"ca": [f"https://localhost:{port}" for port in self.services]}
        return super().environment(people) | {"HORTUS_UPSTREAMS": json.dumps(upstreams), "HORTUS_LOG_LEVEL": "WARNING"}


async def through_gateway(folder: Path, pki: Pki, url: str, asked: list[Asked], arguments: argparse.Namespace) -> list[dict[str, float]]:
    """Certificates a second through a gateway, with a broker, and the whole of ca: an answer waits until the gateway has heard of the certificate."""
    kafka = Kafka(pki.home, pki)
    for name in ("runner", *WRITERS):
        pki.issue_service_certificate(name, pki.home.tls_folder(name))
    found: list[dict[str, float]] = []
    telling: list[asyncio.Task[None]] = []
    try:
        await asyncio.to_thread(kafka.start)
        kafka.apply_catalogue(TOPICS)
        with doors(folder, pki, url, arguments.processes, kafka.bootstrap) as door:
            site = Crowd(folder, pki, kafka, door.ports)
            facts = site.facts()
            own = {name: [fact for fact in facts if fact.topic.owner == name] for name in ("auth", "projects")}
            telling = [asyncio.create_task(tell(site, name, said)) for name, said in own.items()]
            port = free_port()
            context = ssl.create_default_context(cafile=str(pki.root))
            with (folder / "gateway.log").open("wb") as log, _child(site.environment(port), log):
                shown = site.tokens()
                orders = [
                    post(
                        f"{API}/projects/{site.project}/certificates",
                        each.body,
                        "application/json",
                        f"Authorization: Bearer {shown[number % len(shown)]}",
                    )
                    for number, each in enumerate(asked)
                ]
                await _until_issued(port, context, orders[0])
                for _ in range(arguments.runs):
                    clients = await connected([port], context, 2 * arguments.clients)
                    load = await closed_loop(
                        clients,
                        arguments.seconds,
                        lambda number: orders[number % len(orders)],
                        201,
                        1 + sum(int(each["count"]) for each in found),
                    )
                    found.append(load.figures())
    finally:
        for task in telling:
            task.cancel()
        await asyncio.gather(*telling, return_exceptions=True)
        await asyncio.to_thread(kafka.stop)
    return found


@contextlib.contextmanager
def _child(environment: dict[str, str], log: Any) -> Iterator[None]:
    child = subprocess.Popen([sys.executable, "-m", "gateway"], cwd=REPOSITORY, env=environment, stdout=log, stderr=log)
    try:
        yield
    finally:
        child.terminate()
        child.wait(30)


async def _until_issued(port: int, context: ssl.SSLContext, order: bytes) -> None:
    """Wait until somebody gets a certificate: everything has arrived everywhere."""
    async with asyncio.timeout(START_S):
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                client = await Client.open(port, context)
                status, _ = await client.send(order)
                client.close()
                if status == 201:
                    return
            await asyncio.sleep(0.2)


def headline(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures in one line: medians over the runs."""

    def middle(kind: str, key: str) -> float:
        return float(statistics.median(run[kind][key] for run in runs))

    figures: dict[str, Any] = {
        "certs_per_s": round(middle("certificates", "per_s")),
        "cert_p50_ms": round(middle("certificates", "p50_ms"), 1),
        "cert_p99_ms": round(middle("certificates", "p99_ms"), 1),
        "ca_cpu_ms": round(middle("certificates", "ca_cpu_ms"), 3),
        "postgres_cpu_ms": round(middle("certificates", "postgres_cpu_ms"), 3),
        "load_cpu_ms": round(middle("certificates", "load_cpu_ms"), 3),
        "keyed_per_s": round(middle("keyed", "per_s")),
        "ocsp_per_s": round(middle("ocsp", "per_s")),
        "ocsp_p99_ms": round(middle("ocsp", "p99_ms"), 1),
        "ocsp_cpu_ms": round(middle("ocsp", "ca_cpu_ms"), 3),
    }
    if "step-ca" in runs[0]:
        figures |= {
            "peer_per_s": round(middle("step-ca", "per_s")),
            "peer_p50_ms": round(middle("step-ca", "p50_ms"), 1),
            "peer_p99_ms": round(middle("step-ca", "p99_ms"), 1),
            "peer_cpu_ms": round(middle("step-ca", "cpu_ms"), 3),
            "ratio_peer": round(float(statistics.median(run["certificates"]["per_s"] / run["step-ca"]["per_s"] for run in runs)), 3),
        }
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


async def warm_up(desk: Desk, server: StepCa | None, asked: list[Asked], clients: int) -> str:
    """Both sides work for a while, uncounted; what step-ca does meanwhile to be durable."""
    await desk.certificates(WARM_S, desk.order)
    await desk.settle()
    if server is None:
        return ""
    await ask_step_ca(server, asked, WARM_S, clients, int(WARM_S * PEER_MOST))
    return f"badger v2 as step-ca opens it, its log with {server.durability()}"


async def one_run(number: int, desk: Desk, server: StepCa | None, asked: list[Asked], arguments: argparse.Namespace) -> dict[str, Any]:
    """Each side once."""
    found: dict[str, Any] = {
        "certificates": await desk.certificates(arguments.seconds, desk.order),
        "keyed": await desk.certificates(arguments.seconds / 2, desk.keyed),
        "ocsp": await desk.answers(arguments.seconds),
    }
    if server is not None:
        most = int(arguments.seconds * PEER_MOST)
        found["step-ca"] = await ask_step_ca(server, asked, arguments.seconds, arguments.clients, most)
    for name, figures in found.items():
        print(f"run {number + 1}  {name:13}", "  ".join(f"{key} {value:,.2f}" for key, value in figures.items()), flush=True)
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
        await asyncio.to_thread(db.migrate, "ca", owner)
        identities = await fill(db.plain_dsn(owner))
        with doors(folder, pki, url, arguments.processes) as door:
            await door.until_open()
            desk = Desk(door, db.plain_dsn(owner), identities, asked, arguments.clients)
            durability = await warm_up(desk, server, asked, arguments.clients)
            print(f"step-ca's disk: {durability}", flush=True)
            runs = [await one_run(number, desk, server, asked, arguments) for number in range(arguments.runs)]
        if not arguments.no_gateway:
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
        "load": {"clients": arguments.clients, "closed_loop_s": arguments.seconds, "members": MEMBERS, "csrs": REQUESTS},
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
    parser.add_argument("--clients", type=int, default=32)
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
