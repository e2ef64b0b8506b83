"""What an administrator is shown of somebody else's: a link for one half of a sign-in, never for both.

Where letters are sent, the person gets the links and no administrator sees them; then this asks for nothing.
"""

from uuid import UUID

from chassis.outbox import UnitOfWork
from services.auth import domain, repository, vault
from services.auth.domain.links import Purpose
from services.auth.service import callers, letters
from services.auth.service.tools import Tools

OTHER = {Purpose.PASSWORD_RESET: Purpose.FACTOR_RESET, Purpose.FACTOR_RESET: Purpose.PASSWORD_RESET}


async def take(uow: UnitOfWork, tools: Tools, user_id: UUID, purpose: Purpose) -> None:
    """The caller is shown a link for ``purpose``; the account is locked. Raises OtherHalfIsYours."""
    if letters.possible(tools):
        return
    caller = callers.caller(uow)
    domain.links.demand_one_half(await repository.spent.is_spent(uow.session, _mark(caller, user_id, OTHER[purpose])))
    await repository.spent.keep(uow.session, _mark(caller, user_id, purpose), uow.now + domain.links.ONE_HALF)


def _mark(caller: UUID, user_id: UUID, purpose: Purpose) -> bytes:
    return vault.token_hash(f"shown {purpose.value} of {user_id} to {caller}")
