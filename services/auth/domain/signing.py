"""The rules of the keys that sign access tokens: known everywhere before they sign, and until their last token is gone."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from chassis.errors import Conflict
from chassis.tokens import LEEWAY_S
from contracts import events
from services.auth.models import SigningKey

KNOWN_EVERYWHERE = timedelta(seconds=60)
MARGIN = timedelta(seconds=60)


class SigningKeySigns(Conflict):
    """SIGNING_KEY_IS_SPARE: no other key signs yet."""

    title = "This key signs at this moment; let another one take its place first"


class NextKeyWaits(Conflict):
    """A key that signs from a moment ahead is known already."""

    title = "The next key is known already and signs within a minute"


def signs(keys: Iterable[SigningKey], now: datetime) -> SigningKey | None:
    """The key that signs now: the newest live one whose time has come."""
    ready = [key for key in keys if key.live and key.signs_from <= now]
    return max(ready, key=lambda key: (key.signs_from, key.key_id), default=None)


def is_due(keys: Iterable[SigningKey], life: timedelta, now: datetime) -> bool:
    """Whether it is time for another key."""
    return all(key.signs_from + life <= now for key in keys if key.live)


def succeed(keys: Iterable[SigningKey], key_id: str, sealed: bytes, jwk: dict[str, str], now: datetime) -> SigningKey:
    """A new key, which takes the place of the one that signs in a minute; the first ever signs at once. Raises NextKeyWaits."""
    live = [key for key in keys if key.live]
    if any(key.signs_from > now for key in live):
        raise NextKeyWaits
    signs_from = now + KNOWN_EVERYWHERE if live else now
    for key in live:
        key.replaced_at = key.replaced_at or signs_from
    return SigningKey(key_id=key_id, sealed=sealed, jwk=jwk, live=True, version=1, created_at=now, signs_from=signs_from)


def withdraw(key: SigningKey, keys: Iterable[SigningKey], now: datetime) -> bool:
    """Condition.SIGNING_KEY_IS_SPARE: let a key count no more, and its tokens neither; whether it did. Raises SigningKeySigns."""
    if not key.live:
        return False
    signing = signs(keys, now)
    if signing is None or signing.key_id == key.key_id:
        raise SigningKeySigns
    if key.signs_from > now:
        signing.replaced_at = None
    key.live = False
    key.version += 1
    return True


def outlived(keys: Iterable[SigningKey], token_life: timedelta, now: datetime) -> list[SigningKey]:
    """Live keys whose last token is gone."""
    kept = token_life + timedelta(seconds=LEEWAY_S) + MARGIN
    return [key for key in keys if key.live and key.replaced_at is not None and key.replaced_at + kept <= now]


def key_fact(key: SigningKey) -> events.SigningKey:
    """The public half of a signing key, for others to hear."""
    return events.SigningKey(version=key.version, key_id=key.key_id, jwk=key.jwk, live=key.live)
