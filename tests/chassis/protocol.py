"""A model of everything between a commit and a decision, in which a test decides who goes on next.

Databases, the broker, clocks and processes are played; the relay's pass (``Relay._pass``), what a projection knows and the gateway's
standing are the product's own code. A relay stops before each of its reads and writes and goes on when it is told to, so a pause
can fall anywhere. Seconds are those that pass unless a name says otherwise.
"""

from collections.abc import Coroutine, Generator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import coroutine
from typing import Any
from uuid import UUID

from chassis import bus, relay
from chassis.errors import Unauthenticated
from chassis.projection import Knowledge, Projection
from chassis.relay import LeaseLost, Relay
from chassis.settings import Settings
from contracts.events import MEMBERSHIPS, TOPICS, USERS, Fact, Membership, Session, User, UserStatus
from contracts.policy import Action, Service
from contracts.roles import Role
from gateway.authenticate import Credential, NotKnownYet
from gateway.authority import TOPICS as FOLLOWED
from gateway.authority import Authority

PERSON, PROJECT, SESSION = UUID(int=1), UUID(int=2), UUID(int=3)
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
LEASE_S = 2.0
Place = tuple[str, int]
SETTINGS = {
    name: Settings(service=name, tls_dir=Path(), kafka="", state_dir=Path(), database_url="")
    for name in ("auth", "projects", "ca", "gateway")
}


class BrokerAway(Exception):
    """The broker gives no answer."""


class Fenced(Exception):
    """A producer with the same transactional id came later."""


@coroutine
def turn(doing: str) -> Generator[str, None, None]:
    """Let others go on; the test decides when this goes on."""
    yield doing


def moment(seconds: float) -> datetime:
    return BEGIN + timedelta(seconds=seconds)


@dataclass
class Clock:
    """``now`` is the time that passes, ``shown`` what the databases' clock shows of it."""

    now: float = 1000.0
    set_by: float = 0.0

    @property
    def shown(self) -> float:
        return self.now + self.set_by


class Broker:
    """Logs that readers see up to the last committed transaction, and epochs that fence."""

    def __init__(self, *, fences: bool = True) -> None:
        self.fences = fences
        self.up = True
        self.loses_answers = False
        self.dates_ascend = True
        self.epochs: dict[str, int] = {}
        self.logs: dict[Place, dict[int, tuple[str, Fact | bus.Position]]] = {}
        self.ends: dict[Place, int] = {}
        self.last: dict[tuple[Place, str], Any] = {}
        self.went_back: str | None = None

    def register(self, transactional_id: str) -> int:
        if not self.up:
            raise BrokerAway
        self.epochs[transactional_id] = self.epochs.get(transactional_id, 0) + 1
        return self.epochs[transactional_id]

    def commit(self, transactional_id: str, epoch: int, records: list[tuple[Place, str, Fact | bus.Position]]) -> None:
        """Raises Fenced and BrokerAway; an answer may be lost although the transaction stands."""
        if not self.up:
            raise BrokerAway
        if self.fences and epoch < self.epochs[transactional_id]:
            raise Fenced
        for place, key, said in records:
            end = self.ends.get(place, 0)
            self.logs.setdefault(place, {})[end] = (key, said)
            self.ends[place] = end + 1
        for (place, key), at in {(place, key): versioned(said) for place, key, said in records}.items():
            goes_back = at < self.last.setdefault((place, key), at)
            if goes_back and (self.dates_ascend or not isinstance(at, datetime)):
                self.went_back = f"{key} in {place}"
            self.last[place, key] = at
        if self.loses_answers:
            raise BrokerAway

    def compact(self, place: Place, up_to: int) -> None:
        """Keep of each key the newest record before ``up_to``, and all that follow; offsets stay."""
        log = self.logs.get(place, {})
        newest = {key: offset for offset, (key, _) in log.items() if offset < up_to}
        self.logs[place] = {offset: record for offset, record in log.items() if offset >= up_to or newest[record[0]] == offset}


def versioned(said: Fact | bus.Position) -> Any:
    """What grows from one record of a key to the next."""
    return said.at if isinstance(said, bus.Position) else said.version


