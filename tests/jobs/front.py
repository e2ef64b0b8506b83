"""What stands between a real agent process and the jobs service in tests: a TLS door, an issuer, and a store of files.

The door does what the gateway does for agents (the certificate becomes the identity header); the issuer answers the CSRs
that jobs says, as ca does; the store gives inputs and takes outputs, as datasets does for a run's certificate.
"""

import asyncio
import contextlib
import hashlib
import json
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from uuid import UUID

import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from chassis import tls
from chassis.csr import read_csr
from chassis.guard import IDENTITY_HEADER, write_identity
from contracts.events import Agent, Certificate, CertificateKind, Run
from contracts.policy import API
from contracts.roles import NOBODY, Actor, Principal
from tests.world import World

PEM = serialization.Encoding.PEM
RUN_URI = "spiffe://test/run/"


class Issuer:
    """A root that signs whatever it is asked to."""

    def __init__(self, folder: Path) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test root")])
        self.serials = 0
        self.pem = self._sign(self.name, self.key.public_key(), [], ca=True)
        self.root = folder / "root.pem"
        self.root.write_text(self.pem)

    def sign(self, uri: str, public: Any, life: timedelta = timedelta(hours=1)) -> str:
        names = [x509.UniformResourceIdentifier(uri), x509.DNSName("localhost"), x509.IPAddress(IPv4Address("127.0.0.1"))]
        return self._sign(x509.Name([]), public, names, ca=False, life=life)

    def _sign(
        self, subject: x509.Name, public: Any, names: list[x509.GeneralName], *, ca: bool, life: timedelta = timedelta(hours=1)
    ) -> str:
        self.serials += 1
        now = datetime.now(UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(public)
            .serial_number(self.serials)
            .not_valid_before(now - timedelta(minutes=1))
            .not_valid_after(now + life)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        if ca:
            usage = x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=True,
                crl_sign=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            )
            made = made.add_extension(usage, critical=True)
        if names:
            made = made.add_extension(x509.SubjectAlternativeName(names), critical=True)
        return made.sign(self.key, hashes.SHA256()).public_bytes(PEM).decode()


@dataclass
class Front:
    """The door. ``inputs`` are files by dataset and path; ``outputs`` what runs staged; ``broken`` makes it answer 503.

    ``agent_life`` is how long the agents' next certificates live; ``withholds``: runs get none.
    """

    world: World
    issuer: Issuer
    port: int = 0
    inputs: dict[str, dict[str, bytes]] = field(default_factory=dict)
    outputs: dict[str, bytes] = field(default_factory=dict)
    broken: bool = False
    withholds: bool = False
    agent_life: timedelta = timedelta(hours=1)
    revoked: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    facts: list[Any] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        peer: str | None = scope["extensions"]["tls"]["peer"]
        self.asked.append(f"{scope['method']} {scope['path']}")
        if self.broken:
            await _answer(send, 503)
        elif peer in self.revoked:
            await _answer(send, 401)
        elif scope["path"].startswith(f"{API}/runs/"):
            await self._store(scope, receive, send, peer)
        else:
            actor = NOBODY
            if peer is not None:
                actor = Actor(principal=Principal.AGENT, agent_id=UUID(peer.rsplit("/", 1)[1]), certificate_id="a1")
            headers = [pair for pair in scope["headers"] if not pair[0].startswith(b"hortus-")]
            headers.append((IDENTITY_HEADER.lower().encode(), write_identity(actor).encode()))
            await self.world.app({**scope, "headers": headers}, receive, send)

    async def _store(self, scope: Any, receive: Any, send: Any, peer: str | None) -> None:
        run, what, *rest = scope["path"].removeprefix(f"{API}/runs/").split("/", 3)
        if peer != RUN_URI + run:
            await _answer(send, 403)
            return
        if what == "outputs":
            body = b""
            more = True
            while more:
                message = await receive()
                body += message.get("body", b"")
                more = message.get("more_body", False)
            self.outputs["/".join(rest)] = body
            await _answer(send, 201)
        elif rest[1] == "files":
            files = self.inputs[rest[0]]
            items = [{"path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for path, data in files.items()]
            await _answer(send, 200, _json({"items": items, "next": None}))
        else:
            await _answer(send, 200, self.inputs[rest[0]][unquote(rest[1].removeprefix("files/"))])

    async def issue(self) -> None:
        """Answer every CSR that jobs says, as ca does, until cancelled."""
        while True:
            for fact in await self.world.said():
                self.facts.append(fact)
                if isinstance(fact, Run) and (self.withholds or fact.state != "leased"):
                    continue
                if isinstance(fact, Agent | Run) and fact.csr is not None:
                    await self.world.hear(self._certificate(fact))
            await asyncio.sleep(0.05)

    def _certificate(self, fact: Agent | Run) -> Certificate:
        run = fact if isinstance(fact, Run) else None
        uri = RUN_URI + str(run.run_id) if run else f"spiffe://test/agent/{fact.key}"
        assert fact.csr is not None
        public = x509.load_pem_x509_csr(fact.csr.encode()).public_key()
        chain = self.issuer.sign(uri, public) if run else self.issuer.sign(uri, public, self.agent_life)
        now = datetime.now(UTC)
        return Certificate(
            certificate_id=f"{self.issuer.serials:x}",
            version=1,
            kind=CertificateKind.JOB if run else CertificateKind.AGENT,
            fingerprint="f",
            agent_id=None if run else UUID(fact.key),
            run_id=run.run_id if run else None,
            fencing_token=run.fencing_token if run else None,
            csr_sha256=read_csr(fact.csr).sha256,
            not_before=now,
            not_after=now + timedelta(hours=1),
            live=True,
            chain=chain,
        )


async def _answer(send: Any, status: int, body: bytes = b"") -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


@contextlib.asynccontextmanager
async def opened(front: Front, folder: Path) -> AsyncIterator[Front]:
    """Serve the door on a free port, with the issuer at work."""
    key = ec.generate_private_key(ec.SECP256R1())
    chain = folder / "front.pem"
    private = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
    chain.write_text(front.issuer.sign("spiffe://test/front", key.public_key()) + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    context.load_verify_locations(front.issuer.root)
    context.verify_mode = ssl.CERT_OPTIONAL
    config = uvicorn.Config(front, host="127.0.0.1", port=front.port, http=tls.protocol(None), lifespan="off", log_config=None)
    config.load()
    config.ssl = context
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    serving = asyncio.create_task(server._serve())
    while not server.started:
        await asyncio.sleep(0.01)
    front.port = server.servers[0].sockets[0].getsockname()[1]
    issuing = asyncio.create_task(front.issue())
    try:
        yield front
    finally:
        issuing.cancel()
        server.should_exit = server.force_exit = True
        await asyncio.gather(serving, issuing, return_exceptions=True)
