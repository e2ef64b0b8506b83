"""Signing in by an identity provider, and signing out there and here."""

import asyncio
import json
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from chassis.errors import Problem
from chassis.guard import OpenUow
from chassis.log import logger
from chassis.outbox import UnitOfWork
from contracts.events import UserStatus
from services.auth import domain, provider, repository, vault
from services.auth.domain.factors import Policy, Verdict
from services.auth.domain.oidc import Answer, Vouched
from services.auth.models import User
from services.auth.provider import Provider
from services.auth.service import accounts, callers, factors, groups, keys, measures, patience, pending, sessions
from services.auth.service.factors import ShownFactor
from services.auth.service.sessions import SignedIn
from services.auth.service.tools import About, Tools
from services.auth.settings import IdentityProvider

log = logger(__name__)
FLOW = "oidc-flow"
SIGNED_OUT_THERE = "signed-out-at-provider"
NOT_ADMITTED = "not-admitted-by-provider"
FAREWELL_S = 1.0
NOT_TAKEN = (provider.Away, provider.Garbled, provider.CodeRefused, domain.oidc.NotBelieved)


@dataclass(frozen=True)
class Begun:
    """Where the browser goes, and what it carries until it comes back."""

    place: str
    cookie: str


@dataclass(frozen=True)
class Finished:
    """Where the browser goes on, and either a session, or what it carries until the second factor is shown."""

    place: str
    signed_in: SignedIn | None = None
    pending: str | None = None


def redirect_uri(tools: Tools, name: str) -> str:
    """Where a provider sends browsers back to."""
    return f"{tools.settings.origins[0]}/api/v1/oidc/{name}/callback"


def _problem(at: str, error: Exception) -> Problem:
    """What a browser is told about an answer that could not be used; the log has more."""
    log.warning("identity provider not believed", provider=at, what=str(error) or type(error).__name__)
    return domain.oidc.ProviderAway(retry_after=5) if isinstance(error, provider.Away) else domain.oidc.ProviderNotBelieved()


async def start(tools: Tools, name: str, to: str | None, *, fresh: bool = False) -> Begun:
    """Send a browser to a provider, with secrets of its own; ``fresh``: to sign in there anew. Raises UnknownProvider, ProviderAway."""
    asked = domain.oidc.known(tools.providers, name)
    async with repository.reading(tools.engine) as session:
        now = await repository.clock(session)
    try:
        places = domain.oidc.metadata(await asked.discovery(), asked.config.issuer)
    except NOT_TAKEN as error:
        raise _problem(name, error) from error
    state, nonce, verifier = vault.new_token("state"), vault.new_token("nonce"), vault.new_verifier()
    flow = domain.flows.Flow(name, state, nonce, verifier, domain.flows.return_path(to), now.timestamp(), fresh)
    place = domain.flows.question(places.authorization, asked.config, redirect_uri(tools, name), flow)
    return Begun(place, tools.vault.carry(FLOW, json.dumps(asdict(flow)).encode()))


def _flow(tools: Tools, cookie: str | None) -> domain.flows.Flow | None:
    carried = tools.vault.carried(FLOW, cookie) if cookie else None
    return domain.flows.Flow(**json.loads(carried)) if carried is not None else None


async def _ask(tools: Tools, asked: Provider, flow: domain.flows.Flow, answer: Answer, now: datetime) -> tuple[Vouched, str]:
    """Exchange the code and read what the provider says; with the id_token itself. Raises what ``NOT_TAKEN`` names, ProviderRefused."""
    config = asked.config
    places = domain.oidc.metadata(await asked.discovery(), config.issuer)
    code = domain.oidc.demand_code(answer, config, places.names_itself)
    token, access = await asked.exchange(places.token, code, flow.verifier, redirect_uri(tools, config.name))
    claims, algorithm = await asked.read_token(places.keys, token)
    domain.oidc.demand_id_token(claims, algorithm, config, flow, access, now)
    userinfo: dict[str, Any] = {}
    if access is not None and places.userinfo is not None and domain.oidc.wants_userinfo(claims, config):
        userinfo = await asked.userinfo(places.userinfo, access)
    return domain.oidc.vouched(claims, userinfo, config), token


