"""What is heard of runs, people, memberships and projects."""

from uuid import UUID

from chassis import deletion
from chassis.outbox import UnitOfWork
from contracts import events
from contracts.events import ProjectState, RunState
from services.datasets import domain, repository
from services.datasets.models import Member, Person, Project, Run
from services.datasets.service.datasets import add_dataset
from services.datasets.service.shares import end


async def know_run(uow: UnitOfWork, fact: events.Run) -> None:
    """Keep a run; when it succeeded publish what was staged with the token that it ended with. Whatever else it staged is swept.

    One of a project that is gone is not kept.
    """
    if await deletion.is_gone(uow.session, fact.project_id):
        return
    run = Run.model_validate(fact.model_dump(include=set(Run.model_fields)))
    await repository.heard.keep(uow.session, run)
    await repository.heard.wake_flights(uow.session)
    if fact.state is RunState.SUCCEEDED:
        await _publish(uow, fact)


async def _publish(uow: UnitOfWork, run: events.Run) -> None:
    known = await repository.datasets.by_id(uow.session, [run.output_dataset_id, *run.inputs])
    state = await repository.heard.project_state(uow.session, run.project_id)
    if run.output_dataset_id not in known and state in (None, ProjectState.ACTIVE, ProjectState.ARCHIVED):
        inputs = {dataset_id: known[dataset_id].origins if dataset_id in known else [] for dataset_id in run.inputs}
        origins = domain.origins.origins_of_outputs(run.output_dataset_id, inputs)
        name = domain.names.output_name(run.output_name, await repository.datasets.name_keys(uow.session, run.project_id))
        dataset = domain.datasets.new_dataset(run.output_dataset_id, run.project_id, name, "", uow.now)
        dataset.origins = origins
        dataset.files, dataset.size = await repository.runs.staged_sums(uow.session, run.run_id, run.fencing_token)
        await add_dataset(uow, dataset)
        await repository.runs.publish_staged(uow.session, run.run_id, run.fencing_token, dataset.dataset_id, origins)
        uow.project_id = run.project_id
        uow.note(datasets=dataset.dataset_id, runs=run.run_id, files=dataset.files, bytes=dataset.size)
        uow.emit(domain.datasets.dataset_fact(dataset))


async def know_person(uow: UnitOfWork, user: events.User) -> None:
    """Keep an account's status."""
    await repository.heard.keep(uow.session, Person(user_id=user.user_id, status=user.status))
    await repository.heard.wake_flights(uow.session)


async def forget_person(uow: UnitOfWork, user_id: UUID) -> None:
    """An account was erased."""
    await repository.heard.forget_person(uow.session, user_id)
    await repository.heard.wake_flights(uow.session)


async def know_member(uow: UnitOfWork, membership: events.Membership) -> None:
    """Keep a membership, unless its project is gone."""
    if await deletion.is_gone(uow.session, membership.project_id):
        return
    member = Member.model_validate(membership.model_dump(include=set(Member.model_fields)))
    await repository.heard.keep(uow.session, member)
    await repository.heard.wake_flights(uow.session)


async def forget_member(uow: UnitOfWork, project_id: UUID, user_id: UUID) -> None:
    """A membership was erased."""
    await repository.heard.forget_member(uow.session, project_id, user_id)
    await repository.heard.wake_flights(uow.session)


async def know_project(uow: UnitOfWork, project: events.Project) -> None:
    """Keep a project's state; uploads into one that is not active are cut, and one that closes shares nothing any more, in either direction."""
    await repository.heard.keep(uow.session, Project(project_id=project.project_id, state=project.state))
    await repository.heard.wake_flights(uow.session)
    await deletion.follow(uow, project, _close)


async def _close(uow: UnitOfWork, project_id: UUID) -> None:
    for share in await repository.shares.shares_touching(uow.session, project_id):
        await end(uow, share)
