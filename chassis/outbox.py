"""The unit of work: rows, facts and the audit record commit together or not at all.

A fact goes to the table ``outbox`` in the transaction that changed the aggregate; the relay publishes it afterwards.
Neither of two changes of one aggregate that claim one version can come after the other: the table is unique on (topic,
key, version) until the relay has published the fact, and from then on its head says so. An aggregate that ended long ago is
erased from its topic by an outbox row without a payload, which takes the version after the last one.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote, unquote
from uuid import UUID

from pydantic_core import to_json
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from uuid_utils.compat import uuid7

from chassis import db
from chassis.errors import ChangedMeanwhile, Problem
from contracts.events import Fact, Outcome
from contracts.roles import NOBODY, Actor, Principal

CHANNEL = "outbox"
ERASURE = "erasure"
NAMED_FACTS = 32
NAMED_OF_ACTORS = ("principal", "user_id", "username", "session_id", "certificate_id", "key_id", "role", "agent_id", "run_id", "service")

NOTIFY = text(f"SELECT pg_notify('{CHANNEL}', :topics)")
_FACTS = """INSERT INTO outbox (topic, key, version, type, event_id, at, actor, traceparent, payload)
    SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::uuid[], $6::timestamptz[], $7::text[], $8::text[], $9::text[])
        AS fact (topic, key, version)
    WHERE coalesce((SELECT h.version FROM heads h WHERE h.topic = fact.topic AND h.key = fact.key), 0) < fact.version
    RETURNING version"""
_RECORDS = "INSERT INTO audit_outbox (record) SELECT unnest($10::jsonb[])"
_CALL = f"SELECT pg_notify('{CHANNEL}', $11), (SELECT count(*) FROM facts) AS told"  # noqa: S608 - constants
_LEAVE = f"WITH facts AS ({_FACTS}), records AS ({_RECORDS}) {_CALL}"


class UnitOfWork:
    """One transaction's work.

    ``session`` reads and writes rows; ``now`` is the database's clock at the start, aware, UTC; ``actor`` is who acts.
    """

    def __init__(self, session: AsyncSession, service: str, actor: Actor, action: str, request_id: str, traceparent: str = "") -> None:
        self.session = session
        self.service = service
        self.actor = actor
        self.action = action
        self.request_id = request_id
        self.traceparent = traceparent
        self.now: datetime
        self.facts: list[Fact] = []
        self.rests_on: list[Fact] = []
        self.erasures: list[Fact] = []
        self.resource: dict[str, str] = {}
        self.project_id: UUID | None = actor.project_id
        self.audited = False
        self.outcome = Outcome.ALLOWED
        self.reason = "allowed"
        self.concealed = False
        self._collected: dict[Callable[[UnitOfWork, list[Any]], Awaitable[None]], list[Any]] = {}
        self._inside: dict[UUID, UnitOfWork] = {}

    async def begin(self) -> None:
        """Open the transaction and read the database's clock."""
        self.now = await db.begin(self.session)

    @property
    def acts(self) -> str:
        """Who is named as the actor of its facts."""
        return str(self.actor.user_id or self.actor.agent_id or self.actor.run_id or self.service)

    def new_id(self) -> UUID:
        """A fresh UUIDv7 (RFC 9562)."""
        return uuid7()

    def inside(self, project_id: UUID) -> "UnitOfWork":
        """The part of this work that is done in one of several projects; it commits with the rest, and leaves a record of its own."""
        if project_id not in self._inside:
            part = UnitOfWork(self.session, self.service, self.actor, self.action, self.request_id, self.traceparent)
            part.now = self.now
            part.project_id = project_id
            self._inside[project_id] = part
        return self._inside[project_id]

    @property
    def parts(self) -> list["UnitOfWork"]:
        """This work, and what is done of it inside of projects."""
        return [self, *(part for each in self._inside.values() for part in each.parts)]

    def emit(self, fact: Fact) -> None:
        """Tell the other services; leaves with the commit."""
        self.facts.append(fact)

    def shows(self, fact: Fact) -> None:
        """Name, in the answer, a fact that it shows and that was told before: what the caller asks next can rest on it elsewhere."""
        self.rests_on.append(fact)

    def erase(self, last: Fact) -> None:
        """Take an aggregate off its topic for good; ``last`` is its newest fact, which said that it ended.

        The caller deletes the aggregate's row in this transaction, and its key is never used again.
        """
        if not last.topic.erasable:
            raise ValueError(f"{last.topic.name} is heard by services")
        self.erasures.append(last)

    def note(self, **resource: object) -> None:
        """Say in the audit record what was acted on; ids and counts only, never contents."""
        self.resource.update({name: str(value) for name, value in resource.items()})
        self.audited = True

    def refuse(self, problem: Problem) -> None:
        """Say in the audit record that this ends in a refusal, or a failure, and why; for those that commit, since they are counted."""
        self.outcome = Outcome.REFUSED if problem.status < 500 else Outcome.FAILED  # noqa: PLR2004 - RFC 9110
        self.reason = problem.slug
        self.audited = True

    def conceal(self) -> None:
        """Say that the answer holds a secret that is shown once: it is not kept for a repeated request."""
        self.concealed = True

    def collect(self, write: Callable[["UnitOfWork", list[Any]], Awaitable[None]], item: Any) -> None:
        """Give ``item`` to ``write``, with all others of this transaction, right before the commit.

        For effects outside the database: in bulk, and safe to repeat, because the commit can still fail.
        """
        self._collected.setdefault(write, []).append(item)

    async def commit(self) -> None:
        """Write facts and the audit record, wake the relay, commit. Raises ChangedMeanwhile when another change came first."""
        await commit_together(self.session, [self])

    async def write_collected(self) -> None:
        """Let what was collected be written."""
        for write, items in self._collected.items():
            await write(self, items)

    @property
    def leaves_record(self) -> bool:
        """Whether the ledger is told of it."""
        return bool(self.facts or self.erasures or self.audited)

    def said(self) -> Iterator[tuple[Fact, int, str, str | None]]:
        """What is told: the aggregate's last fact, the version, its type and its content; none where it is erased."""
        for fact in self.facts:
            yield fact, fact.version, fact.type, fact.model_dump_json()
        for last in self.erasures:
            yield last, last.version + 1, ERASURE, None

    def record(self) -> dict[str, Any]:
        """The audit record."""
        resource = self.resource or {
            name: " ".join(fact.key for fact in self.facts if fact.topic.name == name)
            for name in sorted({fact.topic.name for fact in self.facts})
        }
        return {
            "record_id": str(uuid7()),
            "source": self.service,
            "at": self.now.isoformat(),
            "request_id": self.request_id,
            "actor": who_acts(self.actor, self.service),
            "action": self.action,
            "resource": resource,
            "outcome": self.outcome.value,
            "reason": self.reason,
            "project_id": str(self.project_id) if self.project_id else None,
        }


