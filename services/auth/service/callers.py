"""Who acts in a use case: the caller, or somebody who has just shown who they are."""

from datetime import datetime, timedelta
from uuid import UUID

from chassis.errors import NotFound
from chassis.outbox import UnitOfWork
from contracts.roles import Actor, Principal
from services.auth import domain, repository
from services.auth.models import Session, User
from services.auth.service.tools import Tools


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


async def account(uow: UnitOfWork) -> User:
    """The account of the person who asks, to be read. Raises NotFound."""
    user = await repository.accounts.user(uow.session, caller(uow))
    if user is None:
        raise NotFound
    return user


async def current(uow: UnitOfWork, tools: Tools) -> tuple[User, Session]:
    """The account of the person who asks and the session that they ask in, both locked, while they count: for whatever gives or keeps a way in.

    The account comes first, as for whoever ends sessions: what waited for a block or a reset to commit finds the session ended.
    Raises NotFound, SessionEnded, CannotDecide.
    """
    user = await repository.accounts.user(uow.session, caller(uow), lock=True)
    if user is None:
        raise NotFound
    session = await repository.sessions.session_of(uow.session, user.user_id, uow.actor.session_id or domain.accounts.NO_ONE)
    if session is None:
        raise domain.sessions.SessionEnded
    await demand_open(uow, tools, session, user)
    return user, session


async def demand_open(uow: UnitOfWork, tools: Tools, session: Session, user: User | None) -> tuple[User, datetime]:
    """The person of a session that counts, and the database's clock. Raises SessionEnded, CannotDecide."""
    unused = await unused_since(uow, tools)
    now = await repository.clock(uow.session)
    return domain.sessions.demand_open(session, user, unused, timedelta(seconds=tools.settings.idle_s), now), now


async def unused_since(uow: UnitOfWork, tools: Tools) -> datetime | None:
    """What was last used at this time or before is idle; None while nothing is known about use."""
    return domain.sessions.unused_since(await repository.sessions.heard_to(uow.session), timedelta(seconds=tools.settings.idle_s))


def acts(uow: UnitOfWork, user: User, session_id: UUID | None = None) -> None:
    """From here on the caller is known: the audit record names them."""
    uow.actor = Actor(principal=Principal.PERSON, user_id=user.user_id, username=user.username, session_id=session_id)
