"""The doors of registrations."""

from uuid import UUID

from fastapi import Response

from chassis.errors import problem_response
from chassis.guard import LaterUow, Uow, doors, may
from chassis.pages import Page, Paging
from contracts.policy import Action, Service
from services.auth.routes.accounts import invited_view
from services.auth.routes.tools import AboutRequest, Here
from services.auth.schemas.accounts import InvitedView
from services.auth.schemas.registrations import Approval, RegistrationAsked, RegistrationView
from services.auth.service import registrations

router = doors(Service.AUTH)


@router.post("/registrations", status_code=202, response_class=Response, dependencies=[may(Action.REGISTRATION_ASK)])
async def ask_for_account(asked: RegistrationAsked, later: LaterUow, here: Here, about: AboutRequest) -> Response:
    """Ask for an account, where that is switched on; the answer is the same whether the address is known or not."""
    refused = await registrations.ask(later, here, asked.email, asked.note, about)
    return problem_response(refused) if refused else Response(status_code=202)


@router.get("/registrations", dependencies=[may(Action.REGISTRATION_LIST)])
async def list_registrations(paging: Paging, uow: Uow) -> Page[RegistrationView]:
    """The requests for accounts that wait to be decided."""
    rows = await registrations.list_open(uow, paging.after_id(), paging.limit + 1)
    return paging.page(rows, lambda row: (row.registration_id,), RegistrationView.model_validate)


@router.post("/registrations/{registration_id}/approval", status_code=201, dependencies=[may(Action.REGISTRATION_APPROVE)])
async def approve_registration(registration_id: UUID, approved: Approval, uow: Uow, here: Here) -> InvitedView:
    """Invite whoever asked for an account."""
    return invited_view(await registrations.approve(uow, here, registration_id, approved.cluster_roles))


@router.delete("/registrations/{registration_id}", status_code=204, dependencies=[may(Action.REGISTRATION_DECLINE)])
async def decline_registration(registration_id: UUID, uow: Uow, here: Here) -> Response:
    """Decline a request for an account."""
    await registrations.decline(uow, here, registration_id)
    return Response(status_code=204)
