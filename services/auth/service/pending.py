"""Whom an identity provider vouched for a moment ago: sealed, in their browser, until they show their second factor."""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from chassis.outbox import UnitOfWork
from services.auth import repository, vault
from services.auth.domain.links import Purpose
from services.auth.domain.oidc import PENDING_LIFE, SignedOutThere
from services.auth.models import User
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


async def counts(session: repository.Reading, known: dict[str, Any], user: User, now: datetime) -> bool:
    """Whether a provider vouched for this person in this browser a moment ago, and they have not signed out there since."""
    if not is_recent(known, now) or UUID(known["user_id"]) != user.user_id:
        return False
    until = datetime.fromtimestamp(known["at"], UTC) + PENDING_LIFE
    subject, there = ("subject", user.external_id), _in_session(user.external_id, known["session"])
    return not await repository.spent.is_kept(session, _names(known["provider"], subject, there), until)


async def end(uow: UnitOfWork, provider: str, ended: SignedOutThere, now: datetime) -> None:
    """Somebody signed out at the provider: what it said of them until now opens nothing, nor does the link that it led to.

    Where it names a session, what it said of them in others stays. A subject's account is locked before, so that who shows their second factor
    meanwhile is not missed.
    """
    by_session = [("session", ended.session), ("subject without session", ended.subject)]
    for name in _names(provider, *(by_session if ended.session is not None else [("subject", ended.subject)])):
        await repository.spent.keep(uow.session, name, now + PENDING_LIFE)
    user = await repository.oidc.user_of(uow.session, provider, ended.subject) if ended.subject is not None else None
    if user is not None:
        await repository.links.forget_links(uow.session, user.user_id, {Purpose.FACTOR_ENROLMENT})


def _in_session(subject: str | None, provider_session: str | None) -> tuple[str, str | None]:
    return ("session", provider_session) if provider_session is not None else ("subject without session", subject)


def _names(provider: str, *named: tuple[str, str | None]) -> list[bytes]:
    return [vault.token_hash(json.dumps(["signed out", provider, kind, value])) for kind, value in named if value is not None]
