"""Passwords: the first factor, checked outside of transactions because it is slow."""

from dataclasses import dataclass
from datetime import datetime

from chassis.outbox import UnitOfWork
from services.auth import domain, repository
from services.auth.models import User
from services.auth.service.tools import Tools


@dataclass(frozen=True)
class Checked:
    """A password that was looked at: whether it was right, against which stored hash, and a new hash where parameters changed."""

    right: bool
    against: str | None
    rehashed: str | None = None


async def check(tools: Tools, user: User | None, password: str, source: str = "") -> Checked:
    """Look at a password; without an account the work is the same, and it is not right. ``source`` waits its turn. Raises CannotDecide."""
    async with repository.reading(tools.engine) as session:
        credential = await repository.factors.credential(session, user.user_id if user else domain.accounts.NO_ONE)
    stored = credential.password_hash if credential else None
    right, rehashed = await tools.passwords.check(password, stored, domain.patience.source_prefix(source))
    return Checked(right, stored, rehashed)


async def confirm(uow: UnitOfWork, user: User | None, checked: Checked, now: datetime) -> bool:
    """Whether what was looked at still holds under the transaction's lock; keeps a new hash."""
    credential = await repository.factors.credential(uow.session, user.user_id if user else domain.accounts.NO_ONE, lock=True)
    right = domain.passwords.still_right(credential, checked.right, checked.against)
    if right and credential is not None and checked.rehashed is not None:
        credential.password_hash = checked.rehashed
        credential.password_at = credential.password_at or now
    return right


async def demand_strong(tools: Tools, password: str, user: User, source: str = "") -> None:
    """The password is not easy to guess for somebody who knows the person's names. Raises PasswordTooWeak, CannotDecide."""
    about = (user.username, user.email, *user.email.split("@"))
    why = await tools.passwords.run(domain.patience.source_prefix(source), domain.passwords.weakness, password, about)
    if why is not None:
        raise domain.passwords.PasswordTooWeak(why)
