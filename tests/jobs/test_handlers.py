"""What jobs does when others speak, and when time passes; each fact twice."""

import asyncio
import contextlib
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from uuid_utils.compat import uuid7

from chassis.outbox import UnitOfWork
from contracts.events import Fact, ProjectState, ShareState, UserStatus
from contracts.roles import Role
from services.jobs import app, repository, service
from services.jobs.service.leases import Terms
from tests.jobs.scene import Scene, certificate, dataset, member, project, share, user
from tests.world import OURS, THEIRS, World, Worlds, reason


async def told_twice(scene: Scene, fact: Fact) -> list[str]:
    """Tell a fact, and again; the states of runs that were said in between, and nothing afterwards."""
    await scene.said_of_runs()
    await scene.world.hear(fact)
    said = await scene.said_of_runs()
    await scene.world.hear(fact)
    assert await scene.said_of_runs() == []
    return said


@pytest.mark.parametrize("state", ["queued", "leased", "running"])
async def test_a_person_without_a_role_has_no_runs(scene: Scene, state: str) -> None:
    job = await scene.submitted()
    if state != "queued":
        lease = await scene.leased()
        if state == "running":
            await scene.tell(lease, "report", state="running")
    assert await told_twice(scene, member(scene.scientist_id, None, version=2)) == ["cancelled"]
    run = await scene.run_of(job)
    assert run.reason == "The person who submitted it has no role in the project any more."


async def test_runs_of_others_and_elsewhere_go_on(scene: Scene) -> None:
    own = await scene.submitted(scene.owner)
    await scene.submitted()
    assert await told_twice(scene, member(scene.scientist_id, None, version=2)) == ["cancelled"]
    assert (await scene.run_of(own)).state == "queued"


async def test_a_changed_role_ends_no_run(scene: Scene) -> None:
    await scene.submitted()
    assert await told_twice(scene, member(scene.scientist_id, Role.DATA_OWNER, version=2)) == []


async def test_a_membership_that_has_ended_already_ends_the_runs(scene: Scene) -> None:
    await scene.submitted()
    past = await scene.world.now() - timedelta(seconds=1)
    assert await told_twice(scene, member(scene.scientist_id, ends_at=past, version=2)) == ["cancelled"]


@pytest.mark.parametrize("status", [UserStatus.BLOCKED, UserStatus.DEACTIVATED])
async def test_a_blocked_account_has_no_runs(scene: Scene, status: UserStatus) -> None:
    await scene.running()
    assert await told_twice(scene, user(scene.scientist_id, status, 2)) == ["cancelled"]


async def test_who_was_removed_and_came_back_while_jobs_heard_nothing_has_no_runs_from_before(scene: Scene) -> None:
    job = await scene.submitted()
    assert await told_twice(scene, member(scene.scientist_id, version=3, starts_at=await scene.world.now())) == ["cancelled"]
    assert (await scene.run_of(job)).reason == "The person who submitted it had no role in the project for a while."
    later = await scene.submitted()
    assert (await scene.run_of(later)).state == "queued"


async def test_an_account_that_stopped_and_goes_on_while_jobs_heard_nothing_has_no_runs_from_before(scene: Scene) -> None:
    job = await scene.submitted()
    assert await told_twice(scene, user(scene.scientist_id, version=2)) == []
    assert await told_twice(scene, user(scene.scientist_id, version=4, stops=1)) == ["cancelled"]
    assert (await scene.run_of(job)).reason == "The account of the person who submitted it was not active for a while."
    later = await scene.submitted()
    assert await told_twice(scene, user(scene.scientist_id, version=5, stops=1)) == []
    assert (await scene.run_of(later)).state == "queued"


@pytest.mark.parametrize("state", sorted(set(ProjectState) - {ProjectState.ACTIVE}))
async def test_a_project_that_is_not_active_has_no_runs(scene: Scene, state: ProjectState) -> None:
    await scene.running()
    assert await told_twice(scene, project(state=state, version=2)) == ["cancelled"]
    answer = await scene.submit()
    assert (answer.status_code, reason(answer)) == (409, "project-not-active")


async def test_a_restored_project_takes_jobs_again(scene: Scene) -> None:
    await scene.world.hear(project(state=ProjectState.ARCHIVED, version=2), project(version=3))
    assert (await scene.submit()).status_code == 201


