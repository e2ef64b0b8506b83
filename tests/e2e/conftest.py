"""One suite with two gateways and two of every service, for all journeys that need it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from compose.local.home import Home
from compose.local.suite import Suite
from tests.e2e.scene import Scene

HERE = Path(__file__).parent
LONG = {"HORTUS_TOKEN_S": "3600", "HORTUS_IDLE_S": "7200", "HORTUS_STEP_UP_S": "3600", "HORTUS_ACTIVITY_S": "1"}


@pytest.fixture(scope="package")
def doubled() -> Iterator[Scene]:
    """Everything twice, PostgreSQL without fsync, nothing started again by itself; tokens, idle sessions and fresh factors outlast the tests."""
    home = Home.temporary()
    suite = Suite(home, replicas=2, agent=False, fsync=False, respawn=False, settings=LONG)
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
    return 2 if item.path.stem == "test_faults" else 1
