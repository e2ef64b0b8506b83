"""Work that is tried again for ever ends when it is cancelled, also at the moment of a failure."""

import asyncio

from chassis.patience import attempt, pause


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
