"""Request and answer shapes of auth."""

import unicodedata
from datetime import datetime
from enum import StrEnum
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from contracts.events import UserStatus
from contracts.roles import ClusterRole

SHORTEST_PASSWORD = 12
LONGEST_PASSWORD = 128


def _password(value: SecretStr) -> SecretStr:
    """A password in NFC (RFC 8265 section 4.2), 12 to 128 characters, none of them a control character."""
    text = unicodedata.normalize("NFC", value.get_secret_value())
    if not SHORTEST_PASSWORD <= len(text) <= LONGEST_PASSWORD:
        raise ValueError(f"has {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters")
    if any(unicodedata.category(character) in {"Cc", "Cs", "Cn"} for character in text):
        raise ValueError("contains a character that no keyboard types")
    return SecretStr(text)


def _typed(value: SecretStr) -> SecretStr:
    return SecretStr(unicodedata.normalize("NFC", value.get_secret_value()))


NewPassword = Annotated[SecretStr, Field(max_length=4 * LONGEST_PASSWORD), AfterValidator(_password)]
TypedPassword = Annotated[SecretStr, Field(min_length=1, max_length=4 * LONGEST_PASSWORD), AfterValidator(_typed)]
Code = Annotated[str, Field(pattern=r"^[0-9]{6}$")]
Token = Annotated[SecretStr, Field(min_length=1, max_length=128)]


class Request(BaseModel):
    """Requests take no field that they do not know, and show no secret when they are printed."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class NewUser(Request):
    """Somebody to invite; the rules of the address stand in the domain."""

    email: Annotated[str, Field(min_length=3, max_length=320)]
    cluster_roles: frozenset[ClusterRole] = frozenset()


class Settable(StrEnum):
    """What an administrator can make of an account."""

    ACTIVE = UserStatus.ACTIVE.value
    BLOCKED = UserStatus.BLOCKED.value


class UserChange(Request):
    """What an administrator changes of an account; an absent field stays."""

    status: Settable | None = None
    cluster_roles: frozenset[ClusterRole] | None = None


class Acceptance(Request):
    """A one-time token and the password its holder chooses."""

    token: Token
    password: NewPassword


class Confirmation(Request):
    """A one-time token and a code from the authenticator that was set up."""

    token: Token
    code: Code


class SignIn(Request):
    """Username or address, password and one-time code."""

    username: Annotated[str, Field(min_length=1, max_length=320)]
    password: TypedPassword
    code: Code


class UserView(BaseModel):
    """An account as its person and administrators see it."""

    model_config = ConfigDict(from_attributes=True)

    user_id: UUID
    username: str
    email: str
    status: UserStatus
    cluster_roles: list[ClusterRole]
    version: int
    created_at: datetime


class InvitedView(UserView):
    """A new account with its one-time token, which is shown once."""

    invitation: str


class SecondFactorView(BaseModel):
    """What an authenticator needs."""

    username: str
    totp_secret: str
    totp_uri: str


class SessionView(BaseModel):
    """A sign-in; ``current`` says whether this request came with it."""

    session_id: UUID
    created_at: datetime
    session_expires_at: datetime
    current: bool
    version: int


class SignedInView(BaseModel):
    """A new session with its first access token."""

    session_id: UUID
    access_token: str
    expires_at: datetime
    session_expires_at: datetime
    user: UserView
