"""The SQL of passwords and second factors."""

from collections.abc import Collection
from datetime import datetime
from uuid import UUID

from sqlalchemy import delete, exists, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from services.auth.models import Credential, Group, GroupMember, Passkey, RecoveryCode


async def credential(session: AsyncSession, user_id: UUID, *, lock: bool = False) -> Credential | None:
    """What an account signs in with."""
    query = select(Credential).where(col(Credential.user_id) == user_id)
    if lock:
        query = query.with_for_update().execution_options(populate_existing=True)
    return (await session.execute(query)).scalar_one_or_none()


async def standing(session: AsyncSession, user_id: UUID) -> tuple[list[str], bool, int]:
    """What the groups of somebody ask for, where they have a say, whether they have an authenticator, and how many passkeys."""
    mine = select(col(GroupMember.group_id)).where(col(GroupMember.user_id) == user_id)
    policies = select(func.array_agg(col(Group.factor_policy))).where(col(Group.group_id).in_(mine), col(Group.factor_policy).is_not(None))
    totp = exists().where(col(Credential.user_id) == user_id, col(Credential.totp_sealed).is_not(None))
    passkeys = select(func.count()).where(col(Passkey.user_id) == user_id)
    row = (await session.execute(select(policies.scalar_subquery(), totp, passkeys.scalar_subquery()))).one()
    return list(row[0] or ()), row[1], row[2]


async def codes_left(session: AsyncSession, user_id: UUID) -> int:
    """How many recovery codes somebody has not used yet."""
    query = select(func.count()).where(col(RecoveryCode.user_id) == user_id, col(RecoveryCode.used_at).is_(None))
    return (await session.execute(query)).scalar_one()


async def use_code(session: AsyncSession, user_id: UUID, code_hash: bytes, now: datetime) -> bool:
    """Use a recovery code up; whether there was such a one. Of two at once the second finds it used."""
    unused = (col(RecoveryCode.user_id) == user_id, col(RecoveryCode.code_hash) == code_hash, col(RecoveryCode.used_at).is_(None))
    used = update(RecoveryCode).where(*unused).values(used_at=now).returning(col(RecoveryCode.user_id))
    return (await session.execute(used)).scalar_one_or_none() is not None


async def replace_codes(session: AsyncSession, user_id: UUID, hashes: Collection[bytes]) -> None:
    """Put new recovery codes in the place of all old ones."""
    await session.execute(delete(RecoveryCode).where(col(RecoveryCode.user_id) == user_id))
    session.add_all(RecoveryCode(user_id=user_id, code_hash=code_hash) for code_hash in hashes)
