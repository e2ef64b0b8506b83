"""The rules of sign-ins, sessions and refresh tokens."""

import re
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from uuid import UUID

from chassis.errors import CannotDecide, NotFound, Unauthenticated
from contracts import events
from contracts.events import UserStatus
from services.auth.models import Session, User

LONGEST_CLIENT = 128
PASSKEY = "passkey"
SIGNED_OUT = "signed-out"
IDLE = "idle"
EXPIRED = "expired"
REUSED = "refresh-token-reused"
GRACE = timedelta(seconds=10)
TOLD_WITHIN = timedelta(seconds=5)
REFRESH_TOKEN = re.compile(r"refresh_(?P<session>[0-9a-f]{32})\.(?P<generation>[1-9][0-9]{0,15})\.[A-Za-z0-9_-]{43}")
NEVER = datetime(1970, 1, 1, tzinfo=UTC)
KEEP_ENDED = timedelta(hours=24)


class SignInRefused(Unauthenticated):
    """SECOND_FACTOR_IS_RIGHT: something is wrong, and it is not said what."""

    title = "Name, password or one-time code is not right; try again with the next code"


class RefreshTokenInvalid(Unauthenticated):
    """REFRESH_TOKEN_IS_CURRENT: none of ours; nobody ends a session by guessing."""

    title = "This refresh token is not known"


class RefreshTokenReused(Unauthenticated):
    """REFRESH_TOKEN_IS_CURRENT: the token was given up for a newer one, so it is in two hands, and the session was ended."""

    title = "This refresh token was used before, so the session was ended; sign in again"


class SessionEnded(Unauthenticated):
    """The session was ended, was not used for too long, or is too old, or its account is not active."""

    title = "The session has ended; sign in again"


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


def sign_in_of(user_id: UUID, signed_in_at: datetime) -> str:
    """The name of the sign-in that a session comes from, the same however often it was handed over."""
    return f"{user_id} {signed_in_at.astimezone(UTC).isoformat()}"


def own_session(session: Session | None, user_id: UUID) -> Session:
    """Condition.SESSION_IS_OWN: a session of the caller's; another's does not exist. Raises NotFound."""
    if session is None or session.user_id != user_id:
        raise NotFound
    return session


def generation_of(token: str | None) -> tuple[UUID, int]:
    """The session and the generation that a refresh token names, unproven. Raises RefreshTokenInvalid."""
    named = REFRESH_TOKEN.fullmatch(token or "")
    if named is None:
        raise RefreshTokenInvalid
    return UUID(named["session"]), int(named["generation"])


def rotate(session: Session, generation: int, now: datetime) -> bool:
    """Condition.REFRESH_TOKEN_IS_CURRENT: whether who shows the token of ``generation`` gets the newest one; otherwise it is reused.

    The newest gives way to its successor (RFC 9700 section 4.14.2). The one before leads to the same successor for 10 s more: a
    second tab may show it, or who never got the answer.
    """
    if generation == session.generation:
        session.generation += 1
        session.rotated_at = now
        return True
    return generation == session.generation - 1 and now - session.rotated_at <= GRACE


def unused_since(heard_to: datetime | None, idle: timedelta) -> datetime | None:
    """What was last used at this time or before is idle; None while nothing is known about use.

    ``heard_to``: until when all was heard that gateways have told, which they do within a moment. It stands still while nothing
    is heard, so silence of the bus ends nobody's session, and nor does a start after a long sleep.
    """
    return None if heard_to is None else heard_to - TOLD_WITHIN - idle


def demand_open(session: Session, user: User | None, unused: datetime | None, idle: timedelta, now: datetime) -> User:
    """The person of a session that still counts; ``unused`` is ``unused_since``.

    Raises SessionEnded, and CannotDecide while it is not known whether the session was used in the last ``idle``.
    """
    over = session.ended_at is not None or session.expires_at <= now
    if over or user is None or user.status != UserStatus.ACTIVE or _is_idle(session, unused):
        raise SessionEnded
    if session.last_used_at + idle <= now:
        raise CannotDecide("It is not known yet whether this session was used.", retry_after=1)
    return user


def why_over(session: Session, unused: datetime | None, now: datetime) -> str | None:
    """Why an open session has to end now, or None; ``unused`` is ``unused_since``."""
    if session.expires_at <= now:
        return EXPIRED
    return IDLE if _is_idle(session, unused) else None


def _is_idle(session: Session, unused: datetime | None) -> bool:
    return unused is not None and session.last_used_at <= unused


def end_session(session: Session, now: datetime, because: str) -> bool:
    """End a session; whether it was open until now."""
    if session.ended_at is not None:
        return False
    session.ended_at = now
    session.ended_because = because
    session.version += 1
    return True


def show_factor(session: Session, factor: str | None, now: datetime) -> None:
    """The second factor was shown once more, or for the first time where the session was opened without one.

    None: its person has none, and has shown their password once more.
    """
    if session.factor_at == NEVER and factor is not None:
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
