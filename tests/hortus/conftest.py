"""A door of its own for every test, and a client that trusts it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hortus.client import Client
from tests.hortus.door import Door, Turning


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    made = Door(tmp_path)
    yield made
    made.close()


@pytest.fixture
def client(door: Door) -> Iterator[Client]:
    with Client(door.address, door.root, token="t0ken", patience=5.0) as made:
        yield made


@pytest.fixture
def turning(door: Door) -> Turning:
    return Turning(door)
