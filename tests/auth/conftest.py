"""The settings of auth in tests."""

import base64
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import event

from tests.world import World, Worlds


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    master = tmp_path / "master.key"
    master.write_text(base64.urlsafe_b64encode(secrets.token_bytes(32)).decode())
    return {"master_key_file": master, "setup_file": tmp_path / "setup"}


@pytest.fixture
async def world(worlds: Worlds, settings: dict[str, Any]) -> World:
    return await worlds.open("auth", **settings)


@pytest.fixture
def statements(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The statements that this world's database is asked, in order."""
    asked: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        asked.append(statement)

    async def log(driver: asyncpg.Connection, statement: str, *values: Any, **options: Any) -> Any:
        asked.append(statement)
        return await fetch(driver, statement, *values, **options)

    fetch = asyncpg.Connection.fetch
    engine = world.runtime.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    monkeypatch.setattr(asyncpg.Connection, "fetch", log)
    yield asked
    event.remove(engine, "before_cursor_execute", note)


@pytest.fixture
async def mailed(worlds: Worlds, world: World, settings: dict[str, Any]) -> World:
    """A replica beside ``world`` that has mail configured."""
    return await worlds.open("auth", beside=world, **settings, smtp_url="smtps://localhost:1")
