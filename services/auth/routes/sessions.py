"""The doors of signing in and out."""

from typing import Annotated
from uuid import UUID

from fastapi import Body, Request, Response
from starlette.background import BackgroundTask

from chassis.errors import Problem, problem_response
from chassis.guard import CurrentActor, LaterUow, Uow, doors, may
from chassis.pages import Page, Paging
from contracts.policy import Action, Service
from services.auth.models import Session
from services.auth.routes import cookies
from services.auth.routes.tools import AboutRequest, Here
from services.auth.schemas.accounts import UserView
from services.auth.schemas.sessions import (
    ClientCode,
    Password,
    Pending,
    SessionView,
    SignedInView,
    SignIn,
    WithCode,
    WithPasskey,
    WithRecoveryCode,
)
from services.auth.service import callers, client_codes, oidc, sessions
from services.auth.service.factors import ShownFactor
from services.auth.service.passkeys import ShownPasskey
from services.auth.service.sessions import SignedIn
from services.auth.vault import DEVICE_S

router = doors(Service.AUTH)


def shown_passkey(shown: WithPasskey) -> ShownPasskey:
    """The passkey in a body that takes one."""
    return ShownPasskey(shown.passkey.challenge, shown.passkey.credential)


def shown_factor(shown: object) -> ShownFactor:
    """The second factor in a body that takes one."""
    match shown:
        case WithCode():
            return ShownFactor(code=shown.code)
        case WithRecoveryCode():
            return ShownFactor(recovery_code=shown.recovery_code.get_secret_value())
        case WithPasskey():
            return ShownFactor(passkey=shown_passkey(shown))
    return ShownFactor()


def keep_signed_in(signed_in: SignedIn, response: Response) -> None:
    """The cookies of somebody who signed in."""
    session = signed_in.session
    cookies.keep(response, cookies.REFRESH, signed_in.refresh_token, int((session.expires_at - signed_in.now).total_seconds()))
    if signed_in.device is not None:
        cookies.keep(response, cookies.DEVICE, signed_in.device, DEVICE_S)


def welcome(signed_in: SignedIn, status: int = 200) -> Response:
    """What somebody who signed in gets, in the body and as cookies; what can wait is done after the answer."""
    session = signed_in.session
    view = SignedInView(
        session_id=session.session_id,
        access_token=signed_in.access_token,
        expires_at=signed_in.expires_at,
        session_expires_at=session.expires_at,
        user=UserView.model_validate(signed_in.user),
        recovery_codes_left=signed_in.recovery_codes_left,
    )
    afterwards = BackgroundTask(signed_in.afterwards) if signed_in.afterwards is not None else None
    response = Response(view.model_dump_json(), status, media_type="application/json", background=afterwards)
    keep_signed_in(signed_in, response)
    return response


@router.post("/sessions", status_code=201, response_model=SignedInView, dependencies=[may(Action.SESSION_CREATE)])
async def create_session(shown: Annotated[SignIn, Body()], request: Request, later: LaterUow, here: Here, about: AboutRequest) -> Response:
    """Sign in."""
    signed_in: SignedIn | Problem
    match shown:
        case Password():
            signed_in = await sessions.sign_in(later, here, shown.username, shown.password.get_secret_value(), shown_factor(shown), about)
        case ClientCode():
            signed_in = await client_codes.redeem(later, here, shown.client_code, shown.verifier, about)
        case Pending():
            signed_in = await oidc.finish_pending(later, here, request.cookies.get(cookies.PENDING), shown_factor(shown), about)
        case WithPasskey():
            signed_in = await sessions.sign_in_with_passkey(later, here, shown_passkey(shown), about)
    if isinstance(signed_in, Problem):
        return problem_response(signed_in)
    response = welcome(signed_in, 201)
    if isinstance(shown, Pending):
        cookies.forget(response, cookies.PENDING)
    return response


@router.post("/sessions/refresh", response_model=SignedInView, dependencies=[may(Action.SESSION_REFRESH)])
async def refresh_session(request: Request, uow: Uow, here: Here) -> Response:
    """Get a new access token, and the refresh token after the one shown."""
    signed_in = await sessions.refresh(uow, here, request.cookies.get(cookies.REFRESH))
    if isinstance(signed_in, Problem):
        refused = problem_response(signed_in)
        cookies.forget(refused, cookies.REFRESH)
        return refused
    return welcome(signed_in)


def _view(session: Session, current: UUID | None) -> SessionView:
    return SessionView(
        session_id=session.session_id,
        created_at=session.created_at,
        session_expires_at=session.expires_at,
        last_used_at=session.last_used_at,
        factor_at=session.factor_at,
        method=session.method,
        client=session.client,
        source=session.source,
        current=session.session_id == current,
        version=session.version,
    )


@router.get("/sessions", dependencies=[may(Action.SESSION_LIST)])
async def list_sessions(paging: Paging, actor: CurrentActor, uow: Uow, here: Here) -> Page[SessionView]:
    """The caller's live sessions."""
    rows = await sessions.list_sessions(uow, here, callers.caller(uow), paging.after_id(), paging.limit + 1)
    return paging.page(rows, lambda row: (row.session_id,), lambda row: _view(row, actor.session_id))


@router.delete("/sessions/{session_id}", status_code=204, dependencies=[may(Action.SESSION_END)])
async def end_session(session_id: UUID, actor: CurrentActor, later: LaterUow, here: Here) -> Response:
    """Sign out of one session; ``Hortus-Logout`` is where a browser signs out of its identity provider too."""
    farewell = await oidc.farewell(here, actor.user_id, session_id)
    await sessions.end_session(await later(), session_id)
    ended = Response(status_code=204, headers={"Hortus-Logout": farewell} if farewell else None)
    if session_id == actor.session_id:
        cookies.forget(ended, cookies.REFRESH)
    return ended


@router.delete("/sessions", status_code=204, dependencies=[may(Action.SESSION_END_ALL)])
async def end_sessions(uow: Uow) -> Response:
    """Sign out everywhere."""
    await sessions.end_own(uow)
    ended = Response(status_code=204)
    cookies.forget(ended, cookies.REFRESH)
    return ended


@router.get("/users/{user_id}/sessions", dependencies=[may(Action.USER_SESSION_LIST)])
async def list_sessions_of(user_id: UUID, paging: Paging, actor: CurrentActor, uow: Uow, here: Here) -> Page[SessionView]:
    """Somebody's live sessions."""
    rows = await sessions.list_of(uow, here, user_id, paging.after_id(), paging.limit + 1)
    return paging.page(rows, lambda row: (row.session_id,), lambda row: _view(row, actor.session_id))


@router.delete("/users/{user_id}/sessions", status_code=204, dependencies=[may(Action.USER_SESSION_END_ALL)])
async def end_sessions_of(user_id: UUID, uow: Uow) -> Response:
    """Sign somebody out everywhere."""
    await sessions.end_of(uow, user_id)
    return Response(status_code=204)
