"""API keys as people hold them: ``hortus_<key id, 32 hex digits>_<secret, 43 letters of base64url>``.

Nobody keeps a key: what is stored, and told on the topic ``credentials``, is the SHA-256 of the secret's text. The secret is
random, so a plain hash of it is no easier to guess than the secret itself.
"""

import hashlib
import re
import secrets
from dataclasses import dataclass
from uuid import UUID

PREFIX = "hortus_"
SECRET_BYTES = 32
_FORM = re.compile(r"hortus_([0-9a-f]{12}7[0-9a-f]{3}[89ab][0-9a-f]{15})_([A-Za-z0-9_-]{43})")


@dataclass(frozen=True)
class ShownKey:
    """An API key that somebody shows: which one it claims to be, and the SHA-256 (hex) of its secret."""

    key_id: UUID
    secret_sha256: str

    @property
    def made_at(self) -> float:
        """When the key was made, Unix seconds: its id says so (RFC 9562, UUIDv7). Unchecked until the key is known."""
        return (self.key_id.int >> 80) / 1000


def new_key(key_id: UUID) -> str:
    """A new API key with this id (UUIDv7); it is shown once."""
    return f"{PREFIX}{key_id.hex}_{secrets.token_urlsafe(SECRET_BYTES)}"


def read_key(text: str) -> ShownKey | None:
    """What an API key says; None when the text has not the form of one."""
    form = _FORM.fullmatch(text)
    return ShownKey(UUID(form[1]), hashlib.sha256(form[2].encode()).hexdigest()) if form else None
