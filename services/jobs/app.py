"""The assembly of jobs: its doors, what it hears, the timers of leases, and the notices to agents."""

import asyncio
import time
from uuid import UUID

from kombu.exceptions import OperationalError

from chassis import changes
from chassis.app import Runtime, Spec
from chassis.deletion import Slice
from chassis.log import logger
from chassis.outbox import UnitOfWork, unit_of_work
from chassis.settings import Settings
from contracts.policy import Service
from services.jobs import notices, repository, service
from services.jobs.handlers import hears
from services.jobs.routes import router
from services.jobs.service.leases import Terms

log = logger(__name__)
LONGEST_REST_S = 2.0
LONGEST_PAUSE_S = 5.0
WHOLE_S = 600.0


class JobsSettings(Settings):
    """Settings of jobs: how long a lease lasts without renewal (seconds), and how many a run may lose in a row before it gets anywhere.

    Leases outlast what happens when a process of jobs dies: the broker gives its partitions to another one after 10 seconds, and until
    then nobody can know whose leases may be renewed.
    """

    valkey_url: str
    local_agent_token_sha256: str | None = None
    run_lease_s: float = 20.0
    most_leases: int = 3


async def know_local_agent(runtime: Runtime) -> None:
    """Announce the agent on the same machine, then rest."""
    token = runtime.settings.local_agent_token_sha256
    if token:
        async with unit_of_work(runtime.engine, Service.JOBS.value, "agent.create") as uow:
            await service.agents.know_local_agent(uow, bytes.fromhex(token))
    await asyncio.Event().wait()


async def end_what_is_over(runtime: Runtime) -> None:
    """Act at the instant at which a lease runs out or the membership behind a run ends.

    The inputs of all runs are looked at when this begins and every 10 minutes, in case it stood still when it was to look; those of new runs each time.
    A look that passed over a run which somebody else held is not done: all are looked at again at the next one.
    """
    terms = Terms(runtime.settings.run_lease_s, runtime.settings.most_leases)
    whole_at = 0.0
    async with changes.listening(runtime.engine, repository.changes.CHANNEL) as changed:
        while True:
            whole = time.monotonic() >= whole_at
            async with unit_of_work(runtime.engine, Service.JOBS.value, "run.end") as uow:
                ended = await service.leases.end_what_is_over(uow, terms, whole=whole)
                done = whole and not ended and not await repository.jobs.is_any_unreadable(uow.session)
                left = await repository.jobs.seconds_to_next_end(uow.session)
            if done:
                whole_at = time.monotonic() + WHOLE_S
            if not ended:
                await changed.wait(LONGEST_REST_S if left is None else min(max(left, 0.01), LONGEST_REST_S))


async def announce(runtime: Runtime) -> None:
    """Tell the agents of every waiting run.

    A run is marked before the notice is sent, so that sending holds no lock; one that waits on is announced again after
    half a minute, and agents look by themselves as well: a crash or a lost notice in between loses nothing.
    """
    office = notices.post_office(runtime.settings.valkey_url)
    pause = 0.1
    try:
        async with changes.listening(runtime.engine, repository.changes.CHANNEL) as changed:
            while True:
                async with unit_of_work(runtime.engine, Service.JOBS.value, "run.announce") as uow:
                    waiting = await service.leases.unannounced(uow)
                try:
                    if waiting:
                        await asyncio.to_thread(notices.send, office, waiting)
                    pause = 0.1
                except (OperationalError, OSError) as error:
                    log.warning("agents cannot be told", error=type(error).__name__)
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, LONGEST_PAUSE_S)
                if not waiting:
                    await changed.wait(LONGEST_REST_S)
    finally:
        office.close()


async def purge(_runtime: Runtime, uow: UnitOfWork, project_id: UUID) -> Slice:
    """Remove a slice of what a deleted project left."""
    return await service.deletion.purge(uow, project_id)


spec = Spec(
    service=Service.JOBS,
    settings=JobsSettings,
    router=router,
    hears=hears,
    background=(know_local_agent, end_what_is_over, announce),
    purge=purge,
)
