"""What people are told beside what they asked for, on standard error: break-glass in their projects. Not where machines read."""

from collections.abc import Collection, Iterable

from hortus.cli import show
from hortus.client import Client, HortusError
from hortus.client.shapes import Project


def of_projects(projects: Iterable[Project]) -> None:
    """Say in which of these projects somebody is inside by break-glass now, or a review is waited for; only Data Owners are told numbers."""
    for project in projects:
        counted = project.get("break_glass")
        if counted:
            _say(f"in {project['name']}", counted["open"], counted["to_review"], f"hortus break-glass list -p {project['name']}")


def at_hand(client: Client, cluster_roles: Collection[str]) -> None:
    """The same of all of the caller's projects, and for an auditor of the installation. What cannot be asked now is said and stops nothing."""
    try:
        of_projects(client.projects.list())
        if "auditor" in cluster_roles:
            ended = [each["ended_at"] is not None for each in client.break_glass.list(reviewed=False)]
            _say("in this Hortus", ended.count(False), ended.count(True), "hortus break-glass list --not-reviewed")
    except HortusError as error:
        show.say(f"Whether there is break-glass for you to look at could not be asked: {error}")


def _say(where: str, are_open: int, to_review: int, command: str) -> None:
    counted = [f"{are_open} open now"] * bool(are_open) + [f"{to_review} to be reviewed"] * bool(to_review)
    if counted:
        show.say(f"Break-glass {where}: {', '.join(counted)}. See `{command}`.")
