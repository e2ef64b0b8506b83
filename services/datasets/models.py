"""Tables: datasets with their keys and origins, files, shares, staged outputs, and what was heard of others."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import BigInteger, Column, DateTime, LargeBinary, MetaData, Uuid
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

FLIGHTS = "flights"
BLOB_PREFIX = "files"


class Table(SQLModel, registry=registry(metadata=MetaData())):
    """The base of the tables of datasets."""


def _time(*, nullable: bool = False) -> Any:
    return Column(DateTime(timezone=True), nullable=nullable)


def _ids() -> Any:
    return Column(ARRAY(Uuid()), nullable=False)


def _bytes(*, nullable: bool = False) -> Any:
    return Column(LargeBinary, nullable=nullable)


def _big() -> Any:
    return Column(BigInteger, nullable=False)


class Dataset(Table, table=True):
    """A tree of files in a project. ``files`` and ``size`` count the newest versions; ``origins`` those of every version."""

    __tablename__ = "datasets"

    dataset_id: UUID = Field(primary_key=True)
    project_id: UUID
    name: str
    name_key: str
    kind: str
    description: str
    files: int = 0
    size: int = Field(default=0, sa_column=_big())
    origins: list[UUID] = Field(sa_column=_ids())
    version: int = Field(sa_column=_big())
    created_at: datetime = Field(sa_column=_time())


class DatasetKey(Table, table=True):
    """A dataset's key, wrapped by the master key. Without this row the dataset's bytes are noise, also in backups."""

    __tablename__ = "dataset_keys"

    dataset_id: UUID = Field(primary_key=True)
    wrapped: bytes = Field(sa_column=_bytes())


class Origin(Table, table=True):
    """Which project a dataset belongs to; kept for ever, so that what came from it is never nobody's."""

    __tablename__ = "origins"

    dataset_id: UUID = Field(primary_key=True)
    project_id: UUID


class File(Table, table=True):
    """One version of a file. Its sealed bytes are a blob, or ``content`` when they are few."""

    __tablename__ = "files"

    file_id: UUID = Field(primary_key=True)
    dataset_id: UUID
    path: str
    number: int
    current: bool
    size: int = Field(sa_column=_big())
    sha256: bytes = Field(sa_column=_bytes())
    key: bytes = Field(sa_column=_bytes())
    blob: str | None
    content: bytes | None = Field(sa_column=_bytes(nullable=True))
    origins: list[UUID] = Field(sa_column=_ids())
    created_at: datetime = Field(sa_column=_time())


class Staged(Table, table=True):
    """An output of a run under one fencing token; nobody sees it until the run succeeded with that token, else it is swept."""

    __tablename__ = "staged"

    file_id: UUID = Field(primary_key=True)
    run_id: UUID
    fencing_token: int = Field(sa_column=_big())
    path: str
    size: int = Field(sa_column=_big())
    sha256: bytes = Field(sa_column=_bytes())
    key: bytes = Field(sa_column=_bytes())
    blob: str | None
    content: bytes | None = Field(sa_column=_bytes(nullable=True))
    created_at: datetime = Field(sa_column=_time())


class Share(Table, table=True):
    """A dataset offered to another project."""

    __tablename__ = "shares"

    share_id: UUID = Field(primary_key=True)
    dataset_id: UUID
    project_id: UUID
    target_project_id: UUID
    state: str
    version: int = Field(sa_column=_big())


class Project(Table, table=True):
    """What is known of a project."""

    __tablename__ = "projects"

    project_id: UUID = Field(primary_key=True)
    state: str


class Person(Table, table=True):
    """What is known of an account."""

    __tablename__ = "people"

    user_id: UUID = Field(primary_key=True)
    status: str


class Member(Table, table=True):
    """What is known of a membership; it counts between its two times while there is a role."""

    __tablename__ = "members"

    project_id: UUID = Field(primary_key=True)
    user_id: UUID = Field(primary_key=True)
    role: str | None
    starts_at: datetime = Field(sa_column=_time())
    ends_at: datetime | None = Field(sa_column=_time(nullable=True))


class Run(Table, table=True):
    """What is known of a run."""

    __tablename__ = "runs"

    run_id: UUID = Field(primary_key=True)
    project_id: UUID
    user_id: UUID
    state: str
    fencing_token: int = Field(sa_column=_big())
    inputs: list[UUID] = Field(sa_column=_ids())
    output_dataset_id: UUID
    output_name: str


class KnownRun(NamedTuple):
    """A run with what it rests on, as far as it was heard."""

    run: Run | None = None
    person: Person | None = None
    member: Member | None = None
    project: Project | None = None


@dataclass(frozen=True)
class RunRead:
    """A run reading a dataset with the fencing token of its certificate."""

    run_id: UUID
    fencing_token: int
    dataset_id: UUID


@dataclass(frozen=True)
class Upload:
    """A person putting a file into a dataset of a project."""

    project_id: UUID


Transfer = RunRead | Upload
