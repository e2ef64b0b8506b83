"""Authenticators (TOTP): setting up, replacing and removing."""

from dataclasses import dataclass

from chassis.outbox import UnitOfWork
from services.auth import domain, repository, vault
from services.auth.domain.factors import Factor
from services.auth.models import Credential, User
from services.auth.service import callers, factors
from services.auth.service.tools import Tools


@dataclass(frozen=True)
class SecondFactor:
    """What somebody puts into an authenticator; ``secret`` is base32, ``svg`` the ``uri`` as a QR code."""

    username: str
    secret: str
    uri: str
    svg: str


def second_factor(username: str) -> SecondFactor:
    """A new secret in the forms that authenticators take."""
    secret = vault.new_totp_secret()
    uri = domain.factors.totp_uri(secret, username)
    return SecondFactor(username, secret, uri, domain.factors.totp_svg(uri))


async def start_for(uow: UnitOfWork, tools: Tools, user: User) -> SecondFactor:
    """A new secret, which counts once it is confirmed; a repetition replaces it until then."""
    credential = await repository.factors.credential(uow.session, user.user_id, lock=True)
    if credential is None:
        credential = Credential(user_id=user.user_id)
        uow.session.add(credential)
    made = second_factor(user.username)
    credential.pending_totp_sealed = tools.vault.seal_totp(made.secret, user.user_id)
    uow.note(user_id=user.user_id)
    uow.conceal()
    return made


async def confirm_for(uow: UnitOfWork, tools: Tools, user: User, code: str) -> None:
    """Make the new secret the authenticator by showing that it works; the account is locked. Raises TotpNotBegun, WrongCode."""
    credential = await repository.factors.credential(uow.session, user.user_id, lock=True)
    if credential is None or credential.pending_totp_sealed is None:
        raise domain.factors.TotpNotBegun
    sealed = credential.pending_totp_sealed
    now = await repository.clock(uow.session)
    step = domain.factors.matching_step(tools.vault.open_totp(sealed, user.user_id), code, now, last_step=-1)
    domain.factors.set_totp(credential, sealed, step, now)
    user.factor_enrolled_at = user.factor_enrolled_at or now


async def start(uow: UnitOfWork, tools: Tools) -> SecondFactor:
    """A new authenticator for the caller. Raises as ``callers.current``."""
    user, _ = await callers.current(uow, tools)
    return await start_for(uow, tools, user)


async def confirm(uow: UnitOfWork, tools: Tools, code: str) -> factors.Listed:
    """The caller's new authenticator, in the place of the one before. Raises TotpNotBegun, WrongCode, and as ``callers.current``."""
    user, _ = await callers.current(uow, tools)
    await confirm_for(uow, tools, user, code)
    await factors.changed(uow, tools, user, "an authenticator was set up", factor=Factor.TOTP.value)
    return await factors.listed(uow, tools, user)


async def remove(uow: UnitOfWork, tools: Tools) -> None:
    """The caller does without an authenticator from now on. Raises NotFound where there is none, AFactorStays, and as ``callers.current``."""
    user, _ = await callers.current(uow, tools)
    credential = domain.factors.demand_totp(await repository.factors.credential(uow.session, user.user_id, lock=True))
    asked, has = await factors.standing(uow, tools, user)
    domain.factors.demand_a_factor_stays(asked, domain.factors.without_totp(has))
    domain.factors.forget_totp(credential)
    await factors.changed(uow, tools, user, "the authenticator was removed", factor=Factor.TOTP.value)
