"""The rules of the keys that sign access tokens."""

from contracts import events
from services.auth.models import SigningKey


def key_fact(key: SigningKey) -> events.SigningKey:
    """The public half of a signing key, for others to hear."""
    return events.SigningKey(version=key.version, key_id=key.key_id, jwk=key.jwk, live=key.live)
