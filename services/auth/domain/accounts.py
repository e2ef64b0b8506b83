"""The rules of accounts and invitations."""

import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from datetime import datetime, timedelta
from uuid import UUID

from chassis.errors import Conflict, FactorTooOld, NotFound, Unprocessable
from contracts import events
from contracts.events import UserStatus
from contracts.roles import ClusterRole
from services.auth.domain.factors import WrongCode
from services.auth.domain.status import HasLeft, next_status, put_status
from services.auth.models import Credential, Group, Invitation, User

NO_ONE = UUID(int=0)
INVITATION_LIFE = timedelta(hours=24)
USERNAME_LENGTH = 8
MAX_EMAIL = 254
MAX_LOCAL = 64
LOCAL = "local"
DOMAIN = re.compile(r"(?=.{1,253}$)[^\W_](?:[\w-]{0,61}[^\W_])?(?:\.[^\W_](?:[\w-]{0,61}[^\W_])?)*")
NOT_IN_ADDRESSES = frozenset('@"(),:;<>[]\\')


class BadEmail(Unprocessable):
    """The address is none."""

    title = "This is no e-mail address"


class EmailTaken(Conflict):
    """Somebody has an account with this address."""

    title = "There is an account with this address"


class InvitationNotOpen(NotFound):
    """INVITATION_IS_OPEN: the token is unknown, was used, or is too old, or the account is blocked."""

    title = "This invitation is not known, was used, or is too old"


class NotAcceptedYet(Conflict):
    """A confirmation before a password was chosen."""

    title = "Accept the invitation first"


class LastAdministratorStays(Conflict):
    """LAST_ADMINISTRATOR_STAYS: the change would leave nobody who administers."""

    title = "The last active administrator stays"


class AccountNotActive(Conflict):
    """What was asked for needs an active account."""

    title = "This account is not active"


class PasswordIsElsewhere(Conflict):
    """A directory or identity provider checks the password of this account."""

    title = "The password of this account is kept by the organisation's directory; it is changed there"


class NoAdministrator(Conflict):
    """The account to recover is no administrator's."""

    title = "This account is no administrator's"


def normal_email(email: str) -> str:
    """An address in the form in which it is unique: NFKC, case folded. Raises BadEmail."""
    normal = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", email).casefold())
    local, at, domain = normal.rpartition("@")
    shown = all(unicodedata.category(character)[0] not in "CZ" and character not in NOT_IN_ADDRESSES for character in local)
    dots = local.startswith(".") or local.endswith(".") or ".." in local
    if not at or not 1 <= len(local) <= MAX_LOCAL or not shown or dots or len(normal) > MAX_EMAIL or not DOMAIN.fullmatch(domain):
        raise BadEmail
    return normal


def normal_name(name: str) -> str:
    """A name as typed at sign-in, username or address, in the form in which both are stored."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name.strip()).casefold())


def usernames(email: str) -> Iterator[str]:
    """The usernames that an address can get, in the order in which they are tried: always 8 lower-case ASCII alphanumerics.

    First the first eight alphanumerics of the local part, padded with zeros; then the last characters give way to a
    number (facts/hopsworks-model.md section 4).
    """
    local = unicodedata.normalize("NFKD", email.rpartition("@")[0]).lower()
    stem = "".join(character for character in local if character.isascii() and character.isalnum())
    base = stem[:USERNAME_LENGTH].ljust(USERNAME_LENGTH, "0")
    yield base
    for number in range(1, 10**USERNAME_LENGTH):
        suffix = str(number)
        yield base[: USERNAME_LENGTH - len(suffix)] + suffix


def invite(
    user_id: UUID, username: str, email: str, roles: Collection[ClusterRole], token_hash: bytes, now: datetime, *, first: bool = False
) -> tuple[User, Invitation]:
    """A new account and its invitation, open for 24 h."""
    user = User(
        user_id=user_id,
        username=username,
        email=email,
        status=UserStatus.INVITED.value,
        cluster_roles=_sorted(roles),
        version=1,
        created_at=now,
        confirmed_at=None,
        own_roles=_sorted(roles),
    )
    return user, Invitation(user_id=user_id, token_hash=token_hash, expires_at=now + INVITATION_LIFE, first=first)


def effective(own: Iterable[str], groups: Iterable[Group]) -> list[str]:
    """The cluster roles that count: a person's own and those of their groups together."""
    return sorted({*own, *(role for group in groups for role in group.cluster_roles)})


def invite_again(
    user: User, invitation: Invitation | None, roles: Collection[ClusterRole], groups: Collection[Group], token_hash: bytes, now: datetime
) -> Invitation:
    """Another token for somebody who has not confirmed yet; the one before is void. Raises EmailTaken."""
    if user.status != UserStatus.INVITED:
        raise EmailTaken
    if set(user.own_roles) != set(roles):
        user.own_roles = _sorted(roles)
        user.cluster_roles = effective(user.own_roles, groups)
        user.version += 1
    return invite_anew(user, invitation, token_hash, now)


def invite_anew(user: User, invitation: Invitation | None, token_hash: bytes, now: datetime) -> Invitation:
    """An invitation for an account that is there, in the place of the one before, if any."""
    if invitation is None:
        return Invitation(user_id=user.user_id, token_hash=token_hash, expires_at=now + INVITATION_LIFE, first=False)
    return reissue(invitation, token_hash, now)


def reissue(invitation: Invitation, token_hash: bytes, now: datetime) -> Invitation:
    """Put a new token in the place of the old one; what its holder had chosen is forgotten."""
    invitation.token_hash = token_hash
    invitation.expires_at = now + INVITATION_LIFE
    invitation.password_hash = None
    invitation.totp_sealed = None
    return invitation


