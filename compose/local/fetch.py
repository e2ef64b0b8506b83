"""Fetch Kafka and Elasticsearch by their lock files into the cache that checkouts share."""

import hashlib
import importlib.util
import os
import re
import shutil
import ssl
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import requests
from jgo.constants import MAVEN_CENTRAL_URL
from remotezip import RemoteIOError, RemoteZip

from compose.local.account import Account
from compose.local.home import REPOSITORY, cache_folder, file_lock, open_folder
from compose.local.problems import SetupProblem

CONNECTIONS = 8
SYSTEM_AUTHORITIES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
TRIES = 4
TIMEOUT = (20, 120)
CHUNK = 1 << 20
KAFKA_LOCK = REPOSITORY / "requirements" / "kafka-4.3.1.lock"
ELASTICSEARCH_LOCK = REPOSITORY / "requirements" / "elasticsearch-8.19.8.lock"

Get = Callable[[str], bytes]


@dataclass(frozen=True)
class Entry:
    """A line of a lock file: what ``path`` has to be, byte for byte."""

    sha256: str
    size: int
    path: str


@dataclass(frozen=True)
class Lock:
    """A lock file: the archive it speaks of (None: single files of a repository) and its entries."""

    archive: str | None
    folder: str
    entries: tuple[Entry, ...]


def read_lock(path: Path) -> Lock:
    """Read ``# archive: group:artifact:version:type, folder X/`` and lines of ``sha256  bytes  path``."""
    text = path.read_text()
    header = re.search(r"^# archive: (\S+):(\S+):(\S+):(\S+), folder (\S+)$", text, re.MULTILINE)
    entries = []
    for line in text.splitlines():
        if line and not line.startswith("#"):
            digest, size, name = line.split(maxsplit=2)
            if name.startswith("/") or ".." in name.split("/"):
                raise SetupProblem(f"The lock file {path} names {name}, which leaves its folder; restore the file from the repository.")
            entries.append(Entry(digest, int(size), name))
    if header is None:
        return Lock(None, "", tuple(entries))
    group, artifact, version, kind, folder = header.groups()
    return Lock(f"{group.replace('.', '/')}/{artifact}/{version}/{artifact}-{version}.{kind}", folder, tuple(entries))


def repository_address() -> str:
    """Where Maven artifacts come from: `HORTUS_MAVEN_URL`, or Maven Central."""
    named = os.environ.get("HORTUS_MAVEN_URL")
    if named:
        return named.rstrip("/")
    return str(MAVEN_CENTRAL_URL).rstrip("/")


def kafka_jars() -> Path:
    """The folder of Kafka's jars, complete and checked."""
    folder = open_folder(cache_folder() / f"kafka-4.3.1-{_digest(KAFKA_LOCK)}")
    address = repository_address()
    fetch_all(read_lock(KAFKA_LOCK), folder, lambda path: _download(f"{address}/{path}"), flat=True)
    return folder


def elasticsearch_home() -> Path:
    """Elasticsearch's tree, complete and checked: `HORTUS_ELASTICSEARCH_HOME`, or fetched member by member."""
    named = os.environ.get("HORTUS_ELASTICSEARCH_HOME")
    if named:
        if not (Path(named) / "lib" / "tools" / "server-cli").is_dir():
            raise SetupProblem(f"HORTUS_ELASTICSEARCH_HOME names {named}, which is no Elasticsearch tree; name an 8.19 tree or unset it.")
        return Path(named)
    folder = open_folder(cache_folder() / f"elasticsearch-8.19.8-{_digest(ELASTICSEARCH_LOCK)}")
    lock = read_lock(ELASTICSEARCH_LOCK)
    members = _Members(f"{repository_address()}/{lock.archive}", lock.folder)
    fetch_all(lock, folder, members.read)
    for empty in ("plugins", "logs"):
        open_folder(folder / empty)
    return folder


def fetch_all(lock: Lock, folder: Path, get: Get, *, flat: bool = False) -> int:
    """Make ``folder`` hold every entry of ``lock``, whole and with the right hash; return how many were fetched.

    Files that are there and right are kept, broken or half ones fetched again by ``get(path)``. A file gets its name only
    after its hash was checked. ``flat`` drops the folders of the paths. One process at a time works in a folder.
    """
    with file_lock(folder.with_name(folder.name + ".lock")), ThreadPoolExecutor(CONNECTIONS) as pool:
        return sum(pool.map(lambda entry: _ensure(entry, folder, get, flat=flat), lock.entries))


