"""One suite with two gateways and two of every service, for all journeys that need it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from compose.local.home import Home
from compose.local.suite import Suite
from tests.auth import slapd as openldap
from tests.auth.slapd import Slapd
from tests.e2e.scene import DIRECTORY_LOOK_S, Scene

HERE = Path(__file__).parent
LONG = {
    "HORTUS_TOKEN_S": "3600",
    "HORTUS_IDLE_S": "7200",
    "HORTUS_STEP_UP_S": "3600",
    "HORTUS_ACTIVITY_S": "1",
    "HORTUS_RUN_LEASE_S": "600",
}
OPEN = {"HORTUS_REGISTRATION": "true"}


@pytest.fixture(scope="package")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slapd | None]:
    """A directory of the hospital with a few people; None where its server can be neither found nor installed."""
    if not openldap.installed():
        yield None
        return
    with openldap.running(tmp_path_factory.mktemp("directory")) as slapd:
        slapd.fill()
        yield slapd


@pytest.fixture(scope="package")
def doubled(directory: Slapd | None) -> Iterator[Scene]:
    """Everything twice, PostgreSQL without fsync, nothing started again by itself; tokens, idle sessions and fresh factors outlast the tests.

    Anybody may ask for an account. The people of the directory can sign in, where there is one.
    """
    home = Home.temporary()
    settings = LONG | OPEN
    if directory is not None:
        file = openldap.written(openldap.configuration(directory, directory.folder), directory.folder)
        settings |= {"HORTUS_LDAP_FILE": str(file), "HORTUS_LDAP_SYNC_S": str(DIRECTORY_LOOK_S)}
    suite = Suite(home, replicas=2, agent=False, fsync=False, respawn=False, settings=settings)
    scene: Scene | None = None
    try:
        suite.start()
        scene = Scene(suite)
        yield scene
    finally:
        if scene is not None:
            scene.close()
        suite.stop()
        home.erase()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Journeys with a suite of their own come first, so that two suites never run side by side; those that break things come last."""
    places = [number for number, item in enumerate(items) if Path(item.path).parent == HERE]
    ours = sorted((items[number] for number in places), key=_turn)
    for number, item in zip(places, ours, strict=True):
        items[number] = item


def _turn(item: pytest.Item) -> int:
    if "doubled" not in getattr(item, "fixturenames", ()):
        return 0
    return 2 if item.path.stem in ("test_faults", "test_deleted_project") else 1
