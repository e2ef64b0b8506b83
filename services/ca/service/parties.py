"""Following what other services say of people, projects, runs and agents."""

from collections.abc import Iterable, Sequence
from uuid import UUID

from chassis import deletion
from chassis.csr import CsrRefused, Request, read_csr
from chassis.log import logger
from chassis.outbox import UnitOfWork
from contracts import events
from services.ca import domain, repository
from services.ca.models import AgentRequest, Ending, Member, Person, Project, Run
from services.ca.service.ending import end
from services.ca.service.issuing import Draft, issue
from services.ca.signer import SignerAway

log = logger(__name__)
Parties = tuple[Project | None, Person | None, Member | None]


async def learn_person(uow: UnitOfWork, fact: events.User) -> None:
    """A person became active or stopped being it, if only for a while of which this service heard nothing."""
    runs = await repository.parties.active_runs_of_person(uow.session, fact.user_id)
    for project_id in sorted({run.project_id for run in runs}):
        await repository.parties.project(uow.session, project_id)
    person = domain.parties.person_of(fact)
    stopped = await repository.parties.stopped_since(uow.session, person)
    await repository.parties.put(uow.session, person)
    if stopped or not person.active:
        end(uow, await repository.certificates.live_of_person(uow.session, fact.user_id), Ending.PERSON_NOT_ACTIVE)
    if not person.active:
        return
    await settle(uow, runs)


async def learn_project(uow: UnitOfWork, fact: events.Project) -> None:
    """A project came, changed or is being deleted, which ends all of its certificates."""
    project = domain.parties.project_of(fact)

    async def close(uow: UnitOfWork, project_id: UUID) -> None:
        await repository.parties.put(uow.session, project)  # waits for whoever issues now, and lets nobody begin
        end(uow, await repository.certificates.live_in_project(uow.session, project_id), Ending.PROJECT_CLOSED)

    await deletion.follow(uow, fact, close)
    await repository.parties.put(uow.session, project)
    if project.open:
        await settle(uow, await repository.parties.active_runs_in_project(uow.session, fact.project_id))


async def learn_membership(uow: UnitOfWork, fact: events.Membership) -> None:
    """A membership came, changed or ended, if only for a while of which this service heard nothing. One of a project that is gone is not kept."""
    if await deletion.is_gone(uow.session, fact.project_id):
        return
    await repository.parties.lock(uow.session, fact.project_id, fact.user_id)
    member = domain.parties.member_of(fact)
    counts = domain.holders.counts(member, uow.now)
    began_anew = await repository.parties.begins_otherwise(uow.session, member)
    await repository.parties.put(uow.session, member)  # waits for whoever issues now
    holds = await repository.certificates.some_of_member(uow.session, fact.project_id, fact.user_id)
    if holds:
        await repository.certificates.bind(uow.session, member)
    if holds and (began_anew or not counts):
        end(uow, await repository.certificates.live_of_member(uow.session, fact.project_id, fact.user_id), Ending.MEMBERSHIP_ENDED)
    if not counts:
        return
    await settle(uow, await repository.parties.active_runs_of_member(uow.session, fact.project_id, fact.user_id))


async def learn_run(uow: UnitOfWork, fact: events.Run) -> None:
    """A run moved on: its lease gets a certificate, and the certificates of its earlier leases end. One of a gone project is not kept."""
    if await deletion.is_gone(uow.session, fact.project_id):
        return
    await _parties(uow, fact.project_id, fact.user_id)
    run = domain.parties.run_of(fact)
    await repository.parties.put(uow.session, run)
    await settle(uow, [run])


async def learn_agent(uow: UnitOfWork, fact: events.Agent) -> None:
    """An agent enrolled, has its certificate renewed, or was withdrawn. A renewal leaves the one before for a while: what runs goes on with it."""
    if not fact.live or fact.csr is None:
        await forget_agent(uow, fact.agent_id)
        return
    if _readable(uow, fact.csr, agent_id=fact.agent_id) is None:
        return
    waits = await repository.parties.agent_waits(uow.session, fact.agent_id)
    await repository.parties.put(uow.session, AgentRequest(agent_id=fact.agent_id, csr=fact.csr))
    if not waits:  # else the request before may be getting its certificate now, and would have the younger one
        await settle_agent(uow, fact.agent_id)


async def forget_person(uow: UnitOfWork, user_id: UUID) -> None:
    """A person was erased while this service slept."""
    await repository.parties.forget_person(uow.session, user_id)
    end(uow, await repository.certificates.live_of_person(uow.session, user_id), Ending.PERSON_NOT_ACTIVE)


