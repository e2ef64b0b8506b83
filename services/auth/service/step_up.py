"""Step-up: the second factor of a session, shown once more for what asks for a fresh one."""

from chassis.errors import NotFound
from chassis.guard import OpenUow
from contracts.roles import Actor
from services.auth import domain
from services.auth.models import Session
from services.auth.service import callers, factors, patience, sessions
from services.auth.service.factors import ShownFactor
from services.auth.service.tools import Tools


async def step_up(later: OpenUow, tools: Tools, actor: Actor, shown: ShownFactor) -> Session | domain.sessions.SignInRefused:
    """The caller's session with a second factor that was shown now, by the database's clock; the gateway hears of it.

    A refusal is returned, not raised, so that the failure it counts is committed. Raises NotFound, SlowDown, SessionEnded, CannotDecide.
    """
    if actor.session_id is None:
        raise NotFound
    watched = await patience.look(tools, patience.in_session(actor.session_id))
    uow = await later()
    turn = await patience.take(uow, watched)
    user = await callers.account(uow)
    session = await sessions.current(uow, tools)
    factor = await factors.check(uow, tools, user, shown, turn.now)
    if factor is None or not domain.factors.satisfies(factor, await factors.policy(uow, tools, user)):
        turn.failed()
        return domain.sessions.SignInRefused()
    await turn.succeeded()
    domain.sessions.show_factor(session, factor, turn.now)
    uow.emit(domain.sessions.session_fact(session))
    uow.note(session_id=session.session_id, user_id=user.user_id, factor=factor)
    return session
