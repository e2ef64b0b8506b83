"""The tables of audit. All of them can only be added to and read, by the role that serves as well."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import BigInteger, Column, DateTime, LargeBinary, MetaData
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from chassis.audit import CHAIN_START
from chassis.db import APPEND_ONLY

KEPT: dict[str, Any] = {"info": {APPEND_ONLY: True}}


class Table(SQLModel, registry=registry(metadata=MetaData())):
    """The base of audit's tables."""


class Anomaly(StrEnum):
    """What is wrong with a record that can be read."""

    OTHER_SOURCE = "other source"
    NO_NUMBER = "no number"
    NUMBER_TWICE = "number twice"


@dataclass(frozen=True)
class Head:
    """The newest link of a source's chain; before the first record its number is 0 and its hash 32 zero bytes."""

    number: int = 0
    chain: bytes = CHAIN_START


@dataclass(frozen=True)
class Range:
    """Numbers from ``first`` to ``last``, both included."""

    first: int
    last: int


def _instant() -> Column[datetime]:
    return Column(DateTime(timezone=True), nullable=False)


def _number(*, key: bool = False) -> Column[int]:
    return Column(BigInteger, primary_key=key, nullable=False, autoincrement=False)


class Source(Table, table=True):
    """A process that writes records, from the first one on."""

    __tablename__ = "sources"
    __table_args__: ClassVar[Any] = KEPT

    source: str = Field(primary_key=True)
    seen_at: datetime = Field(sa_column=_instant())


class Record(Table, table=True):
    """A record as it was received; the other columns are taken from its bytes, to find it by.

    ``actor`` is the id of whoever acted, or the name of a service; ``leaf`` is the RFC 6962 leaf hash of ``canonical``.
    """

    __tablename__ = "records"
    __table_args__: ClassVar[Any] = KEPT

    source: str = Field(primary_key=True)
    number: int = Field(sa_column=_number(key=True))
    at: datetime = Field(sa_column=_instant())
    actor: str
    username: str | None
    action: str
    outcome: str
    project_id: UUID | None
    canonical: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    leaf: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    kafka_offset: int = Field(sa_column=_number())
    received_at: datetime = Field(sa_column=_instant())


class Link(Table, table=True):
    """A record's place in its source's chain; made when every number before it is there."""

    __tablename__ = "links"
    __table_args__: ClassVar[Any] = KEPT

    source: str = Field(primary_key=True)
    number: int = Field(sa_column=_number(key=True))
    chain: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class Gap(Table, table=True):
    """Numbers that were missing when a later one arrived; it stays on record after they came."""

    __tablename__ = "gaps"
    __table_args__: ClassVar[Any] = KEPT

    source: str = Field(primary_key=True)
    first: int = Field(sa_column=_number(key=True))
    last: int = Field(sa_column=_number())
    seen_at: datetime = Field(sa_column=_instant())


class Odd(Table, table=True):
    """A record that can be read and cannot stand in the chain; ``number`` is none when it is no number of a chain."""

    __tablename__ = "anomalies"
    __table_args__: ClassVar[Any] = KEPT

    topic: str = Field(primary_key=True)
    kafka_offset: int = Field(sa_column=_number(key=True))
    leaf: bytes = Field(sa_column=Column(LargeBinary, primary_key=True))
    kind: str
    source: str
    number: int | None = Field(sa_column=Column(BigInteger, nullable=True))
    value: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    seen_at: datetime = Field(sa_column=_instant())


class Unreadable(Table, table=True):
    """What came on a ledger topic and is no record."""

    __tablename__ = "unreadable"
    __table_args__: ClassVar[Any] = KEPT

    topic: str = Field(primary_key=True)
    kafka_offset: int = Field(sa_column=_number(key=True))
    leaf: bytes = Field(sa_column=Column(LargeBinary, primary_key=True))
    kafka_partition: int
    key: bytes | None = Field(sa_column=Column(LargeBinary, nullable=True))
    value: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    reason: str
    received_at: datetime = Field(sa_column=_instant())
