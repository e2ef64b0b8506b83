"""A real PKCS#11 token in software (SoftHSM2) for tests: installed where that is possible, in a folder of its own."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from tests.auth.slapd import apt_install

MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
MISSING = "SoftHSM2 is not installed and cannot be installed here (as root, by apt-get)"
LABEL, PIN = "hortus tests", "a pin that tests know"


@cache
def installed() -> bool:
    """Whether there is a token to use here; it is installed where that is possible."""
    return (MODULE.exists() and shutil.which("softhsm2-util") is not None) or apt_install("softhsm2")


def blocking_module(folder: Path) -> Path:
    """A module without tokens that blocks while it ends (see ``blocking.c``), or a skipped test where nothing can be compiled."""
    if shutil.which("gcc") is None and not apt_install("gcc", "libc6-dev"):
        pytest.skip("gcc is not installed and cannot be installed here (as root, by apt-get)")
    module = folder / "blocking.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", module, Path(__file__).with_name("blocking.c")], check=True)
    return module


class SoftToken:
    """A token; ``take_away`` and ``bring_back`` are what a hand does to one of hardware."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.configuration = folder / "softhsm2.conf"
        self.pin_file = folder / "pin"
        self._tokens = folder / "tokens"
        self._tokens.mkdir()
        self.configuration.write_text(f"directories.tokendir = {self._tokens}\nobjectstore.backend = file\nlog.level = ERROR\n")
        self.pin_file.write_text(f"{PIN}\n")
        self.pin_file.chmod(0o600)

    def make(self) -> None:
        command = ["softhsm2-util", "--init-token", "--free", "--label", LABEL, "--pin", PIN, "--so-pin", "another one"]
        subprocess.run(command, check=True, capture_output=True)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "SOFTHSM2_CONF": str(self.configuration),
            "HORTUS_PKCS11_MODULE": str(MODULE),
            "HORTUS_PKCS11_TOKEN": LABEL,
            "HORTUS_PKCS11_PIN_FILE": str(self.pin_file),
        }

    def take_away(self) -> None:
        self._tokens.rename(self.folder / "away")
        self._tokens.mkdir()

    def bring_back(self) -> None:
        shutil.rmtree(self._tokens)
        (self.folder / "away").rename(self._tokens)


@contextmanager
def token(folder: Path) -> Iterator[SoftToken]:
    """A token in a folder of its own, or a skipped test where there can be none."""
    if not installed():
        pytest.skip(MISSING)
    before = {
        name: os.environ.get(name) for name in ("SOFTHSM2_CONF", "HORTUS_PKCS11_MODULE", "HORTUS_PKCS11_TOKEN", "HORTUS_PKCS11_PIN_FILE")
    }
    made = SoftToken(folder)
    os.environ.update(made.environment)
    try:
        made.make()
        yield made
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
