"""The deletion of a project: asked for, closed and purged by every service, and certified. Pure, with the time and the ids passed in."""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from uuid import UUID

from chassis.errors import NotFound, Unprocessable
from contracts import events
from contracts.events import CONFIRMS, ProjectState, PurgeStep
from contracts.policy import Service
from contracts.roles import Actor, ClusterRole
from services.projects.models import Deletion, DeletionPart, Membership, Project

FORMAT = "hortus-erasure-certificate/1"
SEES_ALL = frozenset({ClusterRole.ADMINISTRATOR, ClusterRole.AUDITOR})


class NameNotRepeated(Unprocessable):
    """NAME_IS_REPEATED: what was typed is not the project's name."""

    title = "This is not the name of the project: repeat it as it is written"


def demand_name(project: Project, name: str) -> None:
    """Condition.NAME_IS_REPEATED: what cannot be undone needs the name, letter by letter. Raises NameNotRepeated."""
    if name != project.name:
        raise NameNotRepeated


def is_asked_for(project: Project) -> bool:
    """Whether the project's deletion was asked for."""
    return project.state not in (ProjectState.ACTIVE, ProjectState.ARCHIVED)


def ask(project: Project, asked_by: UUID, owners: Iterable[UUID], now: datetime) -> Deletion | None:
    """Begin to delete a project; None when that was asked for before."""
    if is_asked_for(project):
        return None
    _move(project, ProjectState.CLOSING)
    return Deletion(project_id=project.project_id, asked_by=asked_by, asked_at=now, owners=sorted({*owners, asked_by}))


def note(part: DeletionPart | None, service: Service, said: events.Purged) -> DeletionPart:
    """What a service said of its part, over what it said before."""
    if part is None:
        part = DeletionPart(project_id=said.project_id, service=service.value, closed_at=said.at)
    if said.step is PurgeStep.PURGED and part.purged_at is None:
        part.purged_at = said.at
        part.removed = dict(said.removed)
        part.kept = dict(said.kept)
    return part


def closed(parts: Iterable[DeletionPart]) -> list[str]:
    """The services that have closed."""
    return sorted(part.service for part in parts)


def purged(parts: Iterable[DeletionPart]) -> list[str]:
    """The services that have purged."""
    return sorted(part.service for part in parts if part.purged_at is not None)


def state(deletion: Deletion) -> ProjectState:
    """How far a deletion is."""
    if deletion.erased_at is not None:
        return ProjectState.DELETED
    return ProjectState.CLOSING if deletion.purging_at is None else ProjectState.PURGING


def awaited(deletion: Deletion, parts: Collection[DeletionPart]) -> list[str]:
    """The services whose answer the deletion waits for now."""
    if deletion.erased_at is not None:
        return []
    return sorted(set(CONFIRMS) - set(closed(parts) if deletion.purging_at is None else purged(parts)))


def waiting(deletions: Collection[tuple[Deletion, Collection[DeletionPart]]]) -> dict[Service, list[datetime]]:
    """When the deletions were asked for that wait for a service, by service."""
    return {service: [each.asked_at for each, parts in deletions if service in awaited(each, parts)] for service in CONFIRMS}


def proceed(project: Project, deletion: Deletion, parts: Collection[DeletionPart], now: datetime) -> bool:
    """Let everything be purged once all services have closed; whether that is now."""
    if deletion.purging_at is not None or awaited(deletion, parts):
        return False
    deletion.purging_at = now
    _move(project, ProjectState.PURGING)
    return True


def is_complete(deletion: Deletion, parts: Collection[DeletionPart]) -> bool:
    """Whether every service has purged, and nobody has finished the deletion yet."""
    return deletion.purging_at is not None and deletion.erased_at is None and not awaited(deletion, parts)


def finish(project: Project, deletion: Deletion, parts: Collection[DeletionPart], removed: Mapping[str, int], now: datetime) -> None:
    """Forget everything of a project but its id, and certify it; ``removed`` is what this service has removed itself."""
    project.name = project.description = project.purpose = project.legal_basis = project.ethics_approval_id = ""
    project.name_key = project.ends_at = None
    _move(project, ProjectState.DELETED)
    deletion.erased_at = now
    deletion.document = certificate(deletion, parts, removed)
    deletion.sha256 = hashlib.sha256(deletion.document.encode()).hexdigest()


def certificate(deletion: Deletion, parts: Collection[DeletionPart], removed: Mapping[str, int]) -> str:
    """The certificate of erasure: JSON with sorted names, without spaces, in UTF-8, so that its SHA-256 is the same for everybody.

    Of each membership that is removed, its last fact keeps the member's id.
    """
    erased_at = deletion.erased_at
    services = {
        part.service: {
            "closed_at": _written(part.closed_at),
            "purged_at": _written(part.purged_at),
            "removed": part.removed,
            "kept": part.kept,
        }
        for part in parts
    }
    own = {
        "closed_at": _written(deletion.asked_at),
        "purged_at": _written(erased_at),
        "removed": dict(removed),
        "kept": {"owner_ids": len(deletion.owners), "member_ids": removed["memberships"]},
    }
    document = {
        "format": FORMAT,
        "project_id": str(deletion.project_id),
        "asked_by": str(deletion.asked_by),
        "asked_at": _written(deletion.asked_at),
        "erased_at": _written(erased_at),
        "services": {**services, Service.PROJECTS.value: own},
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def last_fact(member: Membership) -> events.Membership:
    """What is said of a membership that goes with its project: no role, no name, no purpose."""
    return events.Membership(
        version=member.version + 1,
        project_id=member.project_id,
        user_id=member.user_id,
        username="",
        role=None,
        purpose="",
        starts_at=member.starts_at,
        ends_at=member.ends_at,
    )


def demand_visible(actor: Actor, deletion: Deletion | None) -> Deletion:
    """Condition.ERASURE_IS_VISIBLE: the certificate, for whom it is meant. Raises NotFound."""
    if deletion is None or deletion.document is None:
        raise NotFound
    if not sees_all(actor) and actor.user_id not in deletion.owners:
        raise NotFound
    return deletion


def sees_all(actor: Actor) -> bool:
    """Whether an actor may see every deletion and every certificate of erasure."""
    return not SEES_ALL.isdisjoint(actor.cluster_roles)


def _move(project: Project, state: ProjectState) -> None:
    project.state = state.value
    project.version += 1


def _written(at: datetime | None) -> str | None:
    return at.isoformat() if at is not None else None
