"""Commands for jobs and agents."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hortus.cli import show
from hortus.cli.options import Json, ProjectOption, agent_id, dataset_id, job_id, project_id, signed_in
from hortus.client import HortusError
from hortus.client.shapes import Job as JobShape
from hortus.client.shapes import Resources

jobs = typer.Typer(no_args_is_help=True, help="Jobs: programs that run where the data is, without network.")
agents = typer.Typer(no_args_is_help=True, help="Node agents, which run jobs (administrators).")
JOB = ("name", "state", "submitted_at", "ended_at", "job_id")
WHOLE_JOB = (*JOB, "environment", "inputs", "output_dataset_id", "metrics", "exit_code", "reason", "withheld", "submitted_by", "started_at")
PROGRAM_LIMIT = 64 * 1024
Job = Annotated[str, typer.Argument(help="The job: its id, or its name (the newest of that name).")]


class Environment(StrEnum):
    """What a program finds installed."""

    python = "python"
    torch = "torch"


@jobs.command("run")
def run_job(
    program: Annotated[Path, typer.Argument(help="A Python program, at most 64 KiB.", exists=True, dir_okay=False)],
    project: ProjectOption,
    inputs: Annotated[list[str] | None, typer.Option("--input", "-i", help="A dataset to read (name or id); may be repeated.")] = None,
    environment: Annotated[Environment, typer.Option(help="What the program finds installed.")] = Environment.python,
    name: Annotated[str | None, typer.Option(help="The job's name; the file's if not given.")] = None,
    argument: Annotated[list[str] | None, typer.Option("--argument", "-a", help="An argument for the program; may be repeated.")] = None,
    wall_seconds: Annotated[int | None, typer.Option(help="The longest it may run.")] = None,
    memory_mib: Annotated[int | None, typer.Option(help="The most memory it may use.")] = None,
    cores: Annotated[int | None, typer.Option(help="The cores it may use.")] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Wait for the end; fail if the job fails.")] = False,
    machine: Json = False,
) -> None:
    """Have a program run over datasets of the project."""
    try:
        text = program.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise HortusError(f"{program} cannot be read as text.") from error
    if len(text.encode()) > PROGRAM_LIMIT:
        raise HortusError(f"{program} is longer than 64 KiB.")
    resources: Resources = {}
    if wall_seconds is not None:
        resources["wall_seconds"] = wall_seconds
    if memory_mib is not None:
        resources["memory_mib"] = memory_mib
    if cores is not None:
        resources["cores"] = cores
    with signed_in() as client:
        project = project_id(client, project)
        job = client.jobs.submit(
            project,
            name or program.stem,
            text,
            inputs=tuple(dataset_id(client, project, dataset) for dataset in inputs or ()),
            environment=environment.value,
            arguments=tuple(argument or ()),
            resources=resources,
        )
        show.say(f"{job['name']} is job {job['job_id']}.")
        if watch:
            job = client.jobs.wait(project, job["job_id"], seconds=float("inf"), changed=_tell)
    show.one(job, WHOLE_JOB, machine=machine)
    if watch and job["state"] != "succeeded":
        raise HortusError(f"The job {job['state']}: {(job['reason'] or 'see `hortus jobs log`').rstrip('.')}.")


@jobs.command("list")
def list_jobs(project: ProjectOption, machine: Json = False) -> None:
    """List a project's jobs."""
    with signed_in() as client:
        show.rows(client.jobs.list(project_id(client, project)), JOB, machine=machine)


@jobs.command("show")
def show_job(job: Job, project: ProjectOption, machine: Json = False) -> None:
    """Show a job with its metrics."""
    with signed_in() as client:
        project = project_id(client, project)
        show.one(client.jobs.get(project, job_id(client, project, job)), WHOLE_JOB, machine=machine)


@jobs.command("log")
def show_log(job: Job, project: ProjectOption, machine: Json = False) -> None:
    """Show the end of a job's log; it is taken from your budget for the day."""
    with signed_in() as client:
        project = project_id(client, project)
        log = client.jobs.log(project, job_id(client, project, job))
    if machine:
        show.as_json(log)
        return
    show.out.print(show.plain(log["text"]), markup=False, soft_wrap=True)
    cut = "This is the end of a longer log. " if log["truncated"] else ""
    show.say(f"{cut}Budget left today: {log['budget_left']} bytes.")


@jobs.command("cancel")
def cancel_job(job: Job, project: ProjectOption, machine: Json = False) -> None:
    """Ask for a job's end."""
    with signed_in() as client:
        project = project_id(client, project)
        show.one(client.jobs.cancel(project, job_id(client, project, job)), JOB, machine=machine)


@agents.command("create")
def create_agent(name: Annotated[str, typer.Argument(help="The machine's name.")], machine: Json = False) -> None:
    """Announce an agent; prints its one-time enrolment token, once."""
    with signed_in() as client:
        show.one(client.agents.create(name), ("name", "agent_id", "token", "enrol_before"), machine=machine)


@agents.command("withdraw")
def withdraw_agent(agent: Annotated[str, typer.Argument(help="The agent's name or id.")]) -> None:
    """End an agent for ever; what it runs starts anew on another one."""
    with signed_in() as client:
        client.agents.withdraw(agent_id(client, agent))
    show.say(f"{agent} is withdrawn; its certificate counts no longer.")


@agents.command("list")
def list_agents(machine: Json = False) -> None:
    """List the agents."""
    with signed_in() as client:
        show.rows(client.agents.list(), ("name", "enrolled", "live", "created_at", "agent_id"), machine=machine)


def _tell(job: JobShape) -> None:
    show.say(f"{job['name']}: {job['state']}")
