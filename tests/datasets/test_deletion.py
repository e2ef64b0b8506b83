"""Projects that are deleted, in datasets: closed, purged in slices, and never brought back."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from chassis import deletion
from contracts.events import Dataset, ProjectState, Purged, PurgeStep, RunState, Share, ShareState
from services.datasets import repository, service
from tests.datasets.conftest import ADA, files_under, later, member, new_dataset, project, put, run_fact, shared
from tests.datasets.test_handlers import leave, twice
from tests.datasets.test_routes import BIG, path
from tests.deletions import CLOSING, DELETED, MARKER, PURGING, a_day_passes, purge, purge_slice, rows_with
from tests.world import OURS, THEIRS, World, job, owner, reason

PATIENCE_S = 15.0


async def filled(world: World) -> tuple[UUID, UUID]:
    """Ours: a dataset with files of each kind, lent to theirs, and what a run there made of it; the ids of both datasets."""
    dataset_id = await new_dataset(world, MARKER)
    for name, data in (("small", MARKER.encode()), ("big", BIG), ("big", BIG + b"2")):
        assert (await put(world, dataset_id, f"{MARKER}/{name}", data)).status_code == 201
    await shared(world, dataset_id)
    made = run_fact(dataset_id, project_id=THEIRS, output_name="derived")
    await world.hear(made)
    await leave(world, job(made.run_id, 1, THEIRS), "out", b"derived")
    await world.hear(later(made, RunState.SUCCEEDED))
    lent = await new_dataset(world, "theirs", THEIRS)
    await shared(world, lent, THEIRS, OURS)
    await world.said()
    return dataset_id, made.output_dataset_id


async def staged(world: World, dataset_id: UUID) -> None:
    run = run_fact(dataset_id, output_name=MARKER)
    await world.hear(run)
    assert (await leave(world, job(run.run_id, 1, OURS), MARKER, BIG)).status_code == 201


async def test_closing_withdraws_what_is_shared_either_way_and_says_so_once(world: World) -> None:
    await filled(world)
    said = await twice(world, CLOSING)
    assert [fact.state for fact in said if isinstance(fact, Share)] == [ShareState.WITHDRAWN] * 2
    (told,) = [fact for fact in said if isinstance(fact, Purged)]
    assert (told.version, told.step, told.project_version, told.removed) == (1, PurgeStep.CLOSED, 2, {})
    assert not await purge_slice(world)


async def test_a_deleted_project_leaves_no_name_no_key_and_no_byte(world: World, blobs: Path) -> None:
    dataset_id, derived = await filled(world)
    await staged(world, dataset_id)
    assert len(list(files_under(blobs))) == 3
    await world.hear(CLOSING, PURGING)
    await world.said()
    await purge(world)
    gone, told = await world.said()
    assert isinstance(gone, Dataset)
    assert (gone.dataset_id, gone.deleted, gone.name, gone.files, gone.origins) == (dataset_id, True, "", 0, ())
    assert isinstance(told, Purged)
    assert (told.version, told.step, told.project_version) == (2, PurgeStep.PURGED, 3)
    size = len(MARKER) + 3 * len(BIG) + 1
    counted = {"dataset_keys": 2, "files": 3, "bytes": size, "staged_outputs": 1, "datasets": 1, "shares": 2, "runs": 1, "memberships": 2}
    assert told.removed == counted
    assert told.kept == {"origins": 1}
    assert list(files_under(blobs)) == []
    assert await rows_with(world, MARKER) == {}
    kept = await rows_with(world, str(OURS))
    assert kept == {"projects": 1, "origins": 1, "inbox": 3}
    assert await world.erased() == []
    await a_day_passes(world)
    assert await world.erased() == [("datasets", str(dataset_id), gone.version + 1)]
    foreign = await world.get(path(derived, "files", "out", project_id=THEIRS), owner(THEIRS))
    assert (foreign.status_code, reason(foreign)) == (403, "origins-are-foreign")


async def test_a_service_that_slept_through_the_closing_closes_before_it_purges(world: World) -> None:
    await filled(world)
    said = await twice(world, PURGING)
    assert [fact.step for fact in said if isinstance(fact, Purged)] == [PurgeStep.CLOSED]
    await purge(world)
    await world.hear(DELETED)
    await purge(world)
    assert [fact.version for fact in await world.said() if isinstance(fact, Purged)] == [2]


@pytest.mark.parametrize("where", ["remove_rows", "remove_datasets", "forget_of_project"])
async def test_a_purge_that_dies_between_the_blobs_and_the_commit_is_done_again(
    world: World, blobs: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    dataset_id, _ = await filled(world)
    await staged(world, dataset_id)
    await world.hear(CLOSING, PURGING)
    await world.said()
    real = getattr(repository.deletion, where)
    deaths = iter([True, True])

    async def dies(*arguments: Any) -> Any:
        done = await real(*arguments)
        if next(deaths, False):
            raise ConnectionError("killed before the commit")
        return done

    monkeypatch.setattr(repository.deletion, where, dies)
    for _ in range(2):
        with pytest.raises(ConnectionError):
            await purge(world)
        assert [fact for fact in await world.said() if isinstance(fact, Purged)] == []
    await purge(world)
    (told,) = [fact for fact in await world.said() if isinstance(fact, Purged)]
    assert (told.removed["files"], told.removed["datasets"], told.removed["staged_outputs"]) == (3, 1, 1)
    assert list(files_under(blobs)) == []
    assert await rows_with(world, MARKER) == {}


async def test_keys_are_gone_for_good_also_while_the_store_refuses(world: World, blobs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset_id, _ = await filled(world)
    await world.hear(CLOSING, PURGING)
    await world.said()

    async def refuses(_name: str) -> None:
        raise ConnectionError("the store is away")

    with monkeypatch.context() as away:
        away.setattr(world.runtime.extra["storage"].blobs, "delete", refuses)
        for _ in range(2):
            with pytest.raises(ConnectionError):
                await purge(world)
    assert await world.sql("SELECT 1 FROM dataset_keys WHERE dataset_id = :id", id=dataset_id) == []
    await purge(world)
    (told,) = [fact for fact in await world.said() if isinstance(fact, Purged)]
    assert (told.removed["dataset_keys"], told.removed["files"]) == (1, 3)
    assert list(files_under(blobs)) == []


@pytest.mark.parametrize("heard", ["closing, then cancelled", "cancelled, then closing"])
async def test_what_a_run_staged_is_deleted_and_counted_whichever_of_its_ends_is_heard_first(world: World, blobs: Path, heard: str) -> None:
    run = run_fact(output_name=MARKER)
    await world.hear(run)
    assert (await leave(world, job(run.run_id, 1, OURS), MARKER, BIG)).status_code == 201
    ends = {"closing": CLOSING, "cancelled": later(run, RunState.CANCELLED)}
    await world.hear(*[ends[end] for end in heard.split(", then ")], PURGING)
    await world.said()
    await purge(world)
    (told,) = [fact for fact in await world.said() if isinstance(fact, Purged)]
    assert (told.removed["staged_outputs"], told.removed["bytes"]) == (1, len(BIG))
    assert list(files_under(blobs)) == []


async def test_many_files_go_in_slices(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.deletion, "PURGED_AT_ONCE", 2)
    dataset_ids = [await new_dataset(world, f"d{number}") for number in range(3)]
    for number in range(5):
        await put(world, dataset_ids[0], f"f{number}", b"123")
    await world.hear(CLOSING, PURGING)
    slices = 0
    while await purge_slice(world):
        slices += 1
    assert slices == 1 + 3 + 2 + 1
    (told,) = [fact for fact in await world.said() if isinstance(fact, Purged) and fact.version == 2]
    assert (told.removed["files"], told.removed["datasets"], told.removed["bytes"]) == (5, 3, 15)


async def test_nothing_late_comes_back(world: World) -> None:
    dataset_id, _ = await filled(world)
    run = run_fact(dataset_id, output_name=MARKER)
    await world.hear(CLOSING, PURGING)
    await purge(world)
    await world.said()
    await world.sql("DELETE FROM inbox")
    await world.hear(run, later(run, RunState.SUCCEEDED), member(OURS, version=7), project(OURS), DELETED)
    await purge(world)
    assert await world.said() == []
    assert await rows_with(world, MARKER) == {}
    assert [await world.sql(f"SELECT 1 FROM {table} WHERE project_id = :id", id=OURS) for table in ("runs", "members", "datasets")] == [
        [],
        [],
        [],
    ]
    refused = await world.post(f"/projects/{OURS}/datasets", owner(OURS), json={"name": "ct", "kind": "files"})
    assert (refused.status_code, reason(refused)) == (409, "project-is-closed")


async def test_an_upload_that_is_under_way_leaves_nothing_in_a_project_that_closes(world: World, blobs: Path) -> None:
    dataset_id = await new_dataset(world)
    flights = world.runtime.extra["storage"].flights

    async def pieces() -> AsyncIterator[bytes]:
        yield b"x" * 200_000
        await asyncio.Event().wait()

    upload = asyncio.create_task(world.put(path(dataset_id, "files", "a"), owner(OURS, ADA), content=pieces()))
    async with asyncio.timeout(PATIENCE_S):
        while len(flights) < 1:
            await asyncio.sleep(0.01)
        await world.hear(CLOSING)
        answer = await upload
    assert (answer.status_code, reason(answer)) == (409, "project-is-closed")
    await world.hear(PURGING)
    await purge(world)
    assert list(files_under(blobs)) == []


async def test_what_began_before_the_closing_is_written_before_it_and_purged(world: World) -> None:
    dataset_id = await new_dataset(world)
    async with world.work() as uow:
        await deletion.hold(uow.session, OURS)
        closing = asyncio.create_task(world.hear(CLOSING))
        await world.somebody_waits()
        assert not closing.done()
    await closing
    answer = await put(world, dataset_id, "a", b"1")
    assert answer.status_code == 409


async def test_another_project_is_untouched(world: World) -> None:
    await filled(world)
    before = await world.sql("SELECT dataset_id, name, files, version FROM datasets WHERE project_id = :id ORDER BY 1", id=THEIRS)
    await world.hear(CLOSING, PURGING)
    await purge(world)
    assert await world.sql("SELECT dataset_id, name, files, version FROM datasets WHERE project_id = :id ORDER BY 1", id=THEIRS) == before
    assert await world.sql("SELECT state FROM projects WHERE project_id = :id", id=THEIRS) == [(ProjectState.ACTIVE,)]
