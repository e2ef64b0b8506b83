"""What every test may ask for: a real PostgreSQL, and worlds in it (`tests/world.py` says how to use them)."""

import resource
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import structlog

from chassis.patience import collect_less
from compose.local.postgres import Postgres
from tests.world import Databases, World, Worlds

hypothesis.settings.register_profile("suite", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("suite")

# Each port that a test was given stays taken for the whole session, by a file that is kept open.
_soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (65_536 if _hard == resource.RLIM_INFINITY else min(_hard, 65_536), _hard))

structlog.configure(processors=[structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)])


def pytest_collection_finish() -> None:
    """The tests and all that they import stay until the end, as in a service that has started."""
    collect_less()


@pytest.fixture(scope="session")
def new_home() -> Iterator[Callable[[str], Path]]:
    """Make homes of servers that their unprivileged account can reach, gone at the end of the session."""
    with tempfile.TemporaryDirectory(prefix="hortus-tests-") as folder:
        Path(folder).chmod(0o711)

        def make(name: str) -> Path:
            home = Path(folder) / name
            home.mkdir(mode=0o711)
            return home

        yield make


@pytest.fixture(scope="session")
def postgres(new_home: Callable[[str], Path]) -> Iterator[Postgres]:
    server = Postgres(new_home("postgres"), fsync=False)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
async def databases(postgres: Postgres) -> AsyncIterator[Databases]:
    made = Databases(postgres)
    yield made
    await made.close()


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
