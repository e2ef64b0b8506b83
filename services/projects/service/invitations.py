"""Invitations into a project, and their answers."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from uuid import UUID

from chassis.errors import NotFound
from chassis.outbox import UnitOfWork
from contracts.roles import Role
from services.projects import domain, repository
from services.projects.domain.activity import Deed
from services.projects.models import Invitation, Membership, Person
from services.projects.service import activity, callers
from services.projects.settings import ProjectsSettings

EXPIRY_BATCH = 500
Named = tuple[Invitation, str]


@dataclass(frozen=True)
class Offer:
    """What somebody is offered to be: with ``starts_at`` None from their acceptance, with ``ends_at`` None for good."""

    role: Role
    purpose: str
    starts_at: datetime | None
    ends_at: datetime | None


async def invite(uow: UnitOfWork, settings: ProjectsSettings, project_id: UUID, username: str, offer: Offer) -> Named:
    """Offer somebody a role.

    Raises FactorTooOld, RaisesYourself, OwnersByGroupMakeNone, LongerThanYours, NoSuchPerson, AlreadyAMember, IsThereAlready,
    AlreadyInvited, EndsBeforeItBegins.
    """
    project, inviter = await callers.owner(uow, project_id)
    person = domain.projects.demand_person(await repository.projects.person(uow.session, username))
    domain.bounds.demand_somebody_else(inviter.user_id, person.user_id)
    domain.bounds.demand_within_own_time(inviter, offer.role, offer.ends_at, None)
    domain.projects.demand_fresh_factor_for(offer.role, offer.ends_at, None, fresh=uow.actor.factor_fresh)
    before = await repository.projects.membership(uow.session, project_id, person.user_id)
    known = await repository.invitations.one(uow.session, project_id=project_id, user_id=person.user_id, lock=True)
    expires_at = uow.now + timedelta(seconds=settings.invitation_s)
    invitation = domain.invitations.invite(
        uow.new_id(),
        project,
        inviter,
        person,
        before,
        known,
        offer.role,
        offer.purpose,
        offer.starts_at,
        offer.ends_at,
        expires_at,
        uow.now,
    )
    if known is not None:
        await repository.invitations.remove(uow.session, known)
    uow.session.add(invitation)
    _tell(uow, invitation, Deed.INVITED)
    await repository.projects.wake(uow.session)
    return invitation, project.name


async def list_of_project(uow: UnitOfWork, project_id: UUID, after: UUID | None, limit: int) -> list[Named]:
    """The invitations into a project that are open. Raises NotFound, RoleMayNot."""
    domain.projects.demand_owner(await repository.projects.membership(uow.session, project_id, callers.caller(uow)), uow.now)
    return await repository.invitations.page(uow.session, after, limit, uow.now, project_id=project_id)


async def withdraw(uow: UnitOfWork, project_id: UUID, invitation_id: UUID) -> None:
    """Take an invitation back. Raises NotFound."""
    await callers.as_owner(uow, project_id)
    invitation = await repository.invitations.one(uow.session, project_id=project_id, invitation_id=invitation_id, lock=True)
    if invitation is None:
        raise NotFound
    await end(uow, invitation, Deed.INVITATION_WITHDRAWN)


async def list_own(uow: UnitOfWork, after: UUID | None, limit: int) -> list[Named]:
    """The caller's invitations that are open."""
    return await repository.invitations.page(uow.session, after, limit, uow.now, user_id=callers.caller(uow))


