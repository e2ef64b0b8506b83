"""Signing in and out."""

import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

from chassis import tokens
from chassis.errors import NotFound, Problem
from chassis.guard import OpenUow
from chassis.outbox import UnitOfWork
from contracts.events import UserStatus
from services.auth import domain, repository, vault
from services.auth.domain.factors import Factor, Verdict
from services.auth.domain.letters import Kind
from services.auth.domain.links import Purpose
from services.auth.models import Session, User
from services.auth.repository.signing import Signs
from services.auth.service import callers, devices, directory, factors, letters, measures, passkeys, passwords, patience, signing
from services.auth.service.factors import ShownFactor
from services.auth.service.passkeys import ShownPasskey
from services.auth.service.tools import About, Tools

AWAY_S = 5
ERASE_BATCH = 200
END_BATCH = 200
SHORTEST_S = 1.0
LONGEST_S = 30.0


@dataclass(frozen=True)
class SignedIn:
    """A session, its person, an access token with the time it expires at, the refresh token, and at a sign-in a device cookie; given ``now``.

    ``afterwards``: what is done when all of this is committed and sent.
    """

    session: Session
    user: User
    access_token: str
    expires_at: datetime
    refresh_token: str
    now: datetime
    device: str | None = None
    recovery_codes_left: int | None = None
    afterwards: Callable[[], Awaitable[None]] | None = None


@measures.counted
async def sign_in(later: OpenUow, tools: Tools, name: str, password: str, shown: ShownFactor, about: About) -> SignedIn | Problem:
    """Open a session. A refusal is returned, not raised, so that the failure it counts is committed.

    The slow check of the password runs outside the transaction; what it rested on is compared again under lock. Whatever
    is wrong, the work is the same. After many wrong second factors beside the right password the first right code is refused likewise,
    and the next one from there is not. What a directory that is away might have said is answered with DirectoryAway. Raises SlowDown,
    CannotDecide.
    """
    normal = domain.accounts.normal_name(name)
    async with directory.turn(tools, f"{domain.patience.source_prefix(about.source)} {normal}"):
        return await _sign_in(later, tools, normal, password, shown, about)


async def _sign_in(later: OpenUow, tools: Tools, normal: str, password: str, shown: ShownFactor, about: About) -> SignedIn | Problem:
    async with repository.reading(tools.engine) as session:
        known = await repository.accounts.known_by_name(session, normal)
        watched = await patience.look_in(session, tools, patience.sign_in(tools, about, normal, known.user, known.now))
    checked = await passwords.check_anywhere(tools, known, normal, password, about, shown)

    uow = await later()
    at_directory = checked.method == domain.directory.SOURCE
    guessed = checked.guessed if shown.tried else None
    watched = patience.with_guesses(tools, watched, normal, guessed, at_directory=at_directory)
    attempts, now, user, standing, key = await repository.sign_ins.hold(uow.session, watched, checked.user_id)
    turn = patience.take_held(uow, watched, attempts, now)
    right = await passwords.confirm(uow, user, checked) and user is not None and user.status == UserStatus.ACTIVE
    weighed = await factors.weigh(uow, tools, user, shown, now, use=right, standing=standing)
    if user is None or weighed.verdict is Verdict.REFUSED:
        return await turn.refused(
            domain.directory.DirectoryAway(retry_after=AWAY_S) if checked.away else domain.sessions.SignInRefused(), user
        )
    if weighed.factor is Factor.TOTP and turn.guessed_at and await patience.is_first_code(uow, about, user, now):
        uow.note(because="another-code-needed")
        return turn.record(domain.sessions.SignInRefused(), user)
    await turn.succeeded()
    if weighed.verdict is Verdict.ENROLS:
        return await factors.enrolment_needed(uow, user)
    method = "+".join(filter(None, (checked.method, weighed.factor)))
    signed_in = await open_session(uow, tools, user, method, now, about, login=None if known.user else normal, key=key)
    if not checked.outdated:
        return signed_in
    return replace(signed_in, afterwards=functools.partial(passwords.renew, tools, checked, password, about.source))


