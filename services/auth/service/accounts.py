"""Accounts: inviting, accepting, confirming, changing; and the first administrator."""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from uuid import UUID

from chassis.errors import NotFound
from chassis.guard import OpenUow, expect
from chassis.outbox import UnitOfWork
from contracts.events import UserStatus
from contracts.roles import ClusterRole
from services.auth import domain, repository, vault
from services.auth.domain.letters import Kind
from services.auth.models import Group, User
from services.auth.service import callers, keys, letters, passwords, sessions, totp
from services.auth.service.tools import About, Tools
from services.auth.service.totp import SecondFactor
from services.auth.vault import Vault

NAMES_AT_ONCE = 100


@dataclass(frozen=True)
class Invited:
    """An account, and the token of its invitation where one was made and not mailed."""

    user: User
    token: str | None
    mailed: bool


async def free_username(uow: UnitOfWork, email: str) -> str:
    """The username that somebody with this address gets; names are locked."""
    candidates = domain.accounts.usernames(email)
    while names := list(islice(candidates, NAMES_AT_ONCE)):
        taken = await repository.accounts.taken_usernames(uow.session, names)
        for name in names:
            if name not in taken:
                return name
    raise domain.accounts.EmailTaken


async def new_address(uow: UnitOfWork, user: User, email: str | None) -> str | None:
    """The address that an account gets in the place of its own, unless somebody has it; None where none comes.

    Names are locked until the account has it, so whoever calls this holds no group and no account yet.
    """
    if email in (None, user.email):
        return None
    await repository.accounts.lock_names(uow.session)
    return email if await repository.accounts.user_with_email(uow.session, str(email)) is None else None


async def _groups_of(uow: UnitOfWork, user_id: UUID) -> list[Group]:
    """The groups that somebody is in."""
    return (await repository.groups.groups_of(uow.session, [user_id])).get(user_id, [])


async def _hand_out(uow: UnitOfWork, tools: Tools, user: User, token: str) -> Invited:
    """Mail an invitation's token, or give it back to be shown once where no mail is configured."""
    if not letters.possible(tools):
        uow.conceal()
        return Invited(user, token, mailed=False)
    await letters.write(uow, tools, user.user_id, user.email, Kind.INVITATION, username=user.username, token=token)
    return Invited(user, None, mailed=True)


async def invite(uow: UnitOfWork, tools: Tools, email: str, roles: frozenset[ClusterRole], *, again: bool = True) -> Invited:
    """Invite a person, or invite them ``again`` while they have not confirmed. Raises BadEmail, EmailTaken, FactorTooOld."""
    domain.accounts.demand_fresh_factor_for(roles, uow.actor.factor_fresh)
    normal = domain.accounts.normal_email(email)
    await repository.accounts.lock_names(uow.session)
    token = vault.new_token()
    hashed = vault.token_hash(token)
    user = await repository.accounts.user_with_email(uow.session, normal, lock=True)
    if user is None:
        username = await free_username(uow, normal)
        user, invitation = domain.accounts.invite(uow.new_id(), username, normal, roles, hashed, uow.now)
        uow.session.add(user)
        await uow.session.flush()
        uow.emit(domain.accounts.user_fact(user))
    elif not again:
        raise domain.accounts.EmailTaken
    else:
        version = user.version
        known = await repository.accounts.invitation_of(uow.session, user.user_id)
        groups = await _groups_of(uow, user.user_id)
        invitation = domain.accounts.invite_again(user, known, roles, groups, hashed, uow.now)
        domain.accounts.demand_fresh_factor_for_token(uow.actor.factor_fresh)
        if user.version != version:
            uow.emit(domain.accounts.user_fact(user))
    uow.session.add(invitation)
    uow.note(user_id=user.user_id)
    return await _hand_out(uow, tools, user, token)


async def accept(later: OpenUow, tools: Tools, token: str, password: str, about: About) -> SecondFactor:
    """Choose a password and get a second factor; a repetition replaces both until they are confirmed.

    Raises InvitationNotOpen, PasswordTooWeak, CannotDecide.
    """
    hashed = vault.token_hash(token)
    async with repository.reading(tools.engine) as session:
        found = await repository.accounts.invitation_by_token(session, hashed)
        _, known = domain.accounts.demand_open(*found, await repository.clock(session))
    await passwords.demand_strong(tools, password, known, about.source)
    password_hash = await tools.passwords.hash(password, domain.patience.source_prefix(about.source))
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


