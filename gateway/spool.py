"""The gateway's own part of the ledger: records appended to segment files, numbered densely, before they go to Kafka.

``append`` only takes a number and puts the record into the batch; one writer at a time writes and syncs batches, at once
when somebody waits for durability and otherwise every ``INTERVAL_S``. A segment is named after its first number and
holds one canonical JSON record a line, so a line's place is its number. What a crash left half-written is cut off at
the next start. A batch that the disk does not take stays in memory and is tried again.
"""

import asyncio
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

from chassis.errors import Problem
from chassis.log import logger

log = logger(__name__)
INTERVAL_S = 0.2
RETRY_S = 0.5
SEGMENT_BYTES = 8 * 1024 * 1024
PENDING_BYTES = 32 * 1024 * 1024
PREFIX = "records-"
PUBLISHED = "published"


class SpoolUnavailable(Problem):
    """The disk of the ledger takes nothing: what carries bytes is closed, since nothing leaves unrecorded."""

    status = 503
    title = "Nothing can be recorded at this moment"


def segments(folder: Path) -> list[tuple[int, Path]]:
    """The segments of a spool with their first numbers, oldest first."""
    return sorted((int(path.name.removeprefix(PREFIX)), path) for path in folder.glob(PREFIX + "*"))


def read_published(folder: Path) -> int:
    """The number of the last record that Kafka has acknowledged; 0 when none."""
    try:
        return int((folder / PUBLISHED).read_text())
    except FileNotFoundError:
        return 0


def write_published(folder: Path, number: int) -> None:
    """Remember how far Kafka has acknowledged."""
    temporary = folder / (PUBLISHED + ".new")
    with temporary.open("w") as file:
        file.write(str(number))
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(folder / PUBLISHED)


class Spool:
    """An append-only spool in one folder. Raises OSError when the folder cannot be read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.number = 0
        self.synced = 0
        self.error: str | None = None
        self._pending: list[str] = []
        self._pending_size = 0
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._writing = False
        self._timer: asyncio.TimerHandle | None = None
        self._thread = ThreadPoolExecutor(1, "spool")
        self._file = -1
        self._size = 0
        self._news = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._recover()

    def _recover(self) -> None:
        """Find the last whole record, cut off what follows it, and go on numbering after it."""
        self.number = read_published(self.folder)
        found = segments(self.folder)
        for first, path in found[-1:]:
            data = path.read_bytes()
            good, last = _whole(data, first)
            if good < len(data):
                log.warning("a half-written record was cut off", segment=path.name, bytes=len(data) - good)
                with path.open("r+b") as file:
                    file.truncate(good)
                    os.fsync(file.fileno())
            self.number = max(self.number, last)
        self.synced = self.number

    def append(self, before: str, after: str) -> int:
        """Take the next number and put ``before + number + after``, a record's canonical JSON, into the batch."""
        self.number = number = self.number + 1
        self._pending.append(f"{before}{number}{after}\n")
        self._pending_size += len(before) + len(after)
        if self._timer is None and not self._writing:
            self._idle.clear()
            self._timer = asyncio.get_running_loop().call_later(INTERVAL_S, self._write)
        return number

    @property
    def accepts(self) -> bool:
        """Whether there is room for records in memory; none is left when the disk has taken nothing for long."""
        return self._pending_size <= PENDING_BYTES

    async def durable(self, number: int) -> None:
        """Return when the record of this number is on disk. Raises SpoolUnavailable when the disk does not take it."""
        if self.synced >= number:
            return
        if self.error is not None:
            raise SpoolUnavailable(retry_after=1)
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((number, waiter))
        if not self._writing:
            self._write()
        await waiter

    async def news(self) -> None:
        """Wait until more records are on disk than when the last call returned."""
        await self._news.wait()
        self._news.clear()

    def missing(self) -> list[str]:
        """What keeps the spool from being ready."""
        return [f"the spool cannot be written: {self.error}"] if self.error else []

    async def close(self) -> None:
        """Write what is in memory, if the disk takes it, and close."""
        if self._pending and not self._writing:
            self._write()
        await self._idle.wait()
        if self._timer is not None:
            self._timer.cancel()
        self._thread.shutdown()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _write(self) -> None:
        """Hand the batch to the writer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch, self._pending, self._pending_size = self._pending, [], 0
        self._writing = True
        self._idle.clear()
        task = asyncio.get_running_loop().run_in_executor(self._thread, self._store, batch, self.number - len(batch) + 1)
        task.add_done_callback(lambda done: self._written(batch, done))

    def _written(self, batch: list[str], done: "asyncio.Future[None]") -> None:
        self._writing = False
        error = done.exception()
        loop = asyncio.get_running_loop()
        if error is not None:
            self._refuse(batch, error)
            self._timer = loop.call_later(RETRY_S, self._write)
            self._idle.set()
            return
        if self.error is not None:
            log.info("the spool can be written again")
            self.error = None
        self.synced += len(batch)
        self._news.set()
        waiting, self._waiting = self._waiting, []
        for number, waiter in waiting:
            if number > self.synced:
                self._waiting.append((number, waiter))
            elif not waiter.done():
                waiter.set_result(None)
        if self._waiting:
            self._write()
        elif self._pending:
            self._timer = loop.call_later(INTERVAL_S, self._write)
        else:
            self._idle.set()

    def _refuse(self, batch: list[str], error: BaseException) -> None:
        if self.error is None:
            log.error("the spool cannot be written; doors that carry bytes are closed", error=repr(error))
        self.error = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else type(error).__name__
        self._pending = batch + self._pending
        self._pending_size += sum(map(len, batch))
        waiting, self._waiting = self._waiting, []
        for _, waiter in waiting:
            if not waiter.done():
                waiter.set_exception(SpoolUnavailable(retry_after=1))

    # On the writer's thread

    def _store(self, batch: list[str], first: int) -> None:
        if not batch:
            return
        if self._file < 0 or self._size > SEGMENT_BYTES:
            self._open(first)
        data = memoryview("".join(batch).encode())
        start = self._size
        try:
            written = 0
            while written < len(data):
                written += os.write(self._file, data[written:])
            os.fdatasync(self._file)
        except OSError:
            os.ftruncate(self._file, start)
            os.lseek(self._file, start, os.SEEK_SET)
            raise
        self._size = start + len(data)

    def _open(self, first: int) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._file = os.open(self.folder / f"{PREFIX}{first:020d}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._size = 0
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _whole(data: bytes, first: int) -> tuple[int, int]:
    """How many bytes of a segment are whole records with the right numbers, and the last one's number."""
    good, number = 0, first - 1
    while (end := data.find(b"\n", good)) >= 0:
        try:
            if json.loads(data[good:end])["number"] != number + 1:
                break
        except (ValueError, KeyError, TypeError):
            break
        number += 1
        good = end + 1
    return good, number
