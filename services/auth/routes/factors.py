"""The doors of second factors."""

from typing import Annotated
from uuid import UUID

from fastapi import Body, Request, Response

from chassis.errors import Problem, problem_response
from chassis.guard import CurrentActor, LaterUow, Uow, doors, may
from contracts.policy import Action, Service
from services.auth.routes import cookies
from services.auth.routes.sessions import shown_factor
from services.auth.routes.tools import AboutRequest, Here
from services.auth.schemas.accounts import SecondFactorView, UserView
from services.auth.schemas.factors import (
    ChallengeView,
    EnrolmentAcceptance,
    EnrolmentConfirmation,
    EnrolmentView,
    FactorResetView,
    FactorsView,
    NewPasskey,
    Nothing,
    PasskeyView,
    RecoveryCodesView,
    TotpConfirmation,
    TotpView,
)
from services.auth.schemas.sessions import SecondFactor, SteppedUpView, WithPassword
from services.auth.service import enrolments, factors, passkeys, step_up, totp
from services.auth.service.factors import Listed
from services.auth.service.passkeys import Challenge, ShownPasskey

router = doors(Service.AUTH)


@router.post("/sessions/current/factor", response_model=SteppedUpView, dependencies=[may(Action.SESSION_STEP_UP)])
async def show_factor(
    shown: Annotated[SecondFactor, Body()], actor: CurrentActor, later: LaterUow, here: Here, about: AboutRequest
) -> SteppedUpView | Response:
    """Show the second factor once more, or the password where there is none."""
    if isinstance(shown, WithPassword):
        session = await step_up.by_password(later, here, actor, shown.password.get_secret_value(), about)
    else:
        session = await step_up.step_up(later, here, actor, shown_factor(shown))
    if isinstance(session, Problem):
        return problem_response(session)
    return SteppedUpView(session_id=session.session_id, factor_at=session.factor_at, version=session.version)


@router.post("/passkey-challenges", dependencies=[may(Action.PASSKEY_CHALLENGE)])
async def give_challenge(_: Nothing, uow: Uow, here: Here) -> ChallengeView:
    """A challenge for a passkey, at a sign-in or a step-up."""
    return _challenge(await passkeys.challenge(uow, here))


@router.get("/users/me/factors", dependencies=[may(Action.FACTOR_LIST)])
async def list_factors(uow: Uow, here: Here) -> FactorsView:
    """The caller's second factors."""
    return _factors(await factors.read(uow, here))


@router.post("/users/me/totp", dependencies=[may(Action.TOTP_CREATE)])
async def begin_totp(uow: Uow, here: Here) -> SecondFactorView:
    """A new authenticator, which counts once it is confirmed; the secret is shown this once."""
    return _second_factor(await totp.start(uow, here))


@router.post("/users/me/totp/confirmation", dependencies=[may(Action.TOTP_CONFIRM)])
async def confirm_totp(confirmed: TotpConfirmation, uow: Uow, here: Here) -> FactorsView:
    """Show that the new authenticator works; it takes the place of the one before."""
    return _factors(await totp.confirm(uow, here, confirmed.code))


@router.delete("/users/me/totp", status_code=204, dependencies=[may(Action.TOTP_REMOVE)])
async def remove_totp(uow: Uow, here: Here) -> Response:
    """Do without an authenticator."""
    await totp.remove(uow, here)
    return Response(status_code=204)


@router.post("/users/me/passkeys/options", dependencies=[may(Action.PASSKEY_OPTIONS)])
async def passkey_options(_: Nothing, uow: Uow, here: Here) -> ChallengeView:
    """A challenge for a new passkey."""
    return _challenge(await factors.passkey_options(uow, here))


@router.post("/users/me/passkeys", status_code=201, dependencies=[may(Action.PASSKEY_ADD)])
async def add_passkey(made: NewPasskey, uow: Uow, here: Here) -> PasskeyView:
    """Register a new passkey."""
    return PasskeyView.model_validate(await factors.add_passkey(uow, here, ShownPasskey(made.challenge, made.credential), made.name))


@router.delete("/users/me/passkeys/{passkey_id}", status_code=204, dependencies=[may(Action.PASSKEY_REMOVE)])
async def remove_passkey(passkey_id: UUID, uow: Uow, here: Here) -> Response:
    """Do without one of the caller's passkeys."""
    await factors.remove_passkey(uow, here, passkey_id)
    return Response(status_code=204)


@router.post("/users/me/recovery-codes", status_code=201, dependencies=[may(Action.RECOVERY_CODES_CREATE)])
async def make_recovery_codes(uow: Uow, here: Here) -> RecoveryCodesView:
    """New recovery codes in the place of all old ones, shown this once."""
    return RecoveryCodesView(codes=await factors.new_recovery_codes(uow, here))


@router.post("/users/{user_id}/factor-reset", status_code=201, dependencies=[may(Action.USER_FACTOR_RESET)])
async def reset_factor(user_id: UUID, uow: Uow, here: Here) -> FactorResetView:
    """Take somebody's second factors away, and give them a one-time link for a new one."""
    return FactorResetView.model_validate(await enrolments.reset(uow, here, user_id))


@router.post("/factor-enrolments/acceptance", response_model=EnrolmentView, dependencies=[may(Action.ENROLMENT_ACCEPT)])
async def accept_enrolment(
    accepted: EnrolmentAcceptance, request: Request, later: LaterUow, here: Here, about: AboutRequest
) -> EnrolmentView | Response:
    """Get a second factor to set up; the link of a reset asks for the password, too, or for a sign-in with the identity provider before."""
    token, password = accepted.token.get_secret_value(), accepted.password.get_secret_value() if accepted.password else None
    enrolment = await enrolments.accept(later, here, token, password, request.cookies.get(cookies.PENDING), about)
    if isinstance(enrolment, Problem):
        return problem_response(enrolment)
    factor = _second_factor(enrolment.totp)
    return EnrolmentView(**factor.model_dump(), passkey=_challenge(enrolment.passkey), policy=enrolment.policy)


@router.post("/factor-enrolments/confirmation", dependencies=[may(Action.ENROLMENT_CONFIRM)])
async def confirm_enrolment(confirmed: EnrolmentConfirmation, uow: Uow, here: Here) -> UserView:
    """Show that the second factor works; it counts from now on."""
    made = confirmed.passkey
    passkey = (ShownPasskey(made.challenge, made.credential), made.name) if made else None
    return UserView.model_validate(await enrolments.confirm(uow, here, confirmed.token.get_secret_value(), confirmed.code, passkey))


def _second_factor(factor: totp.SecondFactor) -> SecondFactorView:
    return SecondFactorView(username=factor.username, totp_secret=factor.secret, totp_uri=factor.uri, totp_svg=factor.svg)


def _challenge(given: Challenge) -> ChallengeView:
    return ChallengeView(challenge=given.challenge, options=given.options)


def _factors(listed: Listed) -> FactorsView:
    return FactorsView(
        totp=TotpView(since=listed.totp_at) if listed.totp_at else None,
        passkeys=[PasskeyView.model_validate(passkey) for passkey in listed.passkeys],
        recovery_codes_left=listed.recovery_codes_left,
        policy=listed.policy,
    )
