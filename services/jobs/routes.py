"""The doors of jobs."""

from typing import Annotated
from uuid import UUID

from fastapi import Depends, Query, Request, Response

from chassis.guard import CurrentActor, Uow, doors, may
from chassis.outbox import unit_of_work
from chassis.pages import Page, Paging
from contracts.events import RunState
from contracts.policy import Action, Service
from services.jobs import service
from services.jobs.models import Agent, Job, Run
from services.jobs.schemas import (
    AgentView,
    AnnouncedAgent,
    Enrolment,
    EnrolmentView,
    JobView,
    LeaseInput,
    LeaseRequest,
    LeaseResources,
    LeaseView,
    LogOffset,
    LogPart,
    LogView,
    NewAgent,
    NewJob,
    Renewal,
    Report,
)
from services.jobs.service.leases import Terms
from services.jobs.service.reading import Details

LONGEST_WAIT_S = 5.0
router = doors(Service.JOBS)


async def _terms(request: Request) -> Terms:
    settings = request.app.state.runtime.settings
    return Terms(settings.run_lease_s, settings.most_leases)


LeaseTerms = Annotated[Terms, Depends(_terms)]


def _job(details: Details) -> JobView:
    job, run = details.job, details.run
    small = {"metrics": run.metrics, "exit_code": run.exit_code, "reason": run.reason}
    nothing: dict[str, object] = {"metrics": {}, "exit_code": None, "reason": None}
    return JobView.model_validate(
        {
            **job.model_dump(exclude={"program", "arguments"}),
            **run.model_dump(include={"run_id", "state", "agent_id", "started_at", "ended_at"}),
            **(small if details.shown else nothing),
            "withheld": not details.shown and small != nothing,
        }
    )


def _agent(agent: Agent) -> dict[str, object]:
    return {**agent.model_dump(include={"agent_id", "name", "live", "created_at", "version"}), "enrolled": agent.chain is not None}


async def _lease(uow: Uow, job: Job, run: Run, terms: Terms) -> LeaseView:
    inputs = await service.leases.input_folders(uow, job)
    return LeaseView(
        run_id=run.run_id,
        job_id=job.job_id,
        project_id=job.project_id,
        fencing_token=run.fencing_token,
        state=RunState(run.state),
        cancelled=run.state == RunState.CANCELLED,
        program=job.program,
        environment=job.environment,
        arguments=job.arguments,
        inputs=[LeaseInput(dataset_id=dataset_id, name=name) for dataset_id, name in inputs],
        resources=LeaseResources(wall_seconds=job.wall_seconds, memory_mib=job.memory_mib, cores=job.cores),
        certificate=run.certificate,
        renew_before=run.lease_until,
        lease_seconds=terms.seconds,
        version=run.news,
    )


@router.post("/projects/{project_id}/jobs", status_code=201, dependencies=[may(Action.JOB_SUBMIT)])
async def submit_job(project_id: UUID, wanted: NewJob, uow: Uow) -> JobView:
    """Have a program run over datasets of the project."""
    fields = wanted.model_dump(exclude={"resources"}) | wanted.resources.model_dump()
    return _job(await service.jobs.submit(uow, project_id, **fields))


@router.get("/projects/{project_id}/jobs", dependencies=[may(Action.JOB_LIST)])
async def list_jobs(project_id: UUID, paging: Paging, uow: Uow) -> Page[JobView]:
    """The project's jobs, newest first, without their small results: those are read one by one."""
    rows = await service.reading.list_jobs(uow, project_id, paging.after_id(), paging.limit + 1)
    return paging.page(rows, lambda row: (row[0].job_id,), lambda row: _job(Details(*row, shown=False)))


@router.get("/projects/{project_id}/jobs/{job_id}", dependencies=[may(Action.JOB_READ)])
async def read_job(project_id: UUID, job_id: UUID, uow: Uow) -> JobView:
    """One job; metrics, exit code and reason count against the reader's budget when they are new to them."""
    return _job(await service.reading.read_job(uow, project_id, job_id))


@router.post("/projects/{project_id}/jobs/{job_id}/cancellation", status_code=202, dependencies=[may(Action.JOB_CANCEL)])
async def cancel_job(project_id: UUID, job_id: UUID, uow: Uow) -> JobView:
    """End a job before its time."""
    return _job(await service.jobs.cancel(uow, project_id, job_id))