async def commit_together(session: AsyncSession, uows: Sequence[UnitOfWork]) -> None:
    """Commit units of work that share a session: all of them or none. Raises ChangedMeanwhile when another change came first."""
    uows = [part for uow in uows for part in uow.parts]
    try:
        await session.flush()
        for uow in uows:
            await uow.write_collected()
        if any(uow.leaves_record for uow in uows):
            await _leave(session, uows)
        await session.commit()
    except IntegrityError as error:
        raise ChangedMeanwhile from error


async def _leave(session: AsyncSession, uows: Sequence[UnitOfWork]) -> None:
    """Facts, erasures, records and the relay's call in one statement: each request waits for it."""
    said = [(uow, *each) for uow in uows for each in uow.said()]
    left = await db.fetch(
        session,
        _LEAVE,
        [fact.topic.name for _, fact, *_ in said],
        [fact.key for _, fact, *_ in said],
        [version for _, _, version, *_ in said],
        [kind for *_, kind, _ in said],
        [uuid7() for _ in said],
        [uow.now for uow, *_ in said],
        [uow.acts for uow, *_ in said],
        [uow.traceparent for uow, *_ in said],
        [payload for *_, payload in said],
        [to_json(uow.record()).decode() for uow in uows if uow.leaves_record],
        " ".join({fact.topic.name for _, fact, *_ in said}),
    )
    if left[0]["told"] != len(said):
        raise ChangedMeanwhile


def who_acts(actor: Actor, service: str = "") -> dict[str, str]:
    """The actor as an audit record names it: ids, username and role, nothing else."""
    if actor.principal is Principal.NOBODY and service:
        return {"principal": "service", "service": service}
    return {name: str(value) for name in NAMED_OF_ACTORS if (value := getattr(actor, name)) is not None}


@dataclass(frozen=True)
class Caller:
    """Who asks for a unit of work, and by which request. ``left``: whether nobody waits for its answer any more."""

    actor: Actor = NOBODY
    request_id: str = ""
    traceparent: str = ""
    left: Callable[[], bool] = lambda: False


@asynccontextmanager
async def units_of_work(engine: AsyncEngine, service: str, action: str, callers: Sequence[Caller]) -> AsyncIterator[list[UnitOfWork]]:
    """Units of work outside of requests that share one transaction: those left in the list commit at the end, or all roll back on an exception."""
    async with db.session(engine) as session:
        uows = [
            UnitOfWork(session, service, caller.actor, action, caller.request_id or str(uuid7()), caller.traceparent) for caller in callers
        ]
        await uows[0].begin()
        for uow in uows:
            uow.now = uows[0].now
        yield uows
        await commit_together(session, uows)


@asynccontextmanager
async def unit_of_work(
    engine: AsyncEngine, service: str, action: str, actor: Actor = NOBODY, request_id: str = ""
) -> AsyncIterator[UnitOfWork]:
    """A unit of work outside a request: commits at the end, rolls back on an exception."""
    async with units_of_work(engine, service, action, [Caller(actor, request_id)]) as uows:
        yield uows[0]


def facts_header(facts: list[Fact], caller: UUID | None = None) -> str:
    """``Hortus-Facts``: which facts an answer emitted, as ``topic:key:version`` with percent-encoded keys.

    Of many facts, those about the caller and the last ones are named: facts are published in the order in which they were
    emitted, so whoever has the last ones of each partition has them all.
    """
    named = facts[-NAMED_FACTS:]
    if len(facts) > NAMED_FACTS and caller is not None:
        named = [fact for fact in facts[:-NAMED_FACTS] if str(caller) in fact.key][:NAMED_FACTS] + named
    return ", ".join(f"{fact.topic.name}:{quote(fact.key, safe='')}:{fact.version}" for fact in named)


def read_facts_header(value: str) -> dict[tuple[str, str], int]:
    """The versions named in ``Hortus-Facts`` or ``Hortus-After`` by (topic, key). Raises ValueError."""
    wanted: dict[tuple[str, str], int] = {}
    for item in filter(None, (part.strip() for part in value.split(","))):
        topic, key, version = item.split(":")
        place = (topic, unquote(key))
        wanted[place] = max(int(version), wanted.get(place, 0))
    return wanted
