"""The doors of accounts and invitations."""

from typing import Annotated
from uuid import UUID

from fastapi import Query

from chassis.guard import IfMatch, LaterUow, Uow, doors, may
from chassis.pages import Page, Paging
from contracts.events import UserStatus
from contracts.policy import Action, Service
from services.auth.routes.tools import AboutRequest, Here
from services.auth.schemas.accounts import (
    Acceptance,
    Confirmation,
    FactorsView,
    InvitedView,
    NewUser,
    SecondFactorView,
    UserChange,
    UserDetail,
    UserView,
)
from services.auth.service import accounts
from services.auth.service.accounts import Invited

router = doors(Service.AUTH)
LONGEST_NAME = 320


def invited_view(invited: Invited) -> InvitedView:
    """An account with its invitation."""
    return InvitedView.model_validate({**invited.user.model_dump(), "invitation": invited.token, "mailed": invited.mailed})


@router.post("/users", status_code=201, dependencies=[may(Action.USER_CREATE)])
async def create_user(wanted: NewUser, uow: Uow, here: Here) -> InvitedView:
    """Invite a person; the one-time token is mailed to them, or shown this once where no mail is configured."""
    return invited_view(await accounts.invite(uow, here, wanted.email, wanted.cluster_roles))


@router.post("/invitations/acceptance", dependencies=[may(Action.INVITATION_ACCEPT)])
async def accept_invitation(accepted: Acceptance, later: LaterUow, here: Here, about: AboutRequest) -> SecondFactorView:
    """Choose a password and get a second factor."""
    factor = await accounts.accept(later, here, accepted.token.get_secret_value(), accepted.password.get_secret_value(), about)
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
async def list_users(
    paging: Paging, uow: Uow, status: UserStatus | None = None, q: Annotated[str, Query(max_length=LONGEST_NAME)] = ""
) -> Page[UserView]:
    """Accounts: all, or those of a status, and whose username or address begins with ``q``."""
    rows = await accounts.list_users(uow, status, q, paging.after_id(), paging.limit + 1)
    return paging.page(rows, lambda row: (row.user_id,), UserView.model_validate)


@router.get("/users/{user_id}", dependencies=[may(Action.USER_READ)])
async def read_user(user_id: UUID, uow: Uow) -> UserDetail:
    """An account, what it can sign in with, its groups, and when it last signed in."""
    user, standing = await accounts.read_user(uow, user_id)
    factors = FactorsView(totp=standing.totp, passkeys=standing.passkeys, recovery_codes_left=standing.recovery_codes_left)
    return UserDetail.model_validate({**user.model_dump(), "factors": factors})


@router.patch("/users/{user_id}", dependencies=[may(Action.USER_CHANGE)])
async def change_user(user_id: UUID, change: UserChange, version: IfMatch, uow: Uow, here: Here) -> InvitedView:
    """Block, unblock, deactivate or activate again an account, or give it cluster roles.

    Who was deactivated and is activated again is invited anew; the answer is then that of an invitation.
    """
    status = UserStatus(change.status.value) if change.status else None
    return invited_view(await accounts.change_user(uow, here, user_id, version, status, change.cluster_roles))
