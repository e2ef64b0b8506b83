"""From the event catalogue to Kafka: which topics there are, how they are kept, and who may do what with them. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from contracts.events import DAY_MS, Topic

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
MIB = 1 << 20
TEXT_LAG_MS = DAY_MS


class Resource(StrEnum):
    """What an access rule speaks of."""

    TOPIC = "topic"
    GROUP = "group"
    TRANSACTIONAL_ID = "transactional_id"


class Pattern(StrEnum):
    """Whether a rule's name is the whole name or its beginning."""

    LITERAL = "literal"
    PREFIXED = "prefixed"


class Operation(StrEnum):
    """What a rule allows."""

    READ = "read"
    WRITE = "write"
    DESCRIBE = "describe"


@dataclass(frozen=True)
class TopicPlan:
    """A topic as it should be; ``settings`` are Kafka's own names."""

    name: str
    partitions: int
    settings: Mapping[str, str]


@dataclass(frozen=True, order=True)
class Access:
    """One thing that one principal (a certificate's CN) may do; everything else is refused."""

    principal: str
    operation: Operation
    resource: Resource
    name: str
    pattern: Pattern = Pattern.LITERAL


def topic_plans(catalogue: Iterable[Topic], instances: Sequence[str]) -> list[TopicPlan]:
    """Every topic of the catalogue; one of each ``per_instance`` topic for each of ``instances``."""
    return [
        TopicPlan(name, topic.partitions, settings(topic))
        for topic in catalogue
        for name in ([f"{topic.name}-{instance}" for instance in instances] if topic.per_instance else [topic.name])
    ]


def settings(topic: Topic) -> dict[str, str]:
    """How Kafka keeps a topic.

    Authority topics get a position in every partition every 200 ms, each with a transaction's marker. A compacted log
    gives up its past positions only in closed segments, and the markers only `delete.retention.ms` after that; both are
    short here, so that a gateway which starts reads a few MiB instead of a day of positions. Nobody needs a longer
    `delete.retention.ms` on them: removal is a state, and who slept longer re-reads from zero.
    """
    if not topic.compacted:
        return {"cleanup.policy": "delete", "retention.ms": str(topic.retention_ms)}
    kept = {
        "cleanup.policy": "compact",
        "delete.retention.ms": str(DAY_MS),
        "min.cleanable.dirty.ratio": "0.2",
        "segment.ms": str(HOUR_MS),
        "segment.bytes": str(16 * MIB),
    }
    if topic.authority:
        kept |= {
            "delete.retention.ms": str(10 * MINUTE_MS),
            "min.cleanable.dirty.ratio": "0.1",
            "segment.ms": str(MINUTE_MS),
            "segment.bytes": str(MIB),
        }
    if topic.text:
        kept["max.compaction.lag.ms"] = str(TEXT_LAG_MS)
    return kept


def access_rules(catalogue: Iterable[Topic]) -> set[Access]:
    """Who may do what: owners write their topics, readers read them, services use groups of their own name.

    Idempotent producing needs no rule beside WRITE on a topic (KIP-679).
    """
    topics = list(catalogue)
    rules = {rule for topic in topics for rule in _of_topic(topic)}
    rules |= {rule for reader in {reader for topic in topics for reader in topic.readers} for rule in _of_reader(reader)}
    for owner, name in {(topic.owner, transactional_id(topic)) for topic in topics if topic.compacted}:
        for operation in (Operation.WRITE, Operation.DESCRIBE):
            rules.add(Access(str(owner), operation, Resource.TRANSACTIONAL_ID, name))
    return rules


def transactional_id(topic: Topic) -> str:
    """The fixed transactional id with which its owner's relay writes a compacted topic; a second relay with it fences the first."""
    return f"relay.{topic.owner}" if topic.authority else f"relay.{topic.owner}.state"


def _of_topic(topic: Topic) -> Iterator[Access]:
    name, pattern = (f"{topic.name}-", Pattern.PREFIXED) if topic.per_instance else (topic.name, Pattern.LITERAL)
    for principal, operation in ((topic.owner, Operation.WRITE), *((reader, Operation.READ) for reader in topic.readers)):
        yield Access(str(principal), operation, Resource.TOPIC, name, pattern)
        yield Access(str(principal), Operation.DESCRIBE, Resource.TOPIC, name, pattern)


def _of_reader(reader: str) -> Iterator[Access]:
    yield Access(str(reader), Operation.READ, Resource.GROUP, str(reader))
    yield Access(str(reader), Operation.READ, Resource.GROUP, f"{reader}.", Pattern.PREFIXED)
