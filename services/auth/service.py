"""The use cases of auth: each function is one transaction's work."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from uuid import UUID

from chassis import tokens
from chassis.errors import NotFound
from chassis.guard import OpenUow, expect
from chassis.outbox import UnitOfWork
from contracts.events import UserStatus
from contracts.roles import Actor, ClusterRole, Principal
from services.auth import domain, repository, vault
from services.auth.models import Session, SigningKey, User
from services.auth.vault import Passwords, Vault

NAMES_AT_ONCE = 100


@dataclass(frozen=True)
class SecondFactor:
    """What the holder of an invitation puts into an authenticator; ``secret`` is base32."""

    username: str
    secret: str
    uri: str


@dataclass(frozen=True)
class SignedIn:
    """A session, its person, and the first access token with the time it expires at."""

    session: Session
    user: User
    access_token: str
    expires_at: datetime


def _caller(uow: UnitOfWork) -> UUID:
    if uow.actor.user_id is None:
        raise NotFound
    return uow.actor.user_id


def _acts(uow: UnitOfWork, user: User, session_id: UUID | None = None) -> None:
    """From here on the caller is known: the audit record names them."""
    uow.actor = Actor(principal=Principal.PERSON, user_id=user.user_id, username=user.username, session_id=session_id)


async def _free_username(uow: UnitOfWork, email: str) -> str:
    candidates = domain.usernames(email)
    while names := list(islice(candidates, NAMES_AT_ONCE)):
        taken = await repository.taken_usernames(uow.session, names)
        for name in names:
            if name not in taken:
                return name
    raise domain.EmailTaken


async def invite(uow: UnitOfWork, email: str, roles: frozenset[ClusterRole]) -> tuple[User, str]:
    """Invite a person, or invite them again while they have not confirmed; the account and its one-time token.

    Raises BadEmail, EmailTaken.
    """
    normal = domain.normal_email(email)
    await repository.lock_names(uow.session)
    token = vault.new_token()
    hashed = vault.token_hash(token)
    user = await repository.user_with_email(uow.session, normal)
    if user is None:
        username = await _free_username(uow, normal)
        user, invitation = domain.invite(uow.new_id(), username, normal, roles, hashed, uow.now)
        uow.session.add(user)
        await uow.session.flush()
        uow.emit(domain.user_fact(user))
    else:
        version = user.version
        known = await repository.invitation_of(uow.session, user.user_id)
        invitation = domain.invite_again(user, known, roles, hashed, uow.now)
        if user.version != version:
            uow.emit(domain.user_fact(user))
    uow.session.add(invitation)
    uow.note(user_id=user.user_id)
    uow.conceal()
    return user, token


async def accept(later: OpenUow, engine: repository.Engine, safe: Vault, passwords: Passwords, token: str, password: str) -> SecondFactor:
    """Choose a password and get a second factor; a repetition replaces both until they are confirmed.

    Raises InvitationNotOpen, CannotDecide.
    """
    hashed = vault.token_hash(token)
    async with repository.reading(engine) as session:
        domain.demand_open(*await repository.invitation_by_token(session, hashed), await repository.clock(session))
    password_hash = await passwords.hash(password)
    uow = await later()
    found = await repository.invitation_by_token(uow.session, hashed, lock=True)
    invitation, user = domain.demand_open(*found, await repository.clock(uow.session))
    secret = vault.new_totp_secret()
    invitation.password_hash = password_hash
    invitation.totp_sealed = safe.seal_totp(secret, user.user_id)
    _acts(uow, user)
    uow.note(user_id=user.user_id)
    uow.conceal()
    return SecondFactor(user.username, secret, domain.totp_uri(secret, user.username))


async def confirm(uow: UnitOfWork, safe: Vault, token: str, code: str) -> User:
    """Make the account active by showing that the authenticator works; the token and the code are spent.

    Raises InvitationNotOpen, NotAcceptedYet, WrongCode.
    """
    found = await repository.invitation_by_token(uow.session, vault.token_hash(token), lock=True)
    now = await repository.clock(uow.session)
    invitation, user = domain.demand_open(*found, now)
    step = None
    if invitation.totp_sealed is not None:
        step = domain.matching_step(safe.open_totp(invitation.totp_sealed, user.user_id), code, now, last_step=-1)
    uow.session.add(domain.confirm(user, invitation, step, now))
    await uow.session.delete(invitation)
    uow.emit(domain.user_fact(user))
    _acts(uow, user)
    uow.note(user_id=user.user_id)
    return user


async def sign_in(
    later: OpenUow,
    engine: repository.Engine,
    safe: Vault,
    passwords: Passwords,
    name: str,
    password: str,
    code: str,
    token_life: timedelta,
) -> SignedIn | domain.SignInRefused:
    """Open a session. A refusal is returned, not raised, so that the failure it counts is committed.

    The slow check of the password runs outside the transaction; what it rested on is compared again under lock. Raises
    SlowDown, CannotDecide.
    """
    async with repository.reading(engine) as session:
        known = await repository.user_named(session, domain.normal_name(name))
        credential = await repository.credential(session, known.user_id) if known else None
        key = safe.blind(str(known.user_id) if known else domain.normal_name(name))
        domain.demand_patience(await repository.attempts(session, key), await repository.clock(session))
    checked = credential.password_hash if credential else None
    right, rehashed = await passwords.check(password, checked)

    uow = await later()
    attempts = await repository.lock_attempts(uow.session, key)
    now = await repository.clock(uow.session)
    domain.demand_patience(attempts, now)
    user = await repository.user(uow.session, known.user_id, lock=True) if known else None
    credential = await repository.credential(uow.session, user.user_id, lock=True) if user else None
    step = None
    if user and credential and right and user.status == UserStatus.ACTIVE and credential.password_hash == checked:
        secret = safe.open_totp(credential.totp_sealed, user.user_id)
        step = domain.matching_step(secret, code, now, credential.last_step)
    if user is None or credential is None or step is None:
        domain.fail(attempts, now)
        return domain.SignInRefused()
    credential.last_step = step
    credential.password_hash = rehashed or credential.password_hash
    await uow.session.delete(attempts)
    opened = domain.sign_in(user, uow.new_id(), now)
    uow.session.add(opened)
    uow.emit(domain.session_fact(opened))
    _acts(uow, user, opened.session_id)
    uow.note(session_id=opened.session_id, user_id=user.user_id)
    key_row = await signing_key(uow, safe)
    private = safe.signing_key(key_row.key_id, key_row.sealed)
    token, expires = tokens.issue(private, key_row.key_id, user.user_id, opened.session_id, now, token_life)
    return SignedIn(opened, user, token, expires)


async def list_sessions(uow: UnitOfWork, after: UUID | None, limit: int) -> list[Session]:
    """The caller's sessions that still count."""
    return await repository.live_sessions(uow.session, _caller(uow), uow.now, after, limit)


