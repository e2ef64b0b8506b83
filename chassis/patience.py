"""Pauses of work that goes on until it is cancelled."""

import asyncio


async def pause(seconds: float) -> None:
    """Sleep before the next attempt, or end now when this task was cancelled while it was busy failing.

    A task group whose child fails at the moment of a cancellation reports the failure and forgets the cancellation; a
    loop that tries again for ever would then never end.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
    await asyncio.sleep(seconds)
