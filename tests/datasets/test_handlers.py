"""What is heard, each fact once and again; runs that read and leave outputs; reads that are cut."""

import asyncio
import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from contracts.events import Dataset, Fact, ProjectState, RunState, Share, ShareState, UserStatus
from contracts.roles import Actor
from services.datasets import service, vault
from services.datasets.flights import LOOK_S
from tests.datasets.conftest import BOB, files_under, later, member, new_dataset, person, project, put, run_fact, shared
from tests.datasets.test_routes import BIG, identity, path, scope
from tests.deletions import purge
from tests.world import OURS, THEIRS, World, Worlds, agent, job, owner, reason, scientist

PATIENCE_S = 15.0


async def twice(world: World, fact: Fact) -> list[Fact]:
    """Hear a fact, then the same again with an empty inbox, as after a lost offset and a swept inbox: the second says nothing."""
    await world.hear(fact)
    said = await world.said()
    await world.sql("DELETE FROM inbox WHERE topic = :topic AND key = :key", topic=fact.topic.name, key=fact.key)
    await world.hear(fact)
    assert await world.said() == []
    return said


async def read(world: World, actor: Actor, dataset_id: UUID, name: str = "a", **arguments: Any) -> Any:
    return await world.get(f"/runs/{actor.run_id}/inputs/{dataset_id}/files/{name}", actor, **arguments)


async def leave(world: World, actor: Actor, name: str, data: bytes) -> Any:
    return await world.put(f"/runs/{actor.run_id}/outputs/{name}", actor, content=data)


# Inputs


async def test_a_live_run_reads_its_inputs(world: World) -> None:
    dataset_id = await new_dataset(world)
    await put(world, dataset_id, "a", BIG)
    run = run_fact(dataset_id)
    await world.hear(run)
    me = job(run.run_id, 1, OURS)
    listed = (await world.get(f"/runs/{run.run_id}/inputs/{dataset_id}/files", me)).json()["items"]
    assert [(item["path"], item["size"]) for item in listed] == [("a", len(BIG))]
    assert (await read(world, me, dataset_id)).content == BIG
    part = await read(world, me, dataset_id, headers={"Range": "bytes=5-9"})
    assert (part.status_code, part.content) == (206, BIG[5:10])
    assert (await read(world, me, dataset_id, "none")).status_code == 404


async def test_a_run_reads_what_is_shared_into_its_project_until_it_is_withdrawn(world: World) -> None:
    dataset_id = await new_dataset(world)
    await put(world, dataset_id, "a", b"123")
    share_id = await shared(world, dataset_id)
    run = run_fact(dataset_id, project_id=THEIRS)
    await world.hear(run)
    me = job(run.run_id, 1, THEIRS)
    assert (await read(world, me, dataset_id)).content == b"123"
    await world.delete(path(dataset_id, "shares", str(share_id)), owner(OURS))
    answer = await read(world, me, dataset_id)
    assert (answer.status_code, reason(answer)) == (403, "input-is-not-readable")


async def test_a_run_that_is_not_known_yet_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.runs, "KNOWN_WAIT_S", 30.0)
    dataset_id = await new_dataset(world)
    await put(world, dataset_id, "a", b"123")
    run = run_fact(dataset_id)
    asked = asyncio.create_task(read(world, job(run.run_id, 1, OURS), dataset_id))
    await asyncio.sleep(0.1)
    await world.hear(run)
    assert (await asked).content == b"123"


async def test_a_run_that_stays_unknown_does_not_exist(world: World) -> None:
    dataset_id = await new_dataset(world)
    answer = await read(world, job(uuid7(), 1, OURS), dataset_id)
    assert (answer.status_code, reason(answer)) == (404, "not-found")


async def test_a_run_reads_nothing_but_its_inputs_and_no_other_runs(world: World) -> None:
    dataset_id, other = await new_dataset(world), await new_dataset(world, "other")
    run = run_fact(dataset_id)
    await world.hear(run)
    assert (await read(world, job(run.run_id, 1, OURS), other)).status_code == 404
    answer = await world.get(f"/runs/{run.run_id}/inputs/{dataset_id}/files", job(uuid7(), 1, OURS))
    assert (answer.status_code, reason(answer)) == (404, "not-found")


