"""Second factors for those who have none: an administrator's reset, and the one-time link to set one up."""

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from chassis.errors import NotFound, Problem
from chassis.guard import OpenUow
from chassis.outbox import UnitOfWork
from services.auth import domain, repository, vault
from services.auth.domain.factors import Factor, Policy
from services.auth.domain.letters import Kind
from services.auth.domain.links import Purpose
from services.auth.domain.passwords import WrongPassword
from services.auth.models import User
from services.auth.service import callers, directory, factors, halves, keys, letters, passkeys, passwords, patience, pending, sessions, totp
from services.auth.service.passkeys import Challenge, ShownPasskey
from services.auth.service.tools import About, Tools
from services.auth.service.totp import SecondFactor

RESET_LIFE = timedelta(hours=24)


@dataclass(frozen=True)
class Reset:
    """A second factor that was reset: the token of the link, or None where it went by mail."""

    user_id: UUID
    link_token: str | None
    mailed: bool


@dataclass(frozen=True)
class Enrolment:
    """What somebody sets up a second factor with: an authenticator's secret or a passkey's challenge, and what their groups ask for."""

    totp: SecondFactor
    passkey: Challenge
    policy: Policy


async def reset(uow: UnitOfWork, tools: Tools, user_id: UUID) -> Reset:
    """Take somebody's second factors away, end their sessions and API keys, and give them a one-time link to set up a new one.

    Raises NotFound, OwnFactorReset, AccountNotActive, OtherHalfIsYours.
    """
    domain.factors.demand_somebody_else(callers.caller(uow), user_id)
    user = await repository.accounts.user(uow.session, user_id, lock=True)
    if user is None:
        raise NotFound
    domain.accounts.demand_active(user)
    await halves.take(uow, tools, user_id, Purpose.FACTOR_RESET)
    await factors.forget(uow, user)
    await sessions.end_all(uow, user_id, "factor-reset")
    uow.note(keys=await keys.end_all(uow, user_id))
    await repository.links.forget_links(uow.session, user_id, domain.links.TO_ENROL)
    token = await factors.enrolment(uow, user, Purpose.FACTOR_RESET, RESET_LIFE)
    hours = int(RESET_LIFE.total_seconds()) // 3600
    await letters.write(uow, tools, user_id, user.email, Kind.FACTOR_RESET, username=user.username, token=token, hours=hours)
    mailed = letters.possible(tools)
    uow.note(user_id=user_id)
    return Reset(user_id, None if mailed else token, mailed)


async def accept(
    later: OpenUow, tools: Tools, token: str, password: str | None, vouched_for: str | None, about: About
) -> Enrolment | Problem:
    """Get a second factor to set up; a repetition replaces it until it is confirmed.

    The link of a reset counts beside the first factor alone: the ``password``, here or in the directory, or the cookie of somebody
    ``vouched_for`` by their identity provider a moment ago. With a provider's people the link of a sign-in does, too: the browser that it was
    given to has that cookie, until they sign out there. A wrong password is returned, not raised, so that the failure it counts
    is committed. Raises LinkNotOpen, FirstFactorNeeded, DirectoryAway, SlowDown, CannotDecide.
    """
    async with repository.reading(tools.engine) as session:
        found = await repository.links.link_by_token(session, vault.token_hash(token))
        now = await repository.clock(session)
        link, known = domain.links.demand_open_link(*found, domain.links.TO_ENROL, now)
        shown_there = await pending.counts(session, pending.read(tools, vouched_for), known, now)
    at_provider = domain.oidc.needs_provider(known)
    if shown_there or (link.purpose == Purpose.FACTOR_ENROLMENT and not at_provider):
        return await _give(await later(), tools, token)
    shown = domain.factors.demand_first_factor(password, kept_at_provider=at_provider)
    async with directory.turn(tools, f"{domain.patience.source_prefix(about.source)} {known.username}"):
        async with repository.reading(tools.engine) as session:
            seen = await repository.accounts.known_by_id(session, known.user_id)
            watched = await patience.look_in(session, tools, patience.with_link(tools, about, link, known, now))
        checked = await passwords.check_anywhere(tools, seen, known.username, shown, about, None)
        uow = await later()
        turn = await patience.take(uow, watched)
        user = await repository.accounts.user(uow.session, known.user_id, lock=True)
        if checked.user_id != known.user_id or not await passwords.confirm(uow, user, checked):
            away = domain.directory.DirectoryAway(retry_after=sessions.AWAY_S)
            return await turn.refused(away if checked.away else WrongPassword(), user)
        await turn.succeeded()
        return await _give(uow, tools, token)


async def _give(uow: UnitOfWork, tools: Tools, token: str) -> Enrolment:
    user = await _holder(uow, token)
    callers.acts(uow, user)
    return Enrolment(
        totp=await totp.start_for(uow, tools, user),
        passkey=await passkeys.options(uow, tools, user),
        policy=await factors.policy(uow, tools, user),
    )


async def confirm(uow: UnitOfWork, tools: Tools, token: str, code: str | None, passkey: tuple[ShownPasskey, str] | None) -> User:
    """Show that the second factor works, by a code or a named passkey; the link is spent and all sessions end.

    Secret and challenge are known to nobody but whom ``accept`` gave them to, so the first factor is not asked for again.

    Raises LinkNotOpen, PasskeyNeeded and what the factor's own check does.
    """
    user = await _holder(uow, token)
    callers.acts(uow, user)
    factor = Factor.PASSKEY if passkey else Factor.TOTP
    domain.factors.demand_enough(factor, await factors.policy(uow, tools, user))
    if passkey is not None:
        await passkeys.add(uow, tools, user, *passkey)
    else:
        await totp.confirm_for(uow, tools, user, code or "")
    await repository.links.forget_links(uow.session, user.user_id, domain.links.TO_ENROL)
    await sessions.end_all(uow, user.user_id, "factor-enrolled")
    await factors.changed(uow, tools, user, "a second factor was set up with a one-time link", factor=factor.value)
    return user


async def _holder(uow: UnitOfWork, token: str) -> User:
    found = await repository.links.link_by_token(uow.session, vault.token_hash(token), lock=True)
    _, user = domain.links.demand_open_link(*found, domain.links.TO_ENROL, await repository.clock(uow.session))
    return user
