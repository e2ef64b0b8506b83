"""The tables of projects."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import DateTime, MetaData, Text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

TIME = DateTime(timezone=True)


class Table(SQLModel, registry=registry(metadata=MetaData())):
    """The base of the tables of projects, on a registry of their own."""


class Project(Table, table=True):
    """A sandbox. ``name_key`` is the name in the form in which it is unique."""

    __tablename__ = "projects"

    project_id: UUID = Field(primary_key=True)
    name: str
    name_key: str = Field(unique=True)
    description: str
    purpose: str
    state: str
    version: int
    created_at: datetime = Field(sa_type=TIME)


class Membership(Table, table=True):
    """A person in a project; without a role since they left. ``version`` counts over leaving and coming back.

    ``by_group`` names the group whose role in the project this is; without it the person was made a member themselves.
    """

    __tablename__ = "memberships"

    project_id: UUID = Field(primary_key=True, foreign_key="projects.project_id")
    user_id: UUID = Field(primary_key=True)
    username: str
    role: str | None
    purpose: str
    starts_at: datetime = Field(sa_type=TIME)
    ends_at: datetime | None = Field(sa_type=TIME)
    version: int
    by_group: str | None = None


class GroupRole(Table, table=True):
    """What everybody in a group is in a project, until ``ends_at``."""

    __tablename__ = "group_roles"

    group_role_id: UUID = Field(primary_key=True)
    project_id: UUID = Field(foreign_key="projects.project_id")
    group_name: str
    role: str
    purpose: str
    ends_at: datetime | None = Field(sa_type=TIME)
    created_at: datetime = Field(sa_type=TIME)


class Person(Table, table=True):
    """Somebody who can be added to a project, as auth last said."""

    __tablename__ = "people"

    user_id: UUID = Field(primary_key=True)
    username: str = Field(unique=True)
    status: str
    groups: list[str] = Field(default_factory=list, sa_type=ARRAY(Text))
