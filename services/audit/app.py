"""The assembly of audit: its doors, what it hears, and the eye on open gaps."""

import asyncio

from chassis.app import Runtime, Spec
from chassis.outbox import unit_of_work
from chassis.settings import Settings
from contracts.policy import Service
from services.audit import service
from services.audit.handlers import hears
from services.audit.routes import router


class AuditSettings(Settings):
    """Settings of audit: ``watch_s`` is how often the metrics of open gaps are brought up to date, in seconds."""

    watch_s: float = 5.0


async def watch_gaps(runtime: Runtime) -> None:
    """Keep the metrics of open gaps up to date, also after a restart and for what other replicas added."""
    while True:
        async with unit_of_work(runtime.engine, Service.AUDIT, "audit.watch") as uow:
            await service.watch(uow)
        await asyncio.sleep(runtime.settings.watch_s)


spec = Spec(Service.AUDIT, AuditSettings, router, hears, background=(watch_gaps,))
