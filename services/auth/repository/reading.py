"""Short looks at the database, and its clock."""

import contextlib
from collections.abc import AsyncIterator
from datetime import datetime
from functools import lru_cache

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from chassis import db

Engine = AsyncEngine
Reading = AsyncSession


@lru_cache(maxsize=4)
def _autocommit(engine: Engine) -> Engine:
    return engine.execution_options(isolation_level=db.AUTOCOMMIT)


@contextlib.asynccontextmanager
async def reading(engine: Engine) -> AsyncIterator[AsyncSession]:
    """A short look at the database before slow work; it holds no connection afterwards. Each statement is a transaction of its own."""
    async with db.session(_autocommit(engine)) as session:
        yield session


async def clock(session: AsyncSession) -> datetime:
    """The database's clock at this moment, for decisions after waiting for a lock."""
    now: datetime = (await session.execute(select(func.clock_timestamp()))).scalar_one()
    return now