@measures.counted
async def sign_in_with_passkey(later: OpenUow, tools: Tools, shown: ShownPasskey, about: About) -> SignedIn | Problem:
    """Open a session by a passkey alone, which verified who its person is: both factors in one. Refusals as in ``sign_in``.

    Not for people of an identity provider: whether they may still come in is the provider's to say, each time. Nor for whom
    their directory does not let in any more.
    """
    known = await passkeys.owner(tools, shown)
    async with repository.reading(tools.engine) as session:
        now = await repository.clock(session)
    watched = await patience.look(tools, patience.sign_in(tools, about, None, known, now))
    uow = await later()
    turn = await patience.take(uow, watched)
    user = await repository.accounts.locked(uow.session, known.user_id if known else domain.accounts.NO_ONE)
    active = user is not None and user.status == UserStatus.ACTIVE and not domain.oidc.needs_provider(user) and user.gone_at is None
    weighed = await factors.weigh(uow, tools, user, ShownFactor(passkey=shown), turn.now, use=active)
    if user is None or weighed.verdict is not Verdict.OPENS:
        return await turn.refused(domain.sessions.SignInRefused(), user)
    await turn.succeeded()
    return await open_session(uow, tools, user, Factor.PASSKEY, turn.now, about)


async def open_session(
    uow: UnitOfWork,
    tools: Tools,
    user: User,
    method: str,
    now: datetime,
    about: About,
    *,
    factor_at: datetime | None = None,
    handed_over: Session | None = None,
    login: str | None = None,
    key: Signs | None = None,
) -> SignedIn:
    """A new session for somebody who has shown who they are, with its first tokens and a cookie for their device.

    ``factor_at``: when the second factor was shown, where the method does not tell. ``handed_over``: the session that this one comes from.
    ``login``: the name that was typed, where only the directory knew whose it is. ``key``: the key that signs, where it was read just now.
    """
    life = timedelta(seconds=tools.settings.session_s)
    opened = domain.sessions.sign_in(user, uow.new_id(), method, now, life, seed=vault.new_seed(), factor_at=factor_at)
    if handed_over is not None:
        domain.client_codes.carry_over(handed_over, opened)
    opened.client = about.client
    opened.source = about.source
    opened.provider = about.provider
    opened.provider_session = about.provider_session
    if about.id_token is not None:
        opened.id_token_sealed = tools.vault.seal_id_token(about.id_token, opened.session_id)
    await repository.sessions.add(uow.session, opened)
    uow.emit(domain.sessions.session_fact(opened))
    callers.acts(uow, user, opened.session_id)
    uow.note(session_id=opened.session_id, user_id=user.user_id, method=method)
    left = await factors.codes_left(uow, user) if method.endswith(Factor.RECOVERY) else None
    device = devices.renewed(tools.vault, about.device, user.user_id, now, login)
    signed_in = await access(uow, tools, opened, user, now, device=device, key=key)
    return replace(signed_in, recovery_codes_left=left)


async def access(
    uow: UnitOfWork, tools: Tools, session: Session, user: User, now: datetime, *, device: str | None = None, key: Signs | None = None
) -> SignedIn:
    """An access token for a session, ending with the session at the latest, beside the session's newest refresh token."""
    key = key or await signing.signing_key(uow, tools.vault)
    life = min(timedelta(seconds=tools.settings.token_s), session.expires_at - now)
    private = tools.vault.signing_key(key.key_id, key.sealed)
    token, expires = tokens.issue(private, key.key_id, user.user_id, session.session_id, now, life)
    refresh = tools.vault.refresh_token(session.session_id, session.generation, session.seed)
    return SignedIn(session, user, token, expires, refresh, now, device)


async def refresh(uow: UnitOfWork, tools: Tools, shown: str | None) -> SignedIn | domain.sessions.RefreshTokenReused:
    """The newest tokens of the session whose refresh token is shown.

    A token that was given up for a newer one ends the session: this refusal is returned, not raised, so that it is committed.
    Raises RefreshTokenInvalid, SessionEnded, CannotDecide, which change nothing.
    """
    session_id, generation = domain.sessions.generation_of(shown)
    session = await repository.sessions.session_by_id(uow.session, session_id)
    if session is None or not tools.vault.is_refresh_token(shown or "", session_id, generation, session.seed):
        raise domain.sessions.RefreshTokenInvalid
    user = await repository.accounts.user(uow.session, session.user_id)
    user, now = await callers.demand_open(uow, tools, session, user)
    callers.acts(uow, user, session_id)
    if domain.sessions.rotate(session, generation, now):
        return await access(uow, tools, session, user, now)
    domain.sessions.end_session(session, now, domain.sessions.REUSED)
    uow.emit(domain.sessions.session_fact(session))
    uow.note(session_id=session_id, user_id=user.user_id, because=domain.sessions.REUSED)
    about = {"source": session.source or "an unknown address", "client": session.client or "an unknown client"}
    await letters.write(uow, tools, user.user_id, user.email, Kind.SESSION_REUSE, **about)
    reused = domain.sessions.RefreshTokenReused()
    uow.refuse(reused)
    return reused


