"""Statements that go straight to the driver stand in the session's transaction, and fail like all others."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from chassis.db import fetch, is_away
from tests.chassis.conftest import Side

Make = Callable[..., Any]
INSERT = "INSERT INTO effect (key, version) VALUES ($1, $2) RETURNING id"
KILL = text("SELECT pg_terminate_backend(:pid)")
PID = "SELECT pg_backend_pid() AS pid"


@pytest.fixture
async def projects(side: Make) -> Side:
    made: Side = await side("projects")
    return made


async def effects(side: Side) -> list[str]:
    return [row.key for row in await side.sql("SELECT key FROM effect ORDER BY id")]


async def test_what_it_changed_goes_with_the_transaction_also_as_its_first_statement(projects: Side) -> None:
    async with AsyncSession(projects.engine) as session:
        await fetch(session, INSERT, "given up", 1)
        await session.rollback()
        await fetch(session, INSERT, "kept", 1)
        await session.commit()
        await fetch(session, INSERT, "given up as well", 1)
    assert await effects(projects) == ["kept"]


async def test_it_sees_what_the_transaction_did_before_and_no_one_else_does(projects: Side) -> None:
    async with AsyncSession(projects.engine) as session:
        await session.execute(text("INSERT INTO effect (key, version) VALUES ('mine', 1)"))
        assert [row["key"] for row in await fetch(session, "SELECT key FROM effect")] == ["mine"]
        assert await effects(projects) == []


async def test_after_a_commit_it_speaks_for_the_next_transaction_and_not_over_somebody_elses_connection(projects: Side) -> None:
    async with AsyncSession(projects.engine) as session, AsyncSession(projects.engine) as other:
        first = (await fetch(session, PID))[0]["pid"]
        await session.commit()
        assert (await other.execute(text("SELECT pg_backend_pid()"))).scalar_one() == first
        assert (await fetch(session, PID))[0]["pid"] != first


async def test_without_a_transaction_each_statement_stands_for_itself(projects: Side) -> None:
    async with AsyncSession(projects.engine.execution_options(isolation_level="AUTOCOMMIT")) as session:
        await fetch(session, INSERT, "at once", 1)
        assert await effects(projects) == ["at once"]


async def test_a_broken_rule_of_the_database_is_an_integrity_error_and_the_transaction_is_over(projects: Side) -> None:
    async with AsyncSession(projects.engine) as session:
        await fetch(session, INSERT, "before", 1)
        with pytest.raises(IntegrityError):
            await fetch(session, INSERT, None, 1)
        with pytest.raises(DBAPIError):
            await session.execute(text("SELECT 1"))
    assert await effects(projects) == []


async def test_values_that_it_cannot_take_are_refused_without_being_shown(projects: Side) -> None:
    async with AsyncSession(projects.engine) as session:
        with pytest.raises(DBAPIError) as refused:
            await fetch(session, INSERT, "a secret", "one")
    assert "a secret" not in str(refused.value)


async def test_a_connection_that_is_gone_says_so_and_the_next_session_has_another(projects: Side) -> None:
    async def lose() -> None:
        async with AsyncSession(projects.engine) as session, AsyncSession(projects.engine) as other:
            pid = (await fetch(session, PID))[0]["pid"]
            await other.execute(KILL, {"pid": pid})
            await fetch(session, INSERT, "lost", 1)

    with pytest.raises(DBAPIError) as away:
        await lose()
    assert is_away(away.value)
    async with AsyncSession(projects.engine) as session:
        await fetch(session, INSERT, "after", 1)
        await session.commit()
    assert await effects(projects) == ["after"]


async def test_a_statement_that_is_given_up_leaves_nothing_and_its_connection_serves_the_next(projects: Side) -> None:
    sleeping = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'SELECT pg_sleep%' AND state = 'active'"

    async def work() -> None:
        async with AsyncSession(projects.engine) as session:
            await fetch(session, INSERT, "given up", 1)
            await fetch(session, "SELECT pg_sleep(60)")
            await session.commit()

    for _ in range(projects.engine.pool.size() * 2 + 2):  # type: ignore[attr-defined]
        task = asyncio.create_task(work())
        async with asyncio.timeout(10):
            while not await projects.sql(sleeping):
                await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    async with asyncio.timeout(10):
        while await projects.sql(sleeping):
            await asyncio.sleep(0.01)
        async with AsyncSession(projects.engine) as session:
            await fetch(session, INSERT, "next", 1)
            await session.commit()
    assert await effects(projects) == ["next"]
