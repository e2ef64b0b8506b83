"""What every test may ask for: a real PostgreSQL, and worlds in it (`tests/world.py` says how to use them)."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from compose.local.postgres import Postgres
from tests.world import Databases, World, Worlds


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    server = Postgres(tmp_path_factory.mktemp("postgres"), fsync=False)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def databases(postgres: Postgres) -> Databases:
    return Databases(postgres)


@pytest.fixture
async def worlds(databases: Databases, tmp_path: Path) -> AsyncIterator[Worlds]:
    made = Worlds(databases, tmp_path)
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture
async def world(worlds: Worlds, request: pytest.FixtureRequest) -> World:
    """The world of the service that the test's folder is named after, with the settings of a fixture ``settings``, if any."""
    service = Path(str(request.path)).parent.name
    settings = request.getfixturevalue("settings") if "settings" in request.fixturenames else {}
    return await worlds.open(service, **settings)
