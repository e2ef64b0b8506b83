"""A whole gateway in the test's event loop: real sockets, real TLS on every leg, a real spool on disk.

The test takes Kafka's place by telling facts (``tell``) and keeps the gateway fresh until it sets ``pulsing`` to False. The
services behind are uvicorn servers with certificates of their own, whose one ASGI application the test may exchange
(``stage.answer = app``). Paths are those of the policy.
"""

import asyncio
import contextlib
import hashlib
import json
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx2
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from uuid_utils.compat import uuid7

from chassis import tls, tokens
from chassis.guard import read_identity
from chassis.keys import new_key
from compose.local.pki import Pki
from compose.local.ports import free_port
from contracts.events import (
    ApiKey,
    Certificate,
    CertificateKind,
    Fact,
    Membership,
    Session,
    SigningKey,
    User,
    UserStatus,
)
from contracts.policy import API, scopes
from contracts.roles import Actor, ClusterRole, Role
from gateway.app import Gateway, Server
from gateway.settings import GatewaySettings
from gateway.spool import segments
from tests.serving import hang_up

DOMAIN = "hortus.internal"
ISSUED = ("gateway", "runner", "auth", "projects", "datasets", "ca")
SERVICES = ("auth", "projects", "datasets", "ca")
Message = dict[str, Any]
App = Callable[[Any, Any, Any], Awaitable[None]]


def issued(
    pki: Pki, folder: Path, issuer: str, uri: str, lifetime: timedelta = timedelta(hours=1), name: str = "somebody"
) -> x509.Certificate:
    """A client certificate of ``people`` or ``workloads`` as the ca would make it, with its key, as ``cert.pem`` and ``key.pem``."""
    source = pki.issuers_folder
    ca = x509.load_pem_x509_certificate((source / f"{issuer}.pem").read_bytes())
    ca_key: Any = serialization.load_pem_private_key((source / f"{issuer}.key").read_bytes(), (source / "passphrase").read_bytes().strip())
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(uuid7().int)
        .not_valid_before(now - timedelta(seconds=60))
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    folder.mkdir(parents=True, exist_ok=True)
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(made.public_bytes(pem) + ca.public_bytes(pem))
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
    return made


class Certificates:
    """The authorities of one home, and certificates for everybody."""

    def __init__(self, folder: Path) -> None:
        self.pki = Pki.create(folder)
        for name in ISSUED:
            self.pki.issue_service_certificate(name, self.folder(name))

    def folder(self, name: str) -> Path:
        return self.pki.home.tls_folder(name)

    def issue(self, folder: Path, issuer: str, uri: str, lifetime: timedelta = timedelta(hours=1)) -> x509.Certificate:
        return issued(self.pki, folder, issuer, uri, lifetime)


@dataclass
class Someone:
    """A person who has signed in."""

    user_id: UUID
    session_id: UUID
    token: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


@dataclass
class Key:
    """An API key as its person holds it, and as it is known."""

    text: str
    fact: ApiKey

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.text}"}


@dataclass
class Holder:
    """Somebody who holds a client certificate."""

    folder: Path
    certificate_id: str
    fact: Certificate


