"""Doors for jobs and for the node agents that run them."""

import time
from collections.abc import Callable, Iterator
from typing import cast

from hortus.client.errors import HortusError
from hortus.client.shapes import Agent, Job, JobLog, Resources
from hortus.client.wire import Wire

ENDED = frozenset({"succeeded", "failed", "cancelled"})


class Jobs:
    """A project's jobs."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def submit(
        self,
        project_id: str,
        name: str,
        program: str,
        *,
        inputs: tuple[str, ...] = (),
        environment: str = "python",
        arguments: tuple[str, ...] = (),
        resources: Resources | None = None,
    ) -> Job:
        """Have a program (text, at most 64 KiB) run over datasets (ids) of the project."""
        body: dict[str, object] = {
            "name": name,
            "program": program,
            "environment": environment,
            "inputs": list(inputs),
            "arguments": list(arguments),
        }
        if resources:
            body["resources"] = resources
        return cast("Job", self._wire.call("POST", f"/projects/{project_id}/jobs", body))

    def list(self, project_id: str) -> Iterator[Job]:
        """The project's jobs."""
        yield from self._wire.pages(f"/projects/{project_id}/jobs")

    def get(self, project_id: str, job_id: str) -> Job:
        """One job."""
        return cast("Job", self._wire.call("GET", f"/projects/{project_id}/jobs/{job_id}"))

    def cancel(self, project_id: str, job_id: str) -> Job:
        """Ask for a job's end."""
        return cast("Job", self._wire.call("POST", f"/projects/{project_id}/jobs/{job_id}/cancellation"))

    def log(self, project_id: str, job_id: str) -> JobLog:
        """The end of the log; what is read is taken from the reader's budget for the day."""
        return cast("JobLog", self._wire.call("GET", f"/projects/{project_id}/jobs/{job_id}/log"))

    def wait(
        self,
        project_id: str,
        job_id: str,
        *,
        seconds: float = 600.0,
        until: frozenset[str] = ENDED,
        changed: Callable[[Job], None] = lambda _: None,
    ) -> Job:
        """Ask until the job is in a state of ``until`` or has ended; ``changed`` hears of every new state."""
        end = time.monotonic() + seconds
        seen = ""
        pause = 0.25
        while True:
            job = self.get(project_id, job_id)
            if job["state"] != seen:
                seen = job["state"]
                changed(job)
            if seen in until or seen in ENDED:
                return job
            if time.monotonic() > end:
                raise HortusError(f"The job is still {seen} after {seconds:.0f} s; it goes on, and nobody watches.")
            time.sleep(pause)
            pause = min(pause * 1.2, 2.0)


class Agents:
    """Node agents; for administrators."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def create(self, name: str) -> Agent:
        """Announce an agent; ``token`` in the answer enrols it, shown this once."""
        return cast("Agent", self._wire.call("POST", "/agents", {"name": name}))

    def withdraw(self, agent_id: str) -> None:
        """End an agent for ever: its certificate is refused, and what it runs starts anew on another one."""
        self._wire.call("DELETE", f"/agents/{agent_id}")

    def list(self) -> Iterator[Agent]:
        """The agents."""
        yield from self._wire.pages("/agents")