class Database:
    """The outbox of one service, its heads and its lease."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.rows: list[dict[str, Any]] = []
        self.heads: dict[tuple[str, str], int] = {}
        self.holder: object = None
        self.until = 0.0
        self._ids = 0

    def commit(self, fact: Fact) -> None:
        self._ids += 1
        self.rows.append({"id": self._ids, "topic": fact.topic.name, "key": fact.key, "version": fact.version, "fact": fact, "payload": ""})

    def lease(self, holder: object) -> bool:
        if self.holder is not holder and self.until >= self.clock.shown:
            return False
        self.holder, self.until = holder, self.clock.shown + LEASE_S
        return True


class Connection:
    """A relay's connection to its database, as far as a pass uses it."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def fetchval(self, _statement: str) -> datetime:
        await turn("reads the clock")
        return moment(self.database.clock.shown)

    async def fetch(self, _statement: str, topics: list[str], most: int) -> list[dict[str, Any]]:
        await turn("reads the outbox")
        heads = self.database.heads
        pending = [row for row in self.database.rows if row["topic"] in topics][:most]
        return [row | {"head": heads.get((row["topic"], row["key"]), 0)} for row in pending]

    async def execute(self, _statement: str, topics: list[str], keys: list[str], versions: list[int], ids: list[int]) -> None:
        await turn("forgets what it published")
        self.database.rows = [row for row in self.database.rows if row["id"] not in ids]
        for topic, key, version in zip(topics, keys, versions, strict=True):
            place = (topic, key)
            self.database.heads[place] = max(version, self.database.heads.get(place, 0))


class Replica(Relay):
    """One replica's relay: it leads while it has the lease as far as it knows, and dies of what goes wrong, to begin anew."""

    def __init__(self, service: str, database: Database, broker: Broker) -> None:
        super().__init__(SETTINGS[service])
        self.database = database
        self.broker = broker
        self.epoch = 0
        self.doing = "waits"
        self.partitions = [(topic.name, number) for topic in self.authority for number in range(topic.partitions)]
        self._life: Coroutine[Any, Any, None] | None = None

    def go_on(self) -> None:
        """Do one more thing."""
        if self._life is None:
            self._life = self._lives()
        try:
            self.doing = self._life.send(None)
        except (LeaseLost, Fenced, BrokerAway, StopIteration):
            self._life, self.doing = None, "waits"

    def pass_through(self) -> None:
        """Go on to the end of the pass that it is in, or of the next one, or to death; who does not lead takes the lead if it can."""
        if self.doing == "waits":
            self.go_on()
        if self.doing == "rests":
            self.go_on()
        while self.doing not in {"waits", "rests"}:
            self.go_on()

    def go_on_until(self, doing: str) -> None:
        """Go on until it is about to do this, or rests, or dies."""
        self.go_on()
        while self.doing not in {"waits", "rests", doing}:
            self.go_on()

    def close(self) -> None:
        if self._life is not None:
            self._life.close()

    async def _lives(self) -> None:
        if not self.database.lease(self):
            return
        self.epoch = self.broker.register(self.name)
        while True:
            await turn("rests")
            if not self.database.lease(self):
                raise LeaseLost
            await self.publishes()

    @property
    def name(self) -> str:
        return f"relay.{self.service}"

    async def publishes(self) -> None:
        await self._pass("authority", self.broker, Connection(self.database), [topic.name for topic in self.authority], self.partitions)

    async def _publish_transaction(self, producer: Any, rows: list[Any], partitions: list[Place], at: Any) -> None:  # noqa: ARG002
        await turn("publishes")
        facts = [((row["topic"], partition_of(row["fact"])), row["key"], row["fact"]) for row in rows]
        positions = [(place, bus.POSITION_KEY.decode(), bus.Position(at)) for place in partitions]
        self.broker.commit(self.name, self.epoch, facts + positions)


def partition_of(fact: Fact) -> int:
    """Every aggregate of the model has a partition of its own topic; which one does not matter, as long as it stays."""
    return fact.topic.partitions - 1


