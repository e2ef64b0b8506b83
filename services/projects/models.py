"""The tables of projects."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import DateTime, MetaData, Text, Uuid
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

TIME = DateTime(timezone=True)


class Table(SQLModel, registry=registry(metadata=MetaData())):
    """The base of the tables of projects, on a registry of their own."""


class Project(Table, table=True):
    """A sandbox. ``name_key`` is the name in the form in which it is unique. At ``ends_at`` an active one is archived.

    Of a deleted one nothing is left but its id and its times.
    """

    __tablename__ = "projects"

    project_id: UUID = Field(primary_key=True)
    name: str
    name_key: str | None = Field(unique=True)
    description: str
    purpose: str
    legal_basis: str = ""
    ethics_approval_id: str = ""
    ends_at: datetime | None = Field(default=None, sa_type=TIME)
    state: str
    version: int
    created_at: datetime = Field(sa_type=TIME)


class Membership(Table, table=True):
    """A person in a project; without a role since they left. ``version`` counts over leaving and coming back.

    ``by_group`` names the group whose role in the project this is; without it the person was made a member themselves.
    ``break_glass_id``: it was opened in an emergency.
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
    break_glass_id: UUID | None = None


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
    """Somebody who can be added to a project, as auth last said. Who was heard of before administrators were told apart counts as one."""

    __tablename__ = "people"

    user_id: UUID = Field(primary_key=True)
    username: str = Field(unique=True)
    status: str
    groups: list[str] = Field(default_factory=list, sa_type=ARRAY(Text))
    administrator: bool = True
    departures: int = 0


class Deletion(Table, table=True):
    """Who asked for a project's deletion, and who owned it then. ``document`` is the certificate of erasure, once all is erased."""

    __tablename__ = "deletions"

    project_id: UUID = Field(primary_key=True, foreign_key="projects.project_id")
    asked_by: UUID
    asked_at: datetime = Field(sa_type=TIME)
    owners: list[UUID] = Field(sa_type=ARRAY(Uuid))
    purging_at: datetime | None = Field(default=None, sa_type=TIME)
    erased_at: datetime | None = Field(default=None, sa_type=TIME)
    document: str | None = None
    sha256: str | None = None


class DeletionPart(Table, table=True):
    """How far a service is with a project's deletion, as it said last."""

    __tablename__ = "deletion_parts"

    project_id: UUID = Field(primary_key=True, foreign_key="deletions.project_id")
    service: str = Field(primary_key=True)
    closed_at: datetime = Field(sa_type=TIME)
    purged_at: datetime | None = Field(default=None, sa_type=TIME)
    removed: dict[str, int] = Field(default={}, sa_type=JSONB)
    kept: dict[str, int] = Field(default={}, sa_type=JSONB)


class Invitation(Table, table=True):
    """What somebody is offered to be in a project, until they answer; ``inviter`` is who offered it. What was answered has no row."""

    __tablename__ = "invitations"

    invitation_id: UUID = Field(primary_key=True)
    project_id: UUID = Field(foreign_key="projects.project_id")
    user_id: UUID
    username: str
    role: str
    purpose: str
    starts_at: datetime | None = Field(sa_type=TIME)
    ends_at: datetime | None = Field(sa_type=TIME)
    inviter_id: UUID
    inviter: str
    created_at: datetime = Field(sa_type=TIME)
    expires_at: datetime = Field(sa_type=TIME)


class BreakGlass(Table, table=True):
    """A membership that an administrator opened for a short time, and what somebody else made of it.

    ``appointed_id``: it made this person a Data Owner instead, and was over at once. ``reported_at``: when it was said that its review is missing.
    """

    __tablename__ = "break_glass"

    break_glass_id: UUID = Field(primary_key=True)
    project_id: UUID = Field(foreign_key="projects.project_id")
    user_id: UUID
    username: str
    appointed_id: UUID | None = None
    appointed: str | None = None
    reason: str
    opened_at: datetime = Field(sa_type=TIME)
    ends_at: datetime = Field(sa_type=TIME)
    ended_at: datetime | None = Field(default=None, sa_type=TIME)
    review_due_at: datetime = Field(sa_type=TIME)
    reported_at: datetime | None = Field(default=None, sa_type=TIME)
    verdict: str | None = None
    review: str | None = None
    reviewer_id: UUID | None = None
    reviewer: str | None = None
    reviewed_at: datetime | None = Field(default=None, sa_type=TIME)
    version: int


class Activity(Table, table=True):
    """One line of a project's feed: who did what to whom. Without an actor it happened by itself."""

    __tablename__ = "activity"

    activity_id: UUID = Field(primary_key=True)
    project_id: UUID
    at: datetime = Field(sa_type=TIME)
    deed: str
    actor_id: UUID | None
    actor: str | None
    subject_id: UUID | None
    subject: str | None
    details: dict[str, str] = Field(default_factory=dict, sa_type=JSONB)
