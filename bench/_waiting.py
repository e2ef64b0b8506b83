"""Waiting for what a bench has started."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

LOOK_S = 0.05


async def until(holds: Callable[[], Awaitable[bool]], seconds: float) -> None:
    """Look until it holds; a connection that is refused or cut says that it does not yet. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while True:
            with suppress(OSError, asyncio.IncompleteReadError):
                if await holds():
                    return
            await asyncio.sleep(LOOK_S)