async def test_nobody_but_a_job_uses_the_doors_of_runs(world: World) -> None:
    dataset_id = await new_dataset(world)
    run = run_fact(dataset_id)
    await world.hear(run)
    for actor in (owner(OURS), agent()):
        for answer in (
            await world.get(f"/runs/{run.run_id}/inputs/{dataset_id}/files/a", actor),
            await world.put(f"/runs/{run.run_id}/outputs/a", actor, content=b"1"),
        ):
            assert answer.status_code == 403


@pytest.mark.parametrize("how", ["ended", "fenced", "member left", "member expired", "person blocked"])
async def test_a_run_that_is_no_longer_live_reads_and_leaves_nothing(world: World, how: str) -> None:
    dataset_id = await new_dataset(world)
    await put(world, dataset_id, "a", b"123")
    run = run_fact(dataset_id)
    await world.hear(run)
    me = job(run.run_id, 1, OURS)
    assert (await read(world, me, dataset_id)).status_code == 200
    end: Fact = {
        "ended": later(run, RunState.CANCELLED),
        "fenced": later(run, RunState.RUNNING, token=2),
        "member left": member(OURS, None, version=2),
        "member expired": member(OURS, version=2, ends_at=await world.now() - timedelta(seconds=1)),
        "person blocked": person(UserStatus.BLOCKED, version=2),
    }[how]
    await twice(world, end)
    for answer in (await read(world, me, dataset_id), await leave(world, me, "out", b"1")):
        assert (answer.status_code, reason(answer)) == (403, "run-is-not-live")
    assert await world.sql("SELECT 1 FROM staged") == []


async def test_what_was_erased_while_asleep_counts_no_more(world: World) -> None:
    dataset_id = await new_dataset(world)
    await put(world, dataset_id, "a", b"123")
    run = run_fact(dataset_id)
    await world.hear(run)
    me = job(run.run_id, 1, OURS)
    for topic, key, back in (("memberships", f"{OURS}:{BOB}", member(OURS, version=2)), ("users", str(BOB), person(version=2))):
        assert (await read(world, me, dataset_id)).status_code == 200
        for _ in range(2):
            async with world.work() as uow:
                await world.spec.hears.erasers[topic](key, uow)
        for answer in (await read(world, me, dataset_id), await leave(world, me, "out", b"1")):
            assert (answer.status_code, reason(answer)) == (404, "not-found")
        await world.hear(back)


# Reads in flight


class Reader:
    """A client that takes a little of an answer and then reads no more until it is told to."""

    def __init__(self, world: World, target: str, actor: Actor) -> None:
        self.got = bytearray()
        self.ended = False
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()
        request = world.client.build_request("GET", f"/api/v1{target}", headers=identity(actor))
        self.task = asyncio.create_task(self._read(world, scope(request)))

    async def _read(self, world: World, made: dict[str, Any]) -> None:
        await world.app(made, self._receive, self._send)

    async def _receive(self) -> Any:
        return await asyncio.Event().wait()

    async def _send(self, message: Any) -> None:
        self.got.extend(message.get("body", b""))
        self.ended = message["type"] == "http.response.body" and not message.get("more_body", False)
        if self.got:
            self.begun.set()
            await self.go_on.wait()


