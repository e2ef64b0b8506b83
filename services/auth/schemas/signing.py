"""Answer shapes of the keys that sign access tokens."""

from datetime import datetime

from pydantic import BaseModel


class SigningKeyView(BaseModel):
    """A key that signs, will sign, or signed access tokens; only its public half is shown, by the gateway's JWKS."""

    signing_key_id: str
    live: bool
    signs: bool
    created_at: datetime
    signs_from: datetime
    replaced_at: datetime | None
    version: int
