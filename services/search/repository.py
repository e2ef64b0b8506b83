"""All the SQL: which index the inbox belongs to, and starting over when it was lost."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from services.search.models import Filled

_FILL = text("""INSERT INTO filled (topic, index_id) VALUES (:topic, '') ON CONFLICT DO NOTHING""")
_FORGET = text("DELETE FROM inbox WHERE topic = :topic")
_READ_ANEW = text("UPDATE partitions_heard SET awake_at = 'epoch' WHERE topic = :topic")


async def held_index(session: AsyncSession, topic: str) -> str | None:
    """The id of the index that a topic's documents go into, held until the end of the transaction."""
    statement = select(Filled.index_id).where(col(Filled.topic) == topic).with_for_update(read=True)
    return (await session.execute(statement)).scalar_one_or_none()


async def index_id(session: AsyncSession, topic: str) -> str | None:
    """The id of the index that a topic's documents go into."""
    return (await session.execute(select(Filled.index_id).where(col(Filled.topic) == topic))).scalar_one_or_none()


async def start_over(session: AsyncSession, topic: str, index_id: str) -> bool:
    """Let a topic be read from its beginning into another index; whether it was another. Waits for writers of the old one."""
    await session.execute(_FILL, {"topic": topic})
    filled = (await session.execute(select(Filled).where(col(Filled.topic) == topic).with_for_update())).scalar_one()
    if filled.index_id == index_id:
        return False
    filled.index_id = index_id
    await session.execute(_FORGET, {"topic": topic})
    await session.execute(_READ_ANEW, {"topic": topic})
    return True