@pytest.mark.parametrize("how", ["share withdrawn", "run ended", "member left", "person blocked", "project closed"])
async def test_a_read_in_flight_is_cut_on_every_replica(world: World, worlds: Worlds, settings: dict[str, Any], how: str) -> None:
    dataset_id = await new_dataset(world)
    await put(world, dataset_id, "a", BIG)
    share_id = await shared(world, dataset_id)
    run = run_fact(dataset_id, project_id=THEIRS)
    await world.hear(run)
    second = await worlds.open("datasets", beside=world, **settings)
    target = f"/runs/{run.run_id}/inputs/{dataset_id}/files/a"
    readers = [Reader(each, target, job(run.run_id, 1, THEIRS)) for each in (world, second)]
    try:
        for reader in readers:
            await asyncio.wait_for(reader.begun.wait(), PATIENCE_S)
        await asyncio.sleep(0.6)
        assert not any(reader.task.done() for reader in readers), "nothing is cut before"
        if how == "share withdrawn":
            await world.delete(path(dataset_id, "shares", str(share_id)), owner(OURS))
        else:
            ends: dict[str, Fact] = {
                "run ended": later(run, RunState.FAILED),
                "member left": member(THEIRS, None, version=2),
                "person blocked": person(UserStatus.BLOCKED, version=2),
                "project closed": project(OURS, ProjectState.CLOSING, version=2),
            }
            await world.hear(ends[how])
        done, _ = await asyncio.wait([reader.task for reader in readers], timeout=PATIENCE_S)
        assert len(done) == len(readers)
        for reader in readers:
            assert not reader.ended
            assert 0 < len(reader.got) < len(BIG)
    finally:
        for reader in readers:
            reader.task.cancel()


async def test_whoever_says_nothing_is_asked_again_well_within_a_second() -> None:
    assert LOOK_S < 0.5


async def test_a_read_in_flight_whose_permission_stays_is_not_cut(world: World) -> None:
    dataset_id = await new_dataset(world)
    await put(world, dataset_id, "a", BIG)
    other = await new_dataset(world, "other")
    share_id = await shared(world, other)
    run = run_fact(dataset_id)
    await world.hear(run)
    reader = Reader(world, f"/runs/{run.run_id}/inputs/{dataset_id}/files/a", job(run.run_id, 1, OURS))
    await asyncio.wait_for(reader.begun.wait(), PATIENCE_S)
    assert (await world.delete(path(other, "shares", str(share_id)), owner(OURS))).status_code == 204
    await world.hear(later(run, RunState.RUNNING))
    await asyncio.sleep(0.6)
    reader.go_on.set()
    await asyncio.wait_for(reader.task, PATIENCE_S)
    assert reader.ended
    assert bytes(reader.got) == BIG
    assert len(world.runtime.extra["storage"].flights) == 0


async def test_a_read_in_flight_is_cut_when_nobody_can_say_whether_it_is_allowed(world: World) -> None:
    dataset_id = await new_dataset(world)
    await put(world, dataset_id, "a", BIG)
    run = run_fact(dataset_id)
    await world.hear(run)
    reader = Reader(world, f"/runs/{run.run_id}/inputs/{dataset_id}/files/a", job(run.run_id, 1, OURS))
    await asyncio.wait_for(reader.begun.wait(), PATIENCE_S)
    world.runtime.extra["storage"].flights._still = _cannot_know
    await asyncio.wait_for(reader.task, PATIENCE_S)
    assert not reader.ended


async def _cannot_know(_reads: object) -> frozenset[Any]:
    raise OSError("the database is away")


# Outputs


