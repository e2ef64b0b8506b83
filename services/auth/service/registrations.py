"""Registrations: people ask for an account, administrators decide."""

from uuid import UUID

from chassis.guard import OpenUow
from chassis.outbox import UnitOfWork
from contracts.roles import ClusterRole
from services.auth import domain, repository
from services.auth.domain.letters import Kind
from services.auth.domain.registrations import State
from services.auth.models import Registration
from services.auth.service import accounts, callers, letters, patience
from services.auth.service.tools import About, Tools


async def ask(later: OpenUow, tools: Tools, email: str, note: str, about: About) -> domain.registrations.RegistrationsFull | None:
    """Note down somebody's request; no account is looked at.

    That too many wait is returned, not raised, so that the wish it counts is committed. Raises RegistrationClosed, BadEmail, SlowDown.
    """
    domain.registrations.demand_switched_on(tools.settings.registration)
    normal = domain.accounts.normal_email(email)
    watched = await patience.look(tools, patience.wishing(about))
    uow = await later()
    turn = await patience.take(uow, watched)
    if await repository.registrations.open_count(uow.session) >= domain.registrations.MOST_OPEN:
        return await turn.refused(domain.registrations.RegistrationsFull())
    await turn.failed()
    registration = domain.registrations.ask(uow.new_id(), normal, note, uow.now)
    if await repository.registrations.keep(uow.session, registration):
        uow.note(registration_id=registration.registration_id)
    return None


async def list_open(uow: UnitOfWork, after: UUID | None, limit: int) -> list[Registration]:
    """The requests that wait to be decided."""
    return await repository.registrations.open_registrations(uow.session, after, limit)


async def approve(uow: UnitOfWork, tools: Tools, registration_id: UUID, roles: frozenset[ClusterRole]) -> accounts.Invited:
    """Invite whoever asked, where no account has their address by now. Raises NotFound, AlreadyDecided, EmailTaken, FactorTooOld."""
    registration = await _decide(uow, registration_id, State.APPROVED)
    return await accounts.invite(uow, tools, registration.email, roles, again=False)


async def decline(uow: UnitOfWork, tools: Tools, registration_id: UUID) -> None:
    """Tell whoever asked that there will be no account. Raises NotFound, AlreadyDecided."""
    registration = await _decide(uow, registration_id, State.DECLINED)
    await letters.write(uow, tools, None, registration.email, Kind.REGISTRATION_DECLINED)


async def _decide(uow: UnitOfWork, registration_id: UUID, state: State) -> Registration:
    registration = await repository.registrations.registration(uow.session, registration_id)
    decided = domain.registrations.decide(registration, state, callers.caller(uow), uow.now)
    uow.note(registration_id=registration_id)
    return decided


async def prune(uow: UnitOfWork) -> None:
    """Forget requests of long ago."""
    rules = domain.registrations
    await repository.registrations.prune(uow.session, uow.now - rules.DECIDED_KEPT, uow.now - rules.OPEN_KEPT)
