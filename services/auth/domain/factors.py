"""The rules of second factors: authenticators, recovery codes, and what the policy of somebody's groups asks for."""

import base64
import hmac
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from uuid import UUID

import pyotp
import segno

from chassis.errors import Conflict, NotFound, Unauthenticated, Unprocessable
from services.auth.models import Credential

STEP_S = 30
DRIFT_STEPS = 1
RECOVERY_CODES = 10
RECOVERY_CHARACTERS = 10
RECOVERY_BYTES = 7
QR_SCALE = 4
STAND_IN_SECRET = "A" * 32


class WrongCode(Unprocessable):
    """The code is not the one that the authenticator shows now, or it was used."""

    title = "The one-time code is not right"


class TotpNotBegun(Conflict):
    """A confirmation before a secret was given out."""

    title = "Ask for a new authenticator first"


class AFactorStays(Conflict):
    """A_FACTOR_STAYS: what would remain is less than the policy of the person's groups asks for."""

    title = "Set up another second factor first: your groups ask for one"


class PasskeyNeeded(Unprocessable):
    """An authenticator where the policy of the person's groups asks for a passkey."""

    title = "Your groups ask for a passkey"


class OwnFactorReset(Conflict):
    """Somebody who administers is on the way to do without their own second factor."""

    title = "Another administrator resets your second factor; you change yours yourself"


class FactorEnrolmentNeeded(Unauthenticated):
    """Who they are was shown, and a second factor has to be set up first; ``enrolment`` is the one-time token for that."""

    title = "Set up a second factor first"


class FirstFactorNeeded(Unprocessable):
    """FIRST_FACTOR_IS_SHOWN: the link of a reset is not enough by itself, or whoever has it would have the whole account.

    Nor is that of a sign-in at an identity provider in another browser, or after its person has signed out there.
    """

    title = "Show your password beside this link; who signs in with an identity provider does that first, and opens the link again then"


class Policy(StrEnum):
    """How strong somebody's second factor has to be, the weakest first."""

    OPTIONAL = "optional"
    REQUIRED = "required"
    PASSKEY = "passkey"


class Factor(StrEnum):
    """What stands as a second factor, as a session's method names it."""

    TOTP = "totp"
    PASSKEY = "passkey"
    RECOVERY = "recovery"


class Verdict(StrEnum):
    """What comes of a sign-in whose first factor is right."""

    OPENS = "opens"
    REFUSED = "refused"
    ENROLS = "enrols"


@dataclass(frozen=True)
class Factors:
    """What somebody has; ``ever``: whether they have ever had a second factor."""

    totp: bool
    passkeys: int
    ever: bool


def policy_of(groups: Iterable[str | None], default: str) -> Policy:
    """The policy of somebody in groups with these: the strictest of those that have a say, else the installation's."""
    strictness = list(Policy)
    said = [Policy(policy) for policy in groups if policy is not None]
    return max(said, key=strictness.index, default=Policy(default))


def satisfies(factor: str | None, policy: Policy) -> bool:
    """Whether a factor that was shown is enough; a recovery code always is, or nobody would get back in."""
    if factor is None:
        return policy is Policy.OPTIONAL
    enough = {Factor.PASSKEY.value, Factor.RECOVERY.value}
    return factor in (enough if policy is Policy.PASSKEY else enough | {Factor.TOTP.value})


def verdict(policy: Policy, has: Factors, factor: Factor | None, *, tried: bool) -> Verdict:
    """What comes of a sign-in whose first factor is right and whose second is ``factor``, or was wrong or absent (``tried``).

    Who has a second factor shows it, whatever the policy. Only two may set one up: who never had one, and who shows the
    authenticator that they have where the policy has come to ask for a passkey and they have none.
    """
    if factor is not None:
        if satisfies(factor, policy):
            return Verdict.OPENS
        return Verdict.REFUSED if has.passkeys else Verdict.ENROLS
    alone = policy is Policy.OPTIONAL and not tried and not has.totp and not has.passkeys
    if alone:
        return Verdict.OPENS
    return Verdict.REFUSED if has.ever else Verdict.ENROLS


