import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from chassis.db import plain_dsn
from chassis.outbox import UnitOfWork
from contracts.events import Fact, Membership, Project
from services.projects import app
from services.projects.app import keep_time
from services.projects.repository.projects import Wait
from services.projects.settings import ProjectsSettings
from tests.projects.people import found
from tests.world import Databases, World, Worlds


def soon(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


async def watch(world: World) -> None:
    await keep_time(world.runtime)


async def until(world: World, count: int, seconds: float = 15.0) -> list[Fact]:
    said: list[Fact] = []
    async with asyncio.timeout(seconds):
        while len(said) < count:
            said += await world.said()
            await asyncio.sleep(0.01)
    return said


async def reached(world: World, instant: datetime) -> datetime:
    """The database's clock for somebody who only waits for an instant: later than that where the machine stood still."""
    await asyncio.sleep((instant - await world.now()).total_seconds())
    return max(instant, await world.now())


async def test_a_membership_ends_at_its_instant(world: World) -> None:
    study = await found(world)
    async with world.running(keep_time):
        bob = await study.add("bob00000", ends_at=soon(1.5))
        bystander = asyncio.create_task(reached(world, datetime.fromisoformat(bob["ends_at"])))
        given, ended = await until(world, 2)
        assert isinstance(given, Membership)
        assert isinstance(ended, Membership)
        assert (ended.version, ended.role) == (2, None)
        assert ended.ends_at is not None
        at = (await world.sql("SELECT at FROM outbox ORDER BY id DESC LIMIT 1"))[0].at
        assert ended.ends_at <= at < await bystander + timedelta(seconds=1)
    assert (await study.member(bob["user_id"])).role is None
    (record,) = [each for each in await world.recorded() if each["action"] == "membership.end"]
    assert record["actor"] == {"principal": "service", "service": "projects"}
    assert record["project_id"] == str(study.project_id)


async def test_what_ends_in_two_projects_at_once_is_recorded_in_each(world: World) -> None:
    studies = [await found(world), await found(world, "other")]
    for number, study in enumerate(studies):
        await study.add(f"bob0000{number}", ends_at=soon(3600))
        await study.add(f"cyd0000{number}", ends_at=soon(3600))
    await world.recorded()
    await world.sql("UPDATE memberships SET ends_at = clock_timestamp() WHERE ends_at IS NOT NULL")
    async with world.running(keep_time):
        await until(world, 8)
    ended = {record["project_id"]: record["resource"]["memberships"] for record in await world.recorded()}
    assert set(ended) == {str(study.project_id) for study in studies}
    assert all(keys.count(f"{project}:") == 2 for project, keys in ended.items())


async def test_a_deed_that_breaks_is_logged_and_stops_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def broken(_uow: UnitOfWork) -> int:
        raise RuntimeError("a poisoned row")

    usual = app.deeds

    def poisoned(settings: ProjectsSettings) -> dict[str, tuple[app.Deed, Wait]]:
        known = usual(settings)
        (first, (_, wait)), *others = known.items()
        return {first: (broken, wait), **dict(others)}

    monkeypatch.setattr(app, "deeds", poisoned)
    study = await found(world)
    await world.sql("UPDATE projects SET ends_at = clock_timestamp()")
    async with world.running(keep_time):
        (fact,) = await until(world, 1)
    assert isinstance(fact, Project)
    (record,) = await world.recorded()
    assert (record["action"], record["project_id"]) == ("project.end", str(study.project_id))
    assert "what is due was not done" in "".join(capsys.readouterr())


async def test_an_end_that_is_brought_forward_wakes_who_sleeps(world: World) -> None:
    study = await found(world)
    bob = await study.add("bob00000", ends_at=soon(3600))
    await world.said()
    async with world.running(keep_time):
        await asyncio.sleep(0.2)
        await world.patch(f"{study.path}/members/{bob['user_id']}", study.owner, json={"ends_at": soon(1.5)}, version=1)
        said = await until(world, 2)
    assert [(fact.version, fact.role is None) for fact in said if isinstance(fact, Membership)] == [(2, False), (3, True)]


async def test_an_end_that_is_put_off_does_not_come(world: World) -> None:
    study = await found(world)
    bob = await study.add("bob00000", ends_at=soon(2))
    async with world.running(keep_time):
        await world.patch(f"{study.path}/members/{bob['user_id']}", study.owner, json={"ends_at": None}, version=1)
        await world.said()
        await asyncio.sleep(2.3)
    assert await world.said() == []


async def test_replicas_say_each_end_once(world: World, worlds: Worlds) -> None:
    replicas = [world, *[await worlds.open("projects", beside=world) for _ in range(2)]]
    study = await found(world)
    for number in range(6):
        await study.add(f"user000{number}")
    await world.sql("UPDATE memberships SET ends_at = clock_timestamp() + interval '1 second' WHERE username LIKE 'user%'")
    await world.said()
    tasks = [asyncio.create_task(watch(each)) for each in replicas]
    try:
        said = await until(world, 6)
        await asyncio.sleep(1.1)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError] * 3
    assert await world.said() == []
    assert sorted(fact.version for fact in said) == [2] * 6
    assert len({fact.key for fact in said}) == 6


async def test_what_ended_while_nobody_watched_is_said_at_the_start(world: World) -> None:
    study = await found(world)
    await study.add("bob00000", ends_at=soon(3600))
    await world.said()
    await world.sql("UPDATE memberships SET ends_at = clock_timestamp() WHERE ends_at IS NOT NULL")
    async with world.running(keep_time):
        (said,) = await until(world, 1)
    assert isinstance(said, Membership)
    assert said.role is None


async def test_who_ended_unsaid_can_come_back_and_counts_on(world: World) -> None:
    study = await found(world)
    await study.add("bob00000", ends_at=soon(3600))
    await world.said()
    await world.sql("UPDATE memberships SET ends_at = clock_timestamp() WHERE ends_at IS NOT NULL")
    answer = await world.post(f"{study.path}/members", study.owner, json={"username": "bob00000", "role": "data_scientist"})
    assert (answer.status_code, answer.json()["version"]) == (201, 2)


async def test_a_lost_connection_is_noticed(world: World, databases: Databases) -> None:
    connection: Any = await asyncpg.connect(plain_dsn(databases.postgres.superuser_url))
    task = asyncio.create_task(watch(world))
    try:
        name = world.database_url.partition("?")[0].rpartition("/")[2]
        kill = (
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = $1 AND query LIKE 'LISTEN%' AND state = 'idle'"
        )
        assert await _when(lambda: connection.fetchval(kill, name)) == 1
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(task, 5)
    finally:
        task.cancel()
        await connection.close()


async def _when(look: Callable[[], Awaitable[int]]) -> int:
    async with asyncio.timeout(5):
        while not (found := await look()):
            await asyncio.sleep(0.02)
    return found
