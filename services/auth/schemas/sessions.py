"""Request and answer shapes of sessions."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, Field

from services.auth.schemas.accounts import UserView
from services.auth.schemas.fields import Code, Request, TypedPassword


class SignIn(Request):
    """Username or address, password and one-time code."""

    username: Annotated[str, Field(min_length=1, max_length=320)]
    password: TypedPassword
    code: Code


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
