"""Waiting for what another transaction commits, in whichever replica: PostgreSQL's LISTEN and NOTIFY."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

_WAKE = text("SELECT pg_notify(:channel, '')")


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

    async def wait(self, seconds: float) -> None:
        """Return when something happened since the last wait, at the latest after ``seconds``. Raises ConnectionError when nothing can be heard."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._happened.wait()
        self._happened.clear()
        if self._lost:
            raise ConnectionError("the connection that listened was lost")


async def wake(session: AsyncSession, channel: str) -> None:
    """Tell everybody who listens, with the commit."""
    await session.execute(_WAKE, {"channel": channel})


@contextlib.asynccontextmanager
async def listening(engine: AsyncEngine, channel: str) -> AsyncIterator[Changes]:
    """Listen, on a connection of its own."""
    made = Changes()
    async with engine.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        if driver is None:
            raise ConnectionError("no connection to listen on")
        driver.add_termination_listener(made.lost)
        await driver.add_listener(channel, made.told)
        try:
            yield made
        finally:
            driver.remove_termination_listener(made.lost)
            if not driver.is_closed():
                await driver.remove_listener(channel, made.told)
