"""Who may hold a certificate, and how it names them."""

import re
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from chassis.errors import Conflict, NotFound
from contracts import roles
from contracts.events import CertificateKind
from services.ca.models import Ending, Member, Person, Project, Run

COMMON_NAME_MAX = 64


class ProjectIsBeingDeleted(Conflict):
    """A project that ends issues nothing any more."""

    title = "The project is being deleted"


@dataclass(frozen=True)
class Holder:
    """Whom a certificate speaks for. Exactly the ids of its kind are set."""

    kind: CertificateKind
    common_name: str
    project_id: UUID | None = None
    user_id: UUID | None = None
    agent_id: UUID | None = None
    run_id: UUID | None = None
    fencing_token: int | None = None

    def uri(self, trust_domain: str) -> str:
        """The SPIFFE identity."""
        if self.kind is CertificateKind.AGENT:
            return f"spiffe://{trust_domain}/agent/{self.agent_id}"
        person = f"spiffe://{trust_domain}/project/{self.project_id}/user/{self.user_id}"
        return f"{person}/job/{self.run_id}" if self.kind is CertificateKind.JOB else person


def common_name(project: str, project_id: UUID, username: str) -> str:
    """``project__username`` in at most 64 bytes (RFC 5280, ub-common-name), for people to read: the SPIFFE identity decides.

    A name loses what could be taken for the separator; one that is too long is cut and marked with its project's id.
    """
    left, right = (re.sub(r"[^\w.-]+|__+", "-", name).strip("-_") or "unnamed" for name in (project, username))
    whole = f"{left}__{right}"
    if len(whole.encode()) <= COMMON_NAME_MAX:
        return whole
    right = _cut(right, COMMON_NAME_MAX // 2)
    mark = f"-{project_id.hex[-8:]}__{right}"
    return _cut(left, COMMON_NAME_MAX - len(mark.encode())) + mark


def _cut(text: str, size: int) -> str:
    return text.encode()[:size].decode(errors="ignore")


def member_holder(project: Project, member: Member) -> Holder:
    """A person in a project."""
    return Holder(
        CertificateKind.PROJECT,
        common_name(project.name, project.project_id, member.username),
        project_id=member.project_id,
        user_id=member.user_id,
    )


def run_holder(project: Project, member: Member, run: Run) -> Holder:
    """A run, bound to the fencing token of its lease."""
    return Holder(
        CertificateKind.JOB,
        common_name(project.name, project.project_id, member.username),
        project_id=run.project_id,
        user_id=run.user_id,
        run_id=run.run_id,
        fencing_token=run.fencing_token,
    )


def agent_holder(agent_id: UUID) -> Holder:
    """A node agent."""
    return Holder(CertificateKind.AGENT, f"agent {agent_id}", agent_id=agent_id)


def demand_right(person: Person, member: Member, project: Project, now: datetime) -> None:
    """Refuse who holds no certificate of the project at ``now``. Raises ProjectIsBeingDeleted, NotFound."""
    ending = loss(person, member, project, now)
    if ending is Ending.PROJECT_CLOSED:
        raise ProjectIsBeingDeleted
    if ending is not None:
        raise NotFound


def loss(person: Person, member: Member, project: Project, now: datetime) -> Ending | None:
    """Why the person holds no certificate of the project at ``now``; None when they may."""
    if not project.open:
        return Ending.PROJECT_CLOSED
    if not person.active:
        return Ending.PERSON_NOT_ACTIVE
    return None if counts(member, now) else Ending.MEMBERSHIP_ENDED


def counts(member: Member, now: datetime) -> bool:
    """Whether a membership gives a role at ``now``."""
    return roles.counts(member.role, member.starts_at, member.ends_at, now)
