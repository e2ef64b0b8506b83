"""What a service hears: its handlers, by the facts and topics that they are for."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from chassis.outbox import UnitOfWork
from contracts.events import Fact, Topic

F = TypeVar("F", bound=Fact)
Handler = Callable[[Any, UnitOfWork], Awaitable[None]]
RawHandler = Callable[[Sequence["RawRecord"], UnitOfWork], Awaitable[None]]
Eraser = Callable[[str, UnitOfWork], Awaitable[None]]


class NotYetKnown(Exception):
    """A fact refers to something that this service has not heard of yet: wait, without counting it as a failure."""

    def __init__(self, topic: str, key: object) -> None:
        super().__init__(f"{topic}:{key}")


@dataclass(frozen=True)
class RawRecord:
    """A record as it lies on the topic; ``at`` is the broker's time in milliseconds since 1970."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes
    at: int


@dataclass
class Hears:
    """What a service hears: one handler for each fact, and batch handlers for topics that are stored as they are.

    ``dated``: it decides about people whom no gateway looks up, by what it heard on these authority topics, so the positions
    that it has come to are stored, and ``up_to_date`` says whether they are young enough.
    """

    service: str
    dated: tuple[Topic, ...] = ()
    handlers: dict[str, Handler] = field(default_factory=dict)
    topics: dict[str, Topic] = field(default_factory=dict)
    erasers: dict[str, Eraser] = field(default_factory=dict)
    raw_prefix: str | None = None
    raw_handler: RawHandler | None = None

    def on(self, fact: type[F]) -> Callable[[Callable[[F, UnitOfWork], Awaitable[None]]], Callable[[F, UnitOfWork], Awaitable[None]]]:
        """Register the handler of a fact. The catalogue must name this service as a reader of its topic."""

        def register(handler: Callable[[F, UnitOfWork], Awaitable[None]]) -> Callable[[F, UnitOfWork], Awaitable[None]]:
            if self.service not in fact.topic.readers:
                raise ValueError(f"{self.service} is no reader of {fact.topic.name}")
            self.handlers[fact.type] = handler
            self.topics[fact.topic.name] = fact.topic
            return handler

        return register

    def erased(self, topic: Topic) -> Callable[[Eraser], Eraser]:
        """Register what to do when an aggregate was erased from a compacted topic, now or while this service slept."""

        def register(eraser: Eraser) -> Eraser:
            self.erasers[topic.name] = eraser
            return eraser

        return register

    def raw(self, prefix: str) -> Callable[[RawHandler], RawHandler]:
        """Register a batch handler for every topic that starts with ``prefix``; it must itself be safe to repeat."""

        def register(handler: RawHandler) -> RawHandler:
            self.raw_prefix = prefix
            self.raw_handler = handler
            return handler

        return register
