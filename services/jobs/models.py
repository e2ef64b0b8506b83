"""The tables of jobs."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, DateTime, MetaData, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

TIME = DateTime(timezone=True)
IDS = ARRAY(Uuid)


class Table(SQLModel, registry=registry(metadata=MetaData())):
    """The base of the tables of jobs, on a registry of their own."""


class Job(Table, table=True):
    """What to run. The program's text stands here and nowhere else."""

    __tablename__ = "jobs"

    job_id: UUID = Field(primary_key=True)
    project_id: UUID
    name: str
    submitted_by: UUID
    program: str
    environment: str
    arguments: list[str] = Field(sa_type=JSONB)
    inputs: list[UUID] = Field(sa_type=IDS)
    wall_seconds: int
    memory_mib: int
    cores: int
    output_dataset_id: UUID
    submitted_at: datetime = Field(sa_type=TIME)
    version: int


class Run(Table, table=True):
    """One execution of a job.

    ``fencing_token`` counts its leases, ``lost`` those that ran out in a row before it had got anywhere; ``lease_until`` is
    by the database's clock; ``news`` grows with everything that the agent should hear of.
    """

    __tablename__ = "runs"

    run_id: UUID = Field(primary_key=True)
    job_id: UUID = Field(foreign_key="jobs.job_id", unique=True)
    project_id: UUID
    user_id: UUID
    state: str
    agent_id: UUID | None = None
    fencing_token: int = 0
    lost: int = 0
    csr: str | None = None
    certificate: str | None = None
    certificate_id: str | None = None
    lease_until: datetime | None = Field(default=None, sa_type=TIME)
    announced_at: datetime | None = Field(default=None, sa_type=TIME)
    started_at: datetime | None = Field(default=None, sa_type=TIME)
    ended_at: datetime | None = Field(default=None, sa_type=TIME)
    exit_code: int | None = None
    reason: str | None = None
    metrics: dict[str, Any] = Field(default={}, sa_type=JSONB)
    news: int = 1
    version: int


class Log(Table, table=True):
    """The end of a run's log: ``kept`` ends at ``until``; ``base`` is where the log of the present lease begins.

    Offsets are bytes since the run's first lease, so they never go back when a run is repeated.
    """

    __tablename__ = "logs"

    run_id: UUID = Field(primary_key=True, foreign_key="runs.run_id")
    base: int = 0
    until: int = 0
    kept: bytes = b""


class Shown(Table, table=True):
    """What a person has read of a run: one stretch of its log, and the newest of its small results (their hash)."""

    __tablename__ = "shown"

    run_id: UUID = Field(primary_key=True, foreign_key="runs.run_id")
    user_id: UUID = Field(primary_key=True)
    log_from: int = 0
    log_until: int = 0
    details: bytes | None = None


class Budget(Table, table=True):
    """How many bytes of small outputs a person has read in a project on a day (UTC, the database's clock)."""

    __tablename__ = "budgets"

    project_id: UUID = Field(primary_key=True)
    user_id: UUID = Field(primary_key=True)
    day: str = Field(primary_key=True)
    used: int = 0


class Agent(Table, table=True):
    """A node agent. The enrolment token is kept as SHA-256; ``key_sha256`` is of the public key that used it first.

    A token that no key has used ends at ``enrol_before``; the one that the set-up makes for its own machine does not end.
    """

    __tablename__ = "agents"

    agent_id: UUID = Field(primary_key=True)
    name: str
    token_sha256: bytes = Field(unique=True)
    key_sha256: bytes | None = None
    csr: str | None = None
    chain: str | None = None
    certificate_id: str | None = None
    live: bool = True
    created_at: datetime = Field(sa_type=TIME)
    enrol_before: datetime | None = Field(default=None, sa_type=TIME)
    version: int


class Person(Table, table=True):
    """Somebody's account, as auth last said."""

    __tablename__ = "people"

    user_id: UUID = Field(primary_key=True)
    status: str
    stops: int = 0


class Member(Table, table=True):
    """Somebody's role in a project, as projects last said."""

    __tablename__ = "members"

    project_id: UUID = Field(primary_key=True)
    user_id: UUID = Field(primary_key=True)
    role: str | None
    starts_at: datetime = Field(sa_type=TIME)
    ends_at: datetime | None = Field(sa_type=TIME)


class Project(Table, table=True):
    """A project's state, as projects last said."""

    __tablename__ = "projects"

    project_id: UUID = Field(primary_key=True)
    state: str


class Dataset(Table, table=True):
    """A dataset, as datasets last said."""

    __tablename__ = "datasets"

    dataset_id: UUID = Field(primary_key=True)
    project_id: UUID
    name: str
    origins: list[UUID] = Field(sa_type=IDS)
    deleted: bool


class Share(Table, table=True):
    """A share, as datasets last said."""

    __tablename__ = "shares"

    share_id: UUID = Field(primary_key=True)
    dataset_id: UUID
    target_project_id: UUID
    state: str
