"""Request and answer shapes of accounts and invitations."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from contracts.events import UserStatus
from contracts.roles import ClusterRole
from services.auth.schemas.fields import Code, NewPassword, Request, Token


class NewUser(Request):
    """Somebody to invite; the rules of the address stand in the domain."""

    email: Annotated[str, Field(min_length=3, max_length=320)]
    cluster_roles: frozenset[ClusterRole] = frozenset()


class Settable(StrEnum):
    """What an administrator can make of an account."""

    ACTIVE = UserStatus.ACTIVE.value
    BLOCKED = UserStatus.BLOCKED.value
    DEACTIVATED = UserStatus.DEACTIVATED.value


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


class UserView(BaseModel):
    """An account as its person and administrators see it."""

    model_config = ConfigDict(from_attributes=True)

    user_id: UUID
    username: str
    email: str
    status: UserStatus
    cluster_roles: list[ClusterRole]
    groups: list[str]
    version: int
    created_at: datetime


class InvitedView(UserView):
    """An account with the one-time token of its invitation: shown once, or ``mailed`` to its person where mail is configured."""

    invitation: str | None
    mailed: bool


class FactorsView(BaseModel):
    """What an account can sign in with beside its password."""

    totp: bool
    passkeys: int
    recovery_codes_left: int


class UserDetail(UserView):
    """An account as administrators see it by itself: ``own_roles`` were given to the person, ``cluster_roles`` count their groups' too."""

    own_roles: list[ClusterRole]
    source: str
    factors: FactorsView
    last_sign_in_at: datetime | None


class SecondFactorView(BaseModel):
    """What an authenticator needs; ``totp_svg`` is the address as a QR code."""

    username: str
    totp_secret: str
    totp_uri: str
    totp_svg: str
