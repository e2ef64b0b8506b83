"""Request and answer shapes of API keys."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from services.auth.schemas.fields import Name, Request

Scope = Annotated[str, Field(min_length=1, max_length=64)]


class NewKey(Request):
    """What a new key is for: actions, or ``noun.*`` for all that a key can be given of a noun."""

    name: Name
    scopes: Annotated[frozenset[Scope], Field(max_length=200)]
    project_id: UUID | None = None
    expires_at: AwareDatetime


class KeyView(BaseModel):
    """An API key as its person and administrators see it."""

    model_config = ConfigDict(from_attributes=True)

    key_id: UUID
    name: str
    scopes: list[str]
    project_id: UUID | None
    created_at: datetime
    expires_at: datetime
    last_used_at: datetime | None
    version: int


class NewKeyView(KeyView):
    """A new key with its text, which is shown once."""

    secret: str
