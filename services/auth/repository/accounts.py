"""The SQL of accounts and invitations."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import bindparam, delete, exists, func, or_, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from chassis.db import Row, as_stored, fetch
from contracts.events import UserStatus
from contracts.roles import ClusterRole
from services.auth.models import (
    ClientCode,
    Credential,
    GroupMember,
    Invitation,
    Link,
    Passkey,
    RecoveryCode,
    User,
)

SET_UP_LOCK = 0x61757468
NAMES_LOCK = 0x6E616D65


async def lock_set_up(session: AsyncSession) -> None:
    """Let one replica at a time set up, until the transaction ends."""
    await session.execute(text(f"SELECT pg_advisory_xact_lock({SET_UP_LOCK})"))


async def lock_names(session: AsyncSession) -> None:
    """Let one transaction at a time give out usernames."""
    await session.execute(text(f"SELECT pg_advisory_xact_lock({NAMES_LOCK})"))


_USER = select(User).where(col(User.user_id) == bindparam("user_id"))
_USER_LOCKED = _USER.with_for_update().execution_options(populate_existing=True)
_NAMED = or_(col(User.username) == bindparam("name"), col(User.email) == bindparam("name"))
_COLUMNS = ", ".join(User.model_fields)
_KNOWN = f"""SELECT {_COLUMNS}, password_hash, password_at, clock_timestamp() AS now
             FROM (SELECT) AS one LEFT JOIN (users LEFT JOIN credentials USING (user_id)) ON """  # noqa: S608 - our columns
_KNOWN_BY_NAME = f"{_KNOWN} username = $1 OR email = $1"
_KNOWN_BY_ID = f"{_KNOWN} user_id = $1"
_LOCKED = f"SELECT {_COLUMNS} FROM users WHERE user_id = $1 FOR UPDATE"  # noqa: S608 - our columns


@dataclass(frozen=True)
class Known:
    """Somebody as they are before slow work: the account, if there is one, the hash of its password, if it is kept here, and ``now``.

    The account is there to be read. ``password_at``: since when it has the password.
    """

    user: User | None
    password_hash: str | None
    password_at: datetime | None
    now: datetime


async def user(session: AsyncSession, user_id: UUID, *, lock: bool = False) -> User | None:
    """An account by its id."""
    return (await session.execute(_USER_LOCKED if lock else _USER, {"user_id": user_id})).scalar_one_or_none()


async def user_named(session: AsyncSession, name: str) -> User | None:
    """An account by its username or its address, both in their normal form."""
    return (await session.execute(select(User).where(_NAMED), {"name": name})).scalar_one_or_none()


async def locked(session: AsyncSession, user_id: UUID) -> User | None:
    """An account by its id, locked, to be read: ``user`` brings one that can be changed."""
    rows = await fetch(session, _LOCKED, user_id)
    return as_stored(User, rows[0]) if rows else None


async def known_by_name(session: AsyncSession, name: str) -> Known:
    """Whoever signs in with a name, in its normal form."""
    return _known(await fetch(session, _KNOWN_BY_NAME, name))


async def known_by_id(session: AsyncSession, user_id: UUID) -> Known:
    """Whoever has an id."""
    return _known(await fetch(session, _KNOWN_BY_ID, user_id))


def _known(rows: Sequence[Row]) -> Known:
    (row,) = rows
    account = dict(row)
    now, password_hash, password_at = (account.pop(name) for name in ("now", "password_hash", "password_at"))
    return Known(as_stored(User, account) if account["user_id"] else None, password_hash, password_at, now)


async def user_with_email(session: AsyncSession, email: str, *, lock: bool = False) -> User | None:
    """An account by its address."""
    query = select(User).where(col(User.email) == email)
    return (await session.execute(query.with_for_update() if lock else query)).scalar_one_or_none()


async def users(session: AsyncSession, status: UserStatus | None, prefix: str, after: UUID | None, limit: int) -> list[User]:
    """Accounts in the order in which they were made: all, or those of one status, and whose username or address begins with ``prefix``."""
    query = select(User).order_by(col(User.user_id)).limit(limit)
    if status is not None:
        query = query.where(col(User.status) == status.value)
    if prefix:
        begins = [column.startswith(prefix, autoescape=True) for column in (col(User.username), col(User.email))]
        query = query.where(or_(*begins))
    if after is not None:
        query = query.where(col(User.user_id) > after)
    return list((await session.execute(query)).scalars())


async def taken_usernames(session: AsyncSession, names: Collection[str]) -> set[str]:
    """Which of these usernames somebody has."""
    return set((await session.execute(select(col(User.username)).where(col(User.username).in_(names)))).scalars())


async def user_and_administrators(session: AsyncSession, user_id: UUID) -> tuple[User | None, list[UUID]]:
    """An account and the ids of the active administrators, all locked in one order."""
    administers = (col(User.status) == UserStatus.ACTIVE.value) & col(User.cluster_roles).contains([ClusterRole.ADMINISTRATOR.value])
    query = select(User).where(or_(col(User.user_id) == user_id, administers)).order_by(col(User.user_id)).with_for_update()
    rows = list((await session.execute(query.execution_options(populate_existing=True))).scalars())
    return next((row for row in rows if row.user_id == user_id), None), who_administer(rows)


def who_administer(rows: Iterable[User]) -> list[UUID]:
    """The active administrators among these accounts. Whom their directory does not let in counts only where there is nobody else."""
    active = [row for row in rows if row.status == UserStatus.ACTIVE and ClusterRole.ADMINISTRATOR in row.cluster_roles]
    return [row.user_id for row in active if row.gone_at is None] or [row.user_id for row in active]


async def has_administrator(session: AsyncSession) -> bool:
    """Whether there is an administrator beside one who was invited to be the first; then one always stays, or is recovered."""
    first = exists().where(col(Invitation.user_id) == col(User.user_id), col(Invitation.first))
    query = select(func.count()).where(~first, col(User.cluster_roles).contains([ClusterRole.ADMINISTRATOR.value]))
    return (await session.execute(query)).scalar_one() > 0


async def administrators(session: AsyncSession) -> list[User]:
    """The active administrators."""
    query = select(User).where(
        col(User.status) == UserStatus.ACTIVE.value, col(User.cluster_roles).contains([ClusterRole.ADMINISTRATOR.value])
    )
    return list((await session.execute(query.order_by(col(User.user_id)))).scalars())


async def to_be_told(session: AsyncSession, user_ids: Collection[UUID]) -> list[User]:
    """The active accounts among these, and all active auditors."""
    audits = col(User.cluster_roles).contains([ClusterRole.AUDITOR.value])
    query = select(User).where(col(User.status) == UserStatus.ACTIVE.value, or_(col(User.user_id).in_(user_ids), audits))
    return list((await session.execute(query.order_by(col(User.user_id)))).scalars())


@dataclass(frozen=True)
class Standing:
    """What a person can sign in with."""

    totp: bool
    passkeys: int
    recovery_codes_left: int


async def standing(session: AsyncSession, user_id: UUID) -> Standing:
    """What an account can sign in with."""
    totp = select(func.count()).where(col(Credential.user_id) == user_id, col(Credential.totp_sealed).is_not(None)).scalar_subquery()
    passkeys = select(func.count()).where(col(Passkey.user_id) == user_id).scalar_subquery()
    codes = select(func.count()).where(col(RecoveryCode.user_id) == user_id, col(RecoveryCode.used_at).is_(None)).scalar_subquery()
    row = (await session.execute(select(totp, passkeys, codes))).one()
    return Standing(row[0] > 0, row[1], row[2])


async def forget_ways_in(session: AsyncSession, user_id: UUID) -> None:
    """Erase what an account signs in with, and everything that could give it something new."""
    for table in (Credential, Passkey, RecoveryCode, Link, Invitation, ClientCode):
        await session.execute(delete(table).where(col(table.user_id) == user_id))


async def forget_links(session: AsyncSession, user_id: UUID) -> None:
    """Make void what was given out to somebody before: links, and codes for clients. An invitation opens again when they are unblocked."""
    for table in (Link, ClientCode):
        await session.execute(delete(table).where(col(table.user_id) == user_id))


async def leave_groups(session: AsyncSession, user_id: UUID) -> None:
    """Take a person out of all groups."""
    await session.execute(delete(GroupMember).where(col(GroupMember.user_id) == user_id))


async def invitation_of(session: AsyncSession, user_id: UUID) -> Invitation | None:
    """The open invitation of an account, locked."""
    return (await session.execute(select(Invitation).where(col(Invitation.user_id) == user_id).with_for_update())).scalar_one_or_none()


async def first_invitation(session: AsyncSession) -> Invitation | None:
    """The first administrator's invitation, locked."""
    return (await session.execute(select(Invitation).where(col(Invitation.first)).with_for_update())).scalar_one_or_none()


async def invitation_by_token(session: AsyncSession, token_hash: bytes, *, lock: bool = False) -> tuple[Invitation | None, User | None]:
    """An invitation by its token's hash, with its account; ``lock`` takes both, the account first."""
    found = (await session.execute(select(Invitation).where(col(Invitation.token_hash) == token_hash))).scalar_one_or_none()
    if found is None:
        return None, None
    invited = await user(session, found.user_id, lock=lock)
    if lock:
        query = select(Invitation).where(col(Invitation.token_hash) == token_hash).with_for_update()
        found = (await session.execute(query.execution_options(populate_existing=True))).scalar_one_or_none()
    return found, invited
