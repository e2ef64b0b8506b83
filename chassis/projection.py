"""An in-memory projection of authority topics, for whoever decides: what is known, and whether it is fresh.

It reads every partition from the beginning, without a consumer group. It is fresh while each partition has a position
younger than one second; then everything that was committed more than a second ago has been applied. ``Knowledge`` is the
pure part; ``Projection`` feeds it from Kafka.
"""

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
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
ASK_S = 0.2
ASKS = 16
LEADS = 8

OnChange = Callable[[Fact | None, Fact], None]
OnErased = Callable[[Fact], None]
Place = tuple[str, int]


class Knowledge:
    """What the facts and positions read so far amount to. Pure: clocks are passed in.

    ``wall`` is Unix time in seconds, ``mono`` a monotonic clock in seconds. The age of a position is judged by the later of this
    machine's clock and its database's, as far as earlier positions have shown it: a clock that is behind makes nothing younger.

    How far the database's clock is ahead of the monotonic one at most is proved by the order of things, since a position that is read
    may be of any age. What stands beyond a partition's end was written after that end was asked for, and a relay reads the time for a
    position after the one before it was written: so a position that follows one beyond the end is dated after the asking. Nothing is
    decided before that, nor while this machine's clock may be a second behind.
    """

    def __init__(self, topics: Iterable[Topic]) -> None:
        self.partitions = [(topic.name, number) for topic in topics for number in range(topic.partitions)]
        self.facts: dict[str, dict[str, Fact]] = {name: {} for name, _ in self.partitions}
        self.positions: dict[Place, float] = {}
        self.broken: dict[tuple[str, str], str] = {}
        self._asked: deque[tuple[float, Mapping[Place, int]]] = deque(maxlen=ASKS)
        self._after: dict[Place, float] = {}
        self._most: dict[Place, deque[float]] = {}
        self._least: dict[Place, float] = {}
        self._oldest: tuple[float, float, float] | None = None
        self._unmet: dict[str, set[str]] = {}
        self.begin_anew()

    def begin_anew(self) -> None:
        """All topics are read from their beginning: nothing is fresh until then, and what is not met again was erased meanwhile."""
        self.positions.clear()
        self.broken.clear()
        self._asked.clear()
        self._after.clear()
        self._most = {place: deque(maxlen=LEADS) for place in self.partitions}
        self._oldest = None
        self._unmet = {name: set(known) for name, known in self.facts.items()}

    def apply(self, fact: Fact) -> Fact | None:
        """Take in a fact; the one it replaces, or the fact itself when its version was passed already."""
        known, key = self.facts[fact.topic.name], fact.key
        self._met(fact.topic.name, key)
        old = known.get(key)
        if old is not None and old.version >= fact.version:
            return fact
        known[key] = fact
        self.broken.pop((fact.topic.name, key), None)
        return old

    def erase(self, topic: str, key: str) -> Fact | None:
        """Take in a tombstone; the fact that is known no more. An older fact can only stand before it, so none brings it back."""
        self._met(topic, key)
        self.broken.pop((topic, key), None)
        return self.facts[topic].pop(key, None)

    def sweep(self, wall: float, mono: float) -> list[Fact]:
        """Forget what was not met again, once everything was read; the facts that are known no more."""
        if not self._unmet or self.left(wall, mono) <= 0.0:
            return []
        unmet, self._unmet = self._unmet, {}
        return [self.facts[topic].pop(key) for topic, keys in unmet.items() for key in keys]

    def _met(self, topic: str, key: str) -> None:
        if self._unmet:
            self._unmet[topic].discard(key)

    def asked(self, ends: Mapping[Place, int], mono: float) -> None:
        """Take in where the partitions ended, uncommitted records included, at some moment after ``mono``."""
        self._asked.append((mono, ends))

    def position(self, topic: str, partition: int, offset: int, at: float, mono: float) -> None:
        """Take in a position: all that was committed before ``at`` has been read from this partition."""
        place = (topic, partition)
        self.positions[place] = at
        self.broken.pop((topic, bus.POSITION_KEY.decode()), None)
        self._learn(place, offset, at, mono)
        if len(self.positions) < len(self.partitions) or not all(self._most.values()):
            self._oldest = None
            return
        born = min(at - self._least[place] for place, at in self.positions.items())
        self._oldest = (min(self.positions.values()), born, max(map(min, self._most.values())))

    def _learn(self, place: Place, offset: int, at: float, mono: float) -> None:
        """Learn from a position how far its database's clock is ahead of the monotonic one, at most and at least."""
        most, before = self._most[place], self._after.pop(place, None)
        if most and at > mono + min(most):
            most.clear()  # that clock was set ahead
        if before is not None:
            most.append(at - before)
        for asked, ends in self._asked:
            if ends[place] <= offset:
                self._after[place] = asked
        least = max(at - mono, self._least.get(place, -math.inf))
        self._least[place] = min([least, *most])  # less than before: that clock was set back

    def fresh(self, wall: float, mono: float) -> bool:
        """Whether everything committed more than a second ago is known."""
        return not self._unmet and self.left(wall, mono) > 0.0

    def left(self, wall: float, mono: float) -> float:
        """For how many seconds more, 0 or less for none, what is read now was committed at most a second ago."""
        at, born, most = (-math.inf, -math.inf, math.inf) if self.broken or self._oldest is None else self._oldest
        return FRESH_S - max(wall - at, mono - born, mono + most - wall)

    def missing(self, wall: float, mono: float) -> list[str]:
        """In words, what is in the way of a decision."""
        if self.broken:
            return [f"an authority fact cannot be read: {what}" for what in self.broken.values()]
        stale = [place for place in self.partitions if self._age(place, wall, mono) >= FRESH_S]
        if stale or self._oldest is None:
            return [f"no fresh position on {topic}[{number}]" for topic, number in stale]
        at, _, most = self._oldest
        behind = mono + most - wall
        if behind >= FRESH_S:
            return [f"this clock is {behind:.1f} s behind the databases' clock"]
        return [f"this clock is {-behind:.1f} s ahead of the databases' clock"] if wall - at >= FRESH_S else []

    def _age(self, place: Place, wall: float, mono: float) -> float:
        """How old the newest position is by this clock, as far as its database's can show that; infinite while nothing is known of it."""
        if place not in self.positions or not self._most[place]:
            return math.inf
        return min(max(wall, mono + self._least[place]), mono + min(self._most[place])) - self.positions[place]

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
            reader, asker = bus.consumer(self.settings), bus.consumer(self.settings, committed=False)
            try:
                await reader.start()
                await asker.start()
                await self._follow(reader, asker)
            except (OSError, KafkaError, TimeoutError) as error:
                self.error = f"Kafka: {type(error).__name__}"
                log.warning("projection interrupted", error=repr(error))
            except Exception as error:
                # Whatever broke: nothing is decided while the projection stands still, so it must not stand still for ever.
                self.error = f"projection: {type(error).__name__}"
                log.error("projection failed", exc_info=error)
            finally:
                for client in (reader, asker):
                    await patience.end(client.stop(), KafkaError, OSError, TimeoutError)
            await patience.pause(0.2)

    async def _follow(self, reader: AIOKafkaConsumer, asker: AIOKafkaConsumer) -> None:
        """Read everything from its beginning, and go on. The ends are asked for on another connection, where no fetch is waited for."""
        partitions = [TopicPartition(name, number) for name, number in self.knowledge.partitions]
        asker.assign(partitions)
        asker.pause(*partitions)
        reader.assign(partitions)
        await reader.seek_to_beginning()
        self.knowledge.begin_anew()
        self.error = None
        due = 0.0
        while True:
            now = time.monotonic()
            if now >= due:
                self.knowledge.asked(await asker.end_offsets(partitions), now)
                due = now + ASK_S
            for records in (await reader.getmany(timeout_ms=200)).values():
                for record in records:
                    self._take(record)
            self._tell_erased(self.knowledge.sweep(time.time(), time.monotonic()))
            event, self._changed = self._changed, asyncio.Event()
            event.set()

    def _take(self, record: Any) -> None:
        key = (record.key or b"").decode(errors="replace")
        try:
            said = bus.read(record)
        except bus.Undecodable as error:
            log.error("an authority fact cannot be read; deciding stops", place=str(error))
            self.knowledge.broken[record.topic, key] = str(error)
        else:
            self.take(record.topic, record.partition, record.offset, key, said, time.monotonic())

    def take(self, topic: str, partition: int, offset: int, key: str, said: Fact | bus.Position | None, mono: float) -> None:
        """Take in what a record says (None: a tombstone), and tell who listens; the clock as in ``Knowledge``."""
        if isinstance(said, bus.Position):
            self.knowledge.position(topic, partition, offset, said.at.timestamp(), mono)
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
