"""The life of a project: who may found one, what is known of it, and how it is archived and restored. Pure, with the time passed in."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from chassis.errors import CannotDecide, Conflict, Forbidden
from contracts.events import ProjectState
from contracts.roles import Actor, ClusterRole
from services.projects.domain.projects import EndsInThePast, demand_active
from services.projects.models import Person, Project


class Creators(StrEnum):
    """Who may create projects."""

    EVERYBODY = "everybody"
    ADMINISTRATORS = "administrators"


@dataclass(frozen=True)
class Founders:
    """Who may create projects in this installation; where not everybody may, the people of ``groups`` may as well."""

    creators: Creators = Creators.EVERYBODY
    groups: frozenset[str] = frozenset()


class CreatingIsNotOpen(Forbidden):
    """CREATING_IS_OPEN: the caller is none of those who create projects here."""

    title = "Here projects are created by administrators and the people of some groups only: ask one of them"


class ProjectIsBeingDeleted(Conflict):
    """What was asked to be deleted is deleted."""

    title = "The project is being deleted"


class ProjectHasEnded(Conflict):
    """A project that would be archived again at once is not restored."""

    title = "The end date of the project has passed: restore it with a later one, or with none"


def may_create(founders: Founders, actor: Actor, person: Person | None) -> None:
    """Condition.CREATING_IS_OPEN: ``person`` is what is known of the caller here. Raises CreatingIsNotOpen, CannotDecide."""
    if founders.creators is Creators.EVERYBODY or ClusterRole.ADMINISTRATOR in actor.cluster_roles:
        return
    if founders.groups and person is None:
        raise CannotDecide("Your account has not arrived here yet.", retry_after=1)
    if person is None or founders.groups.isdisjoint(person.groups):
        raise CreatingIsNotOpen


def change(project: Project, wanted: Mapping[str, object], now: datetime) -> bool:
    """Give a project what ``wanted`` names of its fields; whether that changed anything. Raises ProjectNotActive, EndsInThePast."""
    demand_active(project)
    changed = {name: value for name, value in wanted.items() if getattr(project, name) != value}
    if not changed:
        return False
    _demand_future(changed.get("ends_at"), now)
    _set(project, changed)
    return True


def archive(project: Project) -> bool:
    """Let a project be read and no more changed; whether it was active until now. Raises ProjectIsBeingDeleted."""
    if project.state == ProjectState.ARCHIVED:
        return False
    if project.state != ProjectState.ACTIVE:
        raise ProjectIsBeingDeleted
    _set(project, {"state": ProjectState.ARCHIVED.value})
    return True


def restore(project: Project, wanted: Mapping[str, object], now: datetime) -> bool:
    """Let an archived project be changed again, with another end date where ``wanted`` has one; whether it was archived.

    Raises ProjectIsBeingDeleted, EndsInThePast, ProjectHasEnded.
    """
    if project.state == ProjectState.ACTIVE:
        return False
    if project.state != ProjectState.ARCHIVED:
        raise ProjectIsBeingDeleted
    _demand_future(wanted.get("ends_at"), now)
    ends_at = wanted.get("ends_at", project.ends_at)
    if isinstance(ends_at, datetime) and ends_at <= now:
        raise ProjectHasEnded
    _set(project, {"state": ProjectState.ACTIVE.value, "ends_at": ends_at})
    return True


def _demand_future(ends_at: object, now: datetime) -> None:
    if isinstance(ends_at, datetime) and ends_at <= now:
        raise EndsInThePast


def _set(project: Project, values: Mapping[str, object]) -> None:
    for name, value in values.items():
        setattr(project, name, value)
    project.version += 1
