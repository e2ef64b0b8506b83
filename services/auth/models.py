"""The tables of auth."""

from dataclasses import dataclass
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
    """A person's account. Rows are never deleted, so that a username is never given to somebody else.

    ``own_roles`` are the cluster roles that an administrator gave, ``cluster_roles`` these and the groups' together; ``groups``
    are the names of the person's groups, ``directory_groups`` of those that a directory or identity provider put them into.
    ``source`` local, ldap or oidc: who checks the password; ``external_id`` is who the
    person is at ``provider``. ``gone_at``: since when the directory does not let them in any more. ``factor_enrolled_at``: when they
    first had a second factor. ``vouched_at``: when an identity provider last said that it is they, or their directory (within 6 h) that it
    lets them in. ``last_sign_in_at`` outlives the sessions; no fact tells it. ``stops``, ``departures``: how often the account stopped being active,
    and how often it was deactivated.
    """

    __tablename__ = "users"

    user_id: UUID = Field(primary_key=True)
    username: str = Field(unique=True)
    email: str = Field(unique=True)
    status: str
    cluster_roles: list[str] = Field(sa_type=ARRAY(Text))
    version: int
    created_at: datetime = Field(sa_type=TIME)
    confirmed_at: datetime | None = Field(sa_type=TIME)
    source: str = "local"
    provider: str | None = None
    external_id: str | None = None
    gone_at: datetime | None = Field(default=None, sa_type=TIME)
    own_roles: list[str] = Field(default_factory=list, sa_type=ARRAY(Text))
    groups: list[str] = Field(default_factory=list, sa_type=ARRAY(Text))
    directory_groups: list[str] = Field(default_factory=list, sa_type=ARRAY(Text))
    factor_enrolled_at: datetime | None = Field(default=None, sa_type=TIME)
    vouched_at: datetime | None = Field(default=None, sa_type=TIME)
    last_sign_in_at: datetime | None = Field(default=None, sa_type=TIME)
    stops: int = 0
    departures: int = 0


class Group(Table, table=True):
    """Some people: what they are for the installation, how strong their second factor has to be, and their names in directories.

    ``factor_policy``: optional, required, passkey, or None where the group has no say. ``external``: DNs and ``provider:value`` of claims, in
    the form in which they are compared.
    """

    __tablename__ = "groups"

    group_id: UUID = Field(primary_key=True)
    name: str = Field(unique=True)
    factor_policy: str | None
    cluster_roles: list[str] = Field(sa_type=ARRAY(Text))
    external: list[str] = Field(sa_type=ARRAY(Text))
    version: int
    created_at: datetime = Field(sa_type=TIME)


class RemovedGroup(Table, table=True):
    """The name of a group that was removed: projects may still know people by it, so it is never given again."""

    __tablename__ = "removed_groups"

    name: str = Field(primary_key=True)
    removed_at: datetime = Field(sa_type=TIME)


class GroupMember(Table, table=True):
    """Somebody in a group: put there by an administrator, or by the directory; both at once are two rows."""

    __tablename__ = "group_members"

    group_id: UUID = Field(primary_key=True, foreign_key="groups.group_id")
    user_id: UUID = Field(primary_key=True, foreign_key="users.user_id")
    by_directory: bool = Field(primary_key=True)


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
    """What a person signs in with: a password (none where a directory checks it) and an authenticator.

    ``last_step`` is the newest TOTP step that was used; ``pending_totp_sealed`` a secret that is not confirmed yet.
    """

    __tablename__ = "credentials"

    user_id: UUID = Field(primary_key=True, foreign_key="users.user_id")
    password_hash: str | None = None
    totp_sealed: bytes | None = None
    last_step: int = -1
    pending_totp_sealed: bytes | None = None
    totp_at: datetime | None = Field(default=None, sa_type=TIME)
    password_at: datetime | None = Field(default=None, sa_type=TIME)


class Passkey(Table, table=True):
    """A WebAuthn credential of a person; ``public_key`` is COSE, ``sign_count`` the authenticator's newest count."""

    __tablename__ = "passkeys"

    passkey_id: UUID = Field(primary_key=True)
    user_id: UUID = Field(foreign_key="users.user_id")
    credential_id: bytes = Field(unique=True)
    public_key: bytes
    sign_count: int
    name: str
    backed_up: bool
    created_at: datetime = Field(sa_type=TIME)
    last_used_at: datetime | None = Field(default=None, sa_type=TIME)


class RecoveryCode(Table, table=True):
    """A code that stands in for a second factor once; ``code_hash`` is a keyed hash."""

    __tablename__ = "recovery_codes"

    user_id: UUID = Field(primary_key=True, foreign_key="users.user_id")
    code_hash: bytes = Field(primary_key=True)
    used_at: datetime | None = Field(default=None, sa_type=TIME)


class Spent(Table, table=True):
    """Something that carries its own proof (a challenge, a state) and was used; kept until it would have run out anyway.

    So is one of the places that an account has for letters that anybody can ask for.
    """

    __tablename__ = "spent"

    token_hash: bytes = Field(primary_key=True)
    expires_at: datetime = Field(sa_type=TIME)


