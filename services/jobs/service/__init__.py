"""The use cases of jobs, by what they are about: each function is one transaction"s work."""

from services.jobs.service import agents, deletion, ending, heard, jobs, leases, reading

__all__ = ["agents", "deletion", "ending", "heard", "jobs", "leases", "reading"]
