"""Ending certificates: by hand, in time, or because the right behind them ended."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from uuid import UUID

from chassis.errors import NotFound
from chassis.outbox import UnitOfWork
from services.ca import domain, repository
from services.ca.models import Certificate, Ending


async def revoke(uow: UnitOfWork, project_id: UUID, certificate_id: str) -> None:
    """Revoke a certificate, the caller's own or any of the project as its Data Owner. Raises NotFound."""
    certificate = await repository.certificates.project_certificate(uow.session, project_id, certificate_id)
    if certificate is None or not domain.certificates.is_own(certificate, uow.actor):
        raise NotFound
    end(uow, [certificate], Ending.WITHDRAWN)


async def supersede(uow: UnitOfWork, overlap: timedelta) -> None:
    """Revoke the certificates of agents that have had the next one for ``overlap``."""
    end(uow, await repository.certificates.superseded(uow.session, uow.now - overlap), Ending.SUPERSEDED)


async def expire(uow: UnitOfWork) -> datetime | None:
    """Revoke what has come to its end, or whose membership has; when the next one does."""
    for certificate in await repository.certificates.due(uow.session, uow.now):
        at, ending = domain.certificates.lapses(certificate)
        end(uow, [certificate], ending, at)
    await uow.session.flush()
    return await repository.certificates.next_due(uow.session)


def end(uow: UnitOfWork, certificates: Iterable[Certificate], ending: Ending, at: datetime | None = None) -> None:
    """End certificates, now or as of a moment before, tell the others and the ledger."""
    for certificate in certificates:
        fact = domain.certificates.revoke(certificate, ending, at or uow.now)
        if fact is not None:
            uow.emit(fact)
            note(uow, "revoked", certificate.certificate_id)
            uow.note(because=ending)


def note(uow: UnitOfWork, what: str, certificate_id: str) -> None:
    """Say in the audit record what became of a certificate."""
    uow.note(**{what: f"{uow.resource.get(what, '')} {certificate_id}".strip()})
