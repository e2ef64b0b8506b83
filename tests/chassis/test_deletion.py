"""A service's part in a deletion, with a purge that a test plays: who meets whom, and who waits for whom."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from chassis import deletion
from chassis.deletion import Slice, purge_slice
from chassis.outbox import UnitOfWork
from contracts.events import Project, ProjectState
from contracts.policy import Service
from tests.chassis.conftest import Side, effect, until

Make = Callable[..., Any]
WAITING = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND wait_event = 'advisory' AND datname = current_database()"


@pytest.fixture
async def datasets(side: Make) -> Side:
    made: Side = await side("datasets")
    return made


def fact(project: UUID, state: ProjectState, version: int = 2) -> Project:
    return Project(version=version, project_id=project, name="n", description="", state=state)


async def close(_uow: UnitOfWork, _project: UUID) -> None:
    """Nothing is under way here."""


async def follow(side: Side, project: UUID, state: ProjectState) -> None:
    async with side.unit() as uow:
        await deletion.follow(uow, fact(project, state), close)


async def purging(side: Side, count: int) -> list[UUID]:
    """Projects that are to be purged."""
    projects = [uuid7() for _ in range(count)]
    for project in projects:
        await follow(side, project, ProjectState.PURGING)
    return projects


async def steps(side: Side) -> dict[UUID, str]:
    return {row.project_id: row.step for row in await side.sql("SELECT project_id, step FROM deleted_projects")}


async def said(side: Side) -> list[tuple[str, int]]:
    """Of which projects it was told that they are purged, and how often."""
    rows = await side.sql("SELECT key, count(*) FROM outbox WHERE topic = 'purged.datasets' AND version = 2 GROUP BY key ORDER BY key")
    return [(row[0], row[1]) for row in rows]


class Purging:
    """A purge that is under way until it may go on."""

    def __init__(self) -> None:
        self.met: list[UUID] = []
        self.go_on = asyncio.Event()

    async def __call__(self, _uow: UnitOfWork, project: UUID) -> Slice:
        self.met.append(project)
        await self.go_on.wait()
        return Slice({"things": 1}, more=False)


@asynccontextmanager
async def slices(side: Side, purge: Purging, count: int) -> AsyncIterator[list[asyncio.Task[bool]]]:
    """Replicas that each purge a slice at the same time."""
    tasks = [asyncio.create_task(purge_slice(side.engine, Service.DATASETS, purge)) for _ in range(count)]
    try:
        yield tasks
    finally:
        purge.go_on.set()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_two_replicas_purge_two_projects_at_once_and_say_each_once(datasets: Side) -> None:
    projects = await purging(datasets, 2)
    purge = Purging()
    async with slices(datasets, purge, 2) as both:
        await until(lambda: len(purge.met) == 2)
        purge.go_on.set()
        assert await asyncio.gather(*both) == [True, True]
    assert sorted(purge.met) == sorted(projects)
    assert await said(datasets) == [(str(project), 1) for project in sorted(projects)]
    assert not await purge_slice(datasets.engine, Service.DATASETS, purge)


async def test_a_project_that_one_replica_purges_is_nothing_to_do_for_another(datasets: Side) -> None:
    [project] = await purging(datasets, 1)
    purge = Purging()
    async with slices(datasets, purge, 1) as [first]:
        await until(lambda: purge.met)
        assert not await purge_slice(datasets.engine, Service.DATASETS, purge)
        purge.go_on.set()
        assert await first
    assert purge.met == [project]
    assert await said(datasets) == [(str(project), 1)]


async def test_a_purge_that_always_fails_keeps_no_other_project_waiting_and_leaves_no_trace(datasets: Side) -> None:
    bad, *others = await purging(datasets, 3)
    failed = 0

    async def purge(uow: UnitOfWork, project: UUID) -> Slice:
        await effect(fact(project, ProjectState.PURGING), uow)
        if project == bad:
            raise ValueError
        return Slice({"things": 1}, more=False)

    async def all_others() -> bool:
        nonlocal failed
        try:
            await purge_slice(datasets.engine, Service.DATASETS, purge)
        except ValueError:
            failed += 1
        return len(await said(datasets)) == len(others)

    await until(all_others)
    with pytest.raises(ValueError, match=r"^$"):
        await purge_slice(datasets.engine, Service.DATASETS, purge)
    assert await steps(datasets) == {bad: "purging", **dict.fromkeys(others, "purged")}
    assert {row.key for row in await datasets.sql("SELECT key FROM effect")} == set(map(str, others))
    assert await datasets.sql("SELECT 1 FROM deleted_projects WHERE step = 'purging' AND removed <> '{}'") == []


async def test_what_is_stored_of_a_project_is_stored_before_its_purge_begins_or_not_at_all(datasets: Side) -> None:
    project = uuid7()
    async with datasets.unit() as storing:
        assert not await deletion.is_gone(storing.session, project)
        following = asyncio.create_task(follow(datasets, project, ProjectState.PURGING))
        await until(lambda: datasets.sql(WAITING))
        await effect(fact(project, ProjectState.ACTIVE), storing)
        assert await steps(datasets) == {}
    await following
    assert await steps(datasets) == {project: "purging"}
    assert [row.key for row in await datasets.sql("SELECT key FROM effect")] == [str(project)]
    async with datasets.unit() as late:
        assert await deletion.is_gone(late.session, project)


async def test_what_is_held_together_is_as_if_each_was_held_alone(datasets: Side) -> None:
    closing, gone, here, other = [uuid7() for _ in range(4)]
    await follow(datasets, closing, ProjectState.CLOSING)
    await follow(datasets, gone, ProjectState.PURGING)
    async with datasets.unit() as storing:
        await deletion.hold_all(storing.session, {closing, gone, here})
        following = asyncio.create_task(follow(datasets, here, ProjectState.PURGING))
        await until(lambda: datasets.sql(WAITING))
        await follow(datasets, other, ProjectState.PURGING)
        asked = [closing, gone, here, other]
        assert [await deletion.is_closing(storing.session, project) for project in asked] == [True, True, False, True]
        assert [await deletion.is_gone(storing.session, project) for project in asked] == [False, True, False, True]
    await following
    assert (await steps(datasets))[here] == "purging"


@pytest.mark.parametrize(("state", "gone"), [(ProjectState.CLOSING, False), (ProjectState.PURGING, True), (ProjectState.DELETED, True)])
async def test_who_asks_while_a_project_is_being_closed_waits_and_is_told_how_it_ended(
    datasets: Side, state: ProjectState, gone: bool
) -> None:
    project, began, go_on = uuid7(), asyncio.Event(), asyncio.Event()

    async def closing(_uow: UnitOfWork, _project: UUID) -> None:
        began.set()
        await go_on.wait()

    async def first() -> None:
        async with datasets.unit() as uow:
            await deletion.follow(uow, fact(project, state), closing)

    async def then() -> tuple[bool, bool]:
        async with datasets.unit() as uow:
            return await deletion.is_closing(uow.session, project), await deletion.is_gone(uow.session, project)

    following = asyncio.create_task(first())
    await asyncio.wait_for(began.wait(), 20)
    asking = asyncio.create_task(then())
    await until(lambda: datasets.sql(WAITING))
    go_on.set()
    await following
    assert await asking == (True, gone)
