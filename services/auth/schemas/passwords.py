"""Request and answer shapes of new passwords."""

from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, Field

from services.auth.schemas.fields import NewPassword, Request, Token, TypedPassword


class PasswordChange(Request):
    """The password that the caller has now, and the one to have from now on."""

    password: TypedPassword
    new_password: NewPassword


class ResetAsked(Request):
    """The username or address of somebody who wants a new password."""

    name: Annotated[str, Field(min_length=1, max_length=320)]


class ResetAccepted(Request):
    """The token of a one-time link, and the password that its holder chooses."""

    token: Token
    password: NewPassword


class ResetView(BaseModel):
    """A one-time link for somebody: its token is shown once, or ``mailed`` to the person where mail is configured."""

    user_id: UUID
    link_token: str | None
    mailed: bool