class DatesTooLate(Replica):
    """Planted: the time is read after the outbox, so what was committed in between is said to be published."""

    async def publishes(self) -> None:
        connection = Connection(self.database)
        seen = relay.look(await connection.fetch("", [topic.name for topic in self.authority], relay.BATCH), relay.BATCH)
        at = await connection.fetchval("")
        await self._publish_transaction(self.broker, seen.ready, self.partitions if seen.drained else [], at)
        await self._mark(connection, seen.ready)


class DatesBeforeDraining(Replica):
    """Planted: a position is written although something that was committed before it is held back."""

    async def publishes(self) -> None:
        connection = Connection(self.database)
        at = await connection.fetchval("")
        seen = relay.look(await connection.fetch("", [topic.name for topic in self.authority], relay.BATCH), relay.BATCH)
        await self._publish_transaction(self.broker, seen.ready, self.partitions, at)
        await self._mark(connection, seen.ready)


class BelievesTheFirst(Knowledge):
    """Planted: the first position beyond an end is taken to be dated after the asking, as though no relay paused in its pass."""

    def _learn(self, place: Place, offset: int, at: float, mono: float) -> None:
        after = [asked for asked, ends in self._asked if ends[place] <= offset]
        if after:
            self._after[place] = after[-1]
        super()._learn(place, offset, at, mono)


class BelievesWhatItReads(Knowledge):
    """Planted: a position is taken to be new when it is read, as though no broker were late."""

    def _learn(self, place: Place, offset: int, at: float, mono: float) -> None:
        self._after[place] = mono
        super()._learn(place, offset, at, mono)


class Gateway:
    """What one gateway knows: the product's projection and authority, fed by the test. ``skew``: how far its clock is ahead."""

    def __init__(self, clock: Clock, broker: Broker, knowledge: type[Knowledge] = Knowledge) -> None:
        self.clock = clock
        self.broker = broker
        self.knowledge = knowledge
        self.skew = 0.0
        self.start()

    def start(self) -> None:
        """Begin cold: nothing is known, every partition is read from its beginning."""
        self.projection = Projection(SETTINGS["gateway"], FOLLOWED)
        self.projection.knowledge = self.knowledge(FOLLOWED)
        self.authority = Authority(self.projection)
        self.credential = Credential(user_id=str(PERSON), session_id=str(SESSION), since=0.0)
        self.connect()

    def connect(self) -> None:
        """Read from the beginning again, with what is known already."""
        self.offsets = dict.fromkeys(self.projection.knowledge.partitions, 0)
        self.projection.knowledge.begin_anew()

    @property
    def wall(self) -> float:
        return moment(self.clock.shown + self.skew).timestamp()

    @property
    def mono(self) -> float:
        return self.clock.now - 900.0

    def ask(self) -> None:
        """Ask where the partitions end."""
        if self.broker.up:
            self.projection.knowledge.asked({place: self.broker.ends.get(place, 0) for place in self.offsets}, self.mono)

    def read(self, stalled: Place | None = None, most: int = 1_000_000) -> None:
        """Take in what has come, on all partitions but one that stands still."""
        if not self.broker.up:
            return
        self.ask()
        for place, start in self.offsets.items():
            if place != stalled:
                for offset, (key, said) in self.broker.logs.get(place, {}).items():
                    if start <= offset < start + most:
                        self.projection.take(*place, offset, key, said, self.mono)
                self.offsets[place] = min(start + most, self.broker.ends.get(place, 0))
        self.projection.knowledge.sweep(self.wall, self.mono)

    def lets_in(self) -> bool | None:
        """Whether the person may list the project's datasets now; None: that cannot be decided."""
        if not self.projection.knowledge.fresh(self.wall, self.mono):
            return None
        try:
            standing = self.authority.standing(self.credential, str(PROJECT), self.wall)
        except (Unauthenticated, NotKnownYet):
            return False
        return standing.decide(Action.DATASET_LIST).allowed