@measures.counted
async def finish(later: OpenUow, tools: Tools, name: str, answer: Answer, cookie: str | None, about: About) -> Finished | Problem:
    """Believe a provider's answer, or refuse it. A refusal that counts is returned, not raised. Raises AnswerNotExpected, SlowDown.

    The provider is asked outside of the transaction, and no more than once for an answer.
    """
    asked = domain.oidc.known(tools.providers, name)
    async with repository.reading(tools.engine) as session:
        now = await repository.clock(session)
        flow = domain.oidc.demand_asked_for(_flow(tools, cookie), name, answer.state, now)
        state = vault.token_hash(flow.state)
        if await repository.spent.is_spent(session, state):
            raise domain.oidc.AnswerNotExpected
    watched = await patience.look(tools, patience.sign_in(tools, about, None, None, now))
    told: tuple[Vouched, str] | Problem
    try:
        told = await _ask(tools, asked, flow, answer, now)
    except NOT_TAKEN as error:
        told = _problem(name, error)
    except domain.oidc.ProviderRefused as refused:
        told = refused

    uow = await later()
    turn = await patience.take(uow, watched)
    if not await repository.spent.spend(uow.session, state, turn.now + 2 * domain.oidc.FLOW_LIFE):
        return domain.oidc.AnswerNotExpected()
    if not isinstance(told, Problem) and await pending.ended_since(uow, name, told[0], now):
        told = domain.oidc.AnswerNotExpected()
    finished = told if isinstance(told, Problem) else await _admit(uow, tools, asked, flow, told, about, turn.now)
    if isinstance(finished, domain.oidc.ProviderAway):
        return finished  # nobody guessed anything
    if isinstance(finished, Problem):
        return await turn.refused(finished)
    await turn.succeeded()
    return finished


async def _admit(
    uow: UnitOfWork, tools: Tools, asked: Provider, flow: domain.flows.Flow, told: tuple[Vouched, str], about: About, now: datetime
) -> Finished | Problem:
    """Let in whom the provider vouches for, or say why not. It may know them still and ask nothing: what they showed is as old as it says."""
    config, (vouched, token) = asked.config, told
    user = await repository.oidc.user_of(uow.session, config.name, vouched.subject)
    if user is not None:
        uow.note(user_id=user.user_id, provider=config.name)
    try:
        domain.oidc.demand_group(vouched, config)
        user = user or await _new_account(uow, asked, vouched, now)
        domain.oidc.demand_active(user)
        user = await _follow(uow, config, user, vouched)
        domain.oidc.demand_active(user)
        user.vouched_at = now
    except domain.oidc.GroupMissing as refused:
        if user is not None and vouched.groups is not None:
            await _follow(uow, config, user, vouched)
            await sessions.end_all(uow, user.user_id, NOT_ADMITTED)
            await keys.end_all(uow, user.user_id)
        return refused
    except Problem as refused:
        return refused
    from_provider = About(about.client, about.source, about.device, config.name, vouched.session, token)
    policy, has = await factors.standing(uow, tools, user)
    trusted = vouched.factor and policy is not Policy.PASSKEY
    weighed = await factors.weigh(uow, tools, user, ShownFactor(), now)
    if trusted or weighed.verdict is Verdict.OPENS:
        shown = trusted or domain.factors.may_do_without(policy, has, await factors.codes_left(uow, user))
        factor_at = min(vouched.signed_in_at, now) if shown and vouched.signed_in_at else None
        signed_in = await sessions.open_session(uow, tools, user, f"oidc:{config.name}", now, from_provider, factor_at=factor_at)
        return Finished(f"{flow.to}#signed-in", signed_in=signed_in)
    carried = pending.carry(tools, user, config.name, vouched.session, token, now)
    if weighed.verdict is Verdict.ENROLS:
        return Finished(f"{flow.to}#enrolment={await factors.enrolment(uow, user)}", pending=carried)
    return Finished(f"{flow.to}#pending", pending=carried)


async def _follow(uow: UnitOfWork, config: IdentityProvider, user: User, vouched: Vouched) -> User:
    """Let somebody's groups and address be what the provider says. The account is locked after the names and the groups."""
    callers.acts(uow, user)
    uow.note(user_id=user.user_id, provider=config.name)
    address = await accounts.new_address(uow, user, _address(vouched))
    if vouched.groups is not None:
        await groups.set_from_directory(uow, user, domain.oidc.group_names(vouched, config))
    locked = await repository.accounts.user(uow.session, user.user_id, lock=True) or user
    if address is not None:
        locked.email = address
    return locked


def _address(vouched: Vouched) -> str | None:
    """The address that the provider vouches for, where it is one."""
    try:
        return domain.accounts.normal_email(vouched.email) if vouched.email is not None else None
    except domain.accounts.BadEmail:
        return None


