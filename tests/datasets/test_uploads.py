"""An upload rests on the role of whoever sends it, from its first piece until it is stored."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from uuid_utils.compat import uuid7

from contracts.events import Dataset, UserStatus
from contracts.roles import Role
from services.datasets import service
from services.datasets.models import Upload
from tests.datasets.conftest import ADA, files_under, member, new_dataset, person, put
from tests.datasets.test_archive import PATIENCE_S
from tests.datasets.test_routes import BIG, path
from tests.world import OURS, World, owner, reason


async def ends(world: World, how: str) -> None:
    """Let Ada's role end, as this service hears of it."""
    if how == "erased":
        async with world.work() as uow:
            await world.spec.hears.erasers["memberships"](f"{OURS}:{ADA}", uow)
        return
    fact = {
        "removed": member(OURS, None, version=2, user_id=ADA),
        "expired": member(OURS, Role.DATA_OWNER, 2, await world.now() - timedelta(seconds=1), ADA),
        "made a scientist": member(OURS, Role.DATA_SCIENTIST, version=2, user_id=ADA),
        "blocked": person(UserStatus.BLOCKED, version=2, user_id=ADA),
    }[how]
    await world.hear(fact)


@pytest.mark.parametrize("how", ["removed", "expired", "made a scientist", "blocked", "erased"])
async def test_what_a_slow_store_has_after_the_role_ended_is_not_stored(
    world: World, blobs: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    dataset_id = await new_dataset(world)
    await world.said()
    store = world.runtime.extra["storage"].blobs
    real = store.put

    async def slow(name: str, content: AsyncIterator[Any]) -> None:
        await real(name, content)
        assert len(list(files_under(blobs))) == 1
        await ends(world, how)

    monkeypatch.setattr(store, "put", slow)
    answer = await put(world, dataset_id, "a", BIG)
    assert (answer.status_code, reason(answer)) == (403, "role-has-ended")
    assert await world.said() == []
    assert await world.sql("SELECT 1 FROM files") == []
    assert list(files_under(blobs)) == []


async def test_an_end_that_is_heard_while_a_file_is_being_added_waits_for_it(world: World) -> None:
    dataset_id = await new_dataset(world)
    await world.said()
    target = service.uploads.Target(dataset_id, uuid7(), "a", b"")
    stored = service.uploads.Stored(1, bytes(32), b"key", None, b"x")
    async with world.work(owner(OURS, ADA)) as uow:
        await service.uploads.add_file(uow, OURS, target, stored)
        ending = asyncio.create_task(ends(world, "removed"))
        await world.somebody_waits()
        assert not ending.done()
    await ending
    (fact,) = await world.said()
    assert isinstance(fact, Dataset)
    assert fact.files == 1


async def test_a_role_that_is_not_known_here_yet_is_waited_for(world: World, blobs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset_id = await new_dataset(world)
    newcomer = uuid7()
    door = path(dataset_id, "files/a")
    answer = await world.put(door, owner(OURS, newcomer), content=BIG)
    assert (answer.status_code, reason(answer), answer.headers["retry-after"]) == (503, "cannot-decide", "1")
    assert list(files_under(blobs)) == []
    monkeypatch.setattr(service.known, "KNOWN_WAIT_S", 30.0)
    sending = asyncio.create_task(world.put(door, owner(OURS, newcomer), content=b"1"))
    await world.hear(person(user_id=newcomer), member(OURS, Role.DATA_OWNER, user_id=newcomer))
    assert (await sending).status_code == 201


async def test_an_upload_that_nobody_can_judge_is_cut_and_not_told_that_its_project_is_closed(
    world: World, blobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset_id = await new_dataset(world)
    flights = world.runtime.extra["storage"].flights

    async def away(_transfers: object) -> frozenset[Any]:
        raise TimeoutError

    async def pieces() -> AsyncIterator[bytes]:
        yield BIG
        monkeypatch.setattr(flights, "_still", away)
        await asyncio.Event().wait()

    async with asyncio.timeout(PATIENCE_S):
        answer = await world.put(path(dataset_id, "files/a"), owner(OURS, ADA), content=pieces())
    assert (answer.status_code, reason(answer), answer.headers["retry-after"]) == (503, "cannot-decide", "1")
    assert list(files_under(blobs)) == []


async def test_an_upload_goes_on_while_all_connections_of_the_doors_are_busy(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it may go on is asked by a way of its own: a busy service is no reason to cut what is allowed."""
    dataset_id = await new_dataset(world)
    flights = world.runtime.extra["storage"].flights
    answers: list[frozenset[Any]] = []
    still = flights._still

    async def looked(transfers: frozenset[Any]) -> frozenset[Any]:
        answers.append(await still(transfers))
        return answers[-1]

    async def pieces() -> AsyncIterator[bytes]:
        yield BIG
        async with contextlib.AsyncExitStack() as busy:
            for _ in range(world.runtime.settings.connections):
                await busy.enter_async_context(world.runtime.engine.connect())
            before = len(answers)
            while len(answers) < before + 3:
                await asyncio.sleep(0.01)
        yield b"more"

    monkeypatch.setattr(flights, "_still", looked)
    async with asyncio.timeout(PATIENCE_S):
        answer = await world.put(path(dataset_id, "files/a"), owner(OURS, ADA), content=pieces())
    assert answer.status_code == 201
    assert set(answers) == {frozenset({Upload(OURS)})}
