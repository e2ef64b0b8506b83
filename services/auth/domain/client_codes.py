"""The rules of client codes: how a browser that signed in hands its sign-in over to a client on the same machine (RFC 8252)."""

import hmac
from datetime import datetime, timedelta

from chassis.errors import FactorTooOld
from contracts.policy import STEP_UP_S
from services.auth.domain.flows import s256
from services.auth.models import ClientCode, Session

LIFE = timedelta(seconds=60)


def demand_recent(session: Session, now: datetime) -> None:
    """Condition.SIGN_IN_IS_RECENT: or else a token that was stolen could be made into a whole session. Raises FactorTooOld."""
    if now - max(session.created_at, session.factor_at) >= timedelta(seconds=STEP_UP_S):
        raise FactorTooOld


def carry_over(browsers: Session, clients: Session) -> None:
    """A client's session is as old as the sign-in that it comes from, and ends with it: handing over, again and again, renews nothing."""
    clients.created_at = browsers.created_at
    clients.expires_at = browsers.expires_at
    clients.factor_at = browsers.factor_at


def is_open(code: ClientCode | None, session: Session | None, verifier: str, now: datetime) -> bool:
    """Condition.CLIENT_CODE_IS_OPEN: known, in time, for this verifier (RFC 7636 section 4.6), and its browser's session lives."""
    if code is None or session is None:
        return False
    lives = session.ended_at is None and session.expires_at > now
    return hmac.compare_digest(code.challenge, s256(verifier)) and code.expires_at > now and lives
