"""Removing what a deleted project left; closing it has ended all of its certificates."""

from uuid import UUID

from chassis.deletion import Slice
from chassis.outbox import UnitOfWork
from services.ca import domain, repository

AT_ONCE = 200


async def purge(uow: UnitOfWork, project_id: UUID) -> Slice:
    """Remove some of what a deleted project left: first the names in its certificates, then all that no list needs."""
    named = await repository.deletion.with_chain(uow.session, project_id, AT_ONCE)
    for certificate in named:
        uow.emit(domain.certificates.strip(certificate))
    if named:
        return Slice({}, more=True)
    removed, left = await repository.deletion.purge(uow.session, project_id)
    return Slice(removed, more=False, kept={"serial_numbers": left})
