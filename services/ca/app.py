"""The assembly of ca: its doors, what it hears, its issuers, and the timers that end and forget certificates and look after the issuers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from uuid import UUID

from chassis import db, patience
from chassis.app import Runtime, Spec
from chassis.deletion import Slice
from chassis.errors import CannotDecide, NotFound
from chassis.outbox import Caller, UnitOfWork, unit_of_work, units_of_work
from chassis.together import Together
from contracts.events import CertificateKind
from contracts.policy import API, Action, Service
from services.ca import service
from services.ca.domain.certificates import Terms
from services.ca.domain.requests import Order
from services.ca.handlers import hears
from services.ca.models import Intent
from services.ca.routes import router
from services.ca.service.enrolment import Desk
from services.ca.service.office import Journal, Office
from services.ca.settings import CaSettings
from services.ca.signer import opening
from services.ca.signer.files import KeyFiles

JOURNAL_CONNECTIONS = 4
LONGEST_REST_S = 1.0
FORGET_S = 600.0
SERVICES = "services"


@asynccontextmanager
async def lifespan(runtime: Runtime) -> AsyncIterator[None]:
    """Open the issuers, and connections of their own for intents: issuing holds one connection and never waits for a second."""
    settings: CaSettings = runtime.settings
    engine = db.engine(settings.database_url, JOURNAL_CONNECTIONS)

    def journal(callers: Sequence[Caller]) -> AbstractAsyncContextManager[list[UnitOfWork]]:
        return units_of_work(engine, Service.CA, "certificate.intend", callers)

    terms = Terms(
        settings.trust_domain,
        timedelta(seconds=settings.project_life_s),
        timedelta(seconds=settings.job_life_s),
        timedelta(seconds=settings.agent_life_s),
        settings.origins[0] + API if settings.origins else "",
    )
    keys = opening.keys(settings)
    office = Office(
        runtime.engine,
        keys,
        opening.open_issuers(settings.issuers_dir, keys, settings.issuer_rest_s),
        terms,
        journal,
        Together[Order, Intent](runtime.engine, Service.CA, Action.CERTIFICATE_CREATE, service.issuing.certify, service.issuing.most),
        (timedelta(seconds=settings.crl_life_s), timedelta(seconds=settings.ocsp_life_s)),
    )
    service.office.open_office(office)
    runtime.checks.append(office.missing)
    runtime.warnings.append(lambda: service.care.warnings(office, settings.issuer_warning_days))
    desk = _desk(settings, journal)
    doubled: list[str] = []
    runtime.warnings.append(lambda: doubled)
    tasks = [
        asyncio.create_task(patience.for_ever(lambda: service.care.look_after(office, settings), "issuers")),
        asyncio.create_task(patience.for_ever(lambda: service.enrolment.compare(runtime.engine, doubled), "renewals")),
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        service.office.close_office(office)
        if desk is not None:
            service.enrolment.close_desk(desk)
        await engine.dispose()


def _desk(settings: CaSettings, journal: Journal) -> Desk | None:
    """Open what services renew with, where the issuer of services is."""
    if settings.services_issuer_dir is None:
        return None
    folder = settings.services_issuer_dir
    issuer = opening.open_issuers(folder, KeyFiles(folder), 0.0, (SERVICES,))
    desk = Desk(
        {signer.key_id: signer for signer in issuer.signers.values()},
        settings.trust_domain,
        timedelta(seconds=settings.service_life_s),
        journal,
    )
    service.enrolment.open_desk(desk)
    return desk


async def end_in_time(runtime: Runtime) -> None:
    """End certificates at their instant, at that of the membership behind them, and a while after an agent got its next one."""
    overlap = timedelta(seconds=runtime.settings.agent_overlap_s)
    while True:
        async with unit_of_work(runtime.engine, Service.CA, "certificate.expire") as uow:
            await service.ending.supersede(uow, overlap)
            due = await service.ending.expire(uow)
        left = LONGEST_REST_S if due is None else (due - uow.now).total_seconds()
        await asyncio.sleep(min(max(left, 0.01), LONGEST_REST_S))


async def settle_waiting(runtime: Runtime) -> None:
    """Issue to the runs and agents that wait: an issuer's key was away, or two facts arrived at one moment and neither saw the other.

    Each has a transaction of its own: whoever loses a right meanwhile waits for one signature.
    """
    while True:
        if service.office.office().signs(CertificateKind.JOB):
            async with unit_of_work(runtime.engine, Service.CA, "certificate.settle") as uow:
                runs, agents = await service.parties.waiting(uow)
            for run in runs:
                async with unit_of_work(runtime.engine, Service.CA, "certificate.settle") as uow:
                    await service.parties.settle(uow, [run])
            for agent_id in agents:
                async with unit_of_work(runtime.engine, Service.CA, "certificate.settle") as uow:
                    await service.parties.settle_agent(uow, agent_id)
        await asyncio.sleep(LONGEST_REST_S)


async def forget(runtime: Runtime) -> None:
    """Forget certificates that were over a day ago. Each key's list is made when it is due, although nobody asks: what was on it can go."""
    while True:
        for issuer in service.office.office().issuers.signers:
            with contextlib.suppress(CannotDecide, NotFound):
                await service.status.newest_list(issuer)
        more = True
        while more:
            async with unit_of_work(runtime.engine, Service.CA, "certificate.forget") as uow:
                more = await service.deletion.forget(uow)
        await asyncio.sleep(FORGET_S)


async def purge(_runtime: Runtime, uow: UnitOfWork, project_id: UUID) -> Slice:
    """Remove a slice of what a deleted project left."""
    return await service.deletion.purge(uow, project_id)


spec = Spec(Service.CA, CaSettings, router, hears, background=(end_in_time, settle_waiting, forget), lifespan=lifespan, purge=purge)