async def list_sessions(uow: UnitOfWork, tools: Tools, user_id: UUID, after: UUID | None, limit: int) -> list[Session]:
    """A person's sessions that still count."""
    return await repository.sessions.live_sessions(uow.session, user_id, uow.now, await callers.unused_since(uow, tools), after, limit)


async def list_of(uow: UnitOfWork, tools: Tools, user_id: UUID, after: UUID | None, limit: int) -> list[Session]:
    """The sessions of somebody's that still count, for an administrator. Raises NotFound."""
    await _demand_known(uow, user_id)
    return await list_sessions(uow, tools, user_id, after, limit)


async def end_session(uow: UnitOfWork, session_id: UUID) -> None:
    """End one of the caller's sessions. Raises NotFound."""
    caller = callers.caller(uow)
    session = domain.sessions.own_session(await repository.sessions.session_of(uow.session, caller, session_id), caller)
    if domain.sessions.end_session(session, uow.now, domain.sessions.SIGNED_OUT):
        uow.emit(domain.sessions.session_fact(session))
        uow.note(session_id=session_id)


async def end_own(uow: UnitOfWork) -> None:
    """End all of the caller's sessions, also the one they ask in."""
    caller = callers.caller(uow)
    await repository.accounts.user(uow.session, caller, lock=True)
    await end_all(uow, caller, domain.sessions.SIGNED_OUT)


async def end_of(uow: UnitOfWork, user_id: UUID) -> None:
    """End all of somebody's sessions, for an administrator. Raises NotFound."""
    await _demand_known(uow, user_id, lock=True)
    await end_all(uow, user_id, "ended-by-administrator")


async def end_all(uow: UnitOfWork, user_id: UUID, because: str) -> int:
    """End and tell every open session of a person; how many there were. The account is locked, so that none is opened meanwhile.

    Nor does a sign-in go on that stopped at setting up a second factor: its link is void.
    """
    await repository.links.forget_links(uow.session, user_id, {Purpose.FACTOR_ENROLMENT})
    ended = await repository.sessions.open_sessions(uow.session, user_id)
    for session in ended:
        domain.sessions.end_session(session, uow.now, because)
        uow.emit(domain.sessions.session_fact(session))
    uow.note(user_id=user_id, sessions=len(ended))
    return len(ended)


async def erase_ended(uow: UnitOfWork) -> bool:
    """Delete sessions a day after they ended or expired, and take them off their topic; whether there may be more."""
    gone = await repository.sessions.sessions_over_before(uow.session, uow.now - domain.sessions.KEEP_ENDED, ERASE_BATCH)
    for session in gone:
        uow.erase(domain.sessions.session_fact(session))
    if gone:
        await repository.sessions.remove_sessions(uow.session, gone)
        uow.note(sessions=len(gone))
    return len(gone) == ERASE_BATCH


async def end_over(uow: UnitOfWork, tools: Tools) -> float:
    """End and tell, of all sessions, those that expired or were not used for too long; in how many seconds to look again."""
    idle = timedelta(seconds=tools.settings.idle_s)
    unused = await callers.unused_since(uow, tools)
    over = await repository.sessions.sessions_to_end(uow.session, uow.now, unused, END_BATCH)
    for session in over:
        because = domain.sessions.why_over(session, unused, uow.now)
        if because is not None and domain.sessions.end_session(session, uow.now, because):
            uow.emit(domain.sessions.session_fact(session))
    if over:
        return 0.0
    ahead = await repository.sessions.next_end(uow.session, idle)
    left = (ahead - uow.now).total_seconds() if ahead else LONGEST_S
    return min(max(left, SHORTEST_S), LONGEST_S)


async def _demand_known(uow: UnitOfWork, user_id: UUID, *, lock: bool = False) -> None:
    if await repository.accounts.user(uow.session, user_id, lock=lock) is None:
        raise NotFound
