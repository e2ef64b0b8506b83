"""Issuers for the tests of ca, made as the set-up makes them, and what a study with members looks like."""

import asyncio
import hashlib
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import NameOID

from compose.local.home import Home
from compose.local.pki import Pki
from contracts.events import Agent, Membership, Project, ProjectState, Run, RunState, User, UserStatus
from contracts.roles import Actor, Role
from tests.world import OURS, World

ADA = UUID("01900000-0000-7000-8000-0000000000a1")
BOB = UUID("01900000-0000-7000-8000-0000000000b1")
RUN = UUID("01900000-0000-7000-8000-0000000000c1")
AGENT = UUID("01900000-0000-7000-8000-0000000000d1")
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC) - timedelta(days=365)


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki.create(Home(tmp_path_factory.mktemp("pki")))


@pytest.fixture
def settings(pki: Pki) -> dict[str, Any]:
    return {"issuers_dir": pki.issuers_folder}


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def csr(key: ec.EllipticCurvePrivateKey | None = None, name: str = "somebody else") -> str:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key or new_key(), hashes.SHA256())
    return made.public_bytes(Encoding.PEM).decode()


def user(
    user_id: UUID = ADA, *, version: int = 1, username: str = "ada00000", status: UserStatus = UserStatus.ACTIVE, stops: int = 0
) -> User:
    return User(user_id=user_id, version=version, username=username, status=status, cluster_roles=frozenset(), stops=stops)


def project(project_id: UUID = OURS, *, version: int = 1, name: str = "mri-study", state: ProjectState = ProjectState.ACTIVE) -> Project:
    return Project(project_id=project_id, version=version, name=name, description="", state=state)


def membership(
    user_id: UUID = ADA,
    *,
    version: int = 1,
    project_id: UUID = OURS,
    username: str = "ada00000",
    role: Role | None = Role.DATA_SCIENTIST,
    starts_at: datetime = LONG_AGO,
    ends_at: datetime | None = None,
) -> Membership:
    return Membership(
        project_id=project_id,
        user_id=user_id,
        version=version,
        username=username,
        role=role,
        purpose="",
        starts_at=starts_at,
        ends_at=ends_at,
    )


def study() -> list[User | Project | Membership]:
    """A project with Ada as its owner and Bob as a scientist."""
    return [
        project(),
        user(ADA),
        user(BOB, username="bob00000"),
        membership(ADA, role=Role.DATA_OWNER),
        membership(BOB, username="bob00000"),
    ]


def run(state: RunState = RunState.LEASED, *, version: int = 2, fencing_token: int = 1, request: str | None = None) -> Run:
    return Run(
        run_id=RUN,
        version=version,
        job_id=RUN,
        project_id=OURS,
        user_id=BOB,
        state=state,
        agent_id=AGENT,
        fencing_token=fencing_token,
        csr=request,
        inputs=(),
        output_dataset_id=RUN,
        output_name="out",
    )


def agent_fact(request: str | None, *, version: int = 1, live: bool = True) -> Agent:
    return Agent(agent_id=AGENT, version=version, name="node-1", csr=request, live=live)


def private_key() -> str:
    return new_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def openssl(*arguments: str, given: str = "") -> str:
    """What the openssl command answers; it is no part of what it judges."""
    done = subprocess.run(["openssl", *arguments], input=given, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def judged(chain: str, issuer: Path, folder: Path) -> str:
    """Let openssl verify a chain's leaf for a client against its intermediate alone; the leaf in words."""
    leaf = folder / "leaf.pem"
    leaf.write_text(chain)
    openssl("verify", "-x509_strict", "-purpose", "sslclient", "-partial_chain", "-CAfile", str(issuer), str(leaf))
    return openssl("x509", "-noout", "-text", "-nameopt", "RFC2253", given=chain)


async def issued(world: World, actor: Actor) -> x509.Certificate:
    """A project certificate for somebody, from the door."""
    answer = await world.post(f"/projects/{OURS}/certificates", actor, json={"csr": csr()})
    assert answer.status_code == 201, answer.text
    return x509.load_pem_x509_certificate(answer.json()["chain"].encode())


async def until(met: Callable[[], bool]) -> None:
    """Return when a condition is met; fails when it never is."""
    async with asyncio.timeout(30):
        while not met():
            await asyncio.sleep(0.01)


async def appears(world: World, query: str) -> None:
    """Return when a query has rows; fails when it never has."""
    async with asyncio.timeout(30):
        while not await world.sql(query):
            await asyncio.sleep(0.02)


async def membership_ends(world: World) -> datetime:
    """Bob's membership ended a moment ago, and nobody wrote that down yet; the instant."""
    await world.hear(membership(BOB, version=2, ends_at=await world.now() + timedelta(hours=1)))
    at = await world.now() - timedelta(seconds=1)
    await world.sql("UPDATE members SET ends_at = :at WHERE user_id = :bob", at=at, bob=BOB)
    await world.sql("UPDATE certificates SET right_ends_at = :at WHERE user_id = :bob", at=at, bob=BOB)
    return at


async def revoked(world: World, actor: Actor, certificate: x509.Certificate) -> None:
    """Revoke somebody's project certificate at the door."""
    answer = await world.delete(f"/projects/{OURS}/certificates/{certificate.serial_number:032x}", actor)
    assert answer.status_code == 204


def about(
    leaf: x509.Certificate | int, issuer: x509.Certificate, algorithm: hashes.HashAlgorithm | None = None, nonce: bytes | None = None
) -> ocsp.OCSPRequest:
    """An OCSP request about a certificate, or about a serial number, of an issuer."""
    number = leaf if isinstance(leaf, int) else leaf.serial_number
    by = algorithm or hashes.SHA1()  # noqa: S303 - names an issuer
    key = issuer.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    subject = issuer.subject.public_bytes()
    name_hash, key_hash = (hashlib.new(by.name, content).digest() for content in (subject, key))
    made = ocsp.OCSPRequestBuilder().add_certificate_by_hash(name_hash, key_hash, number, by)
    return (made if nonce is None else made.add_extension(x509.OCSPNonce(nonce), critical=False)).build()


def said(*arguments: str) -> tuple[bool, str]:
    """Whether the openssl command is content, and all that it says."""
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False, timeout=30)
    return done.returncode == 0, done.stderr + done.stdout
