"""What follows when somebody who knows a password guesses at the second factor."""

from datetime import datetime
from uuid import UUID

from chassis.outbox import unit_of_work
from contracts.events import UserStatus
from contracts.policy import Service
from services.auth import domain, repository, vault
from services.auth.domain.letters import Kind
from services.auth.service import letters
from services.auth.service.tools import Tools


async def tell(tools: Tools) -> None:
    """Record whose second factor is guessed at, and tell them by letter that their password is known: once a day each, while it goes on.

    Not in the try itself: its time would say that the password is right. A directory's people get no letter, since strangers can add to
    what is counted of them.
    """
    async with repository.reading(tools.engine) as session:
        guessed = await repository.patience.guessed_at(session, domain.patience.FREE_GUESSES)
    for user_id, guesses, ends_at in guessed:
        await _tell(tools, user_id, guesses, ends_at)


async def _tell(tools: Tools, user_id: UUID, guesses: int, ends_at: datetime) -> None:
    async with unit_of_work(tools.engine, Service.AUTH.value, "factor.find_guessed") as uow:
        known = await repository.accounts.known_by_id(uow.session, user_id)
        user, began_at = known.user, ends_at - domain.patience.GUESSES_WITHIN
        if known.password_at is not None and began_at < known.password_at:
            await repository.patience.lock_attempts(uow.session, [repository.patience.of_account(user_id)])
            await repository.patience.forget_guesses(uow.session, user_id)  # or those beside the new password would count on with them
            return
        if user is None or user.status != UserStatus.ACTIVE:
            return
        at_directory = user.source == domain.directory.SOURCE
        if guesses < domain.patience.telling("", user_id, at_directory=at_directory).free:
            return
        told = vault.token_hash(f"guessed at {user_id} until {ends_at.isoformat()}")
        if not await repository.spent.spend(uow.session, told, ends_at + domain.patience.GUESSES_WITHIN):
            return
        uow.note(user_id=user_id)
        if not at_directory:
            await letters.write(uow, tools, user_id, user.email, Kind.FACTOR_GUESSED, username=user.username)
