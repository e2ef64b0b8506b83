"""The doors of auth."""

from datetime import timedelta
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Request, Response

from chassis.app import Runtime
from chassis.errors import Problem, problem_response
from chassis.guard import CurrentActor, IfMatch, LaterUow, Uow, doors, may
from chassis.pages import Page, Paging
from contracts.events import UserStatus
from contracts.policy import Action, Service
from services.auth import service
from services.auth.models import Session
from services.auth.schemas import (
    Acceptance,
    Confirmation,
    InvitedView,
    NewUser,
    SecondFactorView,
    SessionView,
    SignedInView,
    SignIn,
    UserChange,
    UserView,
)
from services.auth.vault import Passwords, Vault

router = doors(Service.AUTH)


def _runtime(request: Request) -> Runtime:
    runtime: Runtime = request.app.state.runtime
    return runtime


def _vault(request: Request) -> Vault:
    vault: Vault = request.app.state.runtime.extra["vault"]
    return vault


def _passwords(request: Request) -> Passwords:
    passwords: Passwords = request.app.state.runtime.extra["passwords"]
    return passwords


Here = Annotated[Runtime, Depends(_runtime)]
Safe = Annotated[Vault, Depends(_vault)]
Hashes = Annotated[Passwords, Depends(_passwords)]


@router.post("/users", status_code=201, dependencies=[may(Action.USER_CREATE)])
async def create_user(wanted: NewUser, uow: Uow) -> InvitedView:
    """Invite a person; the one-time token is shown this once."""
    user, token = await service.invite(uow, wanted.email, wanted.cluster_roles)
    return InvitedView.model_validate({**user.model_dump(), "invitation": token})


@router.post("/invitations/acceptance", dependencies=[may(Action.INVITATION_ACCEPT)])
async def accept_invitation(accepted: Acceptance, later: LaterUow, here: Here, safe: Safe, passwords: Hashes) -> SecondFactorView:
    """Choose a password and get a second factor."""
    factor = await service.accept(
        later, here.engine, safe, passwords, accepted.token.get_secret_value(), accepted.password.get_secret_value()
    )
    return SecondFactorView(username=factor.username, totp_secret=factor.secret, totp_uri=factor.uri)


@router.post("/invitations/confirmation", dependencies=[may(Action.INVITATION_CONFIRM)])
async def confirm_invitation(confirmed: Confirmation, uow: Uow, safe: Safe) -> UserView:
    """Show that the authenticator works; the account becomes active."""
    return UserView.model_validate(await service.confirm(uow, safe, confirmed.token.get_secret_value(), confirmed.code))


@router.post("/sessions", status_code=201, response_model=SignedInView, dependencies=[may(Action.SESSION_CREATE)])
async def create_session(shown: SignIn, later: LaterUow, here: Here, safe: Safe, passwords: Hashes) -> SignedInView | Response:
    """Sign in with password and one-time code."""
    signed_in = await service.sign_in(
        later,
        here.engine,
        safe,
        passwords,
        shown.username,
        shown.password.get_secret_value(),
        shown.code,
        timedelta(seconds=here.settings.token_s),
    )
    if isinstance(signed_in, Problem):
        return problem_response(signed_in)
    return SignedInView(
        session_id=signed_in.session.session_id,
        access_token=signed_in.access_token,
        expires_at=signed_in.expires_at,
        session_expires_at=signed_in.session.expires_at,
        user=UserView.model_validate(signed_in.user),
    )


@router.get("/sessions", dependencies=[may(Action.SESSION_LIST)])
async def list_sessions(paging: Paging, actor: CurrentActor, uow: Uow) -> Page[SessionView]:
    """The caller's live sessions."""

    def show(session: Session) -> SessionView:
        return SessionView(
            session_id=session.session_id,
            created_at=session.created_at,
            session_expires_at=session.expires_at,
            current=session.session_id == actor.session_id,
            version=session.version,
        )

    rows = await service.list_sessions(uow, paging.after_id(), paging.limit + 1)
    return paging.page(rows, lambda row: (row.session_id,), show)


@router.delete("/sessions/{session_id}", status_code=204, dependencies=[may(Action.SESSION_END)])
async def end_session(session_id: UUID, uow: Uow) -> Response:
    """Sign out of one session."""
    await service.end_session(uow, session_id)
    return Response(status_code=204)


@router.get("/users/me", dependencies=[may(Action.USER_READ_SELF)])
async def read_self(uow: Uow) -> UserView:
    """The caller's account."""
    return UserView.model_validate(await service.read_self(uow))


@router.get("/users", dependencies=[may(Action.USER_LIST)])
async def list_users(paging: Paging, uow: Uow) -> Page[UserView]:
    """All accounts."""
    rows = await service.list_users(uow, paging.after_id(), paging.limit + 1)
    return paging.page(rows, lambda row: (row.user_id,), UserView.model_validate)


@router.patch("/users/{user_id}", dependencies=[may(Action.USER_CHANGE)])
async def change_user(user_id: UUID, change: UserChange, version: IfMatch, uow: Uow) -> UserView:
    """Block or unblock an account, or give it cluster roles."""
    status = UserStatus(change.status.value) if change.status else None
    return UserView.model_validate(await service.change_user(uow, user_id, version, status, change.cluster_roles))
