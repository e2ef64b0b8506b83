"""Work that goes on until it is cancelled: its attempts, its pauses, and how seldom the garbage collector adds to them."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import TypeVar

from chassis.log import logger

log = logger(__name__)
STEADY_S = 60.0
LONGEST_S = 5.0
LAST_S = 5.0

T = TypeVar("T")
_ending: set[asyncio.Future[object]] = set()


async def attempt(work: Awaitable[T]) -> T:
    """Do ``work`` in a task of its own, and pass on what it gives or raises, and a cancellation.

    A task group whose child fails asks its own task to be cancelled, and up to Python 3.12 does not always take that back:
    in the task of the loop, an ordinary failure would look like a cancellation ever after.
    """
    return await asyncio.ensure_future(work)


async def end(work: Awaitable[object], *expected: type[Exception]) -> None:
    """Wait for ``work`` that ends something, for at most 5 s; then it is cancelled, and left. What is ``expected`` of it is not raised.

    In a task of its own: a library that keeps a cancellation to itself, as Kafka's client does when it stops, would leave the task of the
    loop as one that was cancelled, and its next ``pause`` would end it for ever.
    """
    task = asyncio.ensure_future(work)
    _ending.add(task)
    task.add_done_callback(_ended)
    try:
        await asyncio.wait({task}, timeout=LAST_S)
    finally:
        task.cancel()
    error = task.exception() if task.done() and not task.cancelled() else None
    if error is not None and not isinstance(error, expected):
        raise error


def _ended(task: asyncio.Future[object]) -> None:
    _ending.discard(task)
    if not task.cancelled():
        task.exception()  # nobody waits for it any more


async def pause(seconds: float) -> None:
    """Sleep before the next attempt, or end now when this task was cancelled while it was busy failing.

    A task group whose child fails at the moment of a cancellation reports the failure and forgets the cancellation; a
    loop that tries again for ever would then never end. What uses task groups is tried in an ``attempt``.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
    await asyncio.sleep(seconds)


async def for_ever(work: Callable[[], Awaitable[None]], name: str) -> None:
    """Run ``work`` until cancelled. Whatever it raises is logged, and it starts again after a pause that grows to 5 s."""
    loop = asyncio.get_running_loop()
    wait = 0.1
    while True:
        began = loop.time()
        try:
            await attempt(work())
        except Exception:
            log.exception("background work failed", work=name)
        wait = 0.1 if loop.time() - began > STEADY_S else min(wait * 2, LONGEST_S)
        await pause(wait)


def collect_less() -> None:
    """What was made at the start stays: the garbage collector need not look at it again, and pause for it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
