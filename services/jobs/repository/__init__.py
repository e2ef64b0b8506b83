"""All the SQL of jobs, by what it is about. What people read names its project; agents and timers reach runs across projects."""

from services.jobs.repository import agents, changes, deletion, heard, jobs, logs

__all__ = ["agents", "changes", "deletion", "heard", "jobs", "logs"]
