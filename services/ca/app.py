"""The assembly of ca: its doors, what it hears, its issuers and the timer that ends certificates."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from pathlib import Path

from pydantic import Field

from chassis import db
from chassis.app import Runtime, Spec
from chassis.outbox import UnitOfWork, unit_of_work
from chassis.settings import Settings
from contracts.policy import API, Service
from contracts.roles import Actor
from services.ca import revocation, service, signer
from services.ca.domain import Terms
from services.ca.handlers import hears
from services.ca.models import Issuer
from services.ca.routes import router

JOURNAL_CONNECTIONS = 2
LONGEST_REST_S = 1.0


class CaSettings(Settings):
    """Settings of ca. Lives are seconds; an agent's certificate lives long because it is not renewed yet.

    ``origins``: where the gateway is reached, as in auth; certificates name the first one as the place where their status is told,
    and none where there is none. ``crl_life_s`` and ``ocsp_life_s``: how long a list of revoked certificates and an answer about one hold.
    """

    issuers_dir: Path
    origins: tuple[str, ...] = ("https://localhost:8443",)
    project_life_s: int = 8 * 3600
    job_life_s: int = 24 * 3600
    agent_life_s: int = 30 * 24 * 3600
    crl_life_s: int = Field(default=3600, gt=0)
    ocsp_life_s: int = Field(default=60, gt=0)


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
        settings.origins[0] + API if settings.origins else "",
    )
    signers = {issuer: signer.open_file(settings.issuers_dir, issuer) for issuer in Issuer}
    office = service.Office(
        signers,
        revocation.names_of({issuer: each.certificate for issuer, each in signers.items()}),
        terms,
        journal,
        timedelta(seconds=settings.crl_life_s),
        timedelta(seconds=settings.ocsp_life_s),
    )
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
