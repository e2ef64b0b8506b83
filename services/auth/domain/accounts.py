"""The rules of accounts and invitations."""

import re
import unicodedata
from collections.abc import Collection, Iterator
from datetime import datetime, timedelta
from uuid import UUID

from chassis.errors import Conflict, FactorTooOld, NotFound, Unprocessable
from contracts import events
from contracts.events import UserStatus
from contracts.roles import ClusterRole
from services.auth.domain.factors import WrongCode
from services.auth.models import Credential, Invitation, User

NO_ONE = UUID(int=0)
INVITATION_LIFE = timedelta(hours=24)
USERNAME_LENGTH = 8
MAX_EMAIL = 254
MAX_LOCAL = 64
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


class NotConfirmedYet(Conflict):
    """An account becomes active only when its person confirms the invitation."""

    title = "This person has not confirmed their invitation yet"


class AccountNotActive(Conflict):
    """A second factor is reset only where somebody can sign in."""

    title = "This account is not active"


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


def invite_again(user: User, invitation: Invitation | None, roles: Collection[ClusterRole], token_hash: bytes, now: datetime) -> Invitation:
    """Another token for somebody who has not confirmed yet; the one before is void. Raises EmailTaken."""
    if user.status != UserStatus.INVITED:
        raise EmailTaken
    if set(user.cluster_roles) != set(roles):
        user.cluster_roles = user.own_roles = _sorted(roles)
        user.version += 1
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
    user.status = UserStatus.ACTIVE.value
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


def demand_fresh_factor_for(roles: Collection[ClusterRole], fresh: bool) -> None:
    """Condition.ROLES_NEED_FRESH_FACTOR: whoever gives ``roles`` has a ``fresh`` second factor. Raises FactorTooOld."""
    if roles and not fresh:
        raise FactorTooOld


def change(user: User, status: UserStatus | None, roles: Collection[ClusterRole] | None, administrators: Collection[UUID]) -> bool:
    """Condition.LAST_ADMINISTRATOR_STAYS: block, unblock or give cluster roles; whether that changed anything.

    ``administrators`` are the active ones. Unblocking somebody who never confirmed makes them invited again.
    Raises NotConfirmedYet, LastAdministratorStays.
    """
    wanted_roles = user.cluster_roles if roles is None else _sorted(roles)
    wanted_status = user.status if status is None else status.value
    if status is UserStatus.ACTIVE and user.confirmed_at is None:
        if user.status != UserStatus.BLOCKED:
            raise NotConfirmedYet
        wanted_status = UserStatus.INVITED.value
    if (wanted_status, wanted_roles) == (user.status, user.cluster_roles):
        return False
    stays = wanted_status == UserStatus.ACTIVE and ClusterRole.ADMINISTRATOR in wanted_roles
    if user.user_id in administrators and not stays and len(administrators) == 1:
        raise LastAdministratorStays
    user.status = wanted_status
    user.cluster_roles = user.own_roles = wanted_roles
    user.version += 1
    return True


def demand_active(user: User) -> None:
    """Refuse what makes sense for an active account alone. Raises AccountNotActive."""
    if user.status != UserStatus.ACTIVE:
        raise AccountNotActive


def user_fact(user: User) -> events.User:
    """What an account is now, for others to hear: no address, no secret."""
    return events.User(
        version=user.version,
        user_id=user.user_id,
        username=user.username,
        status=UserStatus(user.status),
        cluster_roles=frozenset(ClusterRole(role) for role in user.cluster_roles),
        groups=frozenset(user.groups),
    )


def _sorted(roles: Collection[ClusterRole]) -> list[str]:
    return sorted({role.value for role in roles})
