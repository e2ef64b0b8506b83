"""Work that is tried again for ever ends when it is cancelled, also at the moment of a failure."""

import asyncio

from chassis.patience import pause


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
