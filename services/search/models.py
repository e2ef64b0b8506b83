"""The only table of search: which index its inbox belongs to."""

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
