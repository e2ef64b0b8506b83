import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from chassis.db import plain_dsn
from contracts.events import Fact, Membership
from services.projects.app import keep_time
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


async def test_a_membership_ends_at_its_instant(world: World) -> None:
    study = await found(world)
    async with world.running(keep_time):
        bob = await study.add("bob00000", ends_at=soon(1.5))
        given, ended = await until(world, 2)
        assert isinstance(given, Membership)
        assert isinstance(ended, Membership)
        assert (ended.version, ended.role) == (2, None)
        assert ended.ends_at is not None
        late = (await world.sql("SELECT at FROM outbox ORDER BY id DESC LIMIT 1"))[0].at - ended.ends_at
        assert timedelta(0) <= late < timedelta(seconds=1)
    assert (await study.member(bob["user_id"])).role is None
    (record,) = [each for each in await world.recorded() if each["action"] == "membership.end"]
    assert record["actor"] == {"principal": "service", "service": "projects"}


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
    await study.add("bob00000", ends_at=soon(1))
    await world.said()
    await asyncio.sleep(1.1)
    async with world.running(keep_time):
        (said,) = await until(world, 1)
    assert isinstance(said, Membership)
    assert said.role is None


async def test_who_ended_unsaid_can_come_back_and_counts_on(world: World) -> None:
    study = await found(world)
    await study.add("bob00000", ends_at=soon(1))
    await world.said()
    await asyncio.sleep(1.1)
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
