"""Removing what a deleted project left."""

from uuid import UUID

from chassis import deletion
from chassis.deletion import Slice
from chassis.outbox import UnitOfWork
from services.jobs import domain, repository
from services.jobs.service.ending import BATCH


async def purge(uow: UnitOfWork, project_id: UUID) -> Slice:
    """Remove some of what a deleted project left: its jobs, and in the end what was said of it."""
    found = await repository.jobs.jobs(uow.session, project_id, None, BATCH)
    if not found:
        return Slice(await repository.deletion.forget_of_project(uow.session, project_id), more=False)
    lasts = [fact for job, run in found for fact in domain.runs.last_facts(job, run)]
    for fact in lasts:
        uow.emit(fact)
    await uow.session.flush()
    await deletion.erase_later(uow, lasts)
    logs = await repository.deletion.remove_jobs(uow.session, [job.job_id for job, _ in found], [run.run_id for _, run in found])
    return Slice({"jobs": len(found), "runs": len(found), "logs": logs}, more=True)
