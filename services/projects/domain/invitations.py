"""The rules of invitations into a project. Pure, with the time and the ids passed in."""

from datetime import datetime
from uuid import UUID

from chassis.errors import Conflict, NotFound, Unprocessable
from contracts.roles import Role
from services.projects.domain.bounds import demand_within_own_time
from services.projects.domain.projects import (
    MAY_JOIN,
    AlreadyAMember,
    EndsBeforeItBegins,
    IsThereAlready,
    counts,
    demand_active,
    is_held,
    join,
)
from services.projects.models import Invitation, Membership, Person, Project


class AlreadyInvited(Conflict):
    """The person has an invitation that they have not answered: withdraw it first."""

    title = "This person is invited already"


class BeginsLater(Unprocessable):
    """Nobody is added for a time to come, unseen by themselves: it is offered to them."""

    title = "A role that begins later is offered by an invitation"


class InviterIsGone(Conflict):
    """Whoever made the invitation could not make it any more."""

    title = "Whoever invited you is no Data Owner of this project any more: ask for another invitation"


def invite(
    invitation_id: UUID,
    project: Project,
    inviter: Membership,
    person: Person,
    before: Membership | None,
    known: Invitation | None,
    role: Role,
    purpose: str,
    starts_at: datetime | None,
    ends_at: datetime | None,
    expires_at: datetime,
    now: datetime,
) -> Invitation:
    """An invitation; ``before`` is the person's row, ``known`` the invitation that they have. It expires with what it offers.

    Raises AlreadyAMember, IsThereAlready, AlreadyInvited, EndsBeforeItBegins.
    """
    demand_active(project)
    if before is not None and is_held(before, now) and before.by_group is None:
        raise AlreadyAMember
    if before is not None and counts(before, now) and starts_at is not None and starts_at > now:
        raise IsThereAlready
    if known is not None and is_open(known, now):
        raise AlreadyInvited
    if ends_at is not None and ends_at <= max(starts_at or now, now):
        raise EndsBeforeItBegins
    return Invitation(
        invitation_id=invitation_id,
        project_id=project.project_id,
        user_id=person.user_id,
        username=person.username,
        role=role.value,
        purpose=purpose,
        starts_at=starts_at,
        ends_at=ends_at,
        inviter_id=inviter.user_id,
        inviter=inviter.username,
        created_at=now,
        expires_at=expires_at if ends_at is None else min(expires_at, ends_at),
    )


def demand_at_once(starts_at: datetime | None, now: datetime) -> None:
    """Whoever is added without acceptance is there from now on, and sees it. Raises BeginsLater."""
    if starts_at is not None and starts_at > now:
        raise BeginsLater


def is_open(invitation: Invitation, now: datetime) -> bool:
    """Whether an invitation can still be answered."""
    return now < invitation.expires_at


def demand_open(invitation: Invitation | None, now: datetime) -> Invitation:
    """Condition.PROJECT_INVITATION_IS_OPEN: the caller's own invitation, while its time lasts. Raises NotFound."""
    if invitation is None or not is_open(invitation, now):
        raise NotFound
    return invitation


def demand_inviter(invitation: Invitation, inviter: Membership | None, person: Person | None, now: datetime) -> None:
    """Condition.INVITER_IS_STILL_OWNER: whoever invited could do so now; ``person`` is their account, where auth has named it.

    Raises InviterIsGone, OwnersByGroupMakeNone, LongerThanYours.
    """
    if inviter is None or inviter.role != Role.DATA_OWNER or not counts(inviter, now):
        raise InviterIsGone
    if person is not None and person.status not in MAY_JOIN:
        raise InviterIsGone
    demand_within_own_time(inviter, Role(invitation.role), invitation.ends_at, None)


def accept(invitation: Invitation, project: Project, person: Person, before: Membership | None, now: datetime) -> Membership:
    """The membership of somebody who comes. Raises ProjectNotActive, AlreadyAMember, IsThereAlready."""
    return join(project, person, before, Role(invitation.role), invitation.purpose, invitation.starts_at, invitation.ends_at, now)
