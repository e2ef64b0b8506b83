"""Whom an identity provider vouched for a moment ago: sealed, in their browser, until they show their second factor."""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from chassis.outbox import UnitOfWork
from services.auth import repository, vault
from services.auth.domain.links import Purpose
from services.auth.domain.oidc import PENDING_LIFE, SignedOutThere, Vouched
from services.auth.models import Session, User
from services.auth.service.tools import Tools

PENDING = "oidc-pending"
LONGEST_CARRIED = 2000


def carry(tools: Tools, user: User, at: str, provider_session: str | None, token: str, now: datetime) -> str:
    """The cookie of somebody whom the provider ``at`` has just vouched for, in a session of its own, with its id_token."""
    carried = {
        "user_id": str(user.user_id),
        "provider": at,
        "session": provider_session,
        "token": token if len(token) <= LONGEST_CARRIED else None,  # browsers keep 4 KiB
        "at": now.timestamp(),
    }
    return tools.vault.carry(PENDING, json.dumps(carried).encode())


def read(tools: Tools, cookie: str | None) -> dict[str, Any]:
    """What the cookie of somebody says whom a provider vouched for; nothing where it is none of ours."""
    carried = tools.vault.carried(PENDING, cookie) if cookie else None
    known: dict[str, Any] = json.loads(carried) if carried is not None else {}
    return known


def is_recent(known: dict[str, Any], now: datetime) -> bool:
    """Whether the provider vouched for them a moment ago; whether that still counts, ``counts`` knows."""
    return bool(known) and now.timestamp() - known["at"] <= PENDING_LIFE.total_seconds()


async def hold(uow: UnitOfWork, known: dict[str, Any], user: User) -> None:
    """Let no sign-out at the provider come between ``counts`` and what follows from it. Before the account is locked."""
    await repository.oidc.lock_sign_outs(uow.session, _names_of(known["provider"], user.external_id, known["session"]), alone=False)


async def ended_since(uow: UnitOfWork, provider: str, vouched: Vouched, asked_at: datetime) -> bool:
    """Whether somebody signed out at the provider after it was asked about them; nobody does from here on. Before any account is locked."""
    names = _names_of(provider, vouched.subject, vouched.session)
    await repository.oidc.lock_sign_outs(uow.session, names, alone=False)
    return await repository.spent.is_kept(uow.session, names, asked_at + PENDING_LIFE)


async def counts(session: repository.Reading, known: dict[str, Any], user: User, now: datetime) -> bool:
    """Whether a provider vouched for this person in this browser a moment ago, and they have not signed out there since."""
    if not is_recent(known, now) or UUID(known["user_id"]) != user.user_id:
        return False
    names = _names_of(known["provider"], user.external_id, known["session"])
    return not await repository.spent.is_kept(session, names, datetime.fromtimestamp(known["at"], UTC) + PENDING_LIFE)


async def end(uow: UnitOfWork, provider: str, ended: SignedOutThere) -> list[Session]:
    """Somebody signed out at the provider: what it said of them until now opens nothing. The sessions that it opened, locked, end with it.

    Where it names a session, what it said of them in others stays, but for the link to set up a second factor: nothing says which one that
    came from, so a subject's goes in any case, and where no subject is named, nobody's does.
    """
    by_session = [("session", ended.session), ("subject without session", ended.subject)]
    names = _names(provider, *(by_session if ended.session is not None else [("subject", ended.subject)]))
    await repository.oidc.lock_sign_outs(uow.session, names, alone=True)
    now = await repository.clock(uow.session)
    for name in names:
        await repository.spent.keep(uow.session, name, now + PENDING_LIFE)
    opened = await repository.oidc.sessions_of(uow.session, provider, ended.subject, ended.session, now)
    user = await repository.oidc.user_of(uow.session, provider, ended.subject) if ended.subject is not None else None
    if user is not None:
        await repository.links.forget_links(uow.session, user.user_id, {Purpose.FACTOR_ENROLMENT})
    return opened


def _names_of(provider: str, subject: str | None, provider_session: str | None) -> list[bytes]:
    there = ("session", provider_session) if provider_session is not None else ("subject without session", subject)
    return _names(provider, ("subject", subject), there)


def _names(provider: str, *named: tuple[str, str | None]) -> list[bytes]:
    return [vault.token_hash(json.dumps(["signed out", provider, kind, value])) for kind, value in named if value is not None]
