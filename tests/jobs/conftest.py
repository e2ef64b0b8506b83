"""What tests of jobs share: settings, keys, and a project in which people may work."""

from typing import Any

import pytest

from tests.jobs.scene import Scene
from tests.world import World, Worlds


@pytest.fixture
def settings() -> dict[str, Any]:
    return {"valkey_url": "redis+socket:///nowhere/valkey.sock", "run_lease_s": 5.0, "most_leases": 2}


@pytest.fixture
async def world(worlds: Worlds, settings: dict[str, Any]) -> World:
    return await worlds.open("jobs", **settings)


@pytest.fixture
async def scene(world: World) -> Scene:
    """A project with an owner, a scientist, a dataset and an agent, as the other services have told it."""
    return await Scene.of(world)
