"""A service's part in the deletion of a project: it closes, purges in slices, says so, and remembers the project for ever.

``follow`` is called by the handler of the project's facts, ``purge_slice`` and ``erase_due`` by background work. Whoever changes
something in a project calls ``hold`` before it looks at the project's state, and whoever stores what others say of a project asks
``is_gone``: closing waits for both, so nothing that began before it is written after it.
"""

import json
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from chassis.db import fetch
from chassis.log import logger
from chassis.outbox import ERASURE, NOTIFY, UnitOfWork, unit_of_work
from contracts.events import PURGED, Fact, Project, ProjectState, PurgeStep
from contracts.policy import Service

log = logger(__name__)
ERASE_AFTER = timedelta(days=1)
ERASED_AT_ONCE = 500
_CLASS = 0x70726F6A
_HOLD = f"SELECT pg_advisory_xact_lock_shared({_CLASS}, hashtext($1))"
_ALONE = text(f"SELECT pg_advisory_xact_lock({_CLASS}, hashtext(:project_id))")
_HOLD_ALL = f"SELECT pg_advisory_xact_lock_shared({_CLASS}, hashtext(p)) FROM unnest($1::text[]) AS p"  # noqa: S608 - a constant
_STEPS = "SELECT project_id, step FROM deleted_projects WHERE project_id = ANY($1::uuid[])"
_HELD = "projects held"
_STEP = "SELECT step FROM deleted_projects WHERE project_id = $1"
_CLOSED = text(
    "INSERT INTO deleted_projects (project_id, step, project_version, closed_at) VALUES (:project_id, 'closed', :version, now())"
)
_PURGE = text("UPDATE deleted_projects SET step = 'purging', project_version = :version WHERE project_id = :project_id AND step = 'closed'")
# In no order: a project that cannot be purged must not keep the others waiting.
_NEXT = text("""SELECT project_id, project_version, removed FROM deleted_projects WHERE step = 'purging'
                ORDER BY random() LIMIT 1 FOR UPDATE SKIP LOCKED""")
_COUNTED = text("UPDATE deleted_projects SET removed = CAST(:removed AS jsonb), step = :step WHERE project_id = :project_id")
_FORGET_ANSWERS = text("DELETE FROM idempotency WHERE position(CAST(:project_id AS bytea) in body) > 0")
_LATER = text("""INSERT INTO later_erasures (topic, key, version, due)
                 SELECT t, k, v, now() + :after FROM unnest(CAST(:topics AS text[]), CAST(:keys AS text[]), CAST(:versions AS bigint[])) AS e(t, k, v)
                 ON CONFLICT (topic, key) DO UPDATE SET version = excluded.version, due = excluded.due""")
_ERASE = text("""WITH due AS (SELECT topic, key FROM later_erasures WHERE due <= now() ORDER BY due LIMIT :most FOR UPDATE SKIP LOCKED),
                      gone AS (DELETE FROM later_erasures l USING due d WHERE l.topic = d.topic AND l.key = d.key
                               RETURNING l.topic, l.key, l.version)
                 INSERT INTO outbox (topic, key, version, type, event_id, at, actor, traceparent, payload)
                 SELECT topic, key, version + 1, :type, gen_random_uuid(), now(), :service, '', NULL FROM gone RETURNING topic""")


@dataclass(frozen=True)
class Slice:
    """What one transaction removed of a project, and whether there is more. ``kept``: what stays although the project is gone."""

    removed: Mapping[str, int]
    more: bool
    kept: Mapping[str, int] = field(default_factory=dict)


Close = Callable[[UnitOfWork, UUID], Awaitable[None]]
Purge = Callable[[UnitOfWork, UUID], Awaitable[Slice]]


async def hold(session: AsyncSession, project_id: UUID) -> None:
    """Let nobody close the project until this transaction ends. Taken before any row is locked."""
    if project_id not in session.info.get(_HELD, ()):
        await fetch(session, _HOLD, str(project_id))


async def hold_all(session: AsyncSession, project_ids: Collection[UUID]) -> None:
    """Hold projects and look how far each is, once for all that asks of them later in this transaction, which must follow none of them."""
    ids = sorted(project_ids)
    await fetch(session, _HOLD_ALL, [str(project_id) for project_id in ids])
    known = {row["project_id"]: row["step"] for row in await fetch(session, _STEPS, ids)}
    session.info[_HELD] = {project_id: known.get(project_id) for project_id in ids}


