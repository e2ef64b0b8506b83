"""The SQL of passwords and second factors."""

from collections.abc import Collection
from datetime import datetime
from uuid import UUID

from sqlalchemy import BindParameter, ColumnElement, bindparam, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm.attributes import set_committed_value
from sqlmodel import col

from chassis.db import fetch
from services.auth.models import Credential, RecoveryCode

_WHO: BindParameter[UUID] = bindparam("user_id")
_CREDENTIAL = select(Credential).where(col(Credential.user_id) == _WHO)
_CREDENTIAL_LOCKED = _CREDENTIAL.with_for_update().execution_options(populate_existing=True)
_USE_STEP = "UPDATE credentials SET last_step = $2 WHERE user_id = $1"
_STANDING = """SELECT
    ARRAY(SELECT g.factor_policy FROM groups g JOIN group_members m USING (group_id) WHERE m.user_id = $1 AND g.factor_policy IS NOT NULL) AS asked,
    EXISTS (SELECT FROM credentials WHERE user_id = $1 AND totp_sealed IS NOT NULL) AS totp,
    (SELECT count(*) FROM passkeys WHERE user_id = $1) AS passkeys"""


async def credential(session: AsyncSession, user_id: UUID, *, lock: bool = False) -> Credential | None:
    """What an account signs in with. Locking it again in one transaction asks for nothing, whether or not there is one."""
    if not lock:
        return (await session.execute(_CREDENTIAL, {"user_id": user_id})).scalar_one_or_none()
    held: dict[UUID, Credential | None] = session.info.setdefault("locked_credentials", {})
    if user_id not in held:
        held[user_id] = (await session.execute(_CREDENTIAL_LOCKED, {"user_id": user_id})).scalar_one_or_none()
    return held[user_id]


async def use_step(session: AsyncSession, credential: Credential, step: int) -> None:
    """Keep the newest step of an authenticator that was used; the credential is locked."""
    await fetch(session, _USE_STEP, credential.user_id, step)
    set_committed_value(credential, "last_step", step)


async def standing(session: AsyncSession, user_id: UUID) -> tuple[list[str], bool, int]:
    """What the groups of somebody ask for, where they have a say, whether they have an authenticator, and how many passkeys."""
    (row,) = await fetch(session, _STANDING, user_id)
    return row["asked"], row["totp"], row["passkeys"]


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
