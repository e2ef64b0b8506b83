"""Ending servers that a test runs in its own event loop, at once; how one ends gently is for those tests that have a process."""

import asyncio
import contextlib

import uvicorn


def hang_up(server: uvicorn.Server) -> None:
    """Let a server hear nobody any more."""
    for listening in server.servers:
        listening.close()
    for connection in list(server.server_state.connections):
        connection.transport.abort()


async def ended(server: uvicorn.Server, serving: "asyncio.Task[None]") -> None:
    """Let a server hear nobody any more, and end its task."""
    hang_up(server)
    serving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await serving