async def is_closing(session: AsyncSession, project_id: UUID) -> bool:
    """Whether the project is being or was deleted, as far as this service has heard; it stays so until this transaction ends."""
    return await _held(session, project_id) is not None


async def is_gone(session: AsyncSession, project_id: UUID) -> bool:
    """Whether this service is removing, or has removed, what it holds of the project: nothing of it is stored any more."""
    return await _held(session, project_id) in ("purging", "purged")


async def _held(session: AsyncSession, project_id: UUID) -> str | None:
    await hold(session, project_id)
    held: dict[UUID, str | None] = session.info.get(_HELD, {})
    return held[project_id] if project_id in held else await _step(session, project_id)


async def _step(session: AsyncSession, project_id: UUID) -> str | None:
    rows = await fetch(session, _STEP, project_id)
    step: str | None = rows[0]["step"] if rows else None
    return step


async def follow(uow: UnitOfWork, project: Project, close: Close) -> None:
    """Do what the state of a project asks of this service: ``close`` it, and have it purged. Safe to repeat."""
    if project.state in (ProjectState.ACTIVE, ProjectState.ARCHIVED):
        return
    place = {"project_id": project.project_id, "version": project.version}
    await uow.session.execute(_ALONE, {"project_id": str(project.project_id)})
    uow.project_id = project.project_id
    if await _step(uow.session, project.project_id) is None:
        await close(uow, project.project_id)
        await uow.session.execute(_CLOSED, place)
        _say(uow, project.project_id, project.version, PurgeStep.CLOSED, {}, {})
    if project.state is not ProjectState.CLOSING:
        await uow.session.execute(_PURGE, place)


async def purge_slice(engine: AsyncEngine, service: Service, purge: Purge) -> bool:
    """Remove a part of what a project left here, and say so when nothing is left; whether there was anything to do."""
    async with unit_of_work(engine, service.value, "project.purge") as uow:
        row = (await uow.session.execute(_NEXT)).one_or_none()
        if row is None:
            return False
        uow.project_id = row.project_id
        done = await purge(uow, row.project_id)
        removed: dict[str, int] = dict(row.removed)
        for what, count in done.removed.items():
            removed[what] = removed.get(what, 0) + count
        step = PurgeStep.PURGED.value if not done.more else "purging"
        await uow.session.execute(_COUNTED, {"project_id": row.project_id, "removed": json.dumps(removed), "step": step})
        if not done.more:
            await forget_answers(uow.session, row.project_id)
            _say(uow, row.project_id, row.project_version, PurgeStep.PURGED, removed, done.kept)
            uow.note(project_id=row.project_id, **removed)
            log.info("purged a deleted project", project_id=str(row.project_id))
    return True


async def forget_answers(session: AsyncSession, project_id: UUID) -> None:
    """Forget what is kept for repeated requests (Idempotency-Key) and names a project: a repeated one finds it gone."""
    await session.execute(_FORGET_ANSWERS, {"project_id": str(project_id).encode()})


def _say(uow: UnitOfWork, project_id: UUID, version: int, step: PurgeStep, removed: Mapping[str, int], kept: Mapping[str, int]) -> None:
    said = PURGED[Service(uow.service)]
    number = 1 if step is PurgeStep.CLOSED else 2
    uow.emit(
        said(version=number, project_id=project_id, project_version=version, step=step, at=uow.now, removed=dict(removed), kept=dict(kept))
    )


async def erase_later(uow: UnitOfWork, lasts: Iterable[Fact]) -> None:
    """Take aggregates off their topics in a day, when no client names their versions any more; ``lasts`` are their newest facts.

    The caller deletes the aggregates' rows in this transaction, and their keys are never used again.
    """
    facts = list(lasts)
    for fact in facts:
        if not fact.topic.erasable:
            raise ValueError(f"{fact.topic.name} is heard by services")
    values = {
        "topics": [fact.topic.name for fact in facts],
        "keys": [fact.key for fact in facts],
        "versions": [fact.version for fact in facts],
        "after": ERASE_AFTER,
    }
    await uow.session.execute(_LATER, values)


async def erase_due(engine: AsyncEngine, service: Service) -> bool:
    """Take some of the aggregates whose day is over off their topics; whether there may be more."""
    async with unit_of_work(engine, service.value, "project.erase_later") as uow:
        values = {"most": ERASED_AT_ONCE, "type": ERASURE, "service": service.value}
        topics = [row.topic for row in await uow.session.execute(_ERASE, values)]
        await uow.session.execute(NOTIFY, {"topics": " ".join(sorted(set(topics)))})
    return len(topics) == ERASED_AT_ONCE
