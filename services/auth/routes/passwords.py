"""The doors of new passwords."""

from uuid import UUID

from fastapi import Response

from chassis.errors import problem_response
from chassis.guard import CurrentActor, LaterUow, Uow, doors, may
from contracts.policy import Action, Service
from services.auth.routes.tools import AboutRequest, Here
from services.auth.schemas.passwords import PasswordChange, ResetAccepted, ResetAsked, ResetView
from services.auth.service import new_passwords

router = doors(Service.AUTH)


@router.post("/users/me/password", status_code=204, dependencies=[may(Action.PASSWORD_CHANGE)])
async def change_password(wanted: PasswordChange, actor: CurrentActor, later: LaterUow, here: Here, about: AboutRequest) -> Response:
    """Change the caller's password; all of their sessions end, this one too."""
    old, new = wanted.password.get_secret_value(), wanted.new_password.get_secret_value()
    refused = await new_passwords.change(later, here, actor, old, new, about)
    return Response(status_code=204) if refused is None else problem_response(refused)


@router.post("/password-resets", status_code=202, response_class=Response, dependencies=[may(Action.PASSWORD_RESET_ASK)])
async def ask_for_password_reset(asked: ResetAsked, later: LaterUow, here: Here, about: AboutRequest) -> Response:
    """Ask for a one-time link by mail; the answer is the same whether there is an account or not."""
    await new_passwords.ask(later, here, asked.name, about)
    return Response(status_code=202)


@router.post("/password-resets/acceptance", status_code=204, dependencies=[may(Action.PASSWORD_RESET_ACCEPT)])
async def accept_password_reset(accepted: ResetAccepted, later: LaterUow, here: Here, about: AboutRequest) -> Response:
    """Choose a new password with a one-time link; all sessions end, the second factors stay."""
    await new_passwords.accept_reset(later, here, accepted.token.get_secret_value(), accepted.password.get_secret_value(), about)
    return Response(status_code=204)


@router.post("/users/{user_id}/password-reset", status_code=201, dependencies=[may(Action.USER_PASSWORD_RESET)])
async def reset_password_of(user_id: UUID, uow: Uow, here: Here) -> ResetView:
    """Make a one-time link with which somebody chooses a new password: mailed to them, or shown this once."""
    token = await new_passwords.reset_for(uow, here, user_id)
    return ResetView(user_id=user_id, link_token=token, mailed=token is None)
