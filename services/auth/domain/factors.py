"""The rules of second factors."""

import hmac
from datetime import datetime

import pyotp

from chassis.errors import Unprocessable

STEP_S = 30
DRIFT_STEPS = 1


class WrongCode(Unprocessable):
    """The code is not the one that the authenticator shows now, or it was used."""

    title = "The one-time code is not right"


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


def totp_uri(secret: str, username: str) -> str:
    """The ``otpauth://`` address that authenticators take."""
    return pyotp.TOTP(secret, digits=6, interval=STEP_S).provisioning_uri(name=username, issuer_name="Hortus")
