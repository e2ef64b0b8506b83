"""The rules of jobs, by what they are about: pure, with the time and the ids passed in."""

from services.jobs.domain import agents, leases, reading, runs, submitting

__all__ = ["agents", "leases", "reading", "runs", "submitting"]
