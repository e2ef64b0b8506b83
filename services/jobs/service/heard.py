"""What other services say of people, projects, datasets, shares and certificates."""

from uuid import UUID

from chassis import deletion
from chassis.outbox import UnitOfWork
from contracts import events
from contracts.events import CertificateKind, ProjectState, ShareState, UserStatus
from services.jobs import domain, repository
from services.jobs.models import Dataset, Member, Person, Project, Share
from services.jobs.service.ending import NO_ROLE, NOT_READABLE, cancel_runs

BEGAN_ANEW = "The person who submitted it had no role in the project for a while."
NOT_ACTIVE = "The account of the person who submitted it is not active."
STOPPED = "The account of the person who submitted it was not active for a while."


async def know_person(uow: UnitOfWork, fact: events.User) -> None:
    """An account changed; the runs of one that is not active end, or was not for a while of which this service heard nothing."""
    known = await repository.heard.one(uow.session, Person, fact.user_id)
    stopped = known is not None and known.stops != fact.stops
    await repository.heard.put(uow.session, Person(user_id=fact.user_id, status=fact.status.value, stops=fact.stops))
    if stopped or fact.status is not UserStatus.ACTIVE:
        runs = await repository.jobs.live_runs_of_person(uow.session, fact.user_id)
        await cancel_runs(uow, runs, STOPPED if fact.status is UserStatus.ACTIVE else NOT_ACTIVE)


async def forget_person(uow: UnitOfWork, user_id: UUID) -> None:
    """An account was erased."""
    await repository.heard.forget(uow.session, Person, user_id)
    await repository.logs.forget_reading(uow.session, user_id)
    await cancel_runs(uow, await repository.jobs.live_runs_of_person(uow.session, user_id), "The person who submitted it was erased.")


async def know_member(uow: UnitOfWork, fact: events.Membership) -> None:
    """A role changed; the runs of somebody without one end, or who had none for a while. One in a project that is gone is not kept."""
    if await deletion.is_gone(uow.session, fact.project_id):
        return
    member = Member(
        project_id=fact.project_id,
        user_id=fact.user_id,
        role=fact.role.value if fact.role else None,
        starts_at=fact.starts_at,
        ends_at=fact.ends_at,
    )
    known = await repository.heard.one(uow.session, Member, fact.project_id, fact.user_id)
    began_anew = known is not None and known.starts_at != member.starts_at
    await repository.heard.put(uow.session, member)
    counts = domain.submitting.member_counts(member, uow.now)
    if began_anew or not counts:
        runs = await repository.jobs.live_runs_of_member(uow.session, fact.project_id, fact.user_id)
        await cancel_runs(uow, runs, BEGAN_ANEW if counts else NO_ROLE)
    uow.collect(_wake, member)


async def _wake(uow: UnitOfWork, _members: list[Member]) -> None:
    """Once for all memberships of a batch."""
    await repository.changes.wake(uow.session)


async def forget_member(uow: UnitOfWork, project_id: UUID, user_id: UUID) -> None:
    """A membership was erased."""
    await repository.heard.forget(uow.session, Member, project_id, user_id)
    await cancel_runs(uow, await repository.jobs.live_runs_of_member(uow.session, project_id, user_id), NO_ROLE)


async def know_project(uow: UnitOfWork, fact: events.Project) -> None:
    """A project changed; the runs of one that is not active end."""
    await repository.heard.put(uow.session, Project(project_id=fact.project_id, state=fact.state.value))
    await deletion.follow(uow, fact, _close)
    if fact.state is ProjectState.ARCHIVED:
        await cancel_runs(uow, await repository.jobs.live_runs_in_project(uow.session, fact.project_id), "The project was archived.")


async def _close(uow: UnitOfWork, project_id: UUID) -> None:
    await cancel_runs(uow, await repository.jobs.live_runs_in_project(uow.session, project_id), "The project is being deleted.")


async def forget_project(uow: UnitOfWork, project_id: UUID) -> None:
    """A project was erased."""
    await repository.heard.forget(uow.session, Project, project_id)
    await cancel_runs(uow, await repository.jobs.live_runs_in_project(uow.session, project_id), "The project was closed.")


async def know_dataset(uow: UnitOfWork, fact: events.Dataset) -> None:
    """A dataset changed; runs over a deleted one end. One of a project that is gone is not kept."""
    if await deletion.is_gone(uow.session, fact.project_id):
        await forget_dataset(uow, fact.dataset_id)
        return
    dataset = Dataset(
        dataset_id=fact.dataset_id, project_id=fact.project_id, name=fact.name, origins=list(fact.origins), deleted=fact.deleted
    )
    await repository.heard.put(uow.session, dataset)
    if fact.deleted:
        await _end_unreadable(uow, fact.dataset_id)


async def forget_dataset(uow: UnitOfWork, dataset_id: UUID) -> None:
    """A dataset was erased."""
    await repository.heard.forget(uow.session, Dataset, dataset_id)
    await _end_unreadable(uow, dataset_id)


async def know_share(uow: UnitOfWork, fact: events.Share) -> None:
    """A share changed; runs that it alone allowed end with it. One from or to a project that is gone is not kept."""
    for project_id in sorted({fact.project_id, fact.target_project_id}):
        if await deletion.is_gone(uow.session, project_id):
            await repository.heard.forget(uow.session, Share, fact.share_id)
            await _end_unreadable(uow, fact.dataset_id)
            return
    share = Share(share_id=fact.share_id, dataset_id=fact.dataset_id, target_project_id=fact.target_project_id, state=fact.state.value)
    await repository.heard.put(uow.session, share)
    if fact.state is not ShareState.ACCEPTED:
        await _end_unreadable(uow, fact.dataset_id)


async def forget_share(uow: UnitOfWork, share_id: UUID) -> None:
    """A share was erased."""
    share = await repository.heard.one(uow.session, Share, share_id)
    if share is not None:
        await repository.heard.forget(uow.session, Share, share_id)
        await _end_unreadable(uow, share.dataset_id)


async def _end_unreadable(uow: UnitOfWork, dataset_id: UUID) -> None:
    """Cancel the live runs over a dataset that their project cannot read any more; one submitted at this moment ends by the timer, at once."""
    datasets = await repository.heard.datasets(uow.session, [dataset_id])
    for job, run in await repository.jobs.live_runs_over(uow.session, dataset_id):
        shares = await repository.heard.shares_into(uow.session, job.project_id, [dataset_id])
        try:
            domain.submitting.inputs_are_readable(job.project_id, [dataset_id], datasets, shares)
        except domain.submitting.InputNotReadable:
            await cancel_runs(uow, [(job, run)], NOT_READABLE)
    await repository.changes.wake(uow.session)


async def know_certificate(uow: UnitOfWork, fact: events.Certificate) -> None:
    """A certificate was issued or revoked: of an agent, or of a run's lease. A revoked one ends the run that held it."""
    if fact.kind is CertificateKind.AGENT and fact.agent_id is not None:
        agent = await repository.agents.agent(uow.session, fact.agent_id, lock=True)
        if agent is not None:
            domain.agents.certify_agent(agent, fact)
    elif fact.kind is CertificateKind.JOB and fact.run_id is not None:
        found = await repository.jobs.run(uow.session, fact.run_id, lock=True)
        if found is None:
            return
        if domain.runs.certify(found[1], fact):
            await repository.changes.wake(uow.session)
        elif not fact.live and found[1].certificate_id == fact.certificate_id:
            ran_out = fact.not_after <= uow.now
            await cancel_runs(uow, [found], "Its certificate ran out." if ran_out else "Its certificate was revoked.")