@dataclass
class World:
    """Three services with two replicas each, one broker, two gateways; and what was committed when."""

    kind: type[Replica] = Replica
    fences: bool = True
    knowledge: type[Knowledge] = Knowledge
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.broker = Broker(fences=self.fences)
        self.databases = {name: Database(self.clock) for name in (Service.AUTH, Service.PROJECTS, Service.CA)}
        self.relays = [self.kind(name, database, self.broker) for name, database in self.databases.items() for _ in range(2)]
        self.gateways = [Gateway(self.clock, self.broker, self.knowledge) for _ in range(2)]
        self.begun: list[Fact] = []
        self.versions = {MEMBERSHIPS.name: 1, USERS.name: 1}
        self.newest: dict[str, Fact] = {}
        self.commits: list[tuple[float, Fact]] = []
        later = moment(self.clock.now) + timedelta(days=1)
        session = Session(version=1, session_id=SESSION, user_id=PERSON, live=True, factor_at=moment(self.clock.now), expires_at=later)
        for fact in (session, self.user(1, gives=True), self.membership(1, gives=True)):
            self.commit(fact)
        self.settle()

    def user(self, version: int, *, gives: bool) -> User:
        status = UserStatus.ACTIVE if gives else UserStatus.BLOCKED
        return User(version=version, user_id=PERSON, username="ada", status=status, cluster_roles=frozenset())

    def membership(self, version: int, *, gives: bool) -> Membership:
        role = Role.DATA_SCIENTIST if gives else None
        return Membership(
            version=version, project_id=PROJECT, user_id=PERSON, username="ada", role=role, purpose="", starts_at=BEGIN, ends_at=None
        )

    def begin(self, topic: str, *, gives: bool) -> None:
        """A transaction takes the next version of an aggregate, and has not committed yet."""
        self.versions[topic] += 1
        make = self.membership if topic == MEMBERSHIPS.name else self.user
        self.begun.append(make(self.versions[topic], gives=gives))

    def commit(self, fact: Fact) -> None:
        """From now on it is acknowledged: the newest committed version of an aggregate is its state."""
        self.databases[Service(fact.topic.owner)].commit(fact)
        self.commits.append((self.clock.now, fact))
        known = self.newest.get(fact.topic.name)
        if known is None or known.version < fact.version:
            self.newest[fact.topic.name] = fact

    def stands(self) -> bool:
        """Whether the person's right stands by what is committed."""
        user, member = self.newest.get(USERS.name), self.newest.get(MEMBERSHIPS.name)
        return isinstance(user, User) and user.status is UserStatus.ACTIVE and isinstance(member, Membership) and member.role is not None

    def settle(self) -> None:
        """Everything is healthy again and goes on for a while."""
        self.broker.up, self.broker.loses_answers = True, False
        while self.begun:
            self.commit(self.begun.pop())
        for _ in range(4):
            for each in self.relays:
                each.pass_through()
            self.clock.now += LEASE_S / 2
        for each in self.relays:
            each.pass_through()
        for place, end in self.broker.ends.items():
            self.broker.compact(place, end)
        for gateway in self.gateways:
            gateway.skew = 0.0
            gateway.connect()
            gateway.read()
        for _ in range(2):
            self.clock.now += 0.1
            for each in self.relays:
                each.pass_through()
        for gateway in self.gateways:
            gateway.read()

    def set_clocks_back(self, seconds: float) -> None:
        """The databases' clock, and all that go by it, show less than they did."""
        self.clock.set_by -= seconds
        self.broker.dates_ascend = False

    def overlooked(self, gateway: Gateway, seconds: float) -> list[Fact]:
        """What was committed longer ago than this, and is newer than what a gateway that decides goes by."""
        knowledge = gateway.projection.knowledge
        if not knowledge.fresh(gateway.wall, gateway.mono):
            return []
        old = [fact for at, fact in self.commits if self.clock.now - at > seconds]
        return [fact for fact in old if knowledge.version(fact.topic.name, fact.key) < fact.version]

    def close(self) -> None:
        for each in self.relays:
            each.close()


def followed() -> list[Place]:
    """All partitions that a gateway reads."""
    return [(topic.name, number) for topic in TOPICS.values() if topic in FOLLOWED for number in range(topic.partitions)]
