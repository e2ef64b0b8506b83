"""New passwords: changed by their person, or chosen with a one-time link."""

import contextlib
from datetime import datetime, timedelta
from uuid import UUID

from chassis.errors import NotFound
from chassis.guard import OpenUow
from chassis.outbox import UnitOfWork, unit_of_work
from contracts.policy import Action, Service
from contracts.roles import Actor
from services.auth import domain, repository, vault
from services.auth.domain.letters import Kind
from services.auth.domain.links import Purpose
from services.auth.models import Credential, ResetAsk, User
from services.auth.service import callers, halves, keys, letters, passwords, patience, sessions
from services.auth.service.tools import About, Tools


async def change(
    later: OpenUow, tools: Tools, actor: Actor, password: str, new_password: str, about: About
) -> domain.passwords.WrongPassword | None:
    """Put a new password in the place of the caller's old one; all of their sessions end.

    A wrong old password is returned, not raised, so that the failure it counts is committed. Raises PasswordIsElsewhere, SlowDown,
    PasswordUnchanged, PasswordTooWeak, and as ``callers.current``.
    """
    user_id, session_id = callers.signed_in(actor)
    async with repository.reading(tools.engine) as session:
        known = await repository.accounts.known_by_id(session, user_id)
        if known.user is None:
            raise NotFound
        domain.passwords.demand_here(known.user)
        sign_in = await patience.sign_in_of(session, user_id, session_id)
        watched = await patience.look_in(session, tools, patience.in_session(sign_in))
    checked = await passwords.check(tools, known, password, about.source)
    if checked.right:
        domain.passwords.demand_other(password, new_password)
        await passwords.demand_strong(tools, new_password, known.user, about.source)
    new_hash = await tools.passwords.hash(new_password, domain.patience.source_prefix(about.source))

    uow = await later()
    of_account = repository.patience.of_account(user_id)
    await repository.patience.lock_attempts(uow.session, {*watched, of_account})  # in one step with those of the turn, for the order
    turn = await patience.take(uow, watched)
    user, _ = await callers.current(uow, tools)
    if not await passwords.confirm(uow, user, checked):
        return await turn.refused(domain.passwords.WrongPassword(), user)
    await turn.succeeded()
    await _replace(uow, tools, user, new_hash, turn.now)
    return None


async def _replace(
    uow: UnitOfWork, tools: Tools, user: User, password_hash: str, now: datetime, told: Kind = Kind.PASSWORD_CHANGED
) -> None:
    """Store a new password: sessions and open links end, second factors stay, and the person is told.

    The link of a factor's reset stays, for it counts beside the new password; what it gave out beside the old one is void. Guesses at the
    second factor beside the old one are forgotten, and the record says how many there were; their count is locked before the account, so
    that no try which began before writes it back.
    """
    credential = await repository.factors.credential(uow.session, user.user_id, lock=True)
    if credential is None:
        credential = Credential(user_id=user.user_id)
        uow.session.add(credential)
    credential.password_hash = password_hash
    credential.password_at = now
    credential.pending_totp_sealed = None
    await repository.links.forget_links(uow.session, user.user_id, {Purpose.PASSWORD_RESET})
    await sessions.end_all(uow, user.user_id, "password-changed")
    await letters.write(uow, tools, user.user_id, user.email, told, username=user.username)
    uow.note(user_id=user.user_id)
    guesses = await repository.patience.forget_guesses(uow.session, user.user_id)
    if guesses:
        uow.note(guesses_before=guesses)


async def ask(later: OpenUow, tools: Tools, name: str, about: About) -> None:
    """Note down that somebody wants a new password for a name, whoever's it is; who asks too often is not told.

    The account is looked up afterwards, by ``answer_asks``: here nothing differs between a name that has one and one that has none.
    """
    if not letters.possible(tools):
        return
    with contextlib.suppress(domain.patience.SlowDown):
        watched = await patience.look(tools, patience.wishing(about))
        uow = await later()
        await (await patience.take(uow, watched)).failed()
        await _keep_ask(uow, tools, name)


async def _keep_ask(uow: UnitOfWork, tools: Tools, name: str) -> None:
    ask_id = uow.new_id()
    sealed = tools.vault.seal_name(domain.accounts.normal_name(name), ask_id)
    await repository.links.keep_ask(uow.session, ResetAsk(ask_id=ask_id, sealed=sealed, created_at=uow.now), domain.passwords.MOST_ASKS)


