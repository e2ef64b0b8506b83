"""What ca keeps of what other services say."""

from contracts import events
from contracts.events import ProjectState, RunState, UserStatus
from services.ca.models import Member, Person, Project, Run


def person_of(fact: events.User) -> Person:
    """What ca keeps of a person."""
    active = fact.status is UserStatus.ACTIVE
    return Person(user_id=fact.user_id, username=fact.username, active=active, version=fact.version, stops=fact.stops)


def project_of(fact: events.Project) -> Project:
    """What ca keeps of a project."""
    is_open = fact.state in (ProjectState.ACTIVE, ProjectState.ARCHIVED)
    return Project(project_id=fact.project_id, name=fact.name if is_open else "", open=is_open, version=fact.version)


def member_of(fact: events.Membership) -> Member:
    """What ca keeps of a membership."""
    return Member(**fact.model_dump(exclude={"purpose"}))


def run_of(fact: events.Run) -> Run:
    """What ca keeps of a run."""
    active = fact.state in (RunState.LEASED, RunState.RUNNING)
    return Run(
        run_id=fact.run_id,
        project_id=fact.project_id,
        user_id=fact.user_id,
        active=active,
        fencing_token=fact.fencing_token,
        csr=fact.csr if active else None,
        version=fact.version,
    )
