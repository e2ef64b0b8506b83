"""How everybody hears that something happened to runs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlmodel import col

from services.jobs.models import Run

CHANNEL = "runs"


async def news_of(engine: AsyncEngine, run_id: UUID) -> int | None:
    """How often something happened to a run that its agent should hear of; read in a transaction of its own."""
    async with engine.connect() as connection:
        return (await connection.execute(select(col(Run.news)).where(col(Run.run_id) == run_id))).scalar_one_or_none()


async def wake(session: AsyncSession) -> None:
    """Tell every replica, with the commit, that something happened to runs."""
    await session.execute(text(f"SELECT pg_notify('{CHANNEL}', '')"))


class Changes:
    """Hears of every ``wake`` that was committed anywhere."""

    def __init__(self) -> None:
        self._happened = asyncio.Event()
        self._lost = False

    def told(self, *_: object) -> None:
        """Something happened."""
        self._happened.set()

    def lost(self, *_: object) -> None:
        """The connection that listened is gone."""
        self._lost = True
        self._happened.set()

    def forget(self) -> None:
        """What happened until now will be seen by the look that follows."""
        self._happened.clear()

    async def within(self, seconds: float) -> None:
        """Return when something happened, at the latest after ``seconds``. Raises ConnectionError when nothing can be heard."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._happened.wait()
        if self._lost:
            raise ConnectionError("the connection that listened was lost")


@contextlib.asynccontextmanager
async def changes(engine: AsyncEngine) -> AsyncIterator[Changes]:
    """Listen for ``wake``, on a connection of its own."""
    made = Changes()
    async with engine.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        if driver is None:
            raise ConnectionError("no connection to listen on")
        driver.add_termination_listener(made.lost)
        await driver.add_listener(CHANNEL, made.told)
        try:
            yield made
        finally:
            driver.remove_termination_listener(made.lost)
            if not driver.is_closed():
                await driver.remove_listener(CHANNEL, made.told)
