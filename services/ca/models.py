"""The tables of ca: certificates from intent to end, lists of revoked ones, and what ca has to know of people, projects and runs."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Column, DateTime, MetaData
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from contracts.events import CertificateKind


class Table(SQLModel, registry=registry(metadata=MetaData())):
    """The base of ca's tables."""


class Issuer(StrEnum):
    """The intermediates that ca signs with: for people in projects, and for agents and runs."""

    PEOPLE = "people"
    WORKLOADS = "workloads"


class CertificateState(StrEnum):
    """Where a certificate is: announced and not signed yet, counting, or over."""

    INTENDED = "intended"
    LIVE = "live"
    REVOKED = "revoked"


class Ending(StrEnum):
    """Why a certificate stopped counting."""

    WITHDRAWN = "withdrawn"
    EXPIRED = "expired"
    MEMBERSHIP_ENDED = "membership ended"
    PERSON_NOT_ACTIVE = "person not active"
    PROJECT_CLOSED = "project closed"
    RUN_ENDED = "run ended"
    AGENT_WITHDRAWN = "agent withdrawn"
    SUPERSEDED = "superseded"


def _instant(*, nullable: bool = False) -> Column[datetime]:
    return Column(DateTime(timezone=True), nullable=nullable)


class Certificate(Table, table=True):
    """A certificate; ``certificate_id`` is its serial in hex. ``fingerprint`` and ``chain`` are empty while it is intended.

    ``issuer_key``: which key of its issuer signs it, by the SHA-1 of the key's public half in hex. ``right_ends_at``: when the membership behind it
    ends, as is known now; it counts until then, or until its own end.
    """

    __tablename__ = "certificates"

    certificate_id: str = Field(primary_key=True)
    kind: str
    state: str = CertificateState.INTENDED
    project_id: UUID | None = None
    user_id: UUID | None = None
    agent_id: UUID | None = None
    run_id: UUID | None = None
    fencing_token: int | None = None
    csr_sha256: str
    issuer_key: str
    not_before: datetime = Field(sa_column=_instant())
    not_after: datetime = Field(sa_column=_instant())
    right_ends_at: datetime | None = Field(default=None, sa_column=_instant(nullable=True))
    fingerprint: str = ""
    chain: str = ""
    created_at: datetime = Field(sa_column=_instant())
    ended_at: datetime | None = Field(default=None, sa_column=_instant(nullable=True))
    ending: str | None = None
    version: int = 0

    @property
    def live(self) -> bool:
        """Whether it counts."""
        return self.state == CertificateState.LIVE


@dataclass
class Intent:
    """A certificate that is being issued, outside of the database's session: very many are written at once.

    What is announced first, and the last four once it is signed.
    """

    certificate_id: str
    kind: CertificateKind
    project_id: UUID | None
    user_id: UUID | None
    agent_id: UUID | None
    run_id: UUID | None
    fencing_token: int | None
    csr_sha256: str
    issuer_key: str
    not_before: datetime
    not_after: datetime
    created_at: datetime
    right_ends_at: datetime | None = None
    live: bool = False
    version: int = 0
    fingerprint: str = ""
    chain: str = ""


class ServiceCertificate(Table, table=True):
    """A certificate that a running service had renewed; ``follows`` is the serial of the one that it showed."""

    __tablename__ = "service_certificates"

    certificate_id: str = Field(primary_key=True)
    service: str
    follows: str
    state: str = CertificateState.INTENDED
    csr_sha256: str
    not_before: datetime = Field(sa_column=_instant())
    not_after: datetime = Field(sa_column=_instant())
    fingerprint: str = ""
    chain: str = ""
    created_at: datetime = Field(sa_column=_instant())


Place = tuple[UUID, UUID | None]
"""Somebody in a project; None for a caller who is no person."""


class Standing(NamedTuple):
    """What becomes of an issued certificate: its state, when and why it stopped counting, when it ends, and when the membership behind it does."""

    state: str
    ended_at: datetime | None
    ending: str | None
    not_after: datetime
    right_ends_at: datetime | None


class RevocationList(Table, table=True):
    """The newest list that a key of an issuer signed (CRL), DER; number 0 is the one before the first, which was never signed.

    ``since``: certificates that ended before are on it no longer; ``entries``: how many are on it.
    """

    __tablename__ = "revocation_lists"

    issuer_key: str = Field(primary_key=True)
    number: int
    this_update: datetime = Field(sa_column=_instant())
    next_update: datetime = Field(sa_column=_instant())
    since: datetime = Field(sa_column=_instant())
    entries: int
    der: bytes


class Person(Table, table=True):
    """A person as auth said last; only an active one may hold certificates."""

    __tablename__ = "people"

    user_id: UUID = Field(primary_key=True)
    username: str
    active: bool
    version: int
    stops: int = 0


class Project(Table, table=True):
    """A project as projects said last; an open one is neither being deleted nor deleted."""

    __tablename__ = "projects"

    project_id: UUID = Field(primary_key=True)
    name: str
    open: bool
    version: int


class Member(Table, table=True):
    """A membership as projects said last; ``role`` is none when it was taken away."""

    __tablename__ = "members"

    project_id: UUID = Field(primary_key=True)
    user_id: UUID = Field(primary_key=True)
    username: str
    role: str | None
    starts_at: datetime = Field(sa_column=_instant())
    ends_at: datetime | None = Field(sa_column=_instant(nullable=True))
    version: int


class Run(Table, table=True):
    """A run as jobs said last; ``active`` while it is leased or running."""

    __tablename__ = "runs"

    run_id: UUID = Field(primary_key=True)
    project_id: UUID
    user_id: UUID
    active: bool
    fencing_token: int
    csr: str | None
    version: int


class AgentRequest(Table, table=True):
    """An agent's newest request that has no certificate yet."""

    __tablename__ = "agent_requests"

    agent_id: UUID = Field(primary_key=True)
    csr: str
