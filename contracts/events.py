"""The event catalogue: every topic and every fact that services tell each other.

A fact is in the past tense and carries its aggregate's whole public state after it, with the aggregate's ``version``
(1, 2, 3 …). Removal is a state too. Within ``.v1`` change only adds. Kafka topics, ACLs, ``docs/events.md`` and the
golden JSON Schemas are generated from this file.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, create_model

from contracts.policy import Service
from contracts.roles import ClusterRole, Role

GATEWAY = "gateway"
DAY_MS = 24 * 3600 * 1000
CONFIRMS = (Service.AUTH, Service.CA, Service.DATASETS, Service.JOBS, Service.SEARCH)
"""The services that hold something of projects beside projects itself: a project is deleted when each has said that it purged its part."""


@dataclass(frozen=True)
class Topic:
    """One Kafka topic.

    ``authority``: decisions rest on it, so it is written in fenced transactions, carries positions and is read
    ``read_committed``, and never skipped. ``never_skipped``: what cannot be read or applied stops its partition and is no dead letter,
    because something else would wait for it for ever. ``text``: it carries names or descriptions, so compaction must reach it in bounded time.
    ``per_instance``: every writing process has a topic of its own, ``<name>-<instance>``. ``lapses``: each aggregate ends by itself at an
    instant that its facts name, so that nothing rests on one that was over a day ago, whatever a reader has missed.
    """

    name: str
    owner: str
    readers: tuple[str, ...]
    key: tuple[str, ...]
    partitions: int = 2
    compacted: bool = True
    retention_ms: int = -1
    authority: bool = False
    text: bool = False
    never_skipped: bool = False
    per_instance: bool = False
    lapses: bool = False

    @property
    def erasable(self) -> bool:
        """Whether its aggregates may be erased by a tombstone.

        Those of authority topics live for minutes: a service that slept longer, and no whole day, would never hear of it.
        """
        return not self.authority or self.lapses or set(self.readers) == {GATEWAY}


class Fact(BaseModel):
    """The base of all facts. ``key`` is the aggregate's id as text; order holds per key."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    type: ClassVar[str]
    topic: ClassVar[Topic]

    version: int

    @property
    def key(self) -> str:
        """The Kafka key: the aggregate's id, or its ids joined by a colon."""
        return ":".join(str(getattr(self, field)) for field in self.topic.key)


TOPICS: dict[str, Topic] = {}
FACTS: dict[str, type[Fact]] = {}


def _topic(topic: Topic) -> Topic:
    TOPICS[topic.name] = topic
    return topic


F = TypeVar("F", bound=type[Fact])


def fact(name: str, topic: Topic) -> Callable[[F], F]:
    """Enter a fact into the catalogue as ``name`` (``noun.vN``) on ``topic``."""

    def enter(cls: F) -> F:
        cls.type = name
        cls.topic = topic
        FACTS[name] = cls
        return cls

    return enter


USERS = _topic(
    Topic("users", Service.AUTH, (GATEWAY, Service.PROJECTS, Service.CA, Service.DATASETS, Service.JOBS), ("user_id",), authority=True)
)
SESSIONS = _topic(Topic("sessions", Service.AUTH, (GATEWAY,), ("session_id",), authority=True))
CREDENTIALS = _topic(Topic("credentials", Service.AUTH, (GATEWAY,), ("key_id",), authority=True))
SIGNING_KEYS = _topic(Topic("signing-keys", Service.AUTH, (GATEWAY,), ("key_id",), authority=True))
PROJECTS = _topic(Topic("projects", Service.PROJECTS, CONFIRMS, ("project_id",), text=True, never_skipped=True))
MEMBERSHIPS = _topic(
    Topic(
        "memberships",
        Service.PROJECTS,
        (GATEWAY, Service.CA, Service.DATASETS, Service.JOBS),
        ("project_id", "user_id"),
        authority=True,
        text=True,
    )
)
BREAK_GLASS = _topic(
    Topic("break-glass", Service.PROJECTS, (Service.AUTH,), ("break_glass_id",), partitions=1, compacted=False, retention_ms=30 * DAY_MS)
)
CERTIFICATES = _topic(
    Topic("certificates", Service.CA, (GATEWAY, Service.JOBS), ("certificate_id",), authority=True, text=True, lapses=True)
)
DATASETS = _topic(Topic("datasets", Service.DATASETS, (Service.JOBS, Service.SEARCH), ("dataset_id",), text=True))
SHARES = _topic(Topic("shares", Service.DATASETS, (Service.JOBS, Service.SEARCH), ("share_id",), authority=True))
JOBS = _topic(Topic("jobs", Service.JOBS, (Service.SEARCH,), ("job_id",), text=True))
RUNS = _topic(Topic("runs", Service.JOBS, (Service.CA, Service.DATASETS), ("run_id",), text=True))
AGENTS = _topic(Topic("agents", Service.JOBS, (Service.CA,), ("agent_id",), text=True))
ACTIVITY = _topic(Topic("activity", GATEWAY, (Service.AUTH,), ("subject",), compacted=False, retention_ms=DAY_MS))

