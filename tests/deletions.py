"""What tests of deleted projects share: the project's facts, the purge of one service, and the search for what is left."""

import contextlib
import functools
from uuid import UUID

from chassis import deletion
from chassis.deletion import Slice
from chassis.outbox import UnitOfWork
from contracts.events import Project, ProjectState
from tests.world import OURS, World

MARKER = "ZebrafinkenZaehlung"
REMEMBERED = ("deleted_projects", "later_erasures", "outbox", "audit_outbox")


def state(state: ProjectState, version: int, project_id: UUID = OURS) -> Project:
    """What projects says of a project on its way out; a deleted one has no name."""
    name = "" if state is ProjectState.DELETED else "study"
    return Project(version=version, project_id=project_id, name=name, description="", state=state)


CLOSING = state(ProjectState.CLOSING, 2)
PURGING = state(ProjectState.PURGING, 3)
DELETED = state(ProjectState.DELETED, 4)


class Killed(ConnectionError):
    """The service ended between a purge and its commit."""


async def purge_slice(world: World) -> bool:
    """One slice of the service's purge; whether there was anything to do."""
    assert world.spec.purge is not None
    return await deletion.purge_slice(world.runtime.engine, world.spec.service, functools.partial(world.spec.purge, world.runtime))


async def killed_slice(world: World) -> None:
    """A slice whose service is killed when all is removed and nothing committed."""

    async def dies(uow: UnitOfWork, project_id: UUID) -> Slice:
        assert world.spec.purge is not None
        await world.spec.purge(world.runtime, uow, project_id)
        await uow.session.flush()
        raise Killed

    with contextlib.suppress(Killed):
        await deletion.purge_slice(world.runtime.engine, world.spec.service, dies)


async def purge(world: World) -> None:
    """Everything that the service's background work would purge now; it is killed before each commit, and does each slice again."""
    more = True
    while more:
        await killed_slice(world)
        more = await purge_slice(world)


async def rows_with(world: World, *texts: str) -> dict[str, int]:
    """The tables in which one of these texts stands anywhere, also as bytes, and in how many rows; what is to be said aside."""
    names = await world.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    found = {}
    for (table,) in names:
        if table in REMEMBERED:
            continue
        for text in texts:
            hexed = text.encode().hex()
            rows = await world.sql(
                f"SELECT count(*) FROM {table} t WHERE t::text LIKE :text OR t::text LIKE :hexed", text=f"%{text}%", hexed=f"%{hexed}%"
            )
            if rows[0][0]:
                found[table] = rows[0][0]
    return found


async def a_day_passes(world: World) -> None:
    """What waits for a day to be erased from its topics is erased."""
    await world.sql("UPDATE later_erasures SET due = now()")
    await deletion.erase_due(world.runtime.engine, world.spec.service)
