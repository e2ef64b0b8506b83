"""A gateway for every test (``stage``), over certificates made once."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.gateway.stage import Certificates, Stage, opened


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("pki"))


@pytest.fixture
async def stage(certificates: Certificates, tmp_path: Path) -> AsyncIterator[Stage]:
    async with opened(certificates, tmp_path) as made:
        yield made
