"""Request and answer shapes of sessions."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, Discriminator, Field, Tag

from services.auth.schemas.accounts import UserView
from services.auth.schemas.fields import Code, PasskeyAnswer, RecoveryCode, Request, TypedPassword

FACTORS = ("code", "recovery_code", "passkey")


class WithCode(Request):
    """A one-time code of an authenticator."""

    code: Code


class WithRecoveryCode(Request):
    """A recovery code, which is used up."""

    recovery_code: RecoveryCode


class WithPasskey(Request):
    """A passkey."""

    passkey: PasskeyAnswer


class WithPassword(Request):
    """The password, once more, of somebody who has no second factor."""

    password: TypedPassword


class Password(Request):
    """Username or address and password, alone: only where the second-factor policy allows it."""

    username: Annotated[str, Field(min_length=1, max_length=320)]
    password: TypedPassword


class PasswordAndCode(Password, WithCode):
    """Username or address, password and one-time code."""


class PasswordAndRecoveryCode(Password, WithRecoveryCode):
    """Username or address, password and a recovery code."""


class PasswordAndPasskey(Password, WithPasskey):
    """Username or address, password and a passkey."""


class ClientCode(Request):
    """A code that a browser made for a client on the same machine; ``verifier`` is that of RFC 7636."""

    client_code: Annotated[str, Field(min_length=1, max_length=128)]
    verifier: Annotated[str, Field(min_length=43, max_length=128, pattern=r"^[A-Za-z0-9._~-]+$")]


class Pending(Request):
    """The second factor of somebody an identity provider vouched for, as their cookie says."""

    pending: Literal[True]


class PendingAndCode(Pending, WithCode):
    """An identity provider and a one-time code."""


class PendingAndRecoveryCode(Pending, WithRecoveryCode):
    """An identity provider and a recovery code."""


class PendingAndPasskey(Pending, WithPasskey):
    """An identity provider and a passkey."""


def _form(body: Any) -> str | None:
    """Which form a body has: what it begins with, and the first kind of second factor in it; each form takes no other field."""
    if not isinstance(body, dict):
        return None
    first = "client_code" if "client_code" in body else "pending" if "pending" in body else "password" if "username" in body else ""
    factor = next((name for name in FACTORS if name in body), "")
    return "+".join(filter(None, (first, factor))) if first != "client_code" else first


SignIn = Annotated[
    Annotated[Password, Tag("password")]
    | Annotated[PasswordAndCode, Tag("password+code")]
    | Annotated[PasswordAndRecoveryCode, Tag("password+recovery_code")]
    | Annotated[PasswordAndPasskey, Tag("password+passkey")]
    | Annotated[WithPasskey, Tag("passkey")]
    | Annotated[ClientCode, Tag("client_code")]
    | Annotated[PendingAndCode, Tag("pending+code")]
    | Annotated[PendingAndRecoveryCode, Tag("pending+recovery_code")]
    | Annotated[PendingAndPasskey, Tag("pending+passkey")],
    Discriminator(_form),
]


def _shown(body: Any) -> str | None:
    """Which form a step-up has: the first kind of factor in it."""
    return next((name for name in (*FACTORS, "password") if name in body), "") if isinstance(body, dict) else None


SecondFactor = Annotated[
    Annotated[WithCode, Tag("code")]
    | Annotated[WithRecoveryCode, Tag("recovery_code")]
    | Annotated[WithPasskey, Tag("passkey")]
    | Annotated[WithPassword, Tag("password")],
    Discriminator(_shown),
]


class SessionView(BaseModel):
    """A sign-in; ``current`` says whether this request came with it."""

    session_id: UUID
    created_at: datetime
    session_expires_at: datetime
    last_used_at: datetime
    factor_at: datetime
    method: str
    client: str
    source: str
    current: bool
    version: int


class SteppedUpView(BaseModel):
    """A session whose second factor was shown once more."""

    session_id: UUID
    factor_at: datetime
    version: int


class SignedInView(BaseModel):
    """A session with its newest access token."""

    session_id: UUID
    access_token: str
    expires_at: datetime
    session_expires_at: datetime
    user: UserView
    recovery_codes_left: int | None = None
