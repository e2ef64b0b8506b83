"""Removing what a deleted project left, whose certificates ended when it was closed, and forgetting what was over long ago."""

from datetime import timedelta
from uuid import UUID

from chassis import deletion
from chassis.deletion import Slice
from chassis.outbox import UnitOfWork
from services.ca import domain, repository

AT_ONCE = 200
KEEP_ENDED = timedelta(days=1)


async def purge(uow: UnitOfWork, project_id: UUID) -> Slice:
    """Remove some of what a deleted project left: first the names in its certificates, then all that no list needs."""
    named = await repository.deletion.with_chain(uow.session, project_id, AT_ONCE)
    for certificate in named:
        uow.emit(domain.certificates.strip(certificate))
    if named:
        return Slice({}, more=True)
    over = await repository.deletion.over_in_project(uow.session, project_id, AT_ONCE)
    if over:
        await deletion.erase_later(uow, [domain.certificates.fact_of(certificate) for certificate in over])
        await repository.deletion.remove(uow.session, over)
        return Slice({"certificates": len(over)}, more=True)
    removed, left = await repository.deletion.purge(uow.session, project_id)
    return Slice(removed, more=False, kept={"serial_numbers": left})


async def forget(uow: UnitOfWork) -> bool:
    """Delete certificates a day after their end, once no list needs them, and take them off their topic; whether there may be more.

    What was announced a day ago and never issued goes too, and the certificates of services a day after their end: nobody was told of either.
    """
    await repository.deletion.remove_untold(uow.session, uow.now - KEEP_ENDED)
    over = await repository.deletion.over_before(uow.session, uow.now - KEEP_ENDED, AT_ONCE)
    for certificate in over:
        uow.erase(domain.certificates.fact_of(certificate))
    if over:
        await repository.deletion.remove(uow.session, over)
        uow.note(certificates=len(over))
    return len(over) == AT_ONCE