AUDIT_RETENTION_MS = 365 * DAY_MS
for _writer in Service:
    _topic(
        Topic(f"audit.{_writer}", _writer, (Service.AUDIT,), ("record_id",), partitions=1, compacted=False, retention_ms=AUDIT_RETENTION_MS)
    )
_topic(
    Topic(
        "audit.gateway",
        GATEWAY,
        (Service.AUDIT,),
        ("record_id",),
        partitions=1,
        compacted=False,
        retention_ms=AUDIT_RETENTION_MS,
        per_instance=True,
    )
)
for _reader in Service:
    _topic(Topic(f"dead.{_reader}", _reader, (), ("event_id",), partitions=1, compacted=False, retention_ms=30 * DAY_MS))


class UserStatus(StrEnum):
    """Where an account is in its life."""

    INVITED = "invited"
    ACTIVE = "active"
    BLOCKED = "blocked"
    DEACTIVATED = "deactivated"


@fact("user.v1", USERS)
class User(Fact):
    """A person's account was made or changed; only an active one counts. ``groups``: those that a directory or provider put them into."""

    user_id: UUID
    username: str
    status: UserStatus
    cluster_roles: frozenset[ClusterRole]
    groups: frozenset[str] = frozenset()
    stops: int = 0  # how often the account stopped being active, and how often it was deactivated:
    departures: int = 0  # who finds another than they knew missed one (decision 26)


@fact("session.v1", SESSIONS)
class Session(Fact):
    """A person signed in, or a session ended."""

    session_id: UUID
    user_id: UUID
    live: bool
    factor_at: datetime
    expires_at: datetime


@fact("api-key.v1", CREDENTIALS)
class ApiKey(Fact):
    """A person's API key was made or ended; it counts with the SHA-256 (hex) of its secret, for the actions in ``scopes`` alone."""

    key_id: UUID
    user_id: UUID
    secret_sha256: str
    scopes: frozenset[str]
    project_id: UUID | None = None
    expires_at: datetime
    live: bool


@fact("activity.v1", ACTIVITY)
class Activity(Fact):
    """A session (``session:<id>``) or API key (``key:<id>``) was used at a gateway; coarse, and its version is the time in milliseconds."""

    subject: str
    at: datetime


@fact("signing-key.v1", SIGNING_KEYS)
class SigningKey(Fact):
    """A key that signs access tokens came into use or was withdrawn; ``jwk`` is its public half (RFC 7517)."""

    key_id: str
    jwk: dict[str, str]
    live: bool


class ProjectState(StrEnum):
    """Where a project is in its life: it takes changes only while it is active."""

    ACTIVE = "active"
    ARCHIVED = "archived"
    CLOSING = "closing"
    PURGING = "purging"
    DELETED = "deleted"


@fact("project.v1", PROJECTS)
class Project(Fact):
    """A project was created or changed; at ``ends_at`` it is archived. A deleted one has no name any more."""

    project_id: UUID
    name: str
    description: str
    state: ProjectState
    ends_at: datetime | None = None


class PurgeStep(StrEnum):
    """How far a service is with its part of a project's deletion."""

    CLOSED = "closed"
    PURGED = "purged"


class Purged(Fact):
    """A service closed a project that is being deleted, or removed what it held of it.

    ``project_version`` is that of the project's fact which it answers; ``removed`` and ``kept`` say how many of what.
    """

    project_id: UUID
    project_version: int
    step: PurgeStep
    at: datetime
    removed: dict[str, int] = {}
    kept: dict[str, int] = {}


PURGED: dict[Service, type[Purged]] = {}
for _service in CONFIRMS:
    _said = _topic(Topic(f"purged.{_service}", _service, (Service.PROJECTS,), ("project_id",), partitions=1, never_skipped=True))
    _made = create_model(f"PurgedBy{_service.title()}", __base__=Purged, __doc__=f"{_service}: {Purged.__doc__}")
    PURGED[_service] = fact(f"purged.{_service}.v1", _said)(_made)


@fact("membership.v1", MEMBERSHIPS)
class Membership(Fact):
    """A person's role in a project was given, changed or taken away (``role`` none); it counts between its two times."""

    project_id: UUID
    user_id: UUID
    username: str
    role: Role | None
    purpose: str
    starts_at: datetime  # and since then without a break (decision 26)
    ends_at: datetime | None


