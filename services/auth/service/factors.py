"""Second factors: what is shown at a sign-in or a step-up."""

from dataclasses import dataclass
from datetime import datetime

from chassis.outbox import UnitOfWork
from services.auth import domain, repository
from services.auth.models import User
from services.auth.vault import Vault


@dataclass(frozen=True)
class ShownFactor:
    """What somebody shows as their second factor."""

    code: str | None = None


async def check(uow: UnitOfWork, safe: Vault, user: User, shown: ShownFactor, now: datetime) -> str | None:
    """Use up what was shown; the name of the factor (``totp``), or None when it is not right."""
    credential = await repository.factors.credential(uow.session, user.user_id, lock=True)
    if credential is None or credential.totp_sealed is None or shown.code is None:
        return None
    step = domain.factors.matching_step(safe.open_totp(credential.totp_sealed, user.user_id), shown.code, now, credential.last_step)
    if step is None:
        return None
    credential.last_step = step
    return "totp"