class Link(Table, table=True):
    """A one-time link: to choose a new password, or to set up a second factor, after the first factor was shown or beside it."""

    __tablename__ = "links"

    token_hash: bytes = Field(primary_key=True)
    user_id: UUID = Field(foreign_key="users.user_id")
    purpose: str
    expires_at: datetime = Field(sa_type=TIME)
    created_at: datetime = Field(sa_type=TIME)


class ResetAsk(Table, table=True):
    """Somebody's wish for a new password for the name that they typed, sealed: it may be nobody's, or a password."""

    __tablename__ = "reset_asks"

    ask_id: UUID = Field(primary_key=True)
    sealed: bytes
    created_at: datetime = Field(sa_type=TIME)


class Registration(Table, table=True):
    """Somebody's request for an account, which an administrator decides."""

    __tablename__ = "registrations"

    registration_id: UUID = Field(primary_key=True)
    email: str
    note: str
    state: str
    created_at: datetime = Field(sa_type=TIME)
    decided_at: datetime | None = Field(default=None, sa_type=TIME)
    decided_by: UUID | None = None
    version: int


class Letter(Table, table=True):
    """A mail that waits to be sent; address and text are sealed, since they hold one-time links."""

    __tablename__ = "letters"

    letter_id: UUID = Field(primary_key=True)
    user_id: UUID | None = None
    sealed: bytes
    created_at: datetime = Field(sa_type=TIME)
    next_at: datetime = Field(sa_type=TIME)
    tries: int = 0


class Session(Table, table=True):
    """A sign-in; it counts until ``ended_at`` or ``expires_at``.

    The refresh token of ``generation`` n follows from ``seed``, n and the master key; ``rotated_at`` is when the newest one
    was given out. ``created_at``: when its person signed in, also where a browser handed the sign-in over. ``factor_at``: when the
    second factor was last shown. ``client`` and ``source`` are what signed in, from where.
    """

    __tablename__ = "sessions"

    session_id: UUID = Field(primary_key=True)
    user_id: UUID = Field(foreign_key="users.user_id")
    created_at: datetime = Field(sa_type=TIME)
    expires_at: datetime = Field(sa_type=TIME)
    ended_at: datetime | None = Field(sa_type=TIME)
    version: int
    seed: bytes = b""
    generation: int = 0
    rotated_at: datetime = Field(sa_type=TIME)
    factor_at: datetime = Field(sa_type=TIME)
    last_used_at: datetime = Field(sa_type=TIME)
    method: str = ""
    client: str = ""
    source: str = ""
    ended_because: str | None = None
    provider: str | None = None
    provider_session: str | None = None
    id_token_sealed: bytes | None = None


class ClientCode(Table, table=True):
    """A browser's one-time code for a client on the same machine (RFC 8252); ``challenge`` is S256 (RFC 7636)."""

    __tablename__ = "client_codes"

    code_hash: bytes = Field(primary_key=True)
    user_id: UUID = Field(foreign_key="users.user_id")
    session_id: UUID = Field(foreign_key="sessions.session_id")
    challenge: str
    expires_at: datetime = Field(sa_type=TIME)


class ApiKey(Table, table=True):
    """A person's key for programs; ``secret_hash`` is the SHA-256 of its random secret, ``scopes`` the actions it is for."""

    __tablename__ = "api_keys"

    key_id: UUID = Field(primary_key=True)
    user_id: UUID = Field(foreign_key="users.user_id")
    name: str
    secret_hash: bytes
    scopes: list[str] = Field(sa_type=ARRAY(Text))
    project_id: UUID | None = None
    created_at: datetime = Field(sa_type=TIME)
    expires_at: datetime = Field(sa_type=TIME)
    ended_at: datetime | None = Field(default=None, sa_type=TIME)
    last_used_at: datetime | None = Field(default=None, sa_type=TIME)
    version: int


class SigningKey(Table, table=True):
    """A key that signs access tokens: ``sealed`` is the private JWK under the master key, ``jwk`` the public one.

    It is known everywhere before it signs (``signs_from``), and verifies for a while after another signs (``replaced_at``).
    """

    __tablename__ = "signing_keys"

    key_id: str = Field(primary_key=True)
    sealed: bytes
    jwk: dict[str, Any] = Field(sa_type=JSONB)
    live: bool
    version: int
    created_at: datetime = Field(sa_type=TIME)
    signs_from: datetime = Field(sa_type=TIME)
    replaced_at: datetime | None = Field(default=None, sa_type=TIME)


@dataclass
class Attempts:
    """Failed tries in a row for one name, device, source or proof; ``name`` is a keyed hash, or for an account its id, the other way round.

    Rows of ``attempts``, without SQLAlchemy around them: each sign-in looks at three.
    """

    name: bytes
    failures: int
    next_at: datetime
    seen_at: datetime
