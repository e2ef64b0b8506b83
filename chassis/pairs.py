"""A process's key and certificate on disk, written beside the last ones and put in their place in one step.

``cert.pem`` and ``key.pem`` of a folder are links into ``current``, which is a link to a folder with one pair. Whoever opens them
finds a whole pair at any moment: turning one link is all that happens between the old pair and the new one.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

CERTIFICATE = "cert.pem"
KEY = "key.pem"
CURRENT = "current"
PREFIX = "pair-"
BACKDATE = timedelta(seconds=60)
"""How long before its issue every certificate of this house begins, for clocks that are behind."""


@dataclass(frozen=True)
class Life:
    """When a certificate was issued, and when it ends."""

    issued_at: datetime
    ends_at: datetime

    @property
    def half(self) -> datetime:
        """When it is to be renewed."""
        return self.issued_at + (self.ends_at - self.issued_at) / 2

    def is_low(self, now: datetime) -> bool:
        """Whether less than a quarter of it is left: it should have been renewed long ago."""
        return now >= self.ends_at - (self.ends_at - self.issued_at) / 4


def life_of(certificate: x509.Certificate) -> Life:
    """The life of a certificate of this house."""
    return Life(certificate.not_valid_before_utc + BACKDATE, certificate.not_valid_after_utc)


def leaf(folder: Path) -> x509.Certificate:
    """The certificate of a folder's pair. Raises OSError or ValueError."""
    return x509.load_pem_x509_certificates((folder / CERTIFICATE).read_bytes())[0]


def place(folder: Path) -> Path:
    """Where the folder's pair itself lies, which stays as it is when another one takes its place: read both halves from here."""
    return (folder / CURRENT).resolve() if (folder / CURRENT).is_symlink() else folder


def fits(key: bytes, chain: bytes) -> bool:
    """Whether a private key (PEM) is that of a chain's leaf."""
    public = serialization.load_pem_private_key(key, None).public_key()
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return public.public_bytes(*form) == x509.load_pem_x509_certificates(chain)[0].public_key().public_bytes(*form)


def write(folder: Path, key: bytes, chain: bytes) -> None:
    """Make a key (PEM) and its chain the folder's pair; a crash on the way leaves the old one. Raises ValueError when they do not fit.

    The pair before is kept for whoever is reading it, and older ones are removed.
    """
    if not fits(key, chain):
        raise ValueError("the key is not that of the certificate")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _alone(folder):
        before = place(folder)
        made = Path(tempfile.mkdtemp(prefix=PREFIX, dir=folder))
        _file(made / KEY, key, 0o600)
        _file(made / CERTIFICATE, chain, 0o644)
        _kept(made)
        _point(folder / CURRENT, made.name)
        for name in (KEY, CERTIFICATE):
            if not (folder / name).is_symlink():
                _point(folder / name, f"{CURRENT}/{name}")
        _kept(folder)
        for old in folder.glob(f"{PREFIX}*"):
            if old.resolve() not in (made.resolve(), before):
                shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Be the only one who writes a pair into the folder; the kernel lets go when this process ends."""
    with (folder / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _file(path: Path, content: bytes, mode: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _point(link: Path, target: str) -> None:
    """Turn a link, or make one in a file's place, in one step."""
    beside = link.with_name(f".{link.name}.new")
    beside.unlink(missing_ok=True)
    beside.symlink_to(target)
    beside.replace(link)


def _kept(folder: Path) -> None:
    """What was made in a folder outlasts a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