async def forget_project(uow: UnitOfWork, project_id: UUID) -> None:
    """A project was erased while this service slept."""
    await repository.parties.forget_project(uow.session, project_id)
    end(uow, await repository.certificates.live_in_project(uow.session, project_id), Ending.PROJECT_CLOSED)


async def forget_membership(uow: UnitOfWork, project_id: UUID, user_id: UUID) -> None:
    """A membership was erased while this service slept."""
    await repository.parties.forget_member(uow.session, project_id, user_id)
    end(uow, await repository.certificates.live_of_member(uow.session, project_id, user_id), Ending.MEMBERSHIP_ENDED)


async def forget_run(uow: UnitOfWork, run_id: UUID) -> None:
    """A run was erased while this service slept."""
    await repository.parties.forget_run(uow.session, run_id)
    end(uow, await repository.certificates.live_of_run(uow.session, run_id), Ending.RUN_ENDED)


async def forget_agent(uow: UnitOfWork, agent_id: UUID) -> None:
    """An agent was withdrawn, or erased while this service slept."""
    await repository.parties.forget_agent(uow.session, agent_id)  # waits for whoever issues to it now
    end(uow, await repository.certificates.live_of_agent(uow.session, agent_id), Ending.AGENT_WITHDRAWN)


async def _parties(uow: UnitOfWork, project_id: UUID, user_id: UUID) -> Parties:
    return (
        await repository.parties.project(uow.session, project_id),
        await repository.parties.person(uow.session, user_id),
        await repository.parties.member(uow.session, project_id, user_id),
    )


async def settle(uow: UnitOfWork, runs: Iterable[Run]) -> None:
    """Give each run the certificate that its lease asks for, if it may have one, and end those it may not have (any more).

    What is not known yet is no refusal: the run is looked at again when the missing fact arrives, and by ``settle_waiting``. A request that
    cannot be read is: it is forgotten.
    """
    for each in runs:
        project, person, member = await _parties(uow, each.project_id, each.user_id)
        run = await repository.parties.run(uow.session, each.run_id)
        if run is None:
            continue
        held = await repository.certificates.live_of_run(uow.session, run.run_id)
        end(uow, [each for each in held if not run.active or each.fencing_token != run.fencing_token], Ending.RUN_ENDED)
        if not run.active or run.csr is None or project is None or person is None or member is None:
            continue
        ending = domain.holders.loss(person, member, project, uow.now)
        if ending is not None:
            end(uow, held, ending)
        elif not await repository.certificates.was_issued_for_lease(uow.session, run.run_id, run.fencing_token):
            request = _readable(uow, run.csr, run_id=run.run_id)
            if request is None:
                run.csr = None
            else:
                await _issued(Draft(uow, domain.holders.run_holder(project, member, run), request, member.ends_at))


async def settle_agent(uow: UnitOfWork, agent_id: UUID) -> None:
    """Give an agent the certificate that it asked for, unless it has it or was withdrawn meanwhile."""
    asked = await repository.parties.agent_request(uow.session, agent_id)
    if asked is None:
        return
    request = read_csr(asked.csr)
    has_it = await repository.certificates.was_issued_for_request(uow.session, agent_id, request.sha256)
    if has_it or await _issued(Draft(uow, domain.holders.agent_holder(agent_id), request)):
        await repository.parties.forget_agent(uow.session, agent_id)


async def _issued(draft: Draft) -> bool:
    """Issue to a run or an agent. While the issuer's key is away they wait for it, and nothing waits for them: others lose rights meanwhile."""
    try:
        await issue([draft])
    except SignerAway as away:
        log.warning("a workload waits for its certificate", holder=str(draft.holder.run_id or draft.holder.agent_id), reason=away.detail)
        return False
    return True


async def waiting(uow: UnitOfWork) -> tuple[Sequence[Run], Sequence[UUID]]:
    """The runs and agents that asked for a certificate and have had none."""
    return await repository.parties.runs_without_certificate(uow.session), await repository.parties.agents_waiting(uow.session)


def _readable(uow: UnitOfWork, csr: str, **whose: UUID) -> Request | None:
    try:
        return read_csr(csr)
    except CsrRefused as refused:
        log.warning("a workload's request is refused", reason=refused.detail, **{name: str(value) for name, value in whose.items()})
        uow.note(request_refused=refused.detail, **whose)
        return None