def may_do_without(policy: Policy, has: Factors, codes: int) -> bool:
    """Whether somebody who is asked for a second factor has none at all, no recovery code either, and need not have one."""
    return policy is Policy.OPTIONAL and not has.totp and not has.passkeys and not codes


def demand_a_factor_stays(policy: Policy, remaining: Factors) -> None:
    """Condition.A_FACTOR_STAYS: what remains satisfies the policy. Raises AFactorStays."""
    stays = {
        Policy.OPTIONAL: True,
        Policy.REQUIRED: remaining.totp or remaining.passkeys > 0,
        Policy.PASSKEY: remaining.passkeys > 0,
    }
    if not stays[policy]:
        raise AFactorStays


def matching_step(secret: str, code: str, now: datetime, last_step: int) -> int | None:
    """Condition.SECOND_FACTOR_IS_RIGHT: the 30 s step whose 6-digit code this is, within one step of now and after ``last_step``; None when there is none.

    RFC 6238 section 5.2: a code counts once, so steps up to the last one used are refused. When two steps share a code,
    the later one is used up.
    """
    generator = pyotp.HOTP(secret, digits=6)
    current = int(now.timestamp()) // STEP_S
    found = None
    for step in range(current - DRIFT_STEPS, current + DRIFT_STEPS + 1):
        if hmac.compare_digest(generator.at(step).encode(), code.encode()) and step > last_step:
            found = step
    return found


def set_totp(credential: Credential, sealed: bytes, step: int | None, now: datetime) -> None:
    """Make a confirmed secret the authenticator, in the place of the one before; its step is used up. Raises WrongCode."""
    if step is None:
        raise WrongCode
    credential.totp_sealed = sealed
    credential.pending_totp_sealed = None
    credential.last_step = step
    credential.totp_at = now


def forget_totp(credential: Credential) -> None:
    """Remove the authenticator, and one that is not confirmed yet."""
    credential.totp_sealed = None
    credential.pending_totp_sealed = None
    credential.totp_at = None


def demand_totp(credential: Credential | None) -> Credential:
    """What somebody signs in with, where an authenticator is in it. Raises NotFound."""
    if credential is None or credential.totp_sealed is None:
        raise NotFound
    return credential


def without_totp(has: Factors) -> Factors:
    """What remains without the authenticator."""
    return replace(has, totp=False)


def without_passkey(has: Factors) -> Factors:
    """What remains without one of the passkeys."""
    return replace(has, passkeys=has.passkeys - 1)


def totp_uri(secret: str, username: str) -> str:
    """The ``otpauth://`` address that authenticators take."""
    return pyotp.TOTP(secret, digits=6, interval=STEP_S).provisioning_uri(name=username, issuer_name="Hortus")


def totp_svg(uri: str) -> str:
    """The address as a QR code: an SVG element, black on white, with nothing in it but one path."""
    code = segno.make(uri, error="m", micro=False)
    return str(code.svg_inline(scale=QR_SCALE, dark="#000", light="#fff", svgclass=None, lineclass=None))


def demand_enough(factor: Factor, policy: Policy) -> None:
    """Refuse to set up what would open no session. Raises PasskeyNeeded."""
    if not satisfies(factor, policy):
        raise PasskeyNeeded


def demand_first_factor(password: str | None, *, kept_at_provider: bool) -> str:
    """Condition.FIRST_FACTOR_IS_SHOWN: the password that came beside a link, of somebody who has one. Raises FirstFactorNeeded."""
    if password is None or kept_at_provider:
        raise FirstFactorNeeded
    return password


def demand_somebody_else(administrator: UUID, user_id: UUID) -> None:
    """An administrator resets nobody's second factor but another's. Raises OwnFactorReset."""
    if administrator == user_id:
        raise OwnFactorReset


def recovery_code(random: bytes) -> str:
    """A code of 50 bits as it is shown: ten base32 characters in two groups."""
    text = base64.b32encode(random).decode()[:RECOVERY_CHARACTERS]
    half = RECOVERY_CHARACTERS // 2
    return f"{text[:half]}-{text[half:]}"


def normal_recovery_code(typed: str) -> str:
    """A code as somebody typed it, in the form in which it is hashed."""
    return typed.upper().replace("-", "").replace(" ", "")