async def test_outputs_are_seen_once_the_run_has_succeeded_and_carry_their_origins(world: World, blobs: Path) -> None:
    older = await new_dataset(world, "older", THEIRS)
    await put(world, older, "a", b"1", THEIRS)
    await shared(world, older, THEIRS, OURS)
    own = await new_dataset(world)
    run = run_fact(older, own, output_name="model")
    await world.hear(run)
    await world.said()
    me = job(run.run_id, 1, OURS)
    assert (await leave(world, me, "model.pt", BIG)).status_code == 201
    assert (await leave(world, me, "notes/log.txt", b"epoch 1")).status_code == 201
    assert await world.said() == []
    seen = f"/projects/{OURS}/datasets/{run.output_dataset_id}"
    assert (await world.get(seen, owner(OURS))).status_code == 404
    assert not any(BIG[:64] in file.read_bytes() for file in files_under(blobs))

    await world.recorded()
    (fact,) = await twice(world, later(run, RunState.SUCCEEDED))
    origins = tuple(sorted([older, own]))
    assert isinstance(fact, Dataset)
    assert (fact.dataset_id, fact.project_id, fact.name) == (run.output_dataset_id, OURS, "model")
    assert (fact.version, fact.files, fact.size, fact.origins) == (1, 2, len(BIG) + 7, origins)
    (record,) = [record for record in await world.recorded() if "datasets" in record["resource"]]
    assert (record["resource"]["files"], record["project_id"]) == ("2", str(OURS))
    view = (await world.get(seen, scientist(OURS))).json()
    assert (view["files"], view["size"], tuple(map(UUID, view["origins"]))) == (2, 4 * vault.CHUNK, origins)
    assert (await world.get(seen + "/files", scientist(OURS))).json()["items"] == []
    assert await world.sql("SELECT 1 FROM staged") == []
    out = await world.get(seen + "/files/model.pt", owner(OURS))
    assert (out.status_code, reason(out)) == (403, "origins-are-foreign")
    on = await world.post(seen + "/shares", owner(OURS), json={"target_project_id": str(THEIRS)})
    assert (on.status_code, reason(on)) == (403, "origins-are-foreign")


async def test_what_a_program_chose_is_seen_by_who_may_take_the_bytes_and_by_nobody_else(world: World) -> None:
    own = await new_dataset(world)
    await put(world, own, "table.csv", b"1")
    run = run_fact(own)
    await world.hear(run)
    names = ["z/patient 17 has it", "a/patient 4 has it", "m"]
    for name in names:
        await leave(world, job(run.run_id, 1, OURS), name, name.encode())
    await world.hear(later(run, RunState.SUCCEEDED))
    seen = f"/projects/{OURS}/datasets/{run.output_dataset_id}"
    mine = (await world.get(seen + "/files", owner(OURS))).json()["items"]
    assert [(item["path"], item["size"]) for item in mine] == [(name, len(name)) for name in sorted(names)]
    assert (await world.get(seen, owner(OURS))).json()["size"] == sum(map(len, names))

    assert (await world.get(seen + "/files", scientist(OURS))).json() == {"items": [], "next": None}
    for listed in (
        (await world.get(seen, scientist(OURS))).json(),
        (await world.get(f"/projects/{OURS}/datasets", scientist(OURS))).json()["items"][1],
    ):
        assert (listed["dataset_id"], listed["files"], listed["size"]) == (str(run.output_dataset_id), 4, vault.CHUNK)
    uploads = (await world.get(path(own, "files"), scientist(OURS))).json()["items"]
    assert [(item["path"], item["size"]) for item in uploads] == [("table.csv", 1)]


async def test_an_owner_of_foreign_outputs_cannot_ask_which_names_there_are(world: World) -> None:
    theirs = await new_dataset(world, "theirs", THEIRS)
    await put(world, theirs, "a", b"1", THEIRS)
    await shared(world, theirs, THEIRS, OURS)
    run = run_fact(theirs)
    await world.hear(run)
    await leave(world, job(run.run_id, 1, OURS), "patient 17 has it", b"1")
    await world.hear(later(run, RunState.SUCCEEDED))
    seen = f"/projects/{OURS}/datasets/{run.output_dataset_id}/files"
    assert [item["path"] for item in (await world.get(seen, owner(OURS))).json()["items"]] == []
    answers = [await world.get(f"{seen}/{name}", owner(OURS)) for name in ("patient 17 has it", "patient 18 has it")]
    assert {(answer.status_code, reason(answer), answer.json()["detail"]) for answer in answers} == {
        (403, "origins-are-foreign", answers[0].json()["detail"])
    }


async def test_an_owner_takes_out_what_a_run_made_of_own_data_alone(world: World) -> None:
    own = await new_dataset(world)
    run = run_fact(own)
    await world.hear(run)
    await leave(world, job(run.run_id, 1, OURS), "model.pt", BIG)
    await world.hear(later(run, RunState.SUCCEEDED))
    door = f"/projects/{OURS}/datasets/{run.output_dataset_id}/files/model.pt"
    assert (await world.get(door, owner(OURS))).content == BIG
    assert (await world.get(door, scientist(OURS))).status_code == 403


