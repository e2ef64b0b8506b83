"""Signing in and out."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from chassis import tokens
from chassis.guard import OpenUow
from chassis.outbox import UnitOfWork
from contracts.events import UserStatus
from services.auth import domain, repository
from services.auth.models import Session, User
from services.auth.service import callers, factors, passwords, signing
from services.auth.service.factors import ShownFactor
from services.auth.service.tools import Tools


@dataclass(frozen=True)
class SignedIn:
    """A session, its person, and an access token with the time it expires at."""

    session: Session
    user: User
    access_token: str
    expires_at: datetime


async def sign_in(later: OpenUow, tools: Tools, name: str, password: str, shown: ShownFactor) -> SignedIn | domain.sessions.SignInRefused:
    """Open a session. A refusal is returned, not raised, so that the failure it counts is committed.

    The slow check of the password runs outside the transaction; what it rested on is compared again under lock. Raises
    SlowDown, CannotDecide.
    """
    normal = domain.accounts.normal_name(name)
    async with repository.reading(tools.engine) as session:
        known = await repository.accounts.user_named(session, normal)
        key = tools.vault.blind(str(known.user_id) if known else normal)
        domain.sessions.demand_patience(await repository.sessions.attempts(session, key), await repository.clock(session))
    checked = await passwords.check(tools, known, password)

    uow = await later()
    attempts = await repository.sessions.lock_attempts(uow.session, key)
    now = await repository.clock(uow.session)
    domain.sessions.demand_patience(attempts, now)
    user = await repository.accounts.user(uow.session, known.user_id, lock=True) if known else None
    method = None
    if user and user.status == UserStatus.ACTIVE and await passwords.confirm(uow, user, checked, now):
        method = await factors.check(uow, tools, user, shown, now)
    if user is None or method is None:
        domain.sessions.fail(attempts, now)
        return domain.sessions.SignInRefused()
    await uow.session.delete(attempts)
    return await open_session(uow, tools, user, f"password+{method}", now)


async def open_session(uow: UnitOfWork, tools: Tools, user: User, method: str, now: datetime) -> SignedIn:
    """A new session for somebody who has shown who they are, with its first access token."""
    opened = domain.sessions.sign_in(user, uow.new_id(), method, now, timedelta(seconds=tools.settings.session_s))
    uow.session.add(opened)
    uow.emit(domain.sessions.session_fact(opened))
    callers.acts(uow, user, opened.session_id)
    uow.note(session_id=opened.session_id, user_id=user.user_id, method=method)
    return await access(uow, tools, opened, user, now)


async def access(uow: UnitOfWork, tools: Tools, session: Session, user: User, now: datetime) -> SignedIn:
    """An access token for a session, ending with the session at the latest."""
    key = await signing.signing_key(uow, tools.vault)
    life = min(timedelta(seconds=tools.settings.token_s), session.expires_at - now)
    private = tools.vault.signing_key(key.key_id, key.sealed)
    token, expires = tokens.issue(private, key.key_id, user.user_id, session.session_id, now, life)
    return SignedIn(session, user, token, expires)


async def list_sessions(uow: UnitOfWork, after: UUID | None, limit: int) -> list[Session]:
    """The caller's sessions that still count."""
    return await repository.sessions.live_sessions(uow.session, callers.caller(uow), uow.now, after, limit)


async def end_session(uow: UnitOfWork, session_id: UUID) -> None:
    """End one of the caller's sessions. Raises NotFound."""
    caller = callers.caller(uow)
    session = domain.sessions.own_session(await repository.sessions.session_of(uow.session, caller, session_id), caller)
    if domain.sessions.end_session(session, uow.now):
        uow.emit(domain.sessions.session_fact(session))
        uow.note(session_id=session_id)


async def forget_attempts(uow: UnitOfWork) -> None:
    """Forget failed sign-ins after a time of quiet."""
    await repository.sessions.forget_attempts(uow.session, domain.sessions.FORGET_FAILURES)
