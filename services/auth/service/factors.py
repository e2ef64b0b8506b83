"""Second factors: what is shown at a sign-in or a step-up."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from chassis.outbox import UnitOfWork
from services.auth import domain, repository
from services.auth.models import User
from services.auth.service.tools import Tools


@dataclass(frozen=True)
class ShownPasskey:
    """A passkey's answer to a challenge: the sealed challenge as it was given out, and the credential as the browser gave it."""

    challenge: str
    credential: dict[str, Any]


@dataclass(frozen=True)
class ShownFactor:
    """What somebody shows as their second factor: one of these, or nothing."""

    code: str | None = None
    recovery_code: str | None = None
    passkey: ShownPasskey | None = None


async def check(uow: UnitOfWork, tools: Tools, user: User | None, shown: ShownFactor, now: datetime, *, use: bool = True) -> str | None:
    """The name of the factor that was shown (``totp``), or None when it is not right; with ``use`` it is used up.

    Whoever is refused anyway (no account, a wrong password) costs the same work, without ``use``.
    """
    credential = await repository.factors.credential(uow.session, user.user_id if user else domain.accounts.NO_ONE, lock=True)
    if user is None or credential is None or credential.totp_sealed is None or shown.code is None:
        return None
    step = domain.factors.matching_step(tools.vault.open_totp(credential.totp_sealed, user.user_id), shown.code, now, credential.last_step)
    if step is None:
        return None
    if use:
        credential.last_step = step
    return "totp"