class Verdict(StrEnum):
    """What another person makes of a break-glass."""

    JUSTIFIED = "justified"
    UNJUSTIFIED = "unjustified"


@fact("break-glass.v1", BREAK_GLASS)
class BreakGlass(Fact):
    """An administrator opened a project for themselves in an emergency, or it ended, was reviewed, or nobody reviewed it in time.

    With ``appointed_id`` they made that person a Data Owner of a project that nobody owned, instead.
    """

    break_glass_id: UUID
    project_id: UUID
    user_id: UUID
    owners: tuple[UUID, ...]
    opened_at: datetime
    ends_at: datetime
    ended_at: datetime | None
    review_due_at: datetime
    reviewed_at: datetime | None
    verdict: Verdict | None
    unreviewed: bool
    appointed_id: UUID | None = None


class CertificateKind(StrEnum):
    """Whom a certificate speaks for."""

    PROJECT = "project"
    AGENT = "agent"
    JOB = "job"


@fact("certificate.v1", CERTIFICATES)
class Certificate(Fact):
    """A certificate was issued, or revoked (``live`` false); ``chain`` is PEM, leaf first, without the root, and empty once it is revoked.

    ``csr_sha256`` is of the request (DER) that it answers.
    """

    certificate_id: str
    kind: CertificateKind
    fingerprint: str
    project_id: UUID | None = None
    user_id: UUID | None = None
    agent_id: UUID | None = None
    run_id: UUID | None = None
    fencing_token: int | None = None
    csr_sha256: str | None = None
    not_before: datetime
    not_after: datetime
    live: bool
    chain: str


class DatasetKind(StrEnum):
    """What a dataset holds."""

    FILES = "files"


@fact("dataset.v1", DATASETS)
class Dataset(Fact):
    """A dataset was created or changed, its files included; ``origins`` are the datasets its bytes came from."""

    dataset_id: UUID
    project_id: UUID
    name: str
    kind: DatasetKind
    description: str
    files: int
    size: int
    origins: tuple[UUID, ...]
    deleted: bool = False


class ShareState(StrEnum):
    """Where a share is in its life; only an accepted one gives anything."""

    OFFERED = "offered"
    ACCEPTED = "accepted"
    WITHDRAWN = "withdrawn"


@fact("share.v1", SHARES)
class Share(Fact):
    """A dataset was offered to another project, accepted there, or withdrawn; no byte moves."""

    share_id: UUID
    dataset_id: UUID
    project_id: UUID
    target_project_id: UUID
    state: ShareState


class RunState(StrEnum):
    """Where a run, and the job it belongs to, is in its life."""

    QUEUED = "queued"
    LEASED = "leased"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@fact("job.v1", JOBS)
class Job(Fact):
    """A job was submitted or moved on, or went with its project (``deleted``)."""

    job_id: UUID
    project_id: UUID
    name: str
    submitted_by: UUID
    state: RunState
    inputs: tuple[UUID, ...]
    output_dataset_id: UUID
    submitted_at: datetime
    deleted: bool = False


@fact("run.v1", RUNS)
class Run(Fact):
    """One execution of a job moved on; ``csr`` (PEM) asks for the certificate bound to this ``fencing_token``."""

    run_id: UUID
    job_id: UUID
    project_id: UUID
    user_id: UUID
    state: RunState
    agent_id: UUID | None
    fencing_token: int
    csr: str | None
    inputs: tuple[UUID, ...]
    output_dataset_id: UUID
    output_name: str


@fact("agent.v1", AGENTS)
class Agent(Fact):
    """A node agent enrolled (its ``csr`` asks for a certificate) or was withdrawn (``live`` false)."""

    agent_id: UUID
    name: str
    csr: str | None
    live: bool


class Outcome(StrEnum):
    """How an audited action ended."""

    ALLOWED = "allowed"
    REFUSED = "refused"
    OPENED = "opened"
    CLOSED = "closed"
    FAILED = "failed"


class AuditRecord(BaseModel):
    """Who did what, on which resource, with which outcome, when and why (after FHIR AuditEvent).

    ``source`` is the writing process's ledger name (a service, or ``gateway-<instance>``), ``number`` counts 1, 2, 3 …
    in it without a gap. A transfer is two records joined by ``request_id``: opened and closed. ``address`` is the caller's IP
    address: a gateway names it where it does not know the caller, and at the doors of auth; nobody else's is kept.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    record_id: UUID
    source: str
    number: int
    at: datetime
    request_id: str
    actor: dict[str, Any]
    action: str
    resource: dict[str, str]
    outcome: Outcome
    reason: str
    project_id: UUID | None = None
    status: int | None = None
    bytes_out: int | None = None
    bytes_in: int | None = None
    sha256: str | None = None
    address: str | None = None
