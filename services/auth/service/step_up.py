"""Step-up: the second factor of a session, shown once more for what asks for a fresh one; the password of who has none."""

from chassis.errors import NotFound, Problem
from chassis.guard import OpenUow
from contracts.roles import Actor
from services.auth import domain, repository
from services.auth.models import Session
from services.auth.service import callers, directory, factors, passwords, patience, sessions
from services.auth.service.factors import ShownFactor
from services.auth.service.tools import About, Tools


async def step_up(later: OpenUow, tools: Tools, actor: Actor, shown: ShownFactor) -> Session | domain.sessions.SignInRefused:
    """The caller's session with a second factor that was shown now, by the database's clock; the gateway hears of it.

    A refusal is returned, not raised, so that the failure it counts is committed. Raises NotFound, SlowDown, SessionEnded, CannotDecide.
    """
    user_id, session_id = callers.signed_in(actor)
    async with repository.reading(tools.engine) as reading:
        sign_in = await patience.sign_in_of(reading, user_id, session_id)
        watched = await patience.look_in(reading, tools, patience.in_session(sign_in))
    uow = await later()
    turn = await patience.take(uow, watched)
    user, session = await callers.current(uow, tools)
    factor = await factors.check(uow, tools, user, shown, turn.now)
    if factor is None or not domain.factors.satisfies(factor, await factors.policy(uow, tools, user)):
        uow.note(session_id=session.session_id)
        return await turn.refused(domain.sessions.SignInRefused(), user)
    await turn.succeeded()
    domain.sessions.show_factor(session, factor, turn.now)
    uow.emit(domain.sessions.session_fact(session))
    uow.note(session_id=session.session_id, user_id=user.user_id, factor=factor)
    return session


async def by_password(later: OpenUow, tools: Tools, actor: Actor, password: str, about: About) -> Session | Problem:
    """Likewise for somebody who has no second factor at all and need not have one: their password, or they could never get a first one.

    Who has any is refused like somebody whose password is wrong. Raises as ``step_up``.
    """
    user_id, session_id = callers.signed_in(actor)
    async with repository.reading(tools.engine) as session:
        known = await repository.accounts.known_by_id(session, user_id)
        sign_in = await patience.sign_in_of(session, user_id, session_id)
    if known.user is None:
        raise NotFound
    async with directory.turn(tools, f"{domain.patience.source_prefix(about.source)} {known.user.username}"):
        watched = await patience.look(tools, patience.in_session(sign_in))
        checked = await passwords.check_anywhere(tools, known, known.user.username, password, about, ShownFactor(), sign_in)
        uow = await later()
        turn = await patience.take(uow, watched)
        user, own = await callers.current(uow, tools)
        right = checked.user_id == user_id and await passwords.confirm(uow, user, checked)
        asked, has = await factors.standing(uow, tools, user)
        if not right or not domain.factors.may_do_without(asked, has, await factors.codes_left(uow, user)):
            uow.note(session_id=session_id)
            away = domain.directory.DirectoryAway(retry_after=sessions.AWAY_S)
            return await turn.refused(away if checked.away else domain.sessions.SignInRefused(), user)
        await turn.succeeded()
        domain.sessions.show_factor(own, None, turn.now)
        uow.emit(domain.sessions.session_fact(own))
        uow.note(session_id=session_id, user_id=user_id, factor="none")
        return own