async def answer_asks(tools: Tools) -> None:
    """Send a link to everybody who asked for a new password and can have one; for each account one in ten minutes, and 5 in 24 h beside open ones."""
    answered = True
    while answered:
        async with unit_of_work(tools.engine, Service.AUTH.value, Action.PASSWORD_RESET_ASK.value) as uow:
            answered = await _answer_ask(uow, tools)


async def _answer_ask(uow: UnitOfWork, tools: Tools) -> bool:
    asked = await repository.links.next_ask(uow.session)
    if asked is None:
        return False
    await uow.session.delete(asked)
    user = await repository.accounts.user_named(uow.session, tools.vault.open_name(asked.sealed, asked.ask_id))
    user = await repository.accounts.user(uow.session, user.user_id, lock=True) if user else None
    last = await repository.links.link_of(uow.session, user.user_id, Purpose.PASSWORD_RESET) if user else None
    if user is None or not domain.passwords.may_be_sent(user, last, uow.now):
        return True
    if not domain.passwords.is_extra(last, uow.now) or await _one_more(uow, user):
        await _make_link(uow, tools, user, domain.passwords.RESET_LIFE)
    return True


async def _one_more(uow: UnitOfWork, user: User) -> bool:
    """Whether somebody was sent fewer than 5 links in the last 24 h beside an open one; each takes a place, which comes free again."""
    for place in range(domain.passwords.MOST_LINKS):
        taken = vault.token_hash(f"asked-for {user.user_id} {place}")
        if await repository.spent.spend(uow.session, taken, uow.now + domain.passwords.LINKS_WITHIN):
            return True
    return False


async def _make_link(uow: UnitOfWork, tools: Tools, user: User, life: timedelta) -> str | None:
    """A one-time link to choose a new password; mailed, or returned where no mail is configured."""
    token = vault.new_token("reset")
    await repository.links.replace(
        uow.session, domain.links.link(user.user_id, Purpose.PASSWORD_RESET, vault.token_hash(token), uow.now, life)
    )
    uow.note(user_id=user.user_id)
    if not letters.possible(tools):
        uow.conceal()
        return token
    hours = life // timedelta(hours=1)
    await letters.write(uow, tools, user.user_id, user.email, Kind.PASSWORD_RESET, username=user.username, token=token, hours=hours)
    return None


async def reset_for(uow: UnitOfWork, tools: Tools, user_id: UUID) -> str | None:
    """Make a link with which somebody chooses a new password; None when it was mailed.

    Raises NotFound, AccountNotActive, PasswordIsElsewhere, OtherHalfIsYours.
    """
    user = await repository.accounts.user(uow.session, user_id, lock=True)
    if user is None:
        raise NotFound
    domain.accounts.demand_active(user)
    domain.passwords.demand_here(user)
    await halves.take(uow, tools, user_id, Purpose.PASSWORD_RESET)
    return await _make_link(uow, tools, user, domain.passwords.RESET_LIFE_BY_ADMINISTRATOR)


async def accept_reset(later: OpenUow, tools: Tools, token: str, password: str, about: About) -> None:
    """Choose a new password with a one-time link; the API keys end, too, for something may have leaked. Raises LinkNotOpen, PasswordTooWeak, CannotDecide."""
    hashed = vault.token_hash(token)
    async with repository.reading(tools.engine) as session:
        found = await repository.links.link_by_token(session, hashed)
        _, known = domain.links.demand_open_link(*found, {Purpose.PASSWORD_RESET}, await repository.clock(session))
    await passwords.demand_strong(tools, password, known, about.source)
    new_hash = await tools.passwords.hash(password, domain.patience.source_prefix(about.source))
    uow = await later()
    await repository.patience.lock_attempts(uow.session, [repository.patience.of_account(known.user_id)])
    found = await repository.links.link_by_token(uow.session, hashed, lock=True)
    now = await repository.clock(uow.session)
    _, user = domain.links.demand_open_link(*found, {Purpose.PASSWORD_RESET}, now)
    callers.acts(uow, user)
    await _replace(uow, tools, user, new_hash, now, Kind.PASSWORD_WAS_RESET)
    uow.note(keys=await keys.end_all(uow, user.user_id))
