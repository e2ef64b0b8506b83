"""Use cases: filling the index with what is heard, keeping it there, and searching it."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from chassis import deletion
from chassis.deletion import Slice
from chassis.errors import CannotDecide
from chassis.log import logger
from chassis.outbox import UnitOfWork, unit_of_work
from chassis.pages import InvalidCursor, PageRequest
from chassis.projection import Projection
from contracts import events
from contracts.events import DATASETS, JOBS, SHARES
from contracts.roles import Actor
from services.search import domain, repository
from services.search.index import Found, Hit, Index, IndexAway
from services.search.models import Document, Kind

log = logger(__name__)
LOOK_S = 2.0
PURGED_AT_ONCE = 500
EXPUNGE_LOOK_S = 10.0
RETRY_S = 0.3
INDEXED = {DATASETS.name: Kind.DATASETS, JOBS.name: Kind.JOBS}


@dataclass
class Library:
    """What searching needs: the index, the shares as they are now, and which indexes this process has seen."""

    engine: Any
    index: Index
    shares: Projection
    seen: dict[Kind, str] = field(default_factory=dict)
    trouble: str | None = "index: not looked at yet"
    expunging: dict[UUID, asyncio.Task[None]] = field(default_factory=dict)

    def missing(self) -> list[str]:
        """What keeps search from being ready."""
        return ([self.trouble] if self.trouble else []) + self.shares.missing()


_libraries: list[Library] = []


def open_library(library: Library) -> None:
    """Let handlers write into this library's index."""
    _libraries.append(library)


def close_library(library: Library) -> None:
    """No longer."""
    _libraries.remove(library)


# Filling


def remember(uow: UnitOfWork, document: Document) -> None:
    """Write a document with all others of the transaction, right before it commits."""
    uow.collect(_write, document)


async def remember_in(uow: UnitOfWork, project_id: UUID, document: Document) -> None:
    """Write a document of a project, unless the project is gone: then the purge erases, and counts, what is there."""
    if not await deletion.is_gone(uow.session, project_id):
        remember(uow, document)


async def _write(uow: UnitOfWork, documents: Sequence[Document]) -> None:
    """Bulk-write into the index that the inbox belongs to; it cannot be exchanged before the commit."""
    for kind in sorted({document.kind for document in documents}):
        if not await repository.held_index(uow.session, kind):
            raise IndexAway(f"there is no index of {kind} yet")
    await _libraries[-1].index.write(documents)


async def keep_indexes(library: Library, read_anew: Callable[[], None]) -> None:
    """Look after the indexes until cancelled: make what is missing, and let its topic be read anew (``read_anew``)."""
    while True:
        ready = await look_after(library, read_anew)
        await asyncio.sleep(LOOK_S if ready else RETRY_S)


async def look_after(library: Library, read_anew: Callable[[], None]) -> bool:
    """Look once; whether the indexes are there."""
    try:
        for kind in Kind:
            index_id = await library.index.ensure(kind)
            async with unit_of_work(library.engine, "search", "index.keep") as uow:
                if await repository.index_id(uow.session, kind) != index_id and await repository.start_over(uow.session, kind, index_id):
                    log.warning("a new index is filled from the beginning of its topic", kind=kind)
            if library.seen.get(kind) != index_id:
                library.seen[kind] = index_id
                read_anew()
    except (OSError, TimeoutError) as error:
        library.trouble = f"index: {error}"
        return False
    library.trouble = None
    return True


# Projects that are deleted


async def follow_project(uow: UnitOfWork, project: events.Project) -> None:
    """A project is deleted: what of it is in the index is erased."""
    await deletion.follow(uow, project, _close)


async def _close(_uow: UnitOfWork, _project_id: UUID) -> None:
    """Nothing is written into a project here."""


async def purge(library: Library, uow: UnitOfWork, project_id: UUID) -> Slice:
    """Erase some of a deleted project's documents, and in the end their traces in the index's files.

    What is erased next is committed before, so that it is counted also where a process dies between the index and the commit.
    """
    erased = await repository.announced(uow.session, project_id)
    await library.index.write([domain.erased(kind, key) for kind, key in erased])
    if erased and (begun := library.expunging.pop(project_id, None)) is not None:
        begun.cancel()  # before this was erased
    left = await library.index.of_project(project_id, PURGED_AT_ONCE)
    await repository.announce(uow.session, project_id, left)
    if erased or left:
        return Slice({"documents": len(erased)} if erased else {}, more=True)
    if not await _expunged(library, project_id):
        return Slice({}, more=True)
    # A bulk write that was given up on can have arrived meanwhile.
    return Slice({}, more=bool(await library.index.of_project(project_id, 1)))


async def _expunged(library: Library, project_id: UUID) -> bool:
    """Whether the index's files are written anew. That goes on between the slices: a slice holds a transaction, and is short.

    One that ends when no slice waits for it is done once more: something may have been erased after it began.
    """
    work = library.expunging.get(project_id)
    if work is None:
        work = library.expunging[project_id] = asyncio.create_task(library.index.expunge())
        work.add_done_callback(lambda done: _forget(library, project_id, done))
    await asyncio.wait([work], timeout=EXPUNGE_LOOK_S)
    if not work.done():
        return False
    await work
    return True


def _forget(library: Library, project_id: UUID, work: asyncio.Task[None]) -> None:
    if library.expunging.get(project_id) is work:
        del library.expunging[project_id]
    if not work.cancelled():
        work.exception()  # whoever waits for it hears of it


# Searching


async def search(
    library: Library,
    actor: Actor,
    text: str,
    kind: Kind | None,
    project_id: UUID | None,
    page: PageRequest,
    after: Mapping[tuple[str, str], int],
) -> Found:
    """What the caller can find now. ``after``: facts that they have seen and want to be counted in."""
    wanted = domain.query_text(text)
    cursor = _cursor(page)
    await library.shares.fresh()
    if not await library.shares.reached(after):
        raise CannotDecide("What you did just now has not arrived here yet.", retry_after=1)
    scope = domain.scope(actor.projects, library.shares.all(SHARES), project_id)
    if scope.empty:
        return Found([], 0)
    try:
        await library.index.refresh({INDEXED[topic] for topic, _ in after if topic in INDEXED})
        return await library.index.search(wanted, [kind] if kind else list(Kind), scope, page.limit, cursor)
    except IndexAway as error:
        raise domain.SearchIsAway(retry_after=1) from error


def _cursor(page: PageRequest) -> tuple[float, str] | None:
    if page.after is None:
        return None
    if len(page.after) != 2:  # noqa: PLR2004 - a score and an id
        raise InvalidCursor
    score, last = page.after
    if isinstance(score, bool) or not isinstance(score, (int, float)) or not isinstance(last, str) or len(last) > 64:  # noqa: PLR2004
        raise InvalidCursor
    return float(score), last


def place(hit: Hit) -> tuple[float, str]:
    """Where a hit stands in the order of results."""
    return hit.score, hit.id
