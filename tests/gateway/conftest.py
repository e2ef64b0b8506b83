"""A gateway for every test (``stage``), over certificates made once."""

import os
import subprocess
from collections.abc import AsyncIterator, Iterator
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


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True, check=False).returncode
    ):
        pytest.skip("a file system of its own can be mounted here by root only")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
