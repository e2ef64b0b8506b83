"""An in-memory projection of authority topics, for whoever decides: what is known, and whether it is fresh.

It reads every partition from the beginning, without a consumer group. It is fresh while each partition has a position
younger than one second; then everything that was committed more than a second ago has been applied. ``Knowledge`` is the
pure part; ``Projection`` feeds it from Kafka.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from chassis import bus, patience
from chassis.errors import CannotDecide
from chassis.log import logger
from chassis.settings import ProcessSettings
from contracts.events import Fact, Topic

log = logger(__name__)
FRESH_S = 1.0
HOLD_S = 2.0
WAIT_S = 1.0
SKEW_S = 0.8  # rights that end by the clock end by this one, and have to within a second
DRIFT = 0.01

OnChange = Callable[[Fact | None, Fact], None]
OnErased = Callable[[Fact], None]


class Knowledge:
    """What the facts and positions read so far amount to. Pure: clocks are passed in.

    ``wall`` is Unix time in seconds, ``mono`` a monotonic clock in seconds. The age of a position is judged by the later of this
    machine's clock and the databases', as far as earlier positions have shown it: a clock that is behind makes nothing younger.
    """

    def __init__(self, topics: Iterable[Topic]) -> None:
        self.partitions = [(topic.name, number) for topic in topics for number in range(topic.partitions)]
        self.facts: dict[str, dict[str, Fact]] = {name: {} for name, _ in self.partitions}
        self.positions: dict[tuple[str, int], tuple[float, float]] = {}
        self.broken: str | None = None
        self.skewed = 0.0
        self._shown: tuple[float, float] | None = None
        self._oldest: tuple[float, float] | None = None
        self._unmet: dict[str, set[str]] = {}

    def begin_anew(self) -> None:
        """All topics are read from their beginning: nothing is fresh until then, and what is not met again was erased meanwhile."""
        self.positions.clear()
        self._oldest = None
        self._shown = None
        self._unmet = {name: set(known) for name, known in self.facts.items()}

    def apply(self, fact: Fact) -> Fact | None:
        """Take in a fact; the one it replaces, or the fact itself when its version was passed already."""
        known = self.facts[fact.topic.name]
        self._met(fact.topic.name, fact.key)
        old = known.get(fact.key)
        if old is not None and old.version >= fact.version:
            return fact
        known[fact.key] = fact
        return old

    def erase(self, topic: str, key: str) -> Fact | None:
        """Take in a tombstone; the fact that is known no more. An older fact can only stand before it, so none brings it back."""
        self._met(topic, key)
        return self.facts[topic].pop(key, None)

    def sweep(self, wall: float, mono: float) -> list[Fact]:
        """Forget what was not met again, once everything was read; the facts that are known no more."""
        if not self._unmet or not self._caught_up(wall, mono):
            return []
        unmet, self._unmet = self._unmet, {}
        return [self.facts[topic].pop(key) for topic, keys in unmet.items() for key in keys]

    def _met(self, topic: str, key: str) -> None:
        if self._unmet:
            self._unmet[topic].discard(key)

    def position(self, topic: str, partition: int, at: float, wall: float, mono: float) -> None:
        """Take in a position: all that was committed before ``at`` has been read from this partition."""
        self.skewed = at - wall
        shown = self._databases_clock(mono)
        if shown is None or at >= shown:
            self._shown = (at, mono)
        self.positions[topic, partition] = (at, mono)
        if len(self.positions) == len(self.partitions):
            positions = self.positions.values()
            self._oldest = (min(at for at, _ in positions), min(seen for _, seen in positions))

    def fresh(self, wall: float, mono: float) -> bool:
        """Whether everything committed more than a second ago is known."""
        return not self._unmet and self._caught_up(wall, mono)

    def _caught_up(self, wall: float, mono: float) -> bool:
        if self.broken or self.skewed > SKEW_S or self._oldest is None:
            return False
        at, seen = self._oldest
        shown = self._databases_clock(mono)
        return wall - at < FRESH_S and mono - seen < FRESH_S and (shown is None or shown - at < FRESH_S)

    def _databases_clock(self, mono: float) -> float | None:
        """The least that the databases' clock can show now. It goes a little slowly, so that one that was set back is believed in the end."""
        if self._shown is None:
            return None
        at, seen = self._shown
        return at + (mono - seen) * (1 - DRIFT)

    def missing(self, wall: float, mono: float) -> list[str]:
        """In words, what is in the way of a decision."""
        if self.broken:
            return [f"an authority fact cannot be read: {self.broken}"]
        if self.skewed > SKEW_S:
            return [f"this clock is {self.skewed:.1f} s behind the databases' clock"]
        stale = []
        now = max(wall, self._databases_clock(mono) or wall)
        for place in self.partitions:
            at, seen = self.positions.get(place, (0.0, mono - FRESH_S))
            late = now - at - (mono - seen)
            if mono - seen < FRESH_S and late >= SKEW_S:
                stale.append(f"positions on {place[0]}[{place[1]}] come {late:.1f} s late, or this clock is ahead")
            elif mono - seen >= FRESH_S or now - at >= FRESH_S:
                stale.append(f"no fresh position on {place[0]}[{place[1]}]")
        return stale

    def version(self, topic: str, key: str) -> int:
        """The version known of an aggregate, 0 when none."""
        fact = self.facts[topic].get(key)
        return fact.version if fact else 0

    def reached(self, wanted: Mapping[tuple[str, str], int]) -> bool:
        """Whether all wanted versions, of those topics that are followed, are known."""
        return all(self.version(topic, key) >= version for (topic, key), version in wanted.items() if topic in self.facts)


