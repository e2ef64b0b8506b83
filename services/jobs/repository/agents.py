"""Node agents."""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from services.jobs.models import Agent


async def agent(session: AsyncSession, agent_id: UUID, *, lock: bool = False) -> Agent | None:
    """An agent by its id."""
    query = select(Agent).where(col(Agent.agent_id) == agent_id)
    return (await session.execute(query.with_for_update() if lock else query)).scalar_one_or_none()


async def agent_of_token(session: AsyncSession, token_sha256: bytes) -> Agent | None:
    """The agent whose enrolment token has this hash, locked."""
    return (await session.execute(select(Agent).where(col(Agent.token_sha256) == token_sha256).with_for_update())).scalar_one_or_none()


async def agents(session: AsyncSession, after: UUID | None, limit: int) -> list[Agent]:
    """The agents, oldest first."""
    query = select(Agent).order_by(col(Agent.agent_id)).limit(limit)
    if after is not None:
        query = query.where(col(Agent.agent_id) > after)
    return list((await session.execute(query)).scalars())