def _ensure(entry: Entry, folder: Path, get: Get, *, flat: bool) -> bool:
    path = folder / (Path(entry.path).name if flat else entry.path)
    if path.is_file() and path.stat().st_size == entry.size and _hash(path) == entry.sha256:
        return False
    open_folder(path.parent)
    content = get(entry.path)
    found = hashlib.sha256(content).hexdigest()
    if found != entry.sha256:
        raise SetupProblem(
            f"What was fetched as {entry.path} has the hash {found[:16]}… instead of {entry.sha256[:16]}…; it was thrown away: "
            "check the mirror that HORTUS_MAVEN_URL names, or try again."
        )
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    part.chmod(0o644)
    part.replace(path)
    return True


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def _session() -> requests.Session:
    """Trusts what the system trusts, where it says so: a house may have an authority of its own before the repository."""
    session = requests.Session()
    known = [os.environ.get("SSL_CERT_FILE"), ssl.get_default_verify_paths().cafile, *SYSTEM_AUTHORITIES]
    session.verify = os.environ.get("REQUESTS_CA_BUNDLE") or next((path for path in known if path and Path(path).exists()), True)
    return session


def _download(address: str) -> bytes:
    def once() -> bytes:
        with _session() as session:
            answer = session.get(address, timeout=TIMEOUT)
        answer.raise_for_status()
        return answer.content

    return _again(once, address)


def _again(once: Callable[[], bytes], what: str) -> bytes:
    for attempt in range(TRIES):
        try:
            return once()
        except (requests.RequestException, RemoteIOError, OSError, zlib.error) as error:
            if attempt == TRIES - 1:
                name = what.rsplit("/", 1)[-1]
                raise SetupProblem(
                    f"{name} could not be fetched ({type(error).__name__}); check the network, or name a mirror of Maven Central in HORTUS_MAVEN_URL."
                ) from error
    raise AssertionError


class _Members:
    """Members of a remote archive that answers range requests; each thread has a connection of its own."""

    def __init__(self, address: str, folder: str) -> None:
        self._address = address
        self._folder = folder
        self._local = threading.local()

    def read(self, path: str) -> bytes:
        """The member ``path`` below the archive's folder."""

        def once() -> bytes:
            try:
                return bytes(self._archive().read(self._folder + path))
            except BaseException:
                self._local.archive = None
                raise

        return _again(once, self._address)

    def _archive(self) -> RemoteZip:
        archive: RemoteZip | None = getattr(self._local, "archive", None)
        if archive is None:
            archive = RemoteZip(self._address, session=_session(), timeout=TIMEOUT)
            self._local.archive = archive
        return archive


def wheel_folder(package: str) -> Path:
    """Where the wheel ``package`` is installed, without running its code (which may look for folders of its own)."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise SetupProblem(f"The package {package} is not installed; run `make .venv`.")
    return Path(found.origin).parent


def reachable(tree: Path, name: str, account: Account, *beside: str) -> Path:
    """``tree``, or a copy of it in the cache where ``account`` cannot enter a folder above it.

    ``beside`` are folders that the tree needs at their place relative to it (``../../x.libs``). The copy is kept under
    ``name`` and the tree's path and time; it is made under another name first and then renamed.
    """
    if account.reaches(tree):
        return tree
    wanted = [tree, *((tree / path).resolve() for path in beside)]
    root = Path(os.path.commonpath([path.parent for path in wanted]))
    state = tree.stat()
    mark = hashlib.sha256(f"{tree} {state.st_mtime_ns} {state.st_ino}".encode()).hexdigest()[:12]
    copy = cache_folder() / f"{name}-{mark}"
    with file_lock(copy.with_name(copy.name + ".lock")):
        if not copy.exists():
            part = copy.with_name(f".{copy.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            for path in wanted:
                target = open_folder((part / path.relative_to(root)).parent) / path.name
                if path.is_dir():
                    shutil.copytree(path, target, symlinks=True)
                else:
                    shutil.copy2(path, target)
            part.replace(copy)
    if not account.reaches(copy):
        raise SetupProblem(f"The account `{account.name}` cannot reach {copy}; name a folder that it can enter in HORTUS_CACHE.")
    return copy / tree.relative_to(root)
