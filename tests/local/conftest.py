"""The servers of one home, started as the runner starts them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from compose.local.home import Home
from compose.local.pki import Pki
from compose.local.suite import Suite


@pytest.fixture
def home() -> Iterator[Home]:
    place = Home.temporary()
    yield place
    place.erase()


@pytest.fixture
def pki(home: Home) -> Pki:
    return Pki.create(home)


@pytest.fixture(scope="session")
def suite() -> Iterator[Suite]:
    place = Home.temporary()
    servers = Suite(place, services=(), agent=False, respawn=True, fsync=False)
    try:
        servers.start()
        yield servers
    finally:
        servers.stop()
        place.erase()


@pytest.fixture
def certificate(suite: Suite, tmp_path: Path) -> "Certificates":
    return Certificates(suite.pki, tmp_path)


class Certificates:
    """Issues a service's certificate into a folder of the test."""

    def __init__(self, authority: Pki, folder: Path) -> None:
        self._authority = authority
        self._folder = folder

    def of(self, service: str) -> Path:
        folder = self._folder / service
        self._authority.issue_service_certificate(service, folder)
        return folder