async def end_session(uow: UnitOfWork, session_id: UUID) -> None:
    """End one of the caller's sessions. Raises NotFound."""
    caller = _caller(uow)
    session = domain.own_session(await repository.session_of(uow.session, caller, session_id), caller)
    if domain.end_session(session, uow.now):
        uow.emit(domain.session_fact(session))
        uow.note(session_id=session_id)


async def read_self(uow: UnitOfWork) -> User:
    """The caller's account. Raises NotFound."""
    user = await repository.user(uow.session, _caller(uow))
    if user is None:
        raise NotFound
    return user


async def list_users(uow: UnitOfWork, after: UUID | None, limit: int) -> list[User]:
    """All accounts."""
    return await repository.users(uow.session, after, limit)


async def change_user(
    uow: UnitOfWork, user_id: UUID, version: int, status: UserStatus | None, roles: frozenset[ClusterRole] | None
) -> User:
    """Block, unblock or give cluster roles; blocking ends all sessions. Raises NotFound, PreconditionFailed and the domain's."""
    user, administrators = await repository.user_and_administrators(uow.session, user_id)
    if user is None:
        raise NotFound
    expect(version, user.version)
    if not domain.change(user, status, roles, administrators):
        return user
    uow.emit(domain.user_fact(user))
    if user.status == UserStatus.BLOCKED:
        for session in await repository.open_sessions(uow.session, user_id, uow.now):
            domain.end_session(session, uow.now)
            uow.emit(domain.session_fact(session))
    uow.note(user_id=user_id, status=user.status, cluster_roles=" ".join(user.cluster_roles))
    return user


async def signing_key(uow: UnitOfWork, safe: Vault) -> SigningKey:
    """The key that signs access tokens; the first call ever makes it and says so."""
    key = await repository.signing_key(uow.session)
    if key is None:
        await repository.lock_set_up(uow.session)
        key = await repository.signing_key(uow.session)
    if key is None:
        key_id = str(uow.new_id())
        sealed, jwk = safe.new_signing_key(key_id)
        key = SigningKey(key_id=key_id, sealed=sealed, jwk=jwk, live=True, version=1, created_at=uow.now)
        uow.session.add(key)
        uow.emit(domain.key_fact(key))
    return key


async def invite_first_administrator(uow: UnitOfWork, email: str, setup_file: Path) -> None:
    """While no administrator exists, see to it that the token in ``setup_file`` opens an invitation for the first one.

    One replica at a time; a token that lies in the file and is still open stays. The file is written before the commit
    and compared at the next start, so a crash between the two leaves nothing but a token to be replaced.
    """
    await repository.lock_set_up(uow.session)
    if await repository.has_administrator(uow.session):
        vault.forget_token(setup_file)
        return
    invitation = await repository.first_invitation(uow.session)
    kept = vault.kept_token(setup_file)
    is_open = invitation is not None and invitation.expires_at > uow.now
    if invitation is not None and is_open and kept is not None and vault.token_hash(kept) == invitation.token_hash:
        return
    token = vault.new_token()
    if invitation is None:
        normal = domain.normal_email(email)
        await repository.lock_names(uow.session)
        username = await _free_username(uow, normal)
        roles = frozenset({ClusterRole.ADMINISTRATOR})
        user, invitation = domain.invite(uow.new_id(), username, normal, roles, vault.token_hash(token), uow.now, first=True)
        uow.session.add(user)
        await uow.session.flush()
        uow.emit(domain.user_fact(user))
    else:
        domain.reissue(invitation, vault.token_hash(token), uow.now)
    uow.session.add(invitation)
    uow.note(user_id=invitation.user_id)
    vault.keep_token(setup_file, token)


async def forget_attempts(uow: UnitOfWork) -> None:
    """Forget failed sign-ins after a time of quiet."""
    await repository.forget_attempts(uow.session, domain.FORGET_FAILURES)