def demand_open(invitation: Invitation | None, user: User | None, now: datetime) -> tuple[Invitation, User]:
    """Condition.INVITATION_IS_OPEN: the invitation and its account. Raises InvitationNotOpen."""
    if invitation is None or user is None or invitation.expires_at <= now or user.status != UserStatus.INVITED:
        raise InvitationNotOpen
    return invitation, user


def confirm(user: User, invitation: Invitation, step: int | None, now: datetime) -> Credential:
    """Make the account active with what was chosen; ``step`` is the code's step, which is used up.

    Raises NotAcceptedYet, WrongCode.
    """
    if invitation.password_hash is None or invitation.totp_sealed is None:
        raise NotAcceptedYet
    if step is None:
        raise WrongCode
    put_status(user, UserStatus.ACTIVE)
    user.confirmed_at = now
    user.factor_enrolled_at = now
    user.version += 1
    return Credential(
        user_id=user.user_id,
        password_hash=invitation.password_hash,
        totp_sealed=invitation.totp_sealed,
        last_step=step,
        totp_at=now,
        password_at=now,
    )


def demand_fresh_factor_for(roles: Collection[str], fresh: bool) -> None:
    """Condition.ROLES_NEED_FRESH_FACTOR: whoever gives ``roles`` has a ``fresh`` second factor. Raises FactorTooOld."""
    if roles and not fresh:
        raise FactorTooOld


def demand_fresh_factor_for_token(fresh: bool) -> None:
    """Condition.ROLES_NEED_FRESH_FACTOR: likewise whoever is handed a token for an account that is there already, whatever its roles."""
    if not fresh:
        raise FactorTooOld


def roles_given(user: User, status: UserStatus | None, roles: Collection[ClusterRole] | None) -> Collection[str]:
    """The cluster roles that a change gives: those it names, and those that come back into force with an account that was not active."""
    comes_back = status is UserStatus.ACTIVE and user.status != UserStatus.ACTIVE
    return {*(roles or ()), *(user.cluster_roles if comes_back else ())}


def demand_administrator_stays(administrators: Collection[UUID], leaving: Collection[UUID]) -> None:
    """Condition.LAST_ADMINISTRATOR_STAYS: of the active ``administrators``, not all are ``leaving``. Raises LastAdministratorStays."""
    if administrators and set(administrators) <= set(leaving):
        raise LastAdministratorStays


def change(
    user: User,
    status: UserStatus | None,
    roles: Collection[ClusterRole] | None,
    groups: Collection[Group],
    administrators: Collection[UUID],
) -> bool:
    """Block, unblock, deactivate, activate again, or give cluster roles; whether that changed anything.

    ``groups`` are the person's, ``administrators`` the active ones. Who never confirmed becomes invited again by being unblocked; whom an
    administrator deactivated, also after a directory, comes back as somebody new: invited, without roles and groups, or active where others
    know who they are. Another status is an administrator's word over a directory's. Raises NotConfirmedYet, HasLeft, LastAdministratorStays.
    """
    wanted_status = next_status(user, status)
    left, erases = user.status == UserStatus.DEACTIVATED, status is UserStatus.DEACTIVATED and user.gone_at is not None
    leaves = wanted_status is UserStatus.DEACTIVATED and (not left or erases)
    if left and wanted_status is UserStatus.DEACTIVATED and roles:
        raise HasLeft
    wanted_own = [] if leaves else user.own_roles if roles is None else _sorted(roles)
    wanted_roles = [] if leaves else effective(wanted_own, groups)
    if not erases and (wanted_status.value, wanted_own, wanted_roles) == (user.status, user.own_roles, user.cluster_roles):
        return False
    if wanted_status is not UserStatus.ACTIVE or ClusterRole.ADMINISTRATOR not in wanted_roles:
        demand_administrator_stays(administrators, [user.user_id])
    if leaves:
        user.groups = user.directory_groups = []
        user.confirmed_at = None if user.source == LOCAL else user.confirmed_at
        user.factor_enrolled_at = None
    user.gone_at = user.gone_at if wanted_status.value == user.status and not erases else None
    put_status(user, wanted_status)
    user.own_roles = wanted_own
    user.cluster_roles = wanted_roles
    user.version += 1
    return True


def demand_active(user: User) -> None:
    """The account is active. Raises AccountNotActive."""
    if user.status != UserStatus.ACTIVE:
        raise AccountNotActive


def recover(user: User, groups: Collection[Group], *, make_administrator: bool) -> None:
    """Make an account invited again, as an administrator, on the word of whoever holds the machine.

    Raises PasswordIsElsewhere for a directory's account, NoAdministrator for one that is none and is not to become one.
    """
    if user.source != LOCAL:
        raise PasswordIsElsewhere
    if ClusterRole.ADMINISTRATOR not in user.cluster_roles:
        if not make_administrator:
            raise NoAdministrator
        user.own_roles = sorted({*user.own_roles, ClusterRole.ADMINISTRATOR.value})
        user.cluster_roles = effective(user.own_roles, groups)
    put_status(user, UserStatus.INVITED)
    user.confirmed_at = user.factor_enrolled_at = None
    user.version += 1


def user_fact(user: User) -> events.User:
    """What an account is now, for others to hear: no address, no secret."""
    return events.User(
        version=user.version,
        user_id=user.user_id,
        username=user.username,
        status=UserStatus(user.status),
        cluster_roles=frozenset(ClusterRole(role) for role in user.cluster_roles),
        groups=frozenset(user.directory_groups),
        stops=user.stops,
        departures=user.departures,
    )


def _sorted(roles: Collection[ClusterRole]) -> list[str]:
    return sorted({role.value for role in roles})
