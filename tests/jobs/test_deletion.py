"""Projects that are deleted, in jobs: runs end, and jobs, logs and programs go."""

import asyncio
import contextlib
import functools
from typing import Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from chassis.app import PURGE_LOOK_S, purge_projects
from chassis.deletion import Slice
from chassis.outbox import UnitOfWork
from contracts.events import Job, ProjectState, Purged, PurgeStep, Run, RunState, ShareState
from services.jobs import repository, service
from tests.deletions import CLOSING, DELETED, MARKER, PURGING, a_day_passes, purge, purge_slice, rows_with, state
from tests.jobs.scene import Scene, dataset, member, share
from tests.world import OURS, THEIRS, Worlds, reason


async def filled(scene: Scene) -> list[UUID]:
    """A job that ended with a log, one that runs, one that waits, all of which somebody looked at; their ids."""
    named: dict[str, Any] = {"name": MARKER, "program": f"print('{MARKER}')", "arguments": [MARKER]}
    ended, lease = await scene.running(**named)
    await scene.tell(lease, "log", offset=0, text=MARKER)
    await scene.tell(lease, "report", state="succeeded", exit_code=0, metrics={MARKER: 1.0})
    await scene.log(ended["job_id"])
    running, _ = await scene.running(**named)
    waiting = await scene.submitted(**named)
    await scene.world.hear(dataset(uuid7(), name=MARKER))
    lent = uuid7()
    await scene.world.hear(dataset(lent, THEIRS), share(lent, ShareState.ACCEPTED, 1))
    await scene.world.said()
    return [UUID(job["job_id"]) for job in (ended, running, waiting)]


async def test_closing_ends_the_runs_and_says_so_once(scene: Scene) -> None:
    await filled(scene)
    await scene.world.hear(CLOSING)
    said = await scene.world.said()
    assert [fact.state for fact in said if isinstance(fact, Run)] == [RunState.CANCELLED] * 2
    assert [(fact.version, fact.step) for fact in said if isinstance(fact, Purged)] == [(1, PurgeStep.CLOSED)]
    await scene.world.sql("DELETE FROM inbox")
    await scene.world.hear(CLOSING)
    assert await scene.world.said() == []
    refused = await scene.submit()
    assert (refused.status_code, reason(refused)) == (409, "project-not-active")
    assert (await scene.take()).status_code == 204


async def test_a_deleted_project_leaves_no_job_log_program_or_budget(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.deletion, "BATCH", 2)
    world = scene.world
    job_ids = await filled(scene)
    await world.hear(CLOSING, PURGING)
    await world.said()
    await purge(world)
    said = await world.said()
    jobs = [fact for fact in said if isinstance(fact, Job)]
    runs = [fact for fact in said if isinstance(fact, Run)]
    assert sorted(fact.job_id for fact in jobs) == sorted(job_ids)
    assert {(fact.name, fact.inputs, fact.deleted) for fact in jobs} == {("", (), True)}
    assert {(fact.output_name, fact.inputs, fact.csr) for fact in runs} == {("", (), None)}
    (told,) = [fact for fact in said if isinstance(fact, Purged)]
    assert told.removed == {"jobs": 3, "runs": 3, "logs": 2, "budgets": 1, "memberships": 2, "shares": 1, "datasets": 2}
    assert await rows_with(world, MARKER) == {}
    assert await rows_with(world, str(OURS)) == {"projects": 1, "inbox": 3}
    await a_day_passes(world)
    assert sorted(key for topic, key, _ in await world.erased() if topic == "jobs") == sorted(map(str, job_ids))
    assert len([key for topic, key, _ in await world.erased() if topic == "runs"]) == 3


async def test_nothing_late_comes_back(scene: Scene) -> None:
    world = scene.world
    await filled(scene)
    await world.hear(CLOSING, PURGING)
    await purge(world)
    await world.said()
    await world.sql("DELETE FROM inbox")
    lent = uuid7()
    await world.hear(
        member(scene.scientist_id, version=9),
        dataset(scene.dataset_id, name=MARKER),
        dataset(lent, THEIRS),
        share(lent, ShareState.ACCEPTED, 1),
        DELETED,
    )
    await purge(world)
    assert await world.said() == []
    assert await rows_with(world, MARKER) == {}
    counted = "SELECT (SELECT count(*) FROM members), (SELECT count(*) FROM datasets WHERE project_id = :id), (SELECT count(*) FROM shares)"
    assert await world.sql(counted, id=OURS) == [(0, 0, 0)]


async def test_a_slice_that_dies_is_done_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    world = scene.world
    await filled(scene)
    await world.hear(CLOSING, PURGING)
    await world.said()
    real = repository.deletion.remove_jobs
    monkeypatch.setattr(repository.deletion, "remove_jobs", _dying)
    with pytest.raises(ConnectionError):
        await purge_slice(world)
    assert await world.said() == []
    monkeypatch.setattr(repository.deletion, "remove_jobs", real)
    await purge(world)
    (told,) = [fact for fact in await world.said() if isinstance(fact, Purged)]
    assert told.removed["jobs"] == 3


async def _dying(*_: object) -> int:
    raise ConnectionError("killed before the commit")


async def test_the_purge_begins_when_the_fact_arrives(scene: Scene) -> None:
    world = scene.world
    await filled(scene)
    world.runtime.extra["consumer"] = world.consumer
    async with world.running(functools.partial(purge_projects, world.spec)):
        await world.hear(CLOSING, PURGING)
        async with asyncio.timeout(PURGE_LOOK_S - 1):
            while not [fact for fact in await world.said() if isinstance(fact, Purged) and fact.version == 2]:
                await asyncio.sleep(0.01)
    assert await rows_with(world, MARKER) == {}


async def test_replicas_purge_a_project_once_between_them(scene: Scene, worlds: Worlds, settings: dict[str, Any]) -> None:
    replica = await worlds.open("jobs", beside=scene.world, **settings)
    await filled(scene)
    await scene.world.hear(CLOSING, PURGING)
    await scene.world.said()
    await asyncio.gather(purge(scene.world), purge(replica))
    (told,) = [fact for fact in await scene.world.said() if isinstance(fact, Purged)]
    assert (told.removed["jobs"], told.removed["logs"]) == (3, 2)


async def test_a_project_that_cannot_be_purged_does_not_keep_others_waiting(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    await scene.world.hear(state(ProjectState.PURGING, 3, THEIRS), CLOSING, PURGING)
    await scene.world.said()
    real = service.deletion.purge

    async def stuck(uow: UnitOfWork, project_id: UUID) -> Slice:
        if project_id == THEIRS:
            raise ConnectionError("this one never ends")
        return await real(uow, project_id)

    monkeypatch.setattr(service.deletion, "purge", stuck)
    purged: list[UUID] = []
    async with asyncio.timeout(15):
        while OURS not in purged:
            with contextlib.suppress(ConnectionError):
                await purge_slice(scene.world)
            purged += [fact.project_id for fact in await scene.world.said() if isinstance(fact, Purged)]
