"""Client codes: a browser that signed in hands its sign-in over to a client on the same machine."""

from chassis.guard import OpenUow
from chassis.outbox import UnitOfWork
from contracts.events import UserStatus
from services.auth import domain, repository, vault
from services.auth.models import ClientCode
from services.auth.service import callers, measures, patience, sessions
from services.auth.service.sessions import SignedIn
from services.auth.service.tools import About, Tools

HANDED_OVER = "handed-over"


async def create(uow: UnitOfWork, tools: Tools, challenge: str) -> str:
    """A code for whoever holds the verifier of ``challenge``. Raises FactorTooOld, and as ``callers.current``."""
    user, session = await callers.current(uow, tools)
    domain.client_codes.demand_recent(session, uow.now)
    code = vault.new_token("client")
    uow.session.add(
        ClientCode(
            code_hash=vault.token_hash(code),
            user_id=user.user_id,
            session_id=session.session_id,
            challenge=challenge,
            expires_at=uow.now + domain.client_codes.LIFE,
        )
    )
    uow.note(session_id=session.session_id)
    uow.conceal()
    return code


@measures.counted
async def redeem(later: OpenUow, tools: Tools, code: str, verifier: str, about: About) -> SignedIn | domain.sessions.SignInRefused:
    """The client's own session, from the browser's sign-in and no longer than it; the browser's ends. A code is gone after one try."""
    async with repository.reading(tools.engine) as session:
        now = await repository.clock(session)
    watched = await patience.look(tools, patience.sign_in(tools, about, None, None, now))
    uow = await later()
    turn = await patience.take(uow, watched)
    found, browsers, user = await repository.client_codes.take(uow.session, vault.token_hash(code))
    opens = domain.client_codes.is_open(found, browsers, verifier, turn.now)
    if not opens or browsers is None or user is None or user.status != UserStatus.ACTIVE:
        return await turn.refused(domain.sessions.SignInRefused(), user)
    await turn.succeeded()
    domain.sessions.end_session(browsers, turn.now, HANDED_OVER)
    uow.emit(domain.sessions.session_fact(browsers))
    vouched = About(
        client=about.client,
        source=about.source,
        device=about.device,
        provider=browsers.provider,
        provider_session=browsers.provider_session,
        id_token=tools.vault.open_id_token(browsers.id_token_sealed, browsers.session_id) if browsers.id_token_sealed else None,
    )
    return await sessions.open_session(uow, tools, user, browsers.method, turn.now, vouched, handed_over=browsers)


async def prune(uow: UnitOfWork) -> None:
    """Forget codes that are too old."""
    await repository.client_codes.prune(uow.session, uow.now)
