"""The spool's way to Kafka: what is on disk is sent in order, at least once, and forgotten here when it is acknowledged.

Consumers drop what they have by its number. Only the number of the last acknowledged record is remembered, so a crash
between sending and remembering repeats records and loses none.
"""

import asyncio
import os
from pathlib import Path

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from chassis import bus, patience
from chassis.log import logger
from chassis.settings import ProcessSettings
from gateway.spool import Spool, read_published, segments, write_published

log = logger(__name__)
CHUNK = 64 * 1024
TYPE = "audit.v1"
_AT = b',"at":"'
_ID = b',"record_id":"'
_ID_LENGTH = 36


class Reader:
    """Reads whole records from a spool's segments, from the one after ``number`` on."""

    def __init__(self, folder: Path, number: int) -> None:
        self.folder = folder
        self.number = number
        self._segment: tuple[int, Path] | None = None
        self._offset = 0

    def read(self, last: int) -> list[bytes]:
        """Up to ``CHUNK`` bytes of the next records, none with a number above ``last``; empty when there is none yet."""
        while self.number < last:
            if self._segment is None and not self._seek():
                return []
            assert self._segment is not None  # noqa: S101 - for the type checker; _seek found it
            with self._segment[1].open("rb") as file:
                file.seek(self._offset)
                data = file.read(CHUNK)
                if data and b"\n" not in data:
                    data += file.readline()
            lines = data[: data.rfind(b"\n") + 1].splitlines()[: last - self.number]
            if lines:
                self.number += len(lines)
                self._offset += sum(map(len, lines)) + len(lines)
                return lines
            if not self._next_segment():
                return []
        return []

    def forget(self) -> None:
        """Delete the segments before the one that is read: all of theirs is acknowledged."""
        for _, path in [old for old in segments(self.folder) if self._segment is not None and old[0] < self._segment[0]]:
            path.unlink()

    def _seek(self) -> bool:
        older = [segment for segment in segments(self.folder) if segment[0] <= self.number + 1]
        if not older:
            return False
        self._segment = older[-1]
        with self._segment[1].open("rb") as file:
            for _ in range(self.number + 1 - self._segment[0]):
                file.readline()
            self._offset = file.tell()
        return True

    def _next_segment(self) -> bool:
        follow = [segment for segment in segments(self.folder) if segment[0] == self.number + 1 and segment != self._segment]
        if not follow:
            return False
        self._segment, self._offset = follow[0], 0
        return True


class Publisher:
    """Publishes a spool to ``audit.<source>``."""

    def __init__(self, settings: ProcessSettings, spool: Spool, source: str) -> None:
        self._settings = settings
        self._spool = spool
        self._topic = f"audit.{source}"
        self._source = f"/{source}".encode()
        self.published = read_published(spool.folder)

    @property
    def behind(self) -> int:
        """How many records are on disk and not acknowledged."""
        return self._spool.synced - self.published

    async def run(self) -> None:
        """Publish until cancelled; while Kafka is away the spool grows."""
        pause = 0.2
        while True:
            producer = bus.producer(self._settings, max_batch_size=2 * CHUNK)
            try:
                await producer.start()
                pause = 0.2
                await self._follow(producer)
            except (OSError, KafkaError, TimeoutError) as error:
                log.warning("publishing interrupted", error=repr(error))
                pause = min(pause * 2, 5.0)
            finally:
                await patience.end(producer.stop(), OSError, KafkaError, TimeoutError)
            await asyncio.sleep(pause)

    async def flush(self, seconds: float) -> None:
        """Wait until everything on disk is acknowledged, or for ``seconds``."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while self.behind and loop.time() < deadline:  # noqa: ASYNC110 - bounded, at the end of the process
            await asyncio.sleep(0.02)

    async def _follow(self, producer: AIOKafkaProducer) -> None:
        reader = Reader(self._spool.folder, self.published)
        while True:
            lines = await asyncio.to_thread(reader.read, self._spool.synced)
            if not lines:
                await self._spool.news()
                continue
            await self._send(producer, lines)
            self.published = reader.number
            await asyncio.to_thread(self._remember, reader)

    def _remember(self, reader: Reader) -> None:
        write_published(self._spool.folder, reader.number)
        reader.forget()

    async def _send(self, producer: AIOKafkaProducer, lines: list[bytes]) -> None:
        batch = producer.create_batch()
        sent = []
        for line in lines:
            key, headers = self._about(line)
            while batch.append(timestamp=None, key=key, value=line, headers=headers) is None:
                sent.append(await producer.send_batch(batch, self._topic, partition=0))
                batch = producer.create_batch()
        sent.append(await producer.send_batch(batch, self._topic, partition=0))
        for acknowledged in sent:
            await acknowledged

    def _about(self, line: bytes) -> tuple[bytes, bus.Headers]:
        """The key and the CloudEvents headers of a record, cut out of its canonical JSON."""
        start = line.index(_ID) + len(_ID)
        record_id = line[start : start + _ID_LENGTH]
        start = line.index(_AT) + len(_AT)
        at = line[start : line.index(b'"', start)]
        return record_id, [
            ("content-type", bus.JSON),
            ("ce_specversion", b"1.0"),
            ("ce_id", record_id),
            ("ce_type", TYPE.encode()),
            ("ce_source", self._source),
            ("ce_subject", record_id),
            ("ce_time", at),
        ]


def free_bytes(folder: Path) -> int:
    """How much room the spool's disk has left, in bytes."""
    numbers = os.statvfs(folder)
    return numbers.f_bavail * numbers.f_frsize
