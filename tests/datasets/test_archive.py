"""A project that is archived: what is in it can be read and taken out, nothing comes in, and what was coming in is cut."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from contracts.events import Dataset, ProjectState, RunState, Share, ShareState
from tests.datasets.conftest import ADA, files_under, later, new_dataset, project, put, run_fact, shared
from tests.datasets.test_handlers import leave, read
from tests.datasets.test_routes import path
from tests.world import OURS, THEIRS, World, job, owner, reason

PATIENCE_S = 15.0


@pytest.mark.parametrize("state", [ProjectState.ARCHIVED, ProjectState.CLOSING])
async def test_nothing_comes_into_a_project_that_is_not_active(world: World, state: ProjectState) -> None:
    dataset_id, lent = await new_dataset(world), await new_dataset(world, "lent", THEIRS)
    offer = {"target_project_id": str(OURS)}
    offered = (await world.post(f"/projects/{THEIRS}/datasets/{lent}/shares", owner(THEIRS), json=offer)).json()["share_id"]
    await world.hear(project(OURS, state, 2))
    await world.said()
    doors = [
        await world.post(f"/projects/{OURS}/datasets", owner(OURS), json={"name": "ct", "kind": "files"}),
        await world.patch(path(dataset_id), owner(OURS), json={"description": "x"}, version=1),
        await put(world, dataset_id, "a", b"123"),
        await world.post(path(dataset_id, "shares"), owner(OURS), json={"target_project_id": str(THEIRS)}),
    ]
    if state is ProjectState.ARCHIVED:
        doors.append(await world.post(f"/projects/{OURS}/incoming-shares/{offered}/acceptance", owner(OURS)))
    for answer in doors:
        assert (answer.status_code, reason(answer)) == (409, "project-is-closed")
    assert await world.said() == []


async def test_what_is_in_an_archived_project_is_read_taken_out_and_no_longer_lent(world: World) -> None:
    dataset_id = await new_dataset(world)
    await put(world, dataset_id, "a", b"123")
    share_id = await shared(world, dataset_id)
    await world.hear(project(OURS, ProjectState.ARCHIVED, 2))
    await world.said()
    assert len((await world.get(f"/projects/{OURS}/datasets", owner(OURS))).json()["items"]) == 1
    assert (await world.get(path(dataset_id, "files", "a"), owner(OURS))).content == b"123"
    assert (await world.get(f"/projects/{THEIRS}/datasets/{dataset_id}", owner(THEIRS))).status_code == 200
    assert (await world.delete(path(dataset_id, "shares", str(share_id)), owner(OURS))).status_code == 204
    (withdrawn,) = await world.said()
    assert isinstance(withdrawn, Share)
    assert withdrawn.state is ShareState.WITHDRAWN


async def test_an_upload_that_is_under_way_is_cut_when_the_project_is_archived(world: World, blobs: Path) -> None:
    dataset_id, other = await new_dataset(world), await new_dataset(world, "theirs", THEIRS)
    flights = world.runtime.extra["storage"].flights
    goes_on = asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield b"x" * 200_000
        await goes_on.wait()
        yield b"y"

    ours = asyncio.create_task(world.put(path(dataset_id, "files", "a"), owner(OURS, ADA), content=pieces()))
    theirs = asyncio.create_task(world.put(f"/projects/{THEIRS}/datasets/{other}/files/a", owner(THEIRS, ADA), content=pieces()))
    async with asyncio.timeout(PATIENCE_S):
        while len(flights) < 2:
            await asyncio.sleep(0.01)
        await world.hear(project(OURS, ProjectState.ARCHIVED, 2))
        answer = await ours
    assert (answer.status_code, reason(answer)) == (409, "project-is-closed")
    goes_on.set()
    assert (await theirs).status_code == 201
    assert len(list(files_under(blobs))) == 1
    assert len(flights) == 0


async def test_a_restored_project_takes_in_again(world: World) -> None:
    dataset_id = await new_dataset(world)
    await world.hear(project(OURS, ProjectState.ARCHIVED, 2), project(OURS, ProjectState.ACTIVE, 3))
    assert (await put(world, dataset_id, "a", b"123")).status_code == 201


async def test_runs_read_and_leave_nothing_once_their_project_is_archived(world: World) -> None:
    dataset_id = await new_dataset(world)
    await put(world, dataset_id, "a", b"123")
    run = run_fact(dataset_id)
    await world.hear(run, project(OURS, ProjectState.ARCHIVED, 2))
    me = job(run.run_id, 1, OURS)
    for answer in (await read(world, me, dataset_id), await leave(world, me, "out", b"1")):
        assert (answer.status_code, reason(answer)) == (403, "run-is-not-live")


async def test_what_a_run_had_made_before_its_project_was_archived_still_becomes_a_dataset(world: World) -> None:
    dataset_id = await new_dataset(world)
    run = run_fact(dataset_id)
    await world.hear(run)
    await leave(world, job(run.run_id, 1, OURS), "out", b"1")
    await world.said()
    await world.hear(project(OURS, ProjectState.ARCHIVED, 2), later(run, RunState.SUCCEEDED))
    (made,) = await world.said()
    assert isinstance(made, Dataset)
    assert (made.dataset_id, made.files) == (run.output_dataset_id, 1)
