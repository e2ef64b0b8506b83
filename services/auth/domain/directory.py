"""The rules of people in directories: who they are there, whether they may sign in, and what becomes of their accounts."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from chassis.errors import CannotDecide, Unprocessable
from contracts.events import UserStatus
from services.auth.domain.accounts import normal_email, normal_name
from services.auth.domain.groups import compared
from services.auth.domain.status import put_status
from services.auth.models import User
from services.auth.settings import MISSING_DAYS, VOUCH_DAYS, DirectorySettings

SOURCE = "ldap"
LEFT = "directory"
ACCOUNT_DISABLED = 0x2
NEVER_EXPIRES = frozenset({0, 0x7FFF_FFFF_FFFF_FFFF})
FILETIME_BEGINS = datetime(1601, 1, 1, tzinfo=UTC)
LOCKED_FOR_GOOD = b"000001010000Z"
FEW = 10

Attributes = Mapping[str, Sequence[bytes]]


class DirectoryAway(CannotDecide):
    """What is not right here may be right in the directory, and that cannot be asked."""

    title = "The directory that checks passwords does not answer"


@dataclass(frozen=True)
class Person:
    """Somebody as a directory knows them; ``email`` is None where they have no address that can be one of an account."""

    external_id: str
    dn: str
    logins: frozenset[str]
    email: str | None
    enabled: bool


def person(dn: str, attributes: Attributes, settings: DirectorySettings, now: datetime) -> Person | None:
    """Somebody from their attributes (names in lower case), or None without an id."""
    raw_ids = attributes.get(settings.id_attribute.lower(), ())
    external_id = read_id(raw_ids[0], settings) if len(raw_ids) == 1 else None
    if external_id is None:
        return None
    logins = [normal_name(text) for name in settings.login_attributes for text in _texts(attributes, name)]
    return Person(
        external_id=external_id,
        dn=dn,
        logins=frozenset(logins),
        email=_email(_texts(attributes, settings.mail_attribute), logins, settings.mail_domain),
        enabled=enabled(attributes, now),
    )


def read_id(raw: bytes, settings: DirectorySettings) -> str | None:
    """An entryUUID or objectGUID ([MS-DTYP] 2.3.4.2: little-endian) as a UUID's text."""
    try:
        return str(UUID(bytes_le=raw) if settings.id_attribute == "objectGUID" else UUID(raw.decode("ascii")))
    except ValueError:
        return None


def raw_id(external_id: str, settings: DirectorySettings) -> bytes:
    """The same as the directory stores it."""
    return UUID(external_id).bytes_le if settings.id_attribute == "objectGUID" else external_id.encode()


def _texts(attributes: Attributes, name: str) -> list[str]:
    return [raw.decode("utf-8", errors="replace") for raw in attributes.get(name.lower(), ())]


def _email(given: Sequence[str], logins: Sequence[str], mail_domain: str | None) -> str | None:
    made = [f"{login}@{mail_domain}" for login in logins if "@" not in login] if mail_domain else []
    for address in (*given, *made):
        try:
            return normal_email(address)
        except Unprocessable:
            continue
    return None


def is_called(somebody: Person, login: str) -> bool:
    """Whether a login as typed is one of a person's own; directories compare more loosely than accounts are told apart."""
    return normal_name(login) in somebody.logins


def enabled(attributes: Attributes, now: datetime) -> bool:
    """Whether a directory lets somebody in: not disabled, expired or locked for good.

    A lock after failed tries, which ends by itself, is none: others can bring it about.
    """
    control = _number(attributes, "userAccountControl")
    expires = _number(attributes, "accountExpires")
    if control is not None and control & ACCOUNT_DISABLED:
        return False
    if expires is not None and expires not in NEVER_EXPIRES and expires // 10 < (now - FILETIME_BEGINS) // timedelta(microseconds=1):
        return False
    locked = LOCKED_FOR_GOOD in attributes.get("pwdaccountlockedtime", ())
    return not locked and not any(text.lower() == "true" for text in _texts(attributes, "nsAccountLock"))


