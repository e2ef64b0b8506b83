"""Which sessions and API keys are in use, told coarsely on the topic ``activity``, where auth hears when each was last used.

A request leaves the time at which its session or key was used, and waits for nothing. Now and then what has gathered is
published, each of them once in ``every_s`` seconds at most, the newest use only. While Kafka is away the uses are kept.
"""

import asyncio
import contextlib
import time
from datetime import UTC, datetime
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from uuid_utils.compat import uuid7

from chassis import bus, patience
from chassis.log import logger
from chassis.settings import ProcessSettings
from contracts.events import Activity

log = logger(__name__)
LOOK_S = 1.0
BATCH = 100
MOST = 50_000


class Uses:
    """Uses that are to be told, and the subjects that were told of lately. Pure: times are Unix seconds and passed in."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._used: dict[str, float] = {}
        self._rests: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._used)

    def use(self, subject: str, now: float) -> None:
        """The session or API key is used; the one that waited longest makes room when too many wait."""
        if len(self._used) >= MOST and subject not in self._used:
            del self._used[next(iter(self._used))]
        self._used[subject] = now

    def take(self, now: float, *, rested: bool = True) -> dict[str, float]:
        """The newest uses of those that were told of long enough ago, or of all; they count as told."""
        self._rests = {subject: until for subject, until in self._rests.items() if until > now}
        taken = {subject: at for subject, at in self._used.items() if not rested or subject not in self._rests}
        for subject in taken:
            del self._used[subject]
            self._rests[subject] = now + self._every_s
        return taken

    def put_back(self, untold: dict[str, float]) -> None:
        """Uses could not be told: they are as before, unless there are newer ones."""
        for subject, at in untold.items():
            self._rests.pop(subject, None)
            if subject not in self._used and len(self._used) < MOST:
                self._used[subject] = at


class ActivityPublisher:
    """Publishes uses with a producer of its own."""

    def __init__(self, settings: ProcessSettings, source: str, every_s: float) -> None:
        self._settings = settings
        self._source = f"/{source}"
        self._uses = Uses(every_s)
        self._telling = 0
        self._leaving = asyncio.Event()

    @property
    def untold(self) -> int:
        """How many sessions and API keys have a use that Kafka has not acknowledged."""
        return len(self._uses) + self._telling

    def used(self, subject: str) -> None:
        """The session or API key is used now."""
        self._uses.use(subject, time.time())

    async def run(self) -> None:
        """Publish until cancelled."""
        pause = LOOK_S
        while True:
            producer = bus.producer(self._settings)
            try:
                await producer.start()
                pause = LOOK_S
                await self._follow(producer)
            except (OSError, KafkaError, TimeoutError) as error:
                log.warning("telling of activity interrupted", error=repr(error))
                pause = min(pause * 2, 5.0)
            finally:
                await patience.end(producer.stop(), OSError, KafkaError, TimeoutError)
            await asyncio.sleep(pause)

    async def flush(self, seconds: float) -> None:
        """Tell everything now, rested or not; returns when Kafka has acknowledged it, or after ``seconds``."""
        self._leaving.set()
        deadline = asyncio.get_running_loop().time() + seconds
        while self.untold and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 - bounded, at the end of the process
            await asyncio.sleep(0.02)

    async def _follow(self, producer: AIOKafkaProducer) -> None:
        while True:
            leaving = self._leaving.is_set()
            await self._tell(producer, self._uses.take(time.time(), rested=not leaving))
            if leaving:
                await asyncio.sleep(LOOK_S)
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await self._leaving.wait()

    async def _tell(self, producer: AIOKafkaProducer, uses: dict[str, float]) -> None:
        self._telling = len(uses)
        waiting = list(uses.items())
        try:
            while waiting:
                await asyncio.gather(*[await self._send(producer, subject, at) for subject, at in waiting[-BATCH:]])
                del waiting[-BATCH:]
                self._telling = len(waiting)
        finally:
            self._uses.put_back(dict(waiting))
            self._telling = 0

    async def _send(self, producer: AIOKafkaProducer, subject: str, used: float) -> Any:
        at = datetime.fromtimestamp(used, UTC)
        fact = Activity(version=int(used * 1000), subject=subject, at=at)
        headers = bus.headers(fact.type, str(uuid7()), self._source, fact.key, at.isoformat())
        return await producer.send(fact.topic.name, fact.model_dump_json().encode(), fact.key.encode(), headers=headers)
