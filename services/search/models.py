"""The tables of search, and the shapes of what is indexed and of what a caller can find."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import MetaData
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel


class Table(SQLModel, registry=registry(metadata=MetaData())):
    """The base of the tables of search."""


class Filled(Table, table=True):
    """The index that what was heard of a topic went into: Elasticsearch's own id of it. Another id means that it was lost."""

    __tablename__ = "filled"

    topic: str = Field(primary_key=True)
    index_id: str


class Erasing(Table, table=True):
    """A document of a deleted project that is about to be erased; it stands here until it was counted."""

    __tablename__ = "erasing"

    kind: str = Field(primary_key=True)
    id: str = Field(primary_key=True)
    project_id: UUID


class Kind(StrEnum):
    """What can be found: the name of its topic, and the end of its index's name."""

    DATASETS = "datasets"
    JOBS = "jobs"


@dataclass(frozen=True)
class Document:
    """An aggregate as the index holds it, with the version of the fact; a deleted one is a tombstone without text."""

    kind: Kind
    id: str
    version: int
    body: dict[str, Any]


@dataclass(frozen=True)
class Scope:
    """What a caller can find: everything of ``projects``, and the datasets that are shared into one of them."""

    projects: frozenset[UUID]
    shared: frozenset[UUID]

    @property
    def empty(self) -> bool:
        """Whether nothing at all can be found."""
        return not self.projects
