"""The SQL of passwords and second factors."""

from collections.abc import Collection
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import BindParameter, ColumnElement, bindparam, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from chassis.db import as_stored, fetch
from services.auth.models import Credential, RecoveryCode

_WHO: BindParameter[UUID] = bindparam("user_id")
_CREDENTIAL = select(Credential).where(col(Credential.user_id) == _WHO)
_CREDENTIAL_LOCKED = _CREDENTIAL.with_for_update().execution_options(populate_existing=True)
_HELD = "credentials.held"
_LOCKED = f"SELECT {', '.join(Credential.model_fields)} FROM credentials WHERE user_id = $1 FOR UPDATE"  # noqa: S608 - our columns
_RENEW_HASH = "UPDATE credentials SET password_hash = $3 WHERE user_id = $1 AND password_hash = $2"
_USE_STEP = "UPDATE credentials SET last_step = $2 WHERE user_id = $1"
STANDING = """ARRAY(SELECT g.factor_policy FROM groups g JOIN group_members m USING (group_id) WHERE m.user_id = {user_id} AND g.factor_policy IS NOT NULL) AS asked,
    EXISTS (SELECT FROM credentials WHERE user_id = {user_id} AND totp_sealed IS NOT NULL) AS totp,
    (SELECT count(*) FROM passkeys WHERE user_id = {user_id}) AS passkeys"""
_STANDING = f"SELECT {STANDING.format(user_id='$1')}"


class Standing(NamedTuple):
    """What the groups of somebody ask for, where they have a say, whether they have an authenticator, and how many passkeys."""

    policies: list[str]
    totp: bool
    passkeys: int


async def credential(session: AsyncSession, user_id: UUID, *, lock: bool = False) -> Credential | None:
    """What an account signs in with."""
    return (await session.execute(_CREDENTIAL_LOCKED if lock else _CREDENTIAL, {"user_id": user_id})).scalar_one_or_none()


async def locked(session: AsyncSession, user_id: UUID) -> Credential | None:
    """What an account signs in with, locked, to be read; again in one transaction it asks for nothing, whether or not there is anything."""
    held: dict[UUID, Credential | None] = session.info.setdefault(_HELD, {})
    if user_id not in held:
        rows = await fetch(session, _LOCKED, user_id)
        held[user_id] = as_stored(Credential, rows[0]) if rows else None
    return held[user_id]


def hold(session: AsyncSession, user_id: UUID, credential: Credential | None) -> None:
    """Say what ``locked`` is to find: it was locked in this transaction, together with something else."""
    session.info.setdefault(_HELD, {})[user_id] = credential


async def renew_hash(session: AsyncSession, user_id: UUID, old: str | None, new: str) -> None:
    """Keep the same password under other parameters, if its hash is still the old one."""
    await fetch(session, _RENEW_HASH, user_id, old, new)


async def use_step(session: AsyncSession, user_id: UUID, step: int) -> None:
    """Keep the newest step of an authenticator that was used; the credential is locked."""
    await fetch(session, _USE_STEP, user_id, step)
    session.info.pop(_HELD, None)


async def standing(session: AsyncSession, user_id: UUID) -> Standing:
    """What somebody has as second factors, and is asked for."""
    (row,) = await fetch(session, _STANDING, user_id)
    return Standing(*row)


async def codes_left(session: AsyncSession, user_id: UUID) -> int:
    """How many recovery codes somebody has not used yet."""
    query = select(func.count()).where(col(RecoveryCode.user_id) == user_id, col(RecoveryCode.used_at).is_(None))
    return (await session.execute(query)).scalar_one()


async def has_code(session: AsyncSession, user_id: UUID, code_hash: bytes) -> bool:
    """Whether there is such a recovery code, not used yet; for a look ahead of slow work."""
    return (await session.execute(select(func.count()).where(*_unused(user_id, code_hash)))).scalar_one() > 0


async def use_code(session: AsyncSession, user_id: UUID, code_hash: bytes, now: datetime) -> bool:
    """Use a recovery code up; whether there was such a one. Of two at once the second finds it used."""
    used = update(RecoveryCode).where(*_unused(user_id, code_hash)).values(used_at=now).returning(col(RecoveryCode.user_id))
    return (await session.execute(used)).scalar_one_or_none() is not None


async def replace_codes(session: AsyncSession, user_id: UUID, hashes: Collection[bytes]) -> None:
    """Put new recovery codes in the place of all old ones."""
    await session.execute(delete(RecoveryCode).where(col(RecoveryCode.user_id) == user_id))
    session.add_all(RecoveryCode(user_id=user_id, code_hash=code_hash) for code_hash in hashes)


def _unused(user_id: UUID, code_hash: bytes) -> tuple[ColumnElement[bool], ...]:
    return col(RecoveryCode.user_id) == user_id, col(RecoveryCode.code_hash) == code_hash, col(RecoveryCode.used_at).is_(None)
