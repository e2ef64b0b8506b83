"""The doors of invitations: those of a project for its Data Owners, and one's own."""

from uuid import UUID

from fastapi import Response

from chassis.guard import Uow, doors, may
from chassis.pages import Page, Paging
from contracts.policy import Action, Service
from services.projects.routes.here import Configured, show_member
from services.projects.schemas.invitations import InvitationView
from services.projects.schemas.projects import MemberView, NewMember
from services.projects.service import invitations
from services.projects.service.invitations import Named, Offer

router = doors(Service.PROJECTS)


def _shown(named: Named) -> InvitationView:
    invitation, project = named
    return InvitationView.model_validate({**invitation.model_dump(), "project": project, "invited_by": invitation.inviter})


@router.post("/projects/{project_id}/invitations", status_code=201, dependencies=[may(Action.PROJECT_INVITATION_CREATE)])
async def invite(project_id: UUID, wanted: NewMember, settings: Configured, uow: Uow) -> InvitationView:
    """Invite somebody; they become a member when they accept."""
    offer = Offer(wanted.role, wanted.purpose, wanted.starts_at, wanted.ends_at)
    return _shown(await invitations.invite(uow, settings, project_id, wanted.username, offer))


@router.get("/projects/{project_id}/invitations", dependencies=[may(Action.PROJECT_INVITATION_LIST)])
async def list_invitations(project_id: UUID, paging: Paging, uow: Uow) -> Page[InvitationView]:
    """The project's invitations that are not answered yet."""
    rows = await invitations.list_of_project(uow, project_id, paging.after_id(), paging.limit + 1)
    return paging.page(rows, lambda row: (row[0].invitation_id,), _shown)


@router.delete(
    "/projects/{project_id}/invitations/{invitation_id}", status_code=204, dependencies=[may(Action.PROJECT_INVITATION_WITHDRAW)]
)
async def withdraw_invitation(project_id: UUID, invitation_id: UUID, uow: Uow) -> Response:
    """Take an invitation back."""
    await invitations.withdraw(uow, project_id, invitation_id)
    return Response(status_code=204)


@router.get("/project-invitations", dependencies=[may(Action.PROJECT_INVITATION_LIST_OWN)])
async def list_own_invitations(paging: Paging, uow: Uow) -> Page[InvitationView]:
    """Your invitations into projects that you have not answered yet."""
    rows = await invitations.list_own(uow, paging.after_id(), paging.limit + 1)
    return paging.page(rows, lambda row: (row[0].invitation_id,), _shown)


@router.post("/project-invitations/{invitation_id}/acceptance", dependencies=[may(Action.PROJECT_INVITATION_ACCEPT)])
async def accept_invitation(invitation_id: UUID, uow: Uow) -> MemberView:
    """Accept an invitation: you become a member, as it offers."""
    return show_member(await invitations.accept(uow, invitation_id))


@router.delete("/project-invitations/{invitation_id}", status_code=204, dependencies=[may(Action.PROJECT_INVITATION_DECLINE)])
async def decline_invitation(invitation_id: UUID, uow: Uow) -> Response:
    """Decline an invitation."""
    await invitations.decline(uow, invitation_id)
    return Response(status_code=204)
