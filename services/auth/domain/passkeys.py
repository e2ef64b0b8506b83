"""The rules of passkeys (WebAuthn): challenges, registrations and assertions, always with user verification."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import webauthn
from webauthn.helpers import base64url_to_bytes, options_to_json_dict
from webauthn.helpers.structs import (
    AuthenticatorSelectionCriteria,
    PublicKeyCredentialDescriptor,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)

from chassis.errors import Conflict, NotFound, Unprocessable
from services.auth.models import Passkey, User

CHALLENGE_LIFE = timedelta(minutes=5)
CHALLENGE_BYTES = 32
MOST_PASSKEYS = 20
LONGEST_ID = 1023
NAME = "Hortus"
# A P-256 key (COSE) to verify against where there is no passkey, for the same work: RFC 6979 A.2.5; whatever it verifies is refused.
STAND_IN_KEY = bytes.fromhex(
    "a5010203262001215820" + "60fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb6"
    "225820" + "7903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d4462299"
)


class WrongPasskey(Unprocessable):
    """The answer of the authenticator is not right for this challenge, this site or this person."""

    title = "The passkey's answer is not right; ask for a new challenge and try again"


class PasskeyTaken(Conflict):
    """The credential is registered already, by whomever."""

    title = "This passkey is registered already"


class TooManyPasskeys(Conflict):
    """There is an end to the passkeys of one person."""

    title = f"A person has at most {MOST_PASSKEYS} passkeys"


@dataclass(frozen=True)
class Site:
    """Where passkeys count: the relying party's id, and the addresses that browsers reach it at."""

    rp_id: str
    origins: tuple[str, ...]


@dataclass(frozen=True)
class Assertion:
    """What an authenticator has signed: who it says that its person is (``user_handle``), and its count."""

    user_handle: bytes | None
    sign_count: int
    backed_up: bool


def site(origins: tuple[str, ...]) -> Site:
    """The site behind these addresses; the first one's host is the relying party's id."""
    return Site(urlsplit(origins[0]).hostname or "", origins)


def is_current(made_at: datetime, now: datetime) -> bool:
    """Whether a challenge can still be answered."""
    return now - made_at <= CHALLENGE_LIFE


def request_options(challenge: bytes, where: Site) -> dict[str, Any]:
    """What a browser is asked for at a sign-in: any passkey of this site, chosen by its person."""
    options = webauthn.generate_authentication_options(
        rp_id=where.rp_id,
        challenge=challenge,
        timeout=_milliseconds(CHALLENGE_LIFE),
        user_verification=UserVerificationRequirement.REQUIRED,
    )
    return dict(options_to_json_dict(options))


def creation_options(user: User, known: Iterable[Passkey], challenge: bytes, where: Site) -> dict[str, Any]:
    """What a browser is asked to make: a discoverable passkey that no authenticator in ``known`` has yet."""
    options = webauthn.generate_registration_options(
        rp_id=where.rp_id,
        rp_name=NAME,
        user_id=user.user_id.bytes,
        user_name=user.username,
        challenge=challenge,
        timeout=_milliseconds(CHALLENGE_LIFE),
        authenticator_selection=AuthenticatorSelectionCriteria(
            resident_key=ResidentKeyRequirement.REQUIRED,
            require_resident_key=True,
            user_verification=UserVerificationRequirement.REQUIRED,
        ),
        exclude_credentials=[PublicKeyCredentialDescriptor(id=passkey.credential_id) for passkey in known],
    )
    return dict(options_to_json_dict(options))


def credential_id(credential: Mapping[str, Any]) -> bytes | None:
    """The id of the credential that somebody shows, or None where there is none that can be read."""
    try:
        raw = base64url_to_bytes(credential["rawId"])
    except Exception:  # noqa: BLE001 - whatever does not read is no credential
        return None
    return raw if 1 <= len(raw) <= LONGEST_ID else None


def demand_room(count: int) -> None:
    """Refuse one passkey too many. Raises TooManyPasskeys."""
    if count >= MOST_PASSKEYS:
        raise TooManyPasskeys


def register(
    passkey_id: UUID, user: User, name: str, credential: Mapping[str, Any], challenge: bytes, where: Site, now: datetime
) -> Passkey:
    """Condition.SECOND_FACTOR_IS_RIGHT: a new passkey of a person, whose authenticator answered the challenge. Raises WrongPasskey.

    WebAuthn level 3 section 7.1, with user verification and without asking who made the authenticator.
    """
    try:
        verified = webauthn.verify_registration_response(
            credential=dict(credential),
            expected_challenge=challenge,
            expected_rp_id=where.rp_id,
            expected_origin=list(where.origins),
            require_user_verification=True,
        )
    except Exception as error:  # the bytes are a stranger's: whatever breaks in reading them is a refusal
        raise WrongPasskey from error
    return Passkey(
        passkey_id=passkey_id,
        user_id=user.user_id,
        credential_id=verified.credential_id,
        public_key=verified.credential_public_key,
        sign_count=verified.sign_count,
        name=name,
        backed_up=verified.credential_backed_up,
        created_at=now,
    )


def assertion(credential: Mapping[str, Any], passkey: Passkey | None, challenge: bytes, where: Site) -> Assertion | None:
    """Condition.SECOND_FACTOR_IS_RIGHT: what the authenticator signed, or None when it is not right in any way.

    WebAuthn level 3 section 7.2. Without a passkey the work is the same, and the answer is None. The count is compared in
    ``use``, after the signature: a copied passkey is something else than a wrong one.
    """
    try:
        verified = webauthn.verify_authentication_response(
            credential=dict(credential),
            expected_challenge=challenge,
            expected_rp_id=where.rp_id,
            expected_origin=list(where.origins),
            credential_public_key=passkey.public_key if passkey else STAND_IN_KEY,
            credential_current_sign_count=0,
            require_user_verification=True,
        )
        handle = credential["response"].get("userHandle")
        user_handle = base64url_to_bytes(handle) if handle else None
    except Exception:  # noqa: BLE001 - the bytes are a stranger's: whatever breaks in reading them is a refusal
        return None
    if passkey is None or verified.credential_id != passkey.credential_id:
        return None
    return Assertion(user_handle, verified.new_sign_count, verified.credential_backed_up)


def own_passkey(known: Iterable[Passkey], passkey_id: UUID) -> Passkey:
    """The one of these with this id. Raises NotFound."""
    for passkey in known:
        if passkey.passkey_id == passkey_id:
            return passkey
    raise NotFound


def belongs(passkey: Passkey, shown: Assertion, user: User) -> bool:
    """Whether the passkey is this person's, in our books and in the authenticator's."""
    return passkey.user_id == user.user_id and shown.user_handle == user.user_id.bytes


def use(passkey: Passkey, shown: Assertion, now: datetime) -> bool:
    """Count a use; False, and nothing counted, when the count went backwards: two authenticators have this passkey."""
    if (shown.sign_count or passkey.sign_count) and shown.sign_count <= passkey.sign_count:
        return False
    passkey.sign_count = shown.sign_count
    passkey.backed_up = shown.backed_up
    passkey.last_used_at = now
    return True


def _milliseconds(life: timedelta) -> int:
    return int(life.total_seconds() * 1000)
