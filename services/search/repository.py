"""All the SQL: which index the inbox belongs to, starting over when it was lost, and which documents are about to be erased."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import delete, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from services.search.models import Erasing, Filled, Kind

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


async def announce(session: AsyncSession, project_id: UUID, documents: Sequence[tuple[Kind, str]]) -> None:
    """Remember which documents of a project are erased next."""
    session.add_all([Erasing(kind=kind.value, id=key, project_id=project_id) for kind, key in documents])


async def announced(session: AsyncSession, project_id: UUID) -> list[tuple[Kind, str]]:
    """The documents of a project that are erased next, which are forgotten here with this transaction."""
    gone = delete(Erasing).where(col(Erasing.project_id) == project_id).returning(col(Erasing.kind), col(Erasing.id))
    return [(Kind(kind), key) for kind, key in await session.execute(gone)]