async def test_a_withdrawn_share_ends_the_runs_that_it_alone_allowed(scene: Scene) -> None:
    theirs = uuid7()
    await scene.world.hear(dataset(theirs, THEIRS), share(theirs, ShareState.ACCEPTED, 1))
    shared = await scene.submitted(inputs=[str(theirs)])
    own = await scene.submitted()
    assert await told_twice(scene, share(theirs, ShareState.WITHDRAWN, 2)) == ["cancelled"]
    assert [(await scene.run_of(job)).state for job in (shared, own)] == ["cancelled", "queued"]


@pytest.mark.parametrize("last", ["the job", "the fact"])
@pytest.mark.parametrize("fact", ["a share is withdrawn", "a dataset is deleted"])
async def test_a_job_that_is_submitted_while_its_input_goes_ends_all_the_same(scene: Scene, fact: str, last: str) -> None:
    world, theirs = scene.world, uuid7()
    await world.hear(dataset(theirs, THEIRS), share(theirs, ShareState.ACCEPTED, 1))
    withdrawn = share(theirs, ShareState.WITHDRAWN, 2)
    gone = dataset(theirs, THEIRS, deleted=True, version=2)

    async def goes(uow: UnitOfWork) -> None:
        await (service.heard.know_share(uow, withdrawn) if fact == "a share is withdrawn" else service.heard.know_dataset(uow, gone))

    async def submit(uow: UnitOfWork) -> None:
        job: dict[str, Any] = {"name": "train", "program": "print(1)", "environment": "python", "inputs": [theirs], "arguments": []}
        await service.jobs.submit(uow, OURS, **job, wall_seconds=60, memory_mib=64, cores=1)

    first, second = (goes, submit) if last == "the fact" else (submit, goes)
    async with world.running(app.end_what_is_over):
        async with world.work(scene.scientist) as outer:
            await first(outer)
            async with world.work(scene.scientist) as inner:
                await second(inner)
        async with asyncio.timeout(10):
            while (await world.sql("SELECT state FROM runs"))[0].state != "cancelled":
                await asyncio.sleep(0.02)
    (run,) = await world.sql("SELECT reason FROM runs")
    assert run.reason == "An input is not shared with the project any more."


async def test_what_is_over_ends_no_run_whose_inputs_can_be_read(scene: Scene) -> None:
    theirs = uuid7()
    await scene.world.hear(dataset(theirs, THEIRS), share(theirs, ShareState.ACCEPTED, 1))
    for inputs in ([], [str(scene.dataset_id)], [str(scene.dataset_id), str(theirs)]):
        await scene.submitted(inputs=inputs)
    async with scene.world.work() as uow:
        assert await service.leases.end_what_is_over(uow, Terms(5, 2)) == 0


async def test_the_look_at_new_runs_costs_no_more_the_more_others_wait(scene: Scene, worlds: Worlds) -> None:
    await scene.submitted()
    await scene.world.sql(
        "INSERT INTO jobs SELECT made.* FROM jobs, generate_series(1, 2000) n, jsonb_populate_record(jobs, jsonb_build_object("
        " 'job_id', md5('j' || n)::uuid, 'output_dataset_id', md5('o' || n)::uuid, 'submitted_at', now() - interval '1 hour')) made"
    )
    await scene.world.sql(
        "INSERT INTO runs SELECT made.* FROM runs, generate_series(1, 2000) n, jsonb_populate_record(runs, jsonb_build_object("
        " 'job_id', md5('j' || n)::uuid, 'run_id', md5('r' || n)::uuid)) made"
    )
    await worlds.databases.analyze(scene.world.database_url)
    rows_read = text("SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0)) FROM pg_stat_xact_user_tables")

    async def looked_at(lately: timedelta) -> int:
        async with scene.world.work() as uow:
            before = (await uow.session.execute(rows_read)).scalar_one()
            assert await repository.jobs.unreadable(uow.session, uow.now - lately, 100) == []
            return int((await uow.session.execute(rows_read)).scalar_one() - before)

    assert await looked_at(timedelta(minutes=1)) < 20
    assert await looked_at(timedelta(days=1)) > 4000