async def test_a_copy_of_a_copy_of_a_shared_dataset_does_not_leave_either(world: World) -> None:
    first = await new_dataset(world)
    await put(world, first, "a", BIG)
    await shared(world, first)
    for _ in range(2):
        run = run_fact(first, project_id=THEIRS, output_name="copy")
        await world.hear(run)
        await leave(world, job(run.run_id, 1, THEIRS), "a", BIG)
        await world.hear(later(run, RunState.SUCCEEDED))
        first = run.output_dataset_id
        answer = await world.get(f"/projects/{THEIRS}/datasets/{first}/files/a", owner(THEIRS))
        assert (answer.status_code, reason(answer)) == (403, "origins-are-foreign")
    names = [item["name"] for item in (await world.get(f"/projects/{THEIRS}/datasets", owner(THEIRS))).json()["items"]]
    assert names == ["mri", "copy", "copy (2)"]


async def test_origins_stay_foreign_after_the_share_was_withdrawn(world: World) -> None:
    source = await new_dataset(world)
    share_id = await shared(world, source)
    run = run_fact(source, project_id=THEIRS)
    await world.hear(run)
    await leave(world, job(run.run_id, 1, THEIRS), "a", b"1")
    await world.delete(path(source, "shares", str(share_id)), owner(OURS))
    await world.hear(later(run, RunState.SUCCEEDED))
    answer = await world.get(f"/projects/{THEIRS}/datasets/{run.output_dataset_id}/files/a", owner(THEIRS))
    assert reason(answer) == "origins-are-foreign"


async def test_only_what_was_staged_with_the_winning_token_is_published(world: World) -> None:
    run = run_fact(token=1)
    await world.hear(run)
    await leave(world, job(run.run_id, 1, OURS), "a", b"of the first lease")
    again = later(run, RunState.RUNNING, token=2)
    await world.hear(again)
    assert (await leave(world, job(run.run_id, 1, OURS), "late", b"x")).status_code == 403
    await leave(world, job(run.run_id, 2, OURS), "b", b"of the second lease")
    await world.said()
    (fact,) = await twice(world, later(again, RunState.SUCCEEDED))
    assert isinstance(fact, Dataset)
    assert (fact.files, fact.size, fact.origins) == (1, 19, (run.output_dataset_id,))
    assert [row.path for row in await world.sql("SELECT path FROM files")] == ["b"]
    assert await service.sweep.sweep(world.runtime.extra["storage"], 0) == 1
    assert await world.sql("SELECT 1 FROM staged") == []


@pytest.mark.parametrize("state", [RunState.FAILED, RunState.CANCELLED])
async def test_outputs_of_a_run_that_did_not_succeed_are_swept(
    world: World, blobs: Path, monkeypatch: pytest.MonkeyPatch, state: RunState
) -> None:
    run = run_fact()
    await world.hear(run)
    live = run_fact()
    await world.hear(live)
    for name, data in (("a", BIG), ("b", b"few bytes")):
        await leave(world, job(run.run_id, 1, OURS), name, data)
        await leave(world, job(live.run_id, 1, OURS), name, data)
    await world.said()
    assert await twice(world, later(run, state)) == []
    monkeypatch.setattr(service.sweep, "PURGED_AT_ONCE", 1)
    assert await service.sweep.sweep(world.runtime.extra["storage"], 0) == 2
    assert {row.run_id for row in await world.sql("SELECT run_id FROM staged")} == {live.run_id}
    assert len(list(files_under(blobs))) == 1


