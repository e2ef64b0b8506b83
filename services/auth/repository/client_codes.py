"""The SQL of client codes."""

from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from services.auth.models import ClientCode, Session, User
from services.auth.repository import accounts


async def take(session: AsyncSession, code_hash: bytes) -> tuple[ClientCode | None, Session | None, User | None]:
    """Use up a code; it, the session of the browser that made it, and its person, both locked, the person before anything else."""
    its = col(ClientCode.code_hash) == code_hash
    user_id = (await session.execute(select(col(ClientCode.user_id)).where(its))).scalar_one_or_none()
    user = await accounts.user(session, user_id, lock=True) if user_id else None
    code = (await session.execute(delete(ClientCode).where(its).returning(ClientCode))).scalar_one_or_none()
    if code is None:
        return None, None, None
    browsers = select(Session).where(col(Session.session_id) == code.session_id).with_for_update()
    return code, (await session.execute(browsers)).scalar_one_or_none(), user


async def prune(session: AsyncSession, now: datetime) -> None:
    """Forget codes that are too old."""
    await session.execute(delete(ClientCode).where(col(ClientCode.expires_at) < now))