class Projection:
    """Follows authority topics and answers what is known now; ``await fresh()`` before deciding on it."""

    def __init__(self, settings: ProcessSettings, topics: Iterable[Topic]) -> None:
        self.settings = settings
        self.topics = list(topics)
        self.knowledge = Knowledge(self.topics)
        self.listeners: list[OnChange] = []
        self.erasers: list[OnErased] = []
        self.error: str | None = "not connected to Kafka yet"
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def get(self, topic: Topic, key: str) -> Any:
        """The newest known fact of an aggregate, or None."""
        return self.knowledge.facts[topic.name].get(key)

    def all(self, topic: Topic) -> Iterable[Any]:
        """The newest known facts of a topic."""
        return self.knowledge.facts[topic.name].values()

    def on_change(self, listener: OnChange) -> None:
        """Call ``listener(old, new)`` after every change; it must not block."""
        self.listeners.append(listener)

    def on_erased(self, listener: OnErased) -> None:
        """Call ``listener(old)`` when an aggregate that was known was erased; it must not block."""
        self.erasers.append(listener)

    def is_fresh(self) -> bool:
        """Whether a decision can be made now."""
        return self.knowledge.fresh(time.time(), time.monotonic())

    def missing(self) -> list[str]:
        """What keeps the projection from being ready."""
        if self.is_fresh():
            return []
        return ([self.error] if self.error else []) + self.knowledge.missing(time.time(), time.monotonic())

    async def fresh(self, timeout: float = HOLD_S) -> None:  # noqa: ASYNC109 - a hold, not a cancellation
        """Hold until a decision can be made. Raises CannotDecide when that takes longer than ``timeout`` seconds."""
        if not self.is_fresh() and not await self.until(self.is_fresh, timeout):
            raise CannotDecide("The newest permissions are not known at this moment.", retry_after=1)

    async def reached(self, wanted: Mapping[tuple[str, str], int], timeout: float = WAIT_S) -> bool:  # noqa: ASYNC109
        """Wait up to ``timeout`` seconds until the wanted versions are known; whether they are."""
        return await self.until(lambda: self.knowledge.reached(wanted), timeout)

    async def until(self, condition: Callable[[], bool], timeout: float) -> bool:  # noqa: ASYNC109
        """Wait until a condition on what is known holds, looking again after each change; whether it holds."""
        deadline = time.monotonic() + timeout
        while not condition():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, 0.1)):
                    await self._changed.wait()
        return True

    async def start(self) -> None:
        """Begin to follow, in the background."""
        self._task = asyncio.create_task(self._run(), name="projection")

    async def stop(self) -> None:
        """Stop following."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            client = bus.consumer(self.settings)
            try:
                await client.start()
                client.assign([TopicPartition(name, number) for name, number in self.knowledge.partitions])
                await client.seek_to_beginning()
                self.knowledge.begin_anew()
                self.error = None
                while True:
                    for records in (await client.getmany(timeout_ms=200)).values():
                        for record in records:
                            self._take(record)
                    self._tell_erased(self.knowledge.sweep(time.time(), time.monotonic()))
                    event, self._changed = self._changed, asyncio.Event()
                    event.set()
            except (OSError, KafkaError, TimeoutError) as error:
                self.error = f"Kafka: {type(error).__name__}"
                log.warning("projection interrupted", error=repr(error))
            except Exception as error:
                # Whatever broke: nothing is decided while the projection stands still, so it must not stand still for ever.
                self.error = f"projection: {type(error).__name__}"
                log.error("projection failed", exc_info=error)
            finally:
                with contextlib.suppress(KafkaError, OSError, TimeoutError):
                    async with asyncio.timeout(5):
                        await client.stop()
            await patience.pause(0.2)

    def _take(self, record: Any) -> None:
        try:
            self.take(record.topic, record.partition, (record.key or b"").decode(), bus.read(record), time.time(), time.monotonic())
        except bus.Undecodable as error:
            if self.knowledge.broken is None:
                log.error("an authority fact cannot be read; deciding stops", place=str(error))
            self.knowledge.broken = str(error)

    def take(self, topic: str, partition: int, key: str, said: Fact | bus.Position | None, wall: float, mono: float) -> None:
        """Take in what a record says (None: a tombstone), and tell who listens; clocks as in ``Knowledge``."""
        if isinstance(said, bus.Position):
            self.knowledge.position(topic, partition, said.at.timestamp(), wall, mono)
        elif said is None:
            old = self.knowledge.erase(topic, key)
            self._tell_erased([old] if old is not None else [])
        else:
            old = self.knowledge.apply(said)
            if old is not said:
                for listener in self.listeners:
                    listener(old, said)

    def _tell_erased(self, erased: Iterable[Fact]) -> None:
        for fact in erased:
            for listener in self.erasers:
                listener(fact)