async def test_an_output_that_is_staged_again_replaces_the_first(world: World) -> None:
    run = run_fact()
    await world.hear(run)
    me = job(run.run_id, 1, OURS)
    for data in (b"first", b"second time"):
        assert (await leave(world, me, "a", data)).status_code == 201
    await world.hear(later(run, RunState.SUCCEEDED))
    assert [(row.path, row.size) for row in await world.sql("SELECT path, size FROM files")] == [("a", 11)]


async def test_a_run_leaves_no_more_bytes_and_files_than_it_may(
    world: World, worlds: Worlds, settings: dict[str, Any], blobs: Path
) -> None:
    small = await worlds.open("datasets", beside=world, **settings, staging_max_bytes=200_000, staging_max_files=2)
    run = run_fact()
    await small.hear(run)
    me = job(run.run_id, 1, OURS)
    assert (await leave(small, me, "a", BIG[:150_000])).status_code == 201
    for data in (BIG[:50_001], BIG):
        answer = await leave(small, me, "b", data)
        assert (answer.status_code, reason(answer)) == (413, "staging-is-full")
    assert (await leave(small, me, "a", BIG[:200_000])).status_code == 201, "the first is replaced, not added to"
    assert (await leave(small, me, "b", b"")).status_code == 201
    assert reason(await leave(small, me, "c", b"")) == "staging-is-full"
    assert await service.sweep.sweep(small.runtime.extra["storage"], 0) == 1
    assert len(list(files_under(blobs))) == 1


async def test_staging_that_ends_after_the_run_did_is_refused_and_leaves_nothing(world: World, blobs: Path) -> None:
    run = run_fact()
    await world.hear(run)
    ended = asyncio.Event()

    async def slow() -> Any:
        yield os.urandom(vault.CHUNK)
        await world.hear(later(run, RunState.SUCCEEDED))
        ended.set()
        yield os.urandom(10)

    answer = await world.put(f"/runs/{run.run_id}/outputs/a", job(run.run_id, 1, OURS), content=slow())
    assert ended.is_set()
    assert (answer.status_code, reason(answer)) == (403, "run-is-not-live")
    assert list(files_under(blobs)) == []
    assert await world.sql("SELECT 1 FROM staged UNION ALL SELECT 1 FROM files") == []


async def test_a_run_that_made_nothing_leaves_an_empty_dataset_and_odd_names_are_made_right(world: World) -> None:
    run = run_fact(output_name="a\n\a\u2028b" + "x" * 200)
    (fact,) = await twice(world, later(run, RunState.SUCCEEDED))
    assert isinstance(fact, Dataset)
    assert (fact.files, fact.name) == (0, "ab" + "x" * 98)


async def test_a_run_that_succeeds_in_a_deleted_project_leaves_nothing(world: World) -> None:
    run = run_fact()
    await world.hear(run)
    await leave(world, job(run.run_id, 1, OURS), "a", b"1")
    await world.hear(project(OURS, ProjectState.DELETED, version=2))
    await world.said()
    assert await twice(world, later(run, RunState.SUCCEEDED)) == []
    await purge(world)
    assert await world.sql("SELECT 1 FROM staged UNION ALL SELECT 1 FROM datasets") == []


# Projects


async def test_a_project_that_closes_withdraws_its_shares_in_both_directions(world: World) -> None:
    ours, theirs = await new_dataset(world), await new_dataset(world, "theirs", THEIRS)
    shares = {await shared(world, ours), await shared(world, theirs, THEIRS, OURS)}
    await world.said()
    said = await twice(world, project(OURS, ProjectState.CLOSING, version=2))
    assert _withdrawn(said) == shares
    assert (await world.get(f"/projects/{THEIRS}/datasets/{ours}", scientist(THEIRS))).status_code == 404


def _withdrawn(facts: Sequence[Fact]) -> set[UUID]:
    return {fact.share_id for fact in facts if isinstance(fact, Share) and fact.state is ShareState.WITHDRAWN and fact.version == 3}


async def test_facts_about_people_and_members_change_nothing_when_repeated(world: World) -> None:
    for fact in (person(version=3), member(OURS, version=3), project(THEIRS, version=3), run_fact()):
        assert await twice(world, fact) == []
