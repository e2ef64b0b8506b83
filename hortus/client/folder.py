"""A project certificate as it lies on this machine: key, chain and the root to trust, in a folder that its owner alone can read.

The files are links into ``current``, a link to a folder with one certificate. A renewal turns that one link, so a program that opens
``key.pem`` and ``certificate.pem`` finds two that fit, whenever it looks and wherever a renewal was cut off.
"""

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509

from hortus.client.errors import HortusError
from hortus.client.keys import settle, write_private
from hortus.client.shapes import Certificate

KEY_FILE = "key.pem"
CHAIN_FILE = "certificate.pem"
TRUST_FILE = "trust.pem"
ABOUT_FILE = "about.json"
FILES = (KEY_FILE, CHAIN_FILE, TRUST_FILE, ABOUT_FILE)
CURRENT = "current"
PREFIX = "certificate-"
BACKDATE = timedelta(seconds=60)


@dataclass(frozen=True)
class About:
    """Whose certificate it is, where, and for how long (RFC 3339): one person's in one project of one Hortus.

    ``project`` is what its owner called the project; its id is what counts.
    """

    address: str
    user_id: str
    username: str
    project_id: str
    project: str
    certificate_id: str
    not_before: str
    not_after: str

    @property
    def ends_at(self) -> datetime:
        """When it ends."""
        return datetime.fromisoformat(self.not_after)

    def is_half_over(self, now: datetime) -> bool:
        """Whether half of its life is over: certificates begin a minute before they are issued."""
        began = datetime.fromisoformat(self.not_before) + BACKDATE
        return now >= began + (self.ends_at - began) / 2

    def is_of(self, address: str, username: str, project_id: str) -> bool:
        """Whether it is this person's, in this project of this Hortus."""
        return (self.address, self.username, self.project_id) == (address, username, project_id)


class Folder:
    """A folder with at most one certificate."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def pair(self) -> tuple[Path, Path]:
        """The files of chain and key, both of one certificate: they lie side by side."""
        place = self.path / CURRENT
        place = place.resolve() if place.is_symlink() else self.path
        return place / CHAIN_FILE, place / KEY_FILE

    def read(self) -> About | None:
        """What lies here; None when there is nothing that the command wrote. Raises HortusError for what others can read, or is damaged."""
        about = self.path / ABOUT_FILE
        try:
            if self.path.stat().st_mode & 0o077 or about.stat().st_mode & 0o077 or self.pair[1].stat().st_mode & 0o077:
                raise HortusError(f"Others can read {self.path}, which holds your key: run `chmod -R go= {self.path}`, then revoke it.")
            kept = json.loads(about.read_text())
            return About(**{name: str(kept[name]) for name in About.__dataclass_fields__})
        except FileNotFoundError:
            return None
        except OSError as error:
            raise HortusError(f"The certificate in {self.path} cannot be read: {error.strerror}.") from error
        except (ValueError, TypeError, KeyError) as error:
            raise HortusError(f"{about} is damaged: remove {self.path} and make a new certificate.") from error

    def chain(self) -> list[x509.Certificate]:
        """The certificate, then its issuer. Raises HortusError."""
        try:
            return x509.load_pem_x509_certificates(self.pair[0].read_bytes())
        except (OSError, ValueError) as error:
            raise HortusError(f"There is no certificate in {self.path}: make one with `hortus certificate create`.") from error

    def demand_own(self, address: str, username: str, project_id: str) -> None:
        """Refuse a folder with somebody else's certificate, or one for another project or another Hortus. Raises HortusError."""
        there = self.read()
        if there is not None and not there.is_of(address, username, project_id):
            raise HortusError(
                f"{self.path} holds the certificate of {there.username} in the project {there.project_id} at {there.address}: name another --folder."
            )

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the folder against every other process; makes it (0700) where it is missing."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = self._locked()
        try:
            yield
        finally:
            os.close(descriptor)

    def _locked(self) -> int:
        lock = self.path / ".lock"
        while True:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), lock.stat()):
                    return descriptor
            os.close(descriptor)  # whoever held it erased what lay here

    def write(self, key: bytes, issued: Certificate, trust: str, about: About) -> None:
        """Put a certificate here in place of the one before, in one step; only inside of ``alone``. Raises HortusError."""
        try:
            self.path.chmod(0o700)
            before = (self.path / CURRENT).resolve()
            made = Path(tempfile.mkdtemp(prefix=PREFIX, dir=self.path))
            contents = (key, issued["chain"].encode(), trust.encode(), json.dumps(asdict(about), indent=1).encode())
            for name, content in zip(FILES, contents, strict=True):
                write_private(made / name, content)
            self._point(CURRENT, made.name)
            for name in FILES:
                if not (self.path / name).is_symlink():
                    self._point(name, f"{CURRENT}/{name}")
            settle(self.path)
            for old in self.path.glob(f"{PREFIX}*"):
                if old.resolve() not in (made.resolve(), before):
                    shutil.rmtree(old, ignore_errors=True)
        except OSError as error:
            raise HortusError(f"The certificate cannot be written to {self.path}: {error.strerror}.") from error

    def erase(self) -> None:
        """Remove what lies here, the keys first; only inside of ``alone``. Raises HortusError."""
        try:
            if (self.path / CURRENT).is_symlink():
                for key in self.path.glob(f"{PREFIX}*/{KEY_FILE}"):
                    key.unlink()
                    settle(key.parent)
                for old in self.path.glob(f"{PREFIX}*"):
                    shutil.rmtree(old)
                for name in (*FILES, CURRENT, ".lock"):
                    (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise HortusError(f"The key in {self.path} cannot be removed: {error.strerror}.") from error

    def _point(self, name: str, target: str) -> None:
        beside = self.path / f".{name}.new"
        beside.unlink(missing_ok=True)
        beside.symlink_to(target)
        beside.replace(self.path / name)


def about(issued: Certificate, address: str, username: str, project: str) -> About:
    """What is kept of a certificate that was just issued; ``project`` is what its owner calls the project."""
    return About(
        address,
        issued["user_id"],
        username,
        issued["project_id"],
        project,
        issued["certificate_id"],
        issued["not_before"],
        issued["not_after"],
    )