async def list_users(uow: UnitOfWork, status: UserStatus | None, begins: str, after: UUID | None, limit: int) -> list[User]:
    """All accounts, or those of a status, and whose username or address begins with what somebody typed."""
    return await repository.accounts.users(uow.session, status, domain.accounts.normal_name(begins), after, limit)


async def read_user(uow: UnitOfWork, user_id: UUID) -> tuple[User, repository.accounts.Standing]:
    """An account, and what it can sign in with. Raises NotFound."""
    user = await repository.accounts.user(uow.session, user_id)
    if user is None:
        raise NotFound
    return user, await repository.accounts.standing(uow.session, user_id)


async def change_user(
    uow: UnitOfWork, tools: Tools, user_id: UUID, version: int, status: UserStatus | None, roles: frozenset[ClusterRole] | None
) -> Invited:
    """Block, unblock, deactivate, activate again, or give cluster roles; who may not come in any more is out at once.

    Raises NotFound, PreconditionFailed, FactorTooOld and the domain's.
    """
    user, administrators = await repository.accounts.user_and_administrators(uow.session, user_id)
    if user is None:
        raise NotFound
    expect(version, user.version)
    before = UserStatus(user.status)
    domain.accounts.demand_fresh_factor_for(domain.accounts.roles_given(user, status, roles), uow.actor.factor_fresh)
    groups = await _groups_of(uow, user_id)
    if not domain.accounts.change(user, status, roles, groups, administrators):
        return Invited(user, None, mailed=False)
    uow.emit(domain.accounts.user_fact(user))
    uow.note(user_id=user_id, status=user.status, cluster_roles=" ".join(user.cluster_roles))
    if user.status in (UserStatus.BLOCKED, UserStatus.DEACTIVATED):
        await sessions.end_all(uow, user_id, user.status)
        await keys.end_all(uow, user_id)
        await repository.accounts.forget_links(uow.session, user_id)
    if domain.directory.stays_out(user):
        await _forget(uow, user_id)
    if before is UserStatus.DEACTIVATED and user.status == UserStatus.INVITED:
        domain.accounts.demand_fresh_factor_for_token(uow.actor.factor_fresh)
        token = vault.new_token()
        uow.session.add(domain.accounts.invite_anew(user, None, vault.token_hash(token), uow.now))
        return await _hand_out(uow, tools, user, token)
    return Invited(user, None, mailed=False)


async def _forget(uow: UnitOfWork, user_id: UUID) -> None:
    """Erase what somebody who left could come back with; their name stays theirs for ever."""
    await repository.accounts.forget_ways_in(uow.session, user_id)
    await repository.accounts.leave_groups(uow.session, user_id)
    await repository.letters.forget_letters(uow.session, user_id)


async def recover(uow: UnitOfWork, tools: Tools, name: str, *, make_administrator: bool) -> tuple[User, str]:
    """Give an administrator who cannot sign in a new invitation; the account and its one-time token.

    What the account signed in with is erased, its sessions and API keys end, and the other administrators are told by letter.
    Raises NotFound, PasswordIsElsewhere, NoAdministrator.
    """
    known = await repository.accounts.user_named(uow.session, domain.accounts.normal_name(name))
    user = await repository.accounts.user(uow.session, known.user_id, lock=True) if known else None
    if user is None:
        raise NotFound
    groups = await _groups_of(uow, user.user_id)
    domain.accounts.recover(user, groups, make_administrator=make_administrator)
    uow.emit(domain.accounts.user_fact(user))
    await sessions.end_all(uow, user.user_id, "recovered")
    await keys.end_all(uow, user.user_id)
    await repository.accounts.forget_ways_in(uow.session, user.user_id)
    token = vault.new_token()
    uow.session.add(domain.accounts.invite_anew(user, None, vault.token_hash(token), uow.now))
    for administrator in await repository.accounts.administrators(uow.session):
        await letters.write(uow, tools, administrator.user_id, administrator.email, Kind.RECOVERED, username=user.username)
    uow.note(user_id=user.user_id, cluster_roles=" ".join(user.cluster_roles))
    return user, token


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