class Stage:
    """One gateway, the services behind it, and the facts that it is told."""

    def __init__(self, certificates: Certificates, folder: Path, **settings: Any) -> None:
        self.certificates = certificates
        self.folder = folder
        self.answer: App = echo
        self.seen: list[dict[str, Any]] = []
        self.pulsing = True
        self.key = tokens.private_jwk(ec.generate_private_key(ec.SECP256R1()))
        self.ports = {service: free_port() for service in SERVICES}
        settings.setdefault("upstreams", {service: [f"https://localhost:{port}"] for service, port in self.ports.items()})
        port = free_port()
        settings.setdefault("origins", [f"https://localhost:{port}"])
        self.settings = GatewaySettings(
            instance="1",
            listen=f"127.0.0.1:{free_port()}",
            people_listen=f"127.0.0.1:{port}",
            certificate_listen=f"127.0.0.1:{free_port()}",
            tls_dir=certificates.folder("gateway"),
            trust_domain=DOMAIN,
            kafka="localhost:1",
            state_dir=folder / "state",
            client_issuers=certificates.pki.client_issuers,
            root=certificates.pki.root,
            **settings,
        )
        self.gateway = Gateway(self.settings)
        self.upstreams: dict[str, Server] = {}
        self._tasks: list[asyncio.Task[Any]] = []
        self._clients = contextlib.AsyncExitStack()

    async def open(self) -> "Stage":
        for service, port in self.ports.items():
            await self.serve(service, port, tls.server_context(self.certificates.folder(service)))
        for server in self.gateway.servers:
            self._tasks.append(asyncio.create_task(server.serve()))
        self._tasks += [asyncio.create_task(self.gateway._sweep()), asyncio.create_task(self._pulse())]
        await until(lambda: all(server.started for server in self.gateway.servers))
        self.pulse()
        self.tell(SigningKey(version=1, key_id="k1", jwk=public(self.key), live=True))
        return self

    async def serve(self, service: str, port: int, context: ssl.SSLContext) -> None:
        config = uvicorn.Config(
            self._service(service),
            port=port,
            http=tls.protocol({f"spiffe://{DOMAIN}/service/gateway"}),
            lifespan="off",
            log_config=None,
            timeout_graceful_shutdown=1,
            ssl_context_factory=lambda _config, _default: context,
        )
        server = Server(config)
        self.upstreams[service] = server
        self._tasks.append(asyncio.create_task(server.serve()))
        await until(lambda: server.started)

    def _service(self, service: str) -> App:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
            self.seen.append({"service": service, "path": scope["raw_path"], "query": scope["query_string"], "headers": headers})
            await self.answer(scope, receive, send)

        return app

    async def close(self) -> None:
        await self._clients.aclose()
        for server in (*self.gateway.servers, *self.upstreams.values()):
            hang_up(server)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.gateway.spool.close()
        self.gateway.forwarder.close()
        await asyncio.sleep(0.05)  # the loop closes the transports that were aborted

    # Kafka's place

    def tell(self, *facts: Fact) -> None:
        projection = self.gateway.projection
        for fact in facts:
            old = projection.knowledge.apply(fact)
            if old is not fact:
                for listener in projection.listeners:
                    listener(old, fact)
        event, projection._changed = projection._changed, asyncio.Event()
        event.set()

    def pulse(self, age: float = 0.0) -> None:
        """Two positions in every partition, of ``age`` seconds ago: the second is proved to be new."""
        knowledge, now = self.gateway.projection.knowledge, time.monotonic()
        knowledge.asked(dict.fromkeys(knowledge.partitions, 0), now)
        for topic, number in knowledge.partitions * 2:
            knowledge.position(topic, number, 0, time.time() - age, now)
        knowledge.sweep(time.time(), now)

    async def _pulse(self) -> None:
        while True:
            if self.pulsing:
                self.pulse()
            await asyncio.sleep(0.1)

    # People

    def sign(self, user_id: UUID, session_id: UUID, lifetime: timedelta = timedelta(minutes=5), key: dict[str, str] | None = None) -> str:
        return tokens.issue(key or self.key, "k1", user_id, session_id, datetime.now(UTC), lifetime)[0]

    def signs_in(self, *roles: ClusterRole, ends: timedelta = timedelta(hours=8)) -> Someone:
        user_id, session_id = uuid7(), uuid7()
        someone = Someone(user_id, session_id, self.sign(user_id, session_id))
        self.tell(
            User(version=1, user_id=user_id, username=f"u{user_id.hex[-8:]}", status=UserStatus.ACTIVE, cluster_roles=frozenset(roles))
        )
        self.shows_factor(someone, version=1, ends=ends)
        return someone

    def shows_factor(self, someone: Someone, version: int, ago: timedelta = timedelta(0), ends: timedelta = timedelta(hours=8)) -> None:
        """The person's session opened, or they showed their second factor once more, some time ``ago``."""
        now = datetime.now(UTC)
        self.tell(
            Session(
                version=version,
                session_id=someone.session_id,
                user_id=someone.user_id,
                live=True,
                factor_at=now - ago,
                expires_at=now + ends,
            )
        )

    def makes_key(self, someone: Someone, *, told: bool = True, **more: Any) -> Key:
        """The person makes an API key for everything that one can be for, or as ``more`` says."""
        key_id = uuid7()
        text = new_key(key_id)
        about = {"scopes": scopes(), "expires_at": datetime.now(UTC) + timedelta(hours=1), "live": True, **more}
        secret = hashlib.sha256(text[-43:].encode()).hexdigest()
        fact = ApiKey(version=1, key_id=key_id, user_id=someone.user_id, secret_sha256=secret, **about)
        if told:
            self.tell(fact)
        return Key(text, fact)

    def joins(self, someone: Someone, project_id: UUID, role: Role | None = Role.DATA_OWNER, version: int = 1, **more: Any) -> Membership:
        fact = Membership(
            version=version,
            project_id=project_id,
            user_id=someone.user_id,
            username="somebody",
            role=role,
            purpose="study",
            starts_at=more.get("starts_at", datetime.now(UTC) - timedelta(hours=1)),
            ends_at=more.get("ends_at"),
        )
        self.tell(fact)
        return fact

    def holds(self, kind: CertificateKind, *, told: bool = True, **ids: UUID | None) -> Holder:
        """Issue a certificate and, unless ``told`` is False, let the gateway know that it counts."""
        folder = self.folder / f"holder-{uuid7()}"
        if kind is CertificateKind.AGENT:
            issuer, uri = "workloads", f"spiffe://{DOMAIN}/agent/{ids['agent_id']}"
        else:
            issuer = "workloads" if kind is CertificateKind.JOB else "people"
            job = f"/job/{ids['run_id']}" if kind is CertificateKind.JOB else ""
            uri = f"spiffe://{DOMAIN}/project/{ids['project_id']}/user/{ids['user_id']}{job}"
        made = self.certificates.issue(folder, issuer, uri)
        known: dict[str, Any] = dict(ids)
        fact = Certificate(
            version=1,
            certificate_id=f"{made.serial_number:032x}",
            kind=kind,
            fingerprint=made.fingerprint(hashes.SHA256()).hex(),
            fencing_token=7 if kind is CertificateKind.JOB else None,
            not_before=made.not_valid_before_utc,
            not_after=made.not_valid_after_utc,
            live=True,
            chain="",
            **known,
        )
        if told:
            self.tell(fact)
        return Holder(folder, fact.certificate_id, fact)

    # Clients

    @property
    def people(self) -> str:
        return f"https://localhost:{self.settings.people_listen.rpartition(':')[2]}"

    @property
    def machines(self) -> str:
        return f"https://localhost:{self.settings.certificate_listen.rpartition(':')[2]}"

    def context(self, holder: Holder | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.certificates.pki.root))
        if holder is not None:
            context.load_cert_chain(holder.folder / "cert.pem", holder.folder / "key.pem")
        return context

    async def client(self, someone: Someone | Key | None = None, holder: Holder | None = None) -> httpx2.AsyncClient:
        base = self.people if holder is None else self.machines
        headers = someone.headers if someone else {}
        made = httpx2.AsyncClient(base_url=base + API, verify=self.context(holder), headers=headers, timeout=10)
        return await self._clients.enter_async_context(made)

    async def raw(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A bare TLS connection to the people's port, for requests that no client library would send."""
        port = int(self.settings.people_listen.rpartition(":")[2])
        return await asyncio.open_connection("localhost", port, ssl=self.context(), limit=64 * 1024)

    def actor(self) -> Actor:
        """Who the last request was for, as the service was told."""
        return read_identity(self.seen[-1]["headers"].get("hortus-identity"))

    async def records(self) -> list[dict[str, Any]]:
        """All audit records, from disk."""
        spool = self.gateway.spool
        await spool.durable(spool.number)
        return on_disk(spool.folder)


def on_disk(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for _, path in segments(folder) for line in path.read_bytes().splitlines()]


async def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "waited in vain"
        await asyncio.sleep(0.01)


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Says what arrived."""
    body = await read(receive)
    text = json.dumps({"path": scope["raw_path"].decode(), "size": len(body)}).encode()
    await say(send, 200, text)


async def read(receive: Any) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += bytes(message.get("body", b""))
        if not message.get("more_body"):
            return body


async def say(send: Any, status: int, body: bytes = b"", *headers: tuple[bytes, bytes]) -> None:
    length = [] if status == 204 else [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*length, *headers]})
    await send({"type": "http.response.body", "body": body})


def public(key: dict[str, str]) -> dict[str, str]:
    """The public half of a signing key."""
    return {name: value for name, value in key.items() if name != "d"}


def problem(response: httpx2.Response) -> str:
    assert response.headers["content-type"] == "application/problem+json", response.text
    slug = response.headers["hortus-reason"]
    assert response.json()["type"] == f"urn:hortus:problem:{slug}"
    assert response.json()["status"] == response.status_code
    return slug


@contextlib.asynccontextmanager
async def opened(certificates: Certificates, folder: Path, **settings: Any) -> AsyncIterator[Stage]:
    made = await Stage(certificates, folder, **settings).open()
    try:
        yield made
    finally:
        await made.close()