async def test_a_run_whose_input_went_while_nobody_looked_ends_at_the_next_look_at_all(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the first look of a process, and at those that come after it now and then."""
    world = scene.world
    monkeypatch.setattr(app, "WHOLE_S", 0.0)

    async def submitted_long_ago() -> dict[str, Any]:
        await world.sql("UPDATE datasets SET deleted = false")
        job = await scene.submitted()
        await world.sql("UPDATE jobs SET submitted_at = now() - interval '1 hour'")
        await world.sql("UPDATE datasets SET deleted = true")
        return job

    async def ends(job: dict[str, Any]) -> None:
        async with world.work() as uow:
            await repository.changes.wake(uow.session)
        async with asyncio.timeout(10):
            while (await scene.run_of(job)).state != "cancelled":
                await asyncio.sleep(0.02)

    job = await submitted_long_ago()
    async with world.work() as uow:
        assert await service.leases.end_what_is_over(uow, Terms(5, 2), whole=False) == 0
    async with world.running(app.end_what_is_over):
        await ends(job)
        await ends(await submitted_long_ago())


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set when it was looked for what is over."""
    done, look = asyncio.Event(), service.leases.end_what_is_over

    async def seen(uow: UnitOfWork, terms: Terms, *, whole: bool) -> int:
        ended = await look(uow, terms, whole=whole)
        done.set()
        return ended

    monkeypatch.setattr(service.leases, "end_what_is_over", seen)
    return done


async def test_a_run_that_somebody_held_at_the_look_at_all_ends_when_it_is_let_go(scene: Scene, looked: asyncio.Event) -> None:
    """Rather than at the next look at all, which is far off."""
    world = scene.world
    job = await scene.submitted()
    await world.sql("UPDATE jobs SET submitted_at = now() - interval '1 hour'")
    await world.sql("UPDATE datasets SET deleted = true")
    async with asyncio.timeout(10), contextlib.AsyncExitStack() as until_then:
        async with world.work() as holding:
            await holding.session.execute(text("SELECT FROM runs FOR UPDATE"))
            await until_then.enter_async_context(world.running(app.end_what_is_over))
            await looked.wait()
            await repository.changes.wake(holding.session)
        while (await scene.run_of(job)).state != "cancelled":
            await asyncio.sleep(0.02)


async def test_a_deleted_dataset_ends_the_runs_over_it(scene: Scene) -> None:
    await scene.submitted()
    assert await told_twice(scene, dataset(scene.dataset_id, deleted=True, version=2)) == ["cancelled"]


@pytest.mark.parametrize(
    ("left", "why"), [(timedelta(hours=1), "Its certificate was revoked."), (timedelta(0), "Its certificate ran out.")]
)
async def test_a_certificate_that_counts_no_longer_ends_the_run_that_held_it_and_the_reason_says_why(
    scene: Scene, left: timedelta, why: str
) -> None:
    job, lease = await scene.running()
    run_id = UUID(lease["run_id"])
    assert await told_twice(scene, certificate(run_id, 1)) == []
    ended = certificate(run_id, 1, live=False, version=2).model_copy(update={"not_after": await scene.world.now() + left})
    assert await told_twice(scene, ended) == ["cancelled"]
    assert (await scene.run_of(job)).reason == why


async def test_the_end_of_an_older_lease_s_certificate_does_not_touch_the_new_one(scene: Scene) -> None:
    job, lease = await scene.running()
    run_id = UUID(lease["run_id"])
    await scene.world.hear(certificate(run_id, 1, serial="c1"))
    await scene.world.sql("UPDATE runs SET lease_until = now() - interval '1 second'")
    async with scene.world.work() as uow:
        await service.leases.end_what_is_over(uow, Terms(5, 2))
    await scene.leased()
    await scene.world.hear(certificate(run_id, 2, serial="c2"))
    assert await told_twice(scene, certificate(run_id, 1, live=False, version=2, serial="c1")) == []
    run = await scene.run_of(job)
    assert (run.state, run.certificate_id) == ("leased", "c2")


async def test_a_reordered_older_fact_changes_nothing(scene: Scene) -> None:
    await scene.world.hear(member(scene.scientist_id, None, version=3))
    await scene.world.hear(member(scene.scientist_id, version=2))
    assert (await scene.submit()).status_code == 503


async def test_a_membership_that_ends_stops_the_run_at_its_instant(
    scene: Scene, looked: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody looks before by himself: the next look without a reason is further off than the patience of this test."""
    monkeypatch.setattr(app, "LONGEST_REST_S", 60.0)
    job = await scene.submitted()
    async with asyncio.timeout(20), scene.world.running(app.end_what_is_over):
        await looked.wait()
        ends = await scene.world.now() + timedelta(seconds=0.8)
        await scene.world.hear(member(scene.scientist_id, ends_at=ends, version=2))
        while (await scene.run_of(job)).state == "queued":
            await asyncio.sleep(0.02)
    ended = await scene.run_of(job)
    assert (ended.state, ended.ended_at >= ends) == ("cancelled", True)
    assert ended.ended_at < ends + timedelta(seconds=0.9)


async def test_a_lease_that_runs_out_is_given_out_again_and_then_given_up(scene: Scene) -> None:
    job, _ = await scene.running()
    await scene.said_of_runs()
    async with scene.world.running(app.end_what_is_over):
        for state in ("queued", "failed"):
            await scene.world.sql("UPDATE runs SET lease_until = now() WHERE lease_until IS NOT NULL")
            while (await scene.run_of(job)).state != state:
                await asyncio.sleep(0.02)
            if state == "queued":
                assert (await scene.leased())["fencing_token"] == 2
    assert await scene.said_of_runs() == ["queued", "leased", "failed"]


async def test_two_replicas_end_a_lease_once(scene: Scene, worlds: Worlds) -> None:
    beside = await worlds.open("jobs", beside=scene.world, valkey_url="redis+socket:///nowhere/valkey.sock")
    for _ in range(5):
        await scene.running()
    await scene.said_of_runs()
    await scene.world.sql("UPDATE runs SET lease_until = now() - interval '1 second'")

    async def reap(world: World) -> int:
        async with world.work() as uow:
            return await service.leases.end_what_is_over(uow, Terms(5, 2))

    assert sum(await asyncio.gather(reap(scene.world), reap(beside))) == 5
    assert await scene.said_of_runs() == ["queued"] * 5


async def test_waiting_runs_are_announced_and_while_no_broker_answers_they_stay_in_the_queue(scene: Scene) -> None:
    job = await scene.submitted()
    async with scene.world.running(app.announce):
        while (await scene.run_of(job)).announced_at is None:
            await asyncio.sleep(0.02)
    assert (await scene.take()).status_code == 200


async def test_a_run_that_waits_on_is_announced_again(scene: Scene) -> None:
    await scene.submitted()
    for expected in (1, 0):
        async with scene.world.work() as uow:
            assert len(await service.leases.unannounced(uow)) == expected
    await scene.world.sql("UPDATE runs SET announced_at = now() - interval '31 seconds'")
    async with scene.world.work() as uow:
        assert len(await service.leases.unannounced(uow)) == 1


async def test_the_local_agent_is_announced_once(scene: Scene) -> None:
    token = bytes(range(32))
    for _ in range(2):
        async with scene.world.work() as uow:
            await service.agents.know_local_agent(uow, token)
    assert (await scene.world.sql("SELECT count(*) FROM agents WHERE token_sha256 = :t", t=token))[0][0] == 1


async def test_what_was_erased_while_asleep_ends_its_runs(scene: Scene) -> None:
    erasers = scene.world.spec.hears.erasers
    keys = {
        "memberships": f"{OURS}:{scene.scientist_id}",
        "users": str(scene.scientist_id),
        "projects": str(OURS),
        "datasets": str(scene.dataset_id),
    }
    for topic, key in keys.items():
        job = await scene.submitted(scene.owner if topic in ("projects", "datasets") else scene.scientist)
        async with scene.world.work() as uow:
            await erasers[topic](key, uow)
        assert (await scene.run_of(job)).state == "cancelled"
        await scene.world.sql(
            "INSERT INTO members VALUES (:p, :u, 'data_scientist', now(), NULL) ON CONFLICT DO NOTHING", p=OURS, u=scene.scientist_id
        )
        await scene.world.sql("INSERT INTO projects VALUES (:p, 'active') ON CONFLICT DO NOTHING", p=OURS)