def _number(attributes: Attributes, name: str) -> int | None:
    try:
        return int(attributes[name.lower()][0])
    except (KeyError, IndexError, ValueError):
        return None


def may_sign_in(somebody: Person, groups: Collection[str], settings: DirectorySettings) -> bool:
    """Whether somebody is let in: enabled, and in one of the groups that may sign in, if there are any."""
    wanted = {compared(name) for name in settings.only_groups}
    return somebody.enabled and (not wanted or bool(wanted & {compared(name) for name in groups}))


def account(user_id: UUID, username: str, email: str, somebody: Person, settings: DirectorySettings, now: datetime) -> User:
    """The account of somebody who signs in for the first time: the directory has confirmed who they are."""
    return User(
        user_id=user_id,
        username=username,
        email=email,
        status=UserStatus.ACTIVE.value,
        cluster_roles=[],
        version=1,
        created_at=now,
        confirmed_at=now,
        source=SOURCE,
        provider=settings.name,
        external_id=somebody.external_id,
    )


def stays_out(user: User) -> bool:
    """Whether an administrator deactivated the account, and no directory: it takes nothing from one, and does not come back by one."""
    return user.status == UserStatus.DEACTIVATED and user.gone_at is None


def miss(user: User, now: datetime) -> None:
    """The directory does not let somebody in any more, and their account stays for now: a passkey alone does not let them in either."""
    if not stays_out(user):
        user.gone_at = user.gone_at or now


def leave(user: User, now: datetime) -> bool:
    """The directory does not let somebody in any more; whether the account's status changed.

    A blocked one stays blocked. One that an administrator deactivated stays theirs: it does not come back by the directory.
    """
    if user.status == UserStatus.DEACTIVATED:
        return False
    miss(user, now)
    if user.status != UserStatus.ACTIVE:
        return False
    put_status(user, UserStatus.DEACTIVATED)
    user.version += 1
    return True


def come_back(user: User) -> bool:
    """The directory lets somebody in again; whether the account's status changed: what an administrator did stays."""
    gone, user.gone_at = user.gone_at, None
    if gone is None or user.status != UserStatus.DEACTIVATED:
        return False
    put_status(user, UserStatus.ACTIVE)
    user.version += 1
    return True


def is_in_doubt(user: User, settings: DirectorySettings | None, now: datetime) -> bool:
    """Whether what somebody has by a directory's word ends: it lacks them for days, or nobody heard of them from it for longer.

    ``settings`` is None for a directory that is not configured any more; it vouches for nobody.
    """
    missing, vouch = (settings.missing_days, settings.vouch_days) if settings else (MISSING_DAYS, VOUCH_DAYS)
    missed = user.gone_at is not None and now - user.gone_at > timedelta(days=missing)
    return user.source == SOURCE and (missed or now - (user.vouched_at or user.created_at) > timedelta(days=vouch))


def is_too_much(leaving: int, active: int) -> bool:
    """Whether so many leave at once that the answer is not to be believed: more than half of ten or more."""
    return active >= FEW and 2 * leaving > active


def staying(leaving: Collection[User], active: int, believed: Collection[UUID]) -> tuple[set[UUID], set[UUID]]:
    """Who of the ``active`` people that the directory does not let in any more stays for now, and who besides until it lacks them in the next look too.

    All stay where they are too many to be believed. Where those who were missing before make them too many, these stay, and whoever leaves now is
    judged among the others: they stay for one look more, unless ``believed``, as whom the last look lacked or this one shows to be disabled.
    """
    if not is_too_much(len(leaving), active):
        return set(), set()
    gone = {user.user_id for user in leaving}
    missing = {user.user_id for user in leaving if user.gone_at is not None}
    if 2 * len(gone - missing) > active - len(missing):
        return gone, set()
    return missing, gone - missing - set(believed)


def doubted(named: Mapping[UUID, Collection[str]]) -> set[UUID]:
    """Whose groups are not followed for now, for too many whom a directory put into groups are in none at all by what it has ``named``.

    An account that looks and lost its rights to see groups sees just that, and no error.
    """
    without = {user_id for user_id, names in named.items() if not names}
    return without if is_too_much(len(without), len(named)) else set()
