"""The rules of sign-ins, sessions and refresh tokens."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from uuid import UUID

from chassis.errors import NotFound, Unauthenticated
from contracts import events
from services.auth.models import Session, User

LONGEST_CLIENT = 128
PASSKEY = "passkey"
SIGNED_OUT = "signed-out"
NEVER = datetime(1970, 1, 1, tzinfo=UTC)
KEEP_ENDED = timedelta(hours=24)


class SignInRefused(Unauthenticated):
    """SECOND_FACTOR_IS_RIGHT: something is wrong, and it is not said what."""

    title = "Name, password or one-time code is not right"


def shown_client(agent: str) -> str:
    """What a client calls itself, as far as it is stored: 128 printable characters."""
    return "".join(character for character in agent if character.isprintable())[:LONGEST_CLIENT]


def shown_source(address: str) -> str:
    """An IP address in its shortest form; empty for anything else."""
    try:
        return str(ip_address(address))
    except ValueError:
        return ""


def sign_in(
    user: User, session_id: UUID, method: str, now: datetime, life: timedelta, *, seed: bytes = b"", factor_at: datetime | None = None
) -> Session:
    """A new session, for ``life`` at the longest; ``factor_at``: when the second factor was shown, if not now.

    Without a second factor (``password``, ``ldap``, an identity provider's word) it was never shown.
    """
    shown = "+" in method or method == PASSKEY
    return Session(
        session_id=session_id,
        user_id=user.user_id,
        created_at=now,
        expires_at=now + life,
        ended_at=None,
        version=1,
        seed=seed,
        generation=1,
        rotated_at=now,
        factor_at=factor_at or (now if shown else NEVER),
        last_used_at=now,
        method=method,
    )


def own_session(session: Session | None, user_id: UUID) -> Session:
    """Condition.SESSION_IS_OWN: a session of the caller's; another's does not exist. Raises NotFound."""
    if session is None or session.user_id != user_id:
        raise NotFound
    return session


def end_session(session: Session, now: datetime, because: str) -> bool:
    """End a session; whether it was open until now."""
    if session.ended_at is not None:
        return False
    session.ended_at = now
    session.ended_because = because
    session.version += 1
    return True


def demand_live(session: Session, now: datetime) -> Session:
    """A session that counts now. Raises NotFound."""
    if session.ended_at is not None or session.expires_at <= now:
        raise NotFound
    return session


def show_factor(session: Session, factor: str, now: datetime) -> None:
    """The second factor was shown once more, or for the first time where the session was opened without one."""
    if session.factor_at == NEVER:
        session.method = f"{session.method}+{factor}"
    session.factor_at = now
    session.version += 1


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
