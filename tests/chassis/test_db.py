"""A session's transaction is the driver's and SQLAlchemy's alike, and fails in one way whoever speaks."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import ARRAY, DateTime, MetaData, Text, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session, registry
from sqlalchemy.orm.exc import UnmappedInstanceError
from sqlmodel import Field, SQLModel

from chassis import db
from chassis.db import begin, fetch, is_away
from tests.chassis.conftest import Side

Make = Callable[..., Any]
INSERT = "INSERT INTO effect (key, version) VALUES ($1, $2) RETURNING id"
ADD = text("INSERT INTO effect (key, version) VALUES (:key, 1)")
KILL = text("SELECT pg_terminate_backend(:pid)")
OTHERS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
PID = "SELECT pg_backend_pid() AS pid"


@pytest.fixture
async def projects(side: Make) -> Side:
    made: Side = await side("projects")
    return made


async def effects(side: Side) -> list[str]:
    return [row.key for row in await side.sql("SELECT key FROM effect ORDER BY id")]


async def test_what_it_changed_goes_with_the_transaction_also_as_its_first_statement(projects: Side) -> None:
    async with db.session(projects.engine) as session:
        await fetch(session, INSERT, "given up", 1)
        await session.rollback()
        await fetch(session, INSERT, "kept", 1)
        await session.commit()
        await fetch(session, INSERT, "given up as well", 1)
    assert await effects(projects) == ["kept"]


async def test_what_sqlalchemy_and_the_driver_do_in_turn_is_kept_or_given_up_together(projects: Side) -> None:
    async with db.session(projects.engine) as session:
        for kept in (False, True):
            now = await begin(session)
            await fetch(session, INSERT, f"first {kept}", 1)
            await session.execute(ADD, {"key": f"second {kept}"})
            await fetch(session, INSERT, f"third {kept}", 1)
            assert (await session.execute(text("SELECT now()"))).scalar_one() == now
            await (session.commit() if kept else session.rollback())
    assert await effects(projects) == ["first True", "second True", "third True"]


async def test_what_only_the_driver_did_is_kept_also_where_sqlalchemy_has_begun_and_said_nothing(projects: Side) -> None:
    async with db.session(projects.engine) as session:
        await begin(session)
        session.sync_session.begin()
        await fetch(session, INSERT, "kept", 1)
        await session.commit()
    assert await effects(projects) == ["kept"]


async def test_what_is_not_kept_is_given_up_at_the_end(projects: Side) -> None:
    async with db.session(projects.engine) as session:
        await begin(session)
        await fetch(session, INSERT, "not kept", 1)
    assert await effects(projects) == []
    assert projects.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_a_rule_that_is_looked_at_when_the_transaction_ends_fails_the_commit(projects: Side) -> None:
    await projects.sql("ALTER TABLE effect ADD CONSTRAINT once UNIQUE (key) DEFERRABLE INITIALLY DEFERRED")
    async with db.session(projects.engine) as session:
        await begin(session)
        await fetch(session, INSERT, "twice", 1)
        await fetch(session, INSERT, "twice", 1)
        with pytest.raises(IntegrityError):
            await session.commit()
    assert await effects(projects) == []


async def test_a_connection_that_went_while_it_lay_in_the_pool_says_so_once(projects: Side) -> None:
    async with db.session(projects.engine) as session, db.session(projects.engine) as other:
        await begin(session)
        await begin(other)
    await projects.sql(OTHERS)

    async def work() -> None:
        for _ in range(3):
            async with db.session(projects.engine) as newest, db.session(projects.engine) as session:
                await begin(newest)
                await begin(session)
                await fetch(session, INSERT, "after", 1)
                await session.commit()

    with pytest.raises(DBAPIError) as away:
        await work()
    assert is_away(away.value)
    await projects.sql("DELETE FROM effect")
    await work()
    assert await effects(projects) == ["after"] * 3
    assert projects.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_who_is_given_up_while_it_begins_leaves_no_transaction_open(projects: Side) -> None:
    async def work() -> None:
        async with db.session(projects.engine) as session:
            await begin(session)
            await asyncio.Event().wait()

    for turns in range(30):
        task = asyncio.create_task(work())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert projects.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    async with asyncio.timeout(10):
        while await projects.sql("SELECT FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'"):
            await asyncio.sleep(0.01)


def test_an_object_from_a_row_is_there_to_be_read() -> None:
    class Table(SQLModel, registry=registry(metadata=MetaData())):
        pass

    class Sample(Table, table=True):
        key: str = Field(primary_key=True)

    stored = db.as_stored(Sample, {"key": "read"})
    assert stored.key == "read"
    with pytest.raises(AttributeError):
        stored.key = "changed"
    with pytest.raises(UnmappedInstanceError):
        Session().add(stored)


async def test_it_sees_what_the_transaction_did_before_and_no_one_else_does(projects: Side) -> None:
    async with db.session(projects.engine) as session:
        await session.execute(text("INSERT INTO effect (key, version) VALUES ('mine', 1)"))
        assert [row["key"] for row in await fetch(session, "SELECT key FROM effect")] == ["mine"]
        assert await effects(projects) == []


async def test_after_a_commit_it_speaks_for_the_next_transaction_and_not_over_somebody_elses_connection(projects: Side) -> None:
    async with db.session(projects.engine) as session, db.session(projects.engine) as other:
        first = (await fetch(session, PID))[0]["pid"]
        await session.commit()
        assert (await other.execute(text("SELECT pg_backend_pid()"))).scalar_one() == first
        assert (await fetch(session, PID))[0]["pid"] != first


async def test_without_a_transaction_each_statement_stands_for_itself(projects: Side) -> None:
    async with db.session(projects.engine.execution_options(isolation_level="AUTOCOMMIT")) as session:
        await fetch(session, INSERT, "at once", 1)
        assert await effects(projects) == ["at once"]


async def test_a_broken_rule_of_the_database_is_an_integrity_error_and_the_transaction_is_over(projects: Side) -> None:
    async with db.session(projects.engine) as session:
        await fetch(session, INSERT, "before", 1)
        with pytest.raises(IntegrityError):
            await fetch(session, INSERT, None, 1)
        with pytest.raises(DBAPIError):
            await session.execute(text("SELECT 1"))
    assert await effects(projects) == []


async def test_values_that_it_cannot_take_are_refused_without_being_shown(projects: Side) -> None:
    async with db.session(projects.engine) as session:
        with pytest.raises(DBAPIError) as refused:
            await fetch(session, INSERT, "a secret", "one")
    assert "a secret" not in str(refused.value)


async def test_a_connection_that_is_gone_says_so_and_the_next_session_has_another(projects: Side) -> None:
    async def lose() -> None:
        async with db.session(projects.engine) as session, db.session(projects.engine) as other:
            pid = (await fetch(session, PID))[0]["pid"]
            await other.execute(KILL, {"pid": pid})
            await fetch(session, INSERT, "lost", 1)

    with pytest.raises(DBAPIError) as away:
        await lose()
    assert is_away(away.value)
    async with db.session(projects.engine) as session:
        await fetch(session, INSERT, "after", 1)
        await session.commit()
    assert await effects(projects) == ["after"]


async def test_a_statement_that_is_given_up_leaves_nothing_and_its_connection_serves_the_next(projects: Side) -> None:
    sleeping = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'SELECT pg_sleep%' AND state = 'active'"

    async def work() -> None:
        async with db.session(projects.engine) as session:
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
        async with db.session(projects.engine) as session:
            await fetch(session, INSERT, "next", 1)
            await session.commit()
    assert await effects(projects) == ["next"]


class Notes(SQLModel, registry=registry(metadata=MetaData())):
    pass


class Note(Notes, table=True):
    __tablename__ = "notes"

    topic: str = Field(primary_key=True)
    number: int = Field(primary_key=True)
    words: list[str] = Field(sa_type=ARRAY(Text))
    at: datetime | None = Field(default=None, sa_type=DateTime(timezone=True))


@pytest.fixture
async def notes(projects: Side) -> Side:
    await projects.sql("CREATE TABLE notes (topic text, number int, words text[] NOT NULL, at timestamptz, PRIMARY KEY (topic, number))")
    return projects


async def stored(side: Side) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await side.sql("SELECT * FROM notes ORDER BY topic, number")]


async def test_a_row_is_put_over_what_stood_under_its_key_and_over_nothing_else(notes: Side) -> None:
    now = datetime.now(UTC)
    async with db.session(notes.engine) as session:
        await db.put(session, Note(topic="a", number=1, words=["x"], at=now))
        await db.put(session, Note(topic="a", number=2, words=[]))
        await db.put(session, Note(topic="a", number=1, words=["y", "z"]))
        await session.commit()
        await db.put(session, Note(topic="a", number=2, words=["given up"]))
    assert await stored(notes) == [("a", 1, ["y", "z"], None), ("a", 2, [], None)]


async def test_who_asks_after_a_row_was_put_is_given_what_was_stored(notes: Side) -> None:
    async with db.session(notes.engine) as session:
        session.add(Note(topic="a", number=1, words=["first"]))
        await session.flush()
        held = await session.get_one(Note, ("a", 1))
        held.words = ["changed"]
        await db.put(session, Note(topic="a", number=1, words=["put"]))
        assert (await session.get_one(Note, ("a", 1))).words == ["put"]
        assert held.words == ["changed"]
        await session.commit()
    assert await stored(notes) == [("a", 1, ["put"], None)]


async def test_a_row_that_cannot_be_put_fails_as_sqlalchemy_would(notes: Side) -> None:
    async with db.session(notes.engine) as session:
        with pytest.raises(IntegrityError):
            await db.put(session, Note(topic="a", number=1, words=None))  # type: ignore[arg-type]


async def test_a_full_pool_whose_connections_all_went_heals_and_each_failure_says_that_the_database_was_away(projects: Side) -> None:
    inside, go_on = [], asyncio.Event()

    async def hold() -> None:
        async with db.session(projects.engine) as session:
            await begin(session)
            inside.append(session)
            await go_on.wait()

    async def work() -> None:
        async with db.session(projects.engine) as session:
            await begin(session)
            await fetch(session, "SELECT 1")
            await session.commit()

    holding = [asyncio.create_task(hold()) for _ in range(10)]
    async with asyncio.timeout(10):
        while len(inside) < len(holding):
            await asyncio.sleep(0.01)
    go_on.set()
    await asyncio.gather(*holding)
    assert projects.engine.pool.checkedin() == len(holding)  # type: ignore[attr-defined]
    await projects.sql(OTHERS)
    found = await asyncio.gather(*[work() for _ in range(3 * len(holding))], return_exceptions=True)
    failed = [each for each in found if each is not None]
    assert 0 < len(failed) <= len(holding)
    assert all(is_away(each) for each in failed)
    await asyncio.gather(*[work() for _ in range(3 * len(holding))])
    assert projects.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
