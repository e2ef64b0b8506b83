"""Where everything of one suite lies: secrets, trust, certificates, states, logs and the servers' data."""

import fcntl
import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from compose.local import account

REPOSITORY = Path(__file__).resolve().parents[2]
ELSEWHERE = Path("/var/lib/hortus")
OWNER = "home"


def cache_folder() -> Path:
    """The folder shared between checkouts: `HORTUS_CACHE`, as root /var/cache/hortus, else the user's own cache."""
    named = os.environ.get("HORTUS_CACHE")
    if named:
        folder = Path(named).resolve()
    elif os.geteuid() == 0:
        folder = Path("/var/cache/hortus")
    else:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hortus"
    return open_folder(folder)


def open_folder(folder: Path) -> Path:
    """Make ``folder`` where it is missing, readable for every account whatever the umask is."""
    if not folder.is_dir():
        for missing in [parent for parent in reversed(folder.parents) if not parent.is_dir()]:
            missing.mkdir(exist_ok=True)
            missing.chmod(0o755)
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
    return folder


def _sweep() -> None:
    # the data of a home that was deleted by hand would stay for ever, because it does not lie in it
    for owner in ELSEWHERE.glob(f"*/{OWNER}"):
        if not Path(os.fsdecode(owner.read_bytes())).exists() and not working_in(owner.parent):
            shutil.rmtree(owner.parent, ignore_errors=True)


def working_in(folder: Path) -> list[int]:
    """The processes whose working folder is ``folder`` or below it, as far as this account may know."""
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        try:
            inside = link.readlink().is_relative_to(folder)
        except OSError:
            continue
        if inside:
            found.append(int(link.parent.name))
    return found


class Home:
    """One suite's state folder; two suites have two homes and know nothing of each other."""

    def __init__(self, path: Path) -> None:
        """Make the folders below ``path`` where they are missing."""
        self.path = path.resolve()
        self.secrets = self.path / "secrets"
        self.trust = self.path / "trust"
        self.tls = self.path / "tls"
        self.state = self.path / "state"
        self.log = self.path / "log"
        self.run = self.path / "run"
        for folder in (self.path, self.trust, self.log):
            open_folder(folder)
        for folder in (self.secrets, self.tls, self.state, self.run):
            folder.mkdir(exist_ok=True, mode=0o700)

    @classmethod
    def temporary(cls) -> Self:
        """A new home below /tmp, reachable for the servers' account; ``erase`` it in the end."""
        folder = Path(tempfile.mkdtemp(prefix="hortus-home-"))
        folder.chmod(0o755)
        return cls(folder)

    def erase(self) -> None:
        """Remove the home and the servers' data with it."""
        shutil.rmtree(self.data, ignore_errors=True)
        shutil.rmtree(self.path, ignore_errors=True)

    @property
    def data(self) -> Path:
        """The servers' data: `<home>/data`, or below /var/lib/hortus where the servers' account cannot reach the home."""
        own = self.path / "data"
        if account.servers().reaches(own):
            return open_folder(own)
        open_folder(ELSEWHERE)
        _sweep()
        folder = open_folder(ELSEWHERE / hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16])
        if not (folder / OWNER).exists():
            keep(folder / OWNER, os.fsencode(self.path))
        return folder

    def server_folder(self, name: str) -> Path:
        """The data folder of the server ``name``, 0700 and its account's own."""
        folder = self.data / name
        folder.mkdir(exist_ok=True, mode=0o700)
        account.servers().own(folder)
        return folder

    def state_folder(self, process: str) -> Path:
        """The folder of a process's own state, 0700."""
        folder = self.state / process
        folder.mkdir(exist_ok=True, mode=0o700)
        return folder

    def tls_folder(self, process: str) -> Path:
        """The folder with a process's certificate, key and trust anchor, 0700."""
        folder = self.tls / process
        folder.mkdir(exist_ok=True, mode=0o700)
        return folder

    def log_file(self, process: str) -> Path:
        """The log of a process: what it wrote to standard output and standard error."""
        return self.log / f"{process}.log"

    def secret(self, name: str) -> str:
        """The secret ``name``, 256 random bits in URL-safe base64, made on first use and kept 0600."""
        return self.secret_file(name).read_text().strip()

    def secret_file(self, name: str) -> Path:
        """The file that holds the secret ``name``, made on first use."""
        path = self.secrets / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            keep(path, secrets.token_urlsafe(32).encode())
        return path


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold the lock file ``path``; other processes wait, and the kernel lets go when this one ends."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def keep(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a file so that a crash leaves the old content or the new one, never a part."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