async def accept(uow: UnitOfWork, invitation_id: UUID) -> Membership:
    """Become a member, as offered.

    Raises NotFound, FactorTooOld, ProjectNotActive, InviterIsGone, OwnersByGroupMakeNone, LongerThanYours, NoSuchPerson, AlreadyAMember,
    IsThereAlready.
    """
    user_id = callers.caller(uow)
    project_id = await _project_of(uow, invitation_id)
    project = await repository.projects.project(uow.session, project_id, lock=True)
    if project is None:
        raise NotFound
    invitation = domain.invitations.demand_open(
        await repository.invitations.one(uow.session, invitation_id=invitation_id, user_id=user_id, lock=True), uow.now
    )
    inviter = await repository.projects.membership(uow.session, project_id, invitation.inviter_id)
    by = await repository.projects.person_by_id(uow.session, invitation.inviter_id)
    domain.invitations.demand_inviter(invitation, inviter, by, uow.now)
    person = domain.projects.demand_person(await repository.projects.person_by_id(uow.session, user_id))
    before = await repository.projects.membership(uow.session, project_id, user_id, lock=True)
    if before is not None and domain.projects.is_held(before, uow.now):
        domain.projects.demand_fresh_factor_for(None, None, before, fresh=uow.actor.factor_fresh)
    member = domain.invitations.accept(invitation, project, person, before, uow.now)
    uow.session.add(member)
    uow.project_id = project_id
    await repository.invitations.remove(uow.session, invitation)
    _tell(uow, invitation, Deed.INVITATION_ACCEPTED)
    uow.emit(domain.projects.membership_fact(member))
    uow.note(role=member.role, version=member.version)
    await repository.projects.wake(uow.session)
    return member


async def decline(uow: UnitOfWork, invitation_id: UUID) -> None:
    """Turn an invitation down. Raises NotFound."""
    invitation = domain.invitations.demand_open(
        await repository.invitations.one(uow.session, invitation_id=invitation_id, user_id=callers.caller(uow), lock=True), uow.now
    )
    uow.project_id = invitation.project_id
    await end(uow, invitation, Deed.INVITATION_DECLINED)


async def end(uow: UnitOfWork, invitation: Invitation, deed: Deed) -> None:
    """Take an invitation out, and say why."""
    await repository.invitations.remove(uow.session, invitation)
    _tell(uow, invitation, deed)


async def end_of_member(uow: UnitOfWork, project_id: UUID, user_id: UUID) -> None:
    """Withdraw the invitation of somebody who came by another way, or left: it must not bring them back."""
    invitation = await repository.invitations.one(uow.session, project_id=project_id, user_id=user_id, lock=True)
    if invitation is not None:
        await end(uow, invitation, Deed.INVITATION_WITHDRAWN)


async def end_of_person(uow: UnitOfWork, person: Person) -> None:
    """Withdraw every invitation of somebody whose account is closed."""
    for invitation in await repository.invitations.all_of_person(uow.session, person.user_id):
        await end(uow.inside(invitation.project_id), invitation, Deed.INVITATION_WITHDRAWN)


async def expire(uow: UnitOfWork) -> int:
    """Take out invitations whose time is over, at most 500; how many."""
    over = await repository.invitations.expired(uow.session, EXPIRY_BATCH)
    for project_id, batch in groupby(over, lambda invitation: invitation.project_id):
        inside = uow.inside(project_id)
        gone = []
        for invitation in batch:
            await repository.invitations.remove(uow.session, invitation)
            activity.write(inside, project_id, Deed.INVITATION_EXPIRED, (invitation.user_id, invitation.username))
            gone.append(str(invitation.invitation_id))
        inside.note(project_id=project_id, invitations=" ".join(gone))
    return len(over)


async def _project_of(uow: UnitOfWork, invitation_id: UUID) -> UUID:
    """The project that the caller's invitation leads into; projects are locked before what is in them."""
    return domain.invitations.demand_open(
        await repository.invitations.one(uow.session, invitation_id=invitation_id, user_id=callers.caller(uow)), uow.now
    ).project_id


def _tell(uow: UnitOfWork, invitation: Invitation, deed: Deed) -> None:
    activity.write(uow, invitation.project_id, deed, (invitation.user_id, invitation.username), role=invitation.role)
    uow.note(project_id=invitation.project_id, invitation_id=invitation.invitation_id, user_id=invitation.user_id, role=invitation.role)
