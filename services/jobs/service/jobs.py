"""Submitting jobs and cancelling them."""

import hashlib
from uuid import UUID

from chassis import deletion
from chassis.outbox import UnitOfWork
from services.jobs import domain, repository
from services.jobs.models import Job, Member, Person, Project
from services.jobs.service.ending import cancel_runs
from services.jobs.service.reading import Details, charge_details, job_and_run, who_asks


async def submit(
    uow: UnitOfWork,
    project_id: UUID,
    *,
    name: str,
    program: str,
    environment: str,
    inputs: list[UUID],
    arguments: list[str],
    wall_seconds: int,
    memory_mib: int,
    cores: int,
) -> Details:
    """Queue a job. Raises NotKnownHereYet, ProjectNotActive, InputNotReadable."""
    caller = who_asks(uow)
    await deletion.hold(uow.session, project_id)
    domain.submitting.may_work(
        await repository.heard.one(uow.session, Project, project_id),
        await repository.heard.one(uow.session, Person, caller),
        await repository.heard.one(uow.session, Member, project_id, caller),
        uow.now,
    )
    datasets = await repository.heard.datasets(uow.session, inputs)
    domain.submitting.inputs_are_readable(project_id, inputs, datasets, await repository.heard.shares_into(uow.session, project_id, inputs))
    job = Job(
        job_id=uow.new_id(),
        project_id=project_id,
        name=name,
        submitted_by=caller,
        program=program,
        environment=environment,
        arguments=arguments,
        inputs=inputs,
        wall_seconds=wall_seconds,
        memory_mib=memory_mib,
        cores=cores,
        output_dataset_id=uow.new_id(),
        submitted_at=uow.now,
        version=1,
    )
    run = domain.runs.submit(job, uow.new_id())
    uow.session.add(job)
    await uow.session.flush()
    uow.session.add(run)
    uow.emit(domain.runs.job_fact(job, run))
    uow.emit(domain.runs.run_fact(job, run))
    program_sha256 = hashlib.sha256(program.encode()).hexdigest()
    uow.note(job_id=job.job_id, run_id=run.run_id, program_sha256=program_sha256, inputs=",".join(map(str, inputs)))
    await repository.changes.wake(uow.session)
    return Details(job, run, shown=True)


async def cancel(uow: UnitOfWork, project_id: UUID, job_id: UUID) -> Details:
    """End a job before its time; one that has ended stays as it is. Raises NotFound."""
    job, run = await job_and_run(uow, project_id, job_id, lock=True)
    await cancel_runs(uow, [(job, run)], "A member of the project cancelled it.")
    uow.note(job_id=job_id)
    return Details(job, run, shown=await charge_details(uow, job, run))
