"""Where sealed bytes lie: a folder of this machine or any S3, through obstore.

A blob appears whole or not at all, under a name that is used once. On a folder it is on the disk before ``put`` returns.
"""

import asyncio
import errno
import os
import re
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, from_url

from chassis.errors import OutOfSpace
from services.datasets.models import BLOB_PREFIX

PART = 8 * 1024 * 1024
CONCURRENT_PARTS = 2
UNFINISHED_S = 24 * 3600.0
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_WORDS = re.compile(r"os error (?:28|122)\b|StorageFull|QuotaExceeded")


class Blobs:
    """A store of blobs. ``url`` is ``file:///folder`` or ``s3://bucket/prefix``; ``reserve`` is what a folder's disk keeps free, bytes."""

    def __init__(self, url: str, reserve: int = 0) -> None:
        parts = urlsplit(url)
        self.root: Path | None = None
        self.reserve = reserve
        if parts.scheme == "file":
            self.root = Path(unquote(parts.path))
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._store: Any = LocalStore(self.root)
        else:
            self._store = from_url(url)

    def check_room(self) -> None:
        """Close the door before anything is taken in. Raises OutOfSpace when the disk has less than the reserve left."""
        if self.root is not None:
            disk = os.statvfs(self.root)
            if disk.f_bavail * disk.f_frsize < self.reserve:
                raise OutOfSpace

    async def put(self, name: str, content: AsyncIterator[bytes | bytearray]) -> None:
        """Write a blob; an exception of ``content`` goes through and leaves nothing. Raises OutOfSpace."""
        try:
            await obstore.put_async(self._store, name, content, use_multipart=True, chunk_size=PART, max_concurrency=CONCURRENT_PARTS)
            if self.root is not None:
                await asyncio.to_thread(_to_disk, self.root / name)
        except (BaseError, OSError) as error:
            if (isinstance(error, OSError) and error.errno in _FULL) or _FULL_WORDS.search(str(error)):
                raise OutOfSpace from error
            raise

    async def read(self, name: str, start: int, end: int) -> memoryview:
        """The bytes from ``start`` to before ``end``; fewer where the blob ends earlier. Raises FileNotFoundError."""
        return memoryview(await obstore.get_range_async(self._store, name, start=start, end=end))

    async def size(self, name: str) -> int:
        """How long a blob is, in bytes. Raises FileNotFoundError."""
        meta = await obstore.head_async(self._store, name)
        return int(meta["size"])

    async def delete(self, name: str) -> None:
        """Take a blob away; one that is not there is no error."""
        try:
            await obstore.delete_async(self._store, name)
        except FileNotFoundError:
            return

    async def older_than(self, seconds: float) -> AsyncIterator[list[str]]:
        """The names of blobs that were complete at least ``seconds`` ago, in groups."""
        limit = datetime.now(UTC) - timedelta(seconds=seconds)
        async for group in obstore.list(self._store, BLOB_PREFIX, chunk_size=500):
            names = [meta["path"] for meta in group if meta["last_modified"] < limit]
            if names:
                yield names

    async def drop_unfinished(self, seconds: float = UNFINISHED_S) -> int:
        """Delete what a process that was killed left half-written in a folder; how many there were."""
        return await asyncio.to_thread(_drop_unfinished, self.root, seconds) if self.root is not None else 0


def _to_disk(path: Path) -> None:
    for place in (path, path.parent, path.parent.parent):
        descriptor = os.open(place, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _drop_unfinished(root: Path, seconds: float) -> int:
    dropped = 0
    for path in root.glob(f"{BLOB_PREFIX}/*/*#*"):
        if path.stat().st_mtime < time.time() - seconds:
            path.unlink(missing_ok=True)
            dropped += 1
    return dropped
