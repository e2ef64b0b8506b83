"""Who acts in a use case: the caller, or somebody who has just shown who they are."""

from uuid import UUID

from chassis.errors import NotFound
from chassis.outbox import UnitOfWork
from contracts.roles import Actor, Principal
from services.auth import repository
from services.auth.models import User


def caller(uow: UnitOfWork) -> UUID:
    """The person who asks. Raises NotFound."""
    if uow.actor.user_id is None:
        raise NotFound
    return uow.actor.user_id


def signed_in(actor: Actor) -> tuple[UUID, UUID]:
    """The person who asks and their session, before there is a transaction. Raises NotFound."""
    if actor.user_id is None or actor.session_id is None:
        raise NotFound
    return actor.user_id, actor.session_id


async def account(uow: UnitOfWork, *, lock: bool = True) -> User:
    """The account of the person who asks; locked, so that changes of one account come one after the other. Raises NotFound."""
    user = await repository.accounts.user(uow.session, caller(uow), lock=lock)
    if user is None:
        raise NotFound
    return user


def acts(uow: UnitOfWork, user: User, session_id: UUID | None = None) -> None:
    """From here on the caller is known: the audit record names them."""
    uow.actor = Actor(principal=Principal.PERSON, user_id=user.user_id, username=user.username, session_id=session_id)
