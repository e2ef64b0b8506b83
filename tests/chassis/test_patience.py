"""Work that is tried again for ever ends when it is cancelled, also at the moment of a failure."""

import asyncio
import contextlib

import pytest

from chassis import patience
from chassis.patience import attempt, end, pause


async def test_a_cancellation_that_a_failing_task_group_forgot_still_ends_the_loop() -> None:
    started = asyncio.Event()
    tries = 0

    async def fails_when_cancelled() -> None:
        try:
            started.set()
            await asyncio.Event().wait()
        finally:
            raise OSError

    async def for_ever() -> None:
        nonlocal tries
        while True:
            tries += 1
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(fails_when_cancelled())
            except* OSError:
                started.clear()
            await pause(0)

    task = asyncio.create_task(for_ever())
    await started.wait()
    task.cancel()
    ended, _ = await asyncio.wait([task], timeout=5)
    assert ended == {task}
    assert task.cancelled()
    assert tries == 1


async def test_failures_alone_end_no_loop() -> None:
    async def fails() -> None:
        raise OSError

    async def tried() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fails())
            tasks.create_task(asyncio.Event().wait())

    async def loop() -> int:
        tries = 0
        while tries < 5:
            tries += 1
            try:
                await attempt(tried())
            except* OSError:
                await pause(0)
        return tries

    assert await asyncio.create_task(loop()) == 5


async def test_a_cancellation_reaches_the_attempt_and_ends_the_loop() -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def works() -> None:
        try:
            started.set()
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def loop() -> None:
        while True:
            await attempt(works())
            await pause(0)

    task = asyncio.create_task(loop())
    await started.wait()
    task.cancel()
    await asyncio.wait([task], timeout=5)
    assert task.cancelled()
    assert ended.is_set()


async def test_an_end_that_keeps_a_cancellation_to_itself_ends_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "LAST_S", 0.01)
    go_on, kept = asyncio.Event(), asyncio.Event()

    async def stop() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await go_on.wait()
        kept.set()
        await go_on.wait()

    async def loop() -> str:
        await end(stop())
        await pause(0)
        return "goes on"

    assert await asyncio.create_task(loop()) == "goes on"
    await kept.wait()
    go_on.set()


async def test_whoever_is_cancelled_while_something_ends_is_cancelled() -> None:
    begun = asyncio.Event()

    async def stop() -> None:
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(end(stop()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_is_not_expected_of_an_end_is_raised() -> None:
    async def stop() -> None:
        raise ConnectionError("gone")

    await end(stop(), OSError)
    with pytest.raises(ConnectionError, match="gone"):
        await end(stop(), TimeoutError)