@router.get("/projects/{project_id}/jobs/{job_id}/log", dependencies=[may(Action.JOB_LOG)])
async def read_log(project_id: UUID, job_id: UUID, uow: Uow) -> LogView:
    """The end of a job's log, within the reader's budget."""
    excerpt = await service.reading.read_log(uow, project_id, job_id)
    return LogView(text=excerpt.text, truncated=excerpt.truncated, budget_left=excerpt.left, run_state=RunState(excerpt.state))


@router.post("/agents", status_code=201, dependencies=[may(Action.AGENT_CREATE)])
async def announce_agent(wanted: NewAgent, uow: Uow) -> AnnouncedAgent:
    """Announce a node agent; the answer holds its enrolment token."""
    agent, token = await service.agents.announce_agent(uow, wanted.name)
    return AnnouncedAgent.model_validate({**_agent(agent), "token": token, "enrol_before": agent.enrol_before})


@router.get("/agents", dependencies=[may(Action.AGENT_LIST)])
async def list_agents(paging: Paging, uow: Uow) -> Page[AgentView]:
    """The node agents."""
    rows = await service.agents.list_agents(uow, paging.after_id(), paging.limit + 1)
    return paging.page(rows, lambda row: (row.agent_id,), lambda row: AgentView.model_validate(_agent(row)))


@router.delete("/agents/{agent_id}", status_code=204, dependencies=[may(Action.AGENT_WITHDRAW)])
async def withdraw_agent(agent_id: UUID, uow: Uow) -> Response:
    """Withdraw a node agent for ever; what it runs starts anew on another one."""
    await service.agents.withdraw_agent(uow, agent_id)
    return Response(status_code=204)


@router.post("/agents/enrolment", dependencies=[may(Action.AGENT_ENROL)])
async def enrol_agent(enrolment: Enrolment, uow: Uow, response: Response) -> EnrolmentView:
    """Exchange the token for a certificate: 202 until it is there."""
    agent = await service.agents.enrol(uow, enrolment.token, enrolment.csr)
    response.status_code = 202 if agent.chain is None else 200
    return EnrolmentView(agent_id=agent.agent_id, state="waiting" if agent.chain is None else "enrolled", chain=agent.chain)


@router.post("/leases", response_model=LeaseView, responses={204: {"description": "Nothing waits"}}, dependencies=[may(Action.LEASE_TAKE)])
async def take_lease(wanted: LeaseRequest, uow: Uow, terms: LeaseTerms) -> LeaseView | Response:
    """Take the oldest waiting run."""
    taken = await service.leases.take_lease(uow, wanted.csr, terms)
    return Response(status_code=204) if taken is None else await _lease(uow, *taken, terms)


@router.get("/leases/{run_id}", dependencies=[may(Action.LEASE_READ)])
async def read_lease(
    run_id: UUID,
    request: Request,
    actor: CurrentActor,
    terms: LeaseTerms,
    seen: Annotated[int | None, Query(ge=0)] = None,
    wait: Annotated[float, Query(ge=0, le=LONGEST_WAIT_S)] = 0,
) -> LeaseView:
    """The lease; with ``seen`` (its version) and ``wait`` (seconds) only when something happened, or when the time is over."""
    runtime = request.app.state.runtime
    if seen is not None and wait:
        await service.leases.wait_for_news(runtime.engine, run_id, seen, wait)
    async with unit_of_work(runtime.engine, Service.JOBS.value, Action.LEASE_READ.value, actor) as uow:
        return await _lease(uow, *await service.leases.read_lease(uow, run_id), terms)


@router.post("/leases/{run_id}/renewal", dependencies=[may(Action.LEASE_RENEW)])
async def renew_lease(run_id: UUID, renewal: Renewal, uow: Uow, terms: LeaseTerms) -> LeaseView:
    """Go on holding the lease."""
    return await _lease(uow, *await service.leases.renew_lease(uow, run_id, renewal.fencing_token, terms), terms)


@router.post("/leases/{run_id}/log", dependencies=[may(Action.RUN_LOG)])
async def add_log(run_id: UUID, part: LogPart, uow: Uow) -> LogOffset:
    """Add to the run's log."""
    return LogOffset(offset=await service.leases.add_log(uow, run_id, part.fencing_token, part.offset, part.text))


@router.post("/leases/{run_id}/report", dependencies=[may(Action.RUN_REPORT)])
async def report_run(run_id: UUID, report: Report, uow: Uow, terms: LeaseTerms) -> LeaseView:
    """Say how the run stands."""
    return await _lease(
        uow,
        *await service.leases.report(uow, run_id, report.fencing_token, report.state, report.exit_code, report.reason, report.metrics),
        terms,
    )
