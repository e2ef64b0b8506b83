"""Request and answer shapes of identity providers and client codes."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from services.auth.schemas.fields import Request


class ProviderView(BaseModel):
    """An identity provider that somebody can sign in by."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    title: str


class NewClientCode(Request):
    """What a client on the same machine will show the verifier of: S256 (RFC 7636)."""

    challenge: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{43}$")]


class ClientCodeView(BaseModel):
    """A code for a client on the same machine; it is good for a minute, once."""

    code: str
