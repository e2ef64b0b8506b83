"""The doors of signing in and out."""

from uuid import UUID

from fastapi import Response

from chassis.errors import Problem, problem_response
from chassis.guard import CurrentActor, LaterUow, Uow, doors, may
from chassis.pages import Page, Paging
from contracts.policy import Action, Service
from services.auth.models import Session
from services.auth.routes.tools import Here
from services.auth.schemas.accounts import UserView
from services.auth.schemas.sessions import SessionView, SignedInView, SignIn
from services.auth.service import sessions
from services.auth.service.factors import ShownFactor

router = doors(Service.AUTH)


@router.post("/sessions", status_code=201, response_model=SignedInView, dependencies=[may(Action.SESSION_CREATE)])
async def create_session(shown: SignIn, later: LaterUow, here: Here) -> SignedInView | Response:
    """Sign in with password and one-time code."""
    signed_in = await sessions.sign_in(later, here, shown.username, shown.password.get_secret_value(), ShownFactor(code=shown.code))
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

    rows = await sessions.list_sessions(uow, paging.after_id(), paging.limit + 1)
    return paging.page(rows, lambda row: (row.session_id,), show)


@router.delete("/sessions/{session_id}", status_code=204, dependencies=[may(Action.SESSION_END)])
async def end_session(session_id: UUID, uow: Uow) -> Response:
    """Sign out of one session."""
    await sessions.end_session(uow, session_id)
    return Response(status_code=204)
