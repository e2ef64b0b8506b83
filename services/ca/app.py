"""The assembly of ca: its doors, what it hears, its issuers and the timer that ends certificates."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from pathlib import Path

from chassis import db
from chassis.app import Runtime, Spec
from chassis.outbox import UnitOfWork, unit_of_work
from chassis.settings import Settings
from contracts.policy import Service
from contracts.roles import Actor
from services.ca import service, signer
from services.ca.domain import Terms
from services.ca.handlers import hears
from services.ca.routes import router

JOURNAL_CONNECTIONS = 2
LONGEST_REST_S = 1.0


class CaSettings(Settings):
    """Settings of ca. Lives are seconds; an agent's certificate lives long because it is not renewed yet."""

    issuers_dir: Path
    project_life_s: int = 8 * 3600
    job_life_s: int = 24 * 3600
    agent_life_s: int = 30 * 24 * 3600


@asynccontextmanager
async def lifespan(runtime: Runtime) -> AsyncIterator[None]:
    """Open the issuers, and connections of their own for intents: issuing holds one connection and never waits for a second."""
    settings: CaSettings = runtime.settings
    engine = db.engine(settings.database_url, JOURNAL_CONNECTIONS)

    def journal(actor: Actor, request_id: str) -> AbstractAsyncContextManager[UnitOfWork]:
        return unit_of_work(engine, Service.CA, "certificate.intend", actor, request_id)

    terms = Terms(
        settings.trust_domain,
        timedelta(seconds=settings.project_life_s),
        timedelta(seconds=settings.job_life_s),
        timedelta(seconds=settings.agent_life_s),
    )
    people = signer.open_file(settings.issuers_dir, signer.PEOPLE)
    workloads = signer.open_file(settings.issuers_dir, signer.WORKLOADS)
    office = service.Office(people, workloads, terms, journal)
    service.open_office(office)
    try:
        yield
    finally:
        service.close_office(office)
        await engine.dispose()


async def end_in_time(runtime: Runtime) -> None:
    """End certificates at their instant and at that of the membership behind them."""
    while True:
        async with unit_of_work(runtime.engine, Service.CA, "certificate.expire") as uow:
            due = await service.expire(uow)
        left = LONGEST_REST_S if due is None else (due - uow.now).total_seconds()
        await asyncio.sleep(min(max(left, 0.01), LONGEST_REST_S))


spec = Spec(Service.CA, CaSettings, router, hears, background=(end_in_time,), lifespan=lifespan)