async def _new_account(uow: UnitOfWork, asked: Provider, vouched: Vouched, now: datetime) -> User:
    """An account for a subject that was never here. Raises NotExpected, NoAddress, AddressInUse, and nothing was written then."""
    config = asked.config
    if not config.creates_accounts:
        raise domain.oidc.NotExpected
    email = _address(vouched)
    if email is None:
        raise domain.oidc.NoAddress
    await repository.accounts.lock_names(uow.session)
    there = await repository.oidc.user_of(uow.session, config.name, vouched.subject)
    if there is not None:
        return there
    holder = await repository.accounts.user_with_email(uow.session, email)
    if holder is not None:
        log.warning("identity provider names the address of another account", provider=config.name, user_id=str(holder.user_id))
        raise domain.oidc.AddressInUse
    username = await accounts.free_username(uow, email)
    user = domain.oidc.new_account(uow.new_id(), username, email, config.name, vouched.subject, now)
    uow.session.add(user)
    await uow.session.flush()
    uow.emit(domain.accounts.user_fact(user))
    return user


@measures.counted
async def finish_pending(later: OpenUow, tools: Tools, cookie: str | None, shown: ShownFactor, about: About) -> SignedIn | Problem:
    """The second factor of somebody whom a provider vouched for a moment ago. A refusal is returned. Raises SlowDown."""
    known = pending.read(tools, cookie)
    async with repository.reading(tools.engine) as session:
        user = await repository.accounts.user(session, UUID(known["user_id"])) if known else None
        now = await repository.clock(session)
    watched = await patience.look(tools, patience.vouched_for(tools, about, user if pending.is_recent(known, now) else None, now))

    uow = await later()
    turn = await patience.take(uow, watched)
    if user is not None:
        await pending.hold(uow, known, user)
        user = await repository.accounts.user(uow.session, user.user_id, lock=True)
    if user is None or user.status != UserStatus.ACTIVE or not await pending.counts(uow.session, known, user, turn.now):
        return await turn.refused(domain.sessions.SignInRefused(), user)
    weighed = await factors.weigh(uow, tools, user, shown, turn.now)
    if weighed.verdict is Verdict.ENROLS:
        return await factors.enrolment_needed(uow, user)
    if weighed.verdict is Verdict.REFUSED or weighed.factor is None:
        return await turn.refused(domain.sessions.SignInRefused(), user)
    await turn.succeeded()
    at = known["provider"]
    from_provider = About(about.client, about.source, about.device, at, known["session"], known["token"])
    return await sessions.open_session(uow, tools, user, f"oidc:{at}+{weighed.factor.value}", turn.now, from_provider)


async def farewell(tools: Tools, user_id: UUID | None, session_id: UUID) -> str | None:
    """Where the caller's browser ends its session at the provider too, when a session of theirs ends here; None where it cannot."""
    if user_id is None:
        return None
    async with repository.reading(tools.engine) as session:
        found = await repository.oidc.session_at_provider(session, user_id, session_id)
    asked = tools.providers.get(found.provider or "") if found else None
    if found is None or asked is None:
        return None
    try:
        async with asyncio.timeout(FAREWELL_S):  # who signs out is not kept waiting for it
            places = domain.oidc.metadata(await asked.discovery(), asked.config.issuer)
    except (*NOT_TAKEN, TimeoutError):
        return None
    if places.end_session is None:
        return None
    token = tools.vault.open_id_token(found.id_token_sealed, session_id) if found.id_token_sealed else None
    return domain.oidc.sign_out_there(places.end_session, asked.config.client_id, token)


async def sign_out(later: OpenUow, tools: Tools, name: str, token: str, about: About) -> domain.oidc.BadLogoutToken | None:
    """End at once what ended at the provider, also what waits for the second factor. A refusal is returned. Raises UnknownProvider, ProviderAway, SlowDown."""
    asked = domain.oidc.known(tools.providers, name)
    async with repository.reading(tools.engine) as session:
        now = await repository.clock(session)
    watched = await patience.look(tools, patience.sign_in(tools, about, None, None, now))
    ended = None
    try:
        places = domain.oidc.metadata(await asked.discovery(), asked.config.issuer)
        claims, _ = await asked.read_token(places.keys, token)
        ended = domain.oidc.demand_logout_token(claims, asked.config, now)
    except NOT_TAKEN as error:
        problem = _problem(name, error)
        if isinstance(error, provider.Away):
            raise problem from error

    uow = await later()
    turn = await patience.take(uow, watched)
    if ended is None or not await repository.spent.spend(
        uow.session, vault.token_hash(f"{name} {ended.token_id}"), turn.now + 2 * domain.oidc.FLOW_LIFE
    ):
        return await turn.refused(domain.oidc.BadLogoutToken())
    await turn.succeeded()
    over = await pending.end(uow, name, ended)
    ended_at = await repository.clock(uow.session)  # some may have been opened while this waited for them
    for each in over:
        domain.sessions.end_session(each, ended_at, SIGNED_OUT_THERE)
        uow.emit(domain.sessions.session_fact(each))
    uow.note(provider=name, sessions=len(over))
    return None
