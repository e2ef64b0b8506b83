"""What a sign-in has caused so far, so that its next request is answered by parts that know of it."""

import fcntl
import json
import os
import threading
import time
from pathlib import Path
from urllib.parse import unquote

KEPT = 24
KEPT_SECONDS = 600.0


class Memory:
    """The newest facts that answers have named, by ``topic:key``; sent back as ``Hortus-After``.

    At most ``KEPT`` facts of the last ``KEPT_SECONDS`` are sent: what is older has long arrived everywhere.
    """

    def __init__(self) -> None:
        self._facts: dict[str, tuple[int, float]] = {}
        self._lock = threading.RLock()

    def learn(self, header: str | None) -> None:
        """Take up a ``Hortus-Facts`` header (``topic:key:version, …``); what is malformed in it is not taken up."""
        now = time.time()
        with self._lock:
            for entry in (header or "").split(","):
                name, _, version = entry.strip().rpartition(":")
                if ":" in name and version.isascii() and version.isdigit():
                    self._remember(name, int(version), now)
            self._forget(now)

    def header(self) -> str | None:
        """The value of ``Hortus-After``, or None when there is nothing to wait for."""
        with self._lock:
            self._forget(time.time())
            return ", ".join(f"{name}:{version}" for name, (version, _) in self._facts.items()) or None

    def version_of(self, topic: str, key: str) -> int | None:
        """The newest version seen of one aggregate, for diagnosis."""
        for name, (version, _) in self._facts.items():
            if unquote(name) == f"{topic}:{key}":
                return version
        return None

    def _remember(self, name: str, version: int, at: float) -> None:
        known = self._facts.pop(name, None)
        self._facts[name] = (version, at) if known is None or version >= known[0] else known

    def _forget(self, now: float) -> None:
        for name in [name for name, (_, at) in self._facts.items() if now - at > KEPT_SECONDS]:
            del self._facts[name]
        while len(self._facts) > KEPT:
            del self._facts[min(self._facts, key=lambda name: self._facts[name][1])]


class FileMemory(Memory):
    """A memory kept in a file (0600) beside the sign-in it belongs to, so that the next command has it too.

    A file of another sign-in counts as empty. Commands that run at once merge what they learn under a lock.
    """

    def __init__(self, path: Path, sign_in: str) -> None:
        super().__init__()
        self._path = path
        self._sign_in = sign_in
        self._read()

    def learn(self, header: str | None) -> None:
        """Take up a ``Hortus-Facts`` header and keep it on disk."""
        if not header:
            return
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        with self._lock, os.fdopen(descriptor, "r+") as kept:
            fcntl.flock(kept, fcntl.LOCK_EX)
            self._merge(kept.read())
            super().learn(header)
            kept.seek(0)
            kept.truncate()
            json.dump({"sign_in": self._sign_in, "facts": self._facts}, kept)

    def _read(self) -> None:
        if self._path.exists():
            self._merge(self._path.read_text())

    def _merge(self, text: str) -> None:
        try:
            kept = json.loads(text or "{}")
            if kept.get("sign_in") == self._sign_in:
                for name, (version, at) in kept["facts"].items():
                    self._remember(str(name), int(version), float(at))
        except (ValueError, TypeError, KeyError, AttributeError):
            # A torn file only costs the wait for what it named.
            return
