"""Ca's doors as the gateway reaches them, with members who ask for certificates, and what that costs."""

import contextlib
import functools
import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import asyncpg
import psutil
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import NameOID
from uuid_utils.compat import uuid7

from bench._closed_loop import Client, closed_loop, connected, post
from bench._processor import database_processor
from bench._waiting import until
from chassis import tls
from chassis.guard import IDENTITY_HEADER, write_identity
from compose.local.pki import Pki
from compose.local.ports import free_port
from contracts.events import MEMBERSHIPS, USERS
from contracts.policy import API
from contracts.roles import Actor, Principal, Role

REPOSITORY = Path(__file__).resolve().parents[1]
MEMBERS = 20_000
OCSP_SERIALS = 1_000
HEARD = datetime.max  # noqa: DTZ901 - what the driver writes as infinity
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


async def forget_unpublished(dsn: str) -> None:
    """Leave a relay nothing to catch up with of what was issued without one."""
    connection = await asyncpg.connect(dsn)
    await connection.execute("TRUNCATE outbox, audit_outbox")
    await connection.close()


@dataclass
class Doors:
    """The processes with ca's doors, reached as the gateway reaches them."""

    ports: list[int]
    children: list[subprocess.Popen[bytes]]
    context: ssl.SSLContext

    async def until_open(self) -> None:
        """Wait for the first answer of each."""
        for port in self.ports:
            await until(functools.partial(self._answers, port), START_S)

    async def _answers(self, port: int) -> bool:
        client = await Client.open(port, self.context)
        await client.send(f"GET {API}/issuers/people HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        client.close()
        return True

    def processor(self) -> float:
        """Seconds of the processor that they have used."""
        return sum(sum(psutil.Process(child.pid).cpu_times()[:2]) for child in self.children)


@contextlib.contextmanager
def doors(folder: Path, pki: Pki, database_url: str, processes: int, kafka: str = "", *, least: bool = False) -> Iterator[Doors]:
    """Ca's doors as an operator starts them; with ``kafka`` the whole service, with ``least`` ``bench._least_certificates`` in its place."""
    ports = [free_port() for _ in range(processes)]
    children = []
    for number, port in enumerate(ports):
        state = folder / f"ca-{number}{'-whole' if kafka else '-least' if least else ''}"
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
            command = ["bench._least_certificates"] if least else ["chassis", "ca", *([] if kafka else ["--only", "api"])]
            children.append(subprocess.Popen([sys.executable, "-m", *command], env=environment, cwd=REPOSITORY, stdout=log, stderr=log))
    try:
        yield Doors(ports, children, tls.client_context(pki.home.tls_folder("gateway")))
    finally:
        for child in children:
            child.terminate()
        for child in children:
            child.wait(15)


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
        """The same with an Idempotency-Key, as ``hortus certificate create`` sends it."""
        return self.order(number, f"Idempotency-Key: {uuid7()}")

    async def certificates(self, seconds: float, order: Callable[[int], bytes], clients_at_once: int = 0) -> dict[str, float]:
        """Certificates a second, and the processor that one took, in ms, by who used it."""
        clients = await connected(self.door.ports, self.door.context, clients_at_once or self.clients)
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
