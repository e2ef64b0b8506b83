"""Accounts: inviting, accepting, confirming, changing; and the first administrator."""

from itertools import islice
from pathlib import Path
from uuid import UUID

from chassis.errors import NotFound
from chassis.guard import OpenUow, expect
from chassis.outbox import UnitOfWork
from contracts.events import UserStatus
from contracts.roles import ClusterRole
from services.auth import domain, repository, vault
from services.auth.models import User
from services.auth.service import callers, sessions, totp
from services.auth.service.tools import Tools
from services.auth.service.totp import SecondFactor
from services.auth.vault import Vault

NAMES_AT_ONCE = 100


async def free_username(uow: UnitOfWork, email: str) -> str:
    """The username that somebody with this address gets; names are locked."""
    candidates = domain.accounts.usernames(email)
    while names := list(islice(candidates, NAMES_AT_ONCE)):
        taken = await repository.accounts.taken_usernames(uow.session, names)
        for name in names:
            if name not in taken:
                return name
    raise domain.accounts.EmailTaken


async def invite(uow: UnitOfWork, email: str, roles: frozenset[ClusterRole]) -> tuple[User, str]:
    """Invite a person, or invite them again while they have not confirmed; the account and its one-time token.

    Raises BadEmail, EmailTaken.
    """
    domain.accounts.demand_fresh_factor_for(roles, uow.actor.factor_fresh)
    normal = domain.accounts.normal_email(email)
    await repository.accounts.lock_names(uow.session)
    token = vault.new_token()
    hashed = vault.token_hash(token)
    user = await repository.accounts.user_with_email(uow.session, normal)
    if user is None:
        username = await free_username(uow, normal)
        user, invitation = domain.accounts.invite(uow.new_id(), username, normal, roles, hashed, uow.now)
        uow.session.add(user)
        await uow.session.flush()
        uow.emit(domain.accounts.user_fact(user))
    else:
        version = user.version
        known = await repository.accounts.invitation_of(uow.session, user.user_id)
        invitation = domain.accounts.invite_again(user, known, roles, hashed, uow.now)
        if user.version != version:
            uow.emit(domain.accounts.user_fact(user))
    uow.session.add(invitation)
    uow.note(user_id=user.user_id)
    uow.conceal()
    return user, token


async def accept(later: OpenUow, tools: Tools, token: str, password: str) -> SecondFactor:
    """Choose a password and get a second factor; a repetition replaces both until they are confirmed.

    Raises InvitationNotOpen, CannotDecide.
    """
    hashed = vault.token_hash(token)
    async with repository.reading(tools.engine) as session:
        domain.accounts.demand_open(*await repository.accounts.invitation_by_token(session, hashed), await repository.clock(session))
    password_hash = await tools.passwords.hash(password)
    uow = await later()
    found = await repository.accounts.invitation_by_token(uow.session, hashed, lock=True)
    invitation, user = domain.accounts.demand_open(*found, await repository.clock(uow.session))
    factor = totp.second_factor(user.username)
    invitation.password_hash = password_hash
    invitation.totp_sealed = tools.vault.seal_totp(factor.secret, user.user_id)
    callers.acts(uow, user)
    uow.note(user_id=user.user_id)
    uow.conceal()
    return factor


async def confirm(uow: UnitOfWork, safe: Vault, token: str, code: str) -> User:
    """Make the account active by showing that the authenticator works; the token and the code are spent.

    Raises InvitationNotOpen, NotAcceptedYet, WrongCode.
    """
    found = await repository.accounts.invitation_by_token(uow.session, vault.token_hash(token), lock=True)
    now = await repository.clock(uow.session)
    invitation, user = domain.accounts.demand_open(*found, now)
    step = None
    if invitation.totp_sealed is not None:
        step = domain.factors.matching_step(safe.open_totp(invitation.totp_sealed, user.user_id), code, now, last_step=-1)
    uow.session.add(domain.accounts.confirm(user, invitation, step, now))
    await uow.session.delete(invitation)
    uow.emit(domain.accounts.user_fact(user))
    callers.acts(uow, user)
    uow.note(user_id=user.user_id)
    return user


async def read_self(uow: UnitOfWork) -> User:
    """The caller's account. Raises NotFound."""
    user = await repository.accounts.user(uow.session, callers.caller(uow))
    if user is None:
        raise NotFound
    return user


async def list_users(uow: UnitOfWork, after: UUID | None, limit: int) -> list[User]:
    """All accounts."""
    return await repository.accounts.users(uow.session, after, limit)


async def change_user(
    uow: UnitOfWork, user_id: UUID, version: int, status: UserStatus | None, roles: frozenset[ClusterRole] | None
) -> User:
    """Block, unblock or give cluster roles; blocking ends all sessions. Raises NotFound, PreconditionFailed and the domain's."""
    domain.accounts.demand_fresh_factor_for(roles or (), uow.actor.factor_fresh)
    user, administrators = await repository.accounts.user_and_administrators(uow.session, user_id)
    if user is None:
        raise NotFound
    expect(version, user.version)
    if not domain.accounts.change(user, status, roles, administrators):
        return user
    uow.emit(domain.accounts.user_fact(user))
    if user.status == UserStatus.BLOCKED:
        await sessions.end_all(uow, user_id, "account-blocked")
    uow.note(user_id=user_id, status=user.status, cluster_roles=" ".join(user.cluster_roles))
    return user


async def invite_first_administrator(uow: UnitOfWork, email: str, setup_file: Path) -> None:
    """While no administrator exists, see to it that the token in ``setup_file`` opens an invitation for the first one.

    One replica at a time; a token that lies in the file and is still open stays. The file is written before the commit
    and compared at the next start, so a crash between the two leaves nothing but a token to be replaced.
    """
    await repository.accounts.lock_set_up(uow.session)
    if await repository.accounts.has_administrator(uow.session):
        vault.forget_token(setup_file)
        return
    invitation = await repository.accounts.first_invitation(uow.session)
    kept = vault.kept_token(setup_file)
    is_open = invitation is not None and invitation.expires_at > uow.now
    if invitation is not None and is_open and kept is not None and vault.token_hash(kept) == invitation.token_hash:
        return
    token = vault.new_token()
    if invitation is None:
        normal = domain.accounts.normal_email(email)
        await repository.accounts.lock_names(uow.session)
        username = await free_username(uow, normal)
        roles = frozenset({ClusterRole.ADMINISTRATOR})
        user, invitation = domain.accounts.invite(uow.new_id(), username, normal, roles, vault.token_hash(token), uow.now, first=True)
        uow.session.add(user)
        await uow.session.flush()
        uow.emit(domain.accounts.user_fact(user))
    else:
        domain.accounts.reissue(invitation, vault.token_hash(token), uow.now)
    uow.session.add(invitation)
    uow.note(user_id=invitation.user_id)
    vault.keep_token(setup_file, token)
