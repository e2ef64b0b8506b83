"""The doors of accounts and invitations."""

from uuid import UUID

from chassis.guard import IfMatch, LaterUow, Uow, doors, may
from chassis.pages import Page, Paging
from contracts.events import UserStatus
from contracts.policy import Action, Service
from services.auth.routes.tools import Here
from services.auth.schemas.accounts import (
    Acceptance,
    Confirmation,
    InvitedView,
    NewUser,
    SecondFactorView,
    UserChange,
    UserView,
)
from services.auth.service import accounts

router = doors(Service.AUTH)


@router.post("/users", status_code=201, dependencies=[may(Action.USER_CREATE)])
async def create_user(wanted: NewUser, uow: Uow) -> InvitedView:
    """Invite a person; the one-time token is shown this once."""
    user, token = await accounts.invite(uow, wanted.email, wanted.cluster_roles)
    return InvitedView.model_validate({**user.model_dump(), "invitation": token})


@router.post("/invitations/acceptance", dependencies=[may(Action.INVITATION_ACCEPT)])
async def accept_invitation(accepted: Acceptance, later: LaterUow, here: Here) -> SecondFactorView:
    """Choose a password and get a second factor."""
    factor = await accounts.accept(later, here, accepted.token.get_secret_value(), accepted.password.get_secret_value())
    return SecondFactorView(username=factor.username, totp_secret=factor.secret, totp_uri=factor.uri, totp_svg=factor.svg)


@router.post("/invitations/confirmation", dependencies=[may(Action.INVITATION_CONFIRM)])
async def confirm_invitation(confirmed: Confirmation, uow: Uow, here: Here) -> UserView:
    """Show that the authenticator works; the account becomes active."""
    return UserView.model_validate(await accounts.confirm(uow, here.vault, confirmed.token.get_secret_value(), confirmed.code))


@router.get("/users/me", dependencies=[may(Action.USER_READ_SELF)])
async def read_self(uow: Uow) -> UserView:
    """The caller's account."""
    return UserView.model_validate(await accounts.read_self(uow))


@router.get("/users", dependencies=[may(Action.USER_LIST)])
async def list_users(paging: Paging, uow: Uow) -> Page[UserView]:
    """All accounts."""
    rows = await accounts.list_users(uow, paging.after_id(), paging.limit + 1)
    return paging.page(rows, lambda row: (row.user_id,), UserView.model_validate)


@router.patch("/users/{user_id}", dependencies=[may(Action.USER_CHANGE)])
async def change_user(user_id: UUID, change: UserChange, version: IfMatch, uow: Uow) -> UserView:
    """Block or unblock an account, or give it cluster roles."""
    status = UserStatus(change.status.value) if change.status else None
    return UserView.model_validate(await accounts.change_user(uow, user_id, version, status, change.cluster_roles))
