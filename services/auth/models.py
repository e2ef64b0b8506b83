"""The tables of auth."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import DateTime, MetaData, Text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

TIME = DateTime(timezone=True)


class Table(SQLModel, registry=registry(metadata=MetaData())):
    """The base of the tables of auth, on a registry of their own."""


class User(Table, table=True):
    """A person's account. Rows are never deleted, so that a username is never given to somebody else."""

    __tablename__ = "users"

    user_id: UUID = Field(primary_key=True)
    username: str = Field(unique=True)
    email: str = Field(unique=True)
    status: str
    cluster_roles: list[str] = Field(sa_type=ARRAY(Text))
    version: int
    created_at: datetime = Field(sa_type=TIME)
    confirmed_at: datetime | None = Field(sa_type=TIME)


class Invitation(Table, table=True):
    """An open invitation: a token's hash, and what its holder chose until they confirm. ``first``: the first administrator's."""

    __tablename__ = "invitations"

    user_id: UUID = Field(primary_key=True, foreign_key="users.user_id")
    token_hash: bytes = Field(unique=True)
    expires_at: datetime = Field(sa_type=TIME)
    first: bool
    password_hash: str | None = None
    totp_sealed: bytes | None = None


class Credential(Table, table=True):
    """What a person signs in with; ``last_step`` is the newest TOTP step that was used."""

    __tablename__ = "credentials"

    user_id: UUID = Field(primary_key=True, foreign_key="users.user_id")
    password_hash: str
    totp_sealed: bytes
    last_step: int


class Session(Table, table=True):
    """A sign-in; it counts until ``ended_at`` or ``expires_at``."""

    __tablename__ = "sessions"

    session_id: UUID = Field(primary_key=True)
    user_id: UUID = Field(foreign_key="users.user_id")
    created_at: datetime = Field(sa_type=TIME)
    expires_at: datetime = Field(sa_type=TIME)
    ended_at: datetime | None = Field(sa_type=TIME)
    version: int


class SigningKey(Table, table=True):
    """A key that signs access tokens: ``sealed`` is the private JWK under the master key, ``jwk`` the public one."""

    __tablename__ = "signing_keys"

    key_id: str = Field(primary_key=True)
    sealed: bytes
    jwk: dict[str, Any] = Field(sa_type=JSONB)
    live: bool
    version: int
    created_at: datetime = Field(sa_type=TIME)


class Attempts(Table, table=True):
    """Failed sign-ins in a row for one name, known or not; ``name`` is a keyed hash."""

    __tablename__ = "attempts"

    name: bytes = Field(primary_key=True)
    failures: int
    next_at: datetime = Field(sa_type=TIME)
    seen_at: datetime = Field(sa_type=TIME)
