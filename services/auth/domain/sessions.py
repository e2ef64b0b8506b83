"""The rules of sign-ins, sessions, and patience after failures."""

from datetime import datetime, timedelta
from uuid import UUID

from chassis.errors import NotFound, TooManyRequests, Unauthenticated
from contracts import events
from services.auth.models import Attempts, Session, User

FREE_FAILURES = 5
LONGEST_WAIT_S = 60
FORGET_FAILURES = timedelta(minutes=15)


class SignInRefused(Unauthenticated):
    """SECOND_FACTOR_IS_RIGHT: something is wrong, and it is not said what."""

    title = "Name, password or one-time code is not right"


class SlowDown(TooManyRequests):
    """Too many failures in a row for this name."""

    title = "Too many failed attempts; wait a moment"


def demand_patience(attempts: Attempts | None, now: datetime) -> None:
    """Refuse while a name has to wait. Raises SlowDown with the seconds that are left."""
    if attempts is not None and attempts.next_at > now:
        left = (attempts.next_at - now).total_seconds()
        raise SlowDown(retry_after=max(1, int(left + 0.999)))


def fail(attempts: Attempts, now: datetime) -> None:
    """Count a failure; from the fifth in a row on, the wait doubles from 1 s to 60 s. Quiet for 15 min begins anew."""
    if now - attempts.seen_at > FORGET_FAILURES:
        attempts.failures = 0
    attempts.failures += 1
    beyond = attempts.failures - FREE_FAILURES
    wait = 0 if beyond < 0 else min(2 ** min(beyond, 16), LONGEST_WAIT_S)
    attempts.seen_at = now
    attempts.next_at = now + timedelta(seconds=wait)


def sign_in(user: User, session_id: UUID, method: str, now: datetime, life: timedelta) -> Session:
    """A new session, for ``life`` at the longest; both factors were shown now."""
    return Session(
        session_id=session_id,
        user_id=user.user_id,
        created_at=now,
        expires_at=now + life,
        ended_at=None,
        version=1,
        rotated_at=now,
        factor_at=now,
        last_used_at=now,
        method=method,
    )


def own_session(session: Session | None, user_id: UUID) -> Session:
    """Condition.SESSION_IS_OWN: a session of the caller's; another's does not exist. Raises NotFound."""
    if session is None or session.user_id != user_id:
        raise NotFound
    return session


def end_session(session: Session, now: datetime) -> bool:
    """End a session; whether it was open until now."""
    if session.ended_at is not None:
        return False
    session.ended_at = now
    session.version += 1
    return True


def session_fact(session: Session) -> events.Session:
    """What a session is now, for others to hear."""
    return events.Session(
        version=session.version,
        session_id=session.session_id,
        user_id=session.user_id,
        live=session.ended_at is None,
        factor_at=session.factor_at,
        expires_at=session.expires_at,
    )
