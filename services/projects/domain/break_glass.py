"""The rules of break-glass: what an administrator does in a project in an emergency, and another person reviews. Pure."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from uuid import UUID

from chassis.errors import Conflict, Forbidden, Unprocessable
from contracts import events
from contracts.events import ProjectState, Verdict
from contracts.policy import Action, decide
from contracts.roles import Actor, ClusterRole, Role
from services.projects.domain.projects import (
    MAY_JOIN,
    AlreadyAMember,
    NoSuchPerson,
    ProjectNotActive,
    become,
    counts,
    has_owner,
)
from services.projects.models import BreakGlass, Membership, Person, Project

ROLE = Role.DATA_SCIENTIST
PURPOSE = "Break-glass"
APPOINTED = "Appointed by an administrator"
OPEN_TO = frozenset({ProjectState.ACTIVE, ProjectState.ARCHIVED})


class NoSuchProject(Unprocessable):
    """No project has this name or id."""

    title = "There is no such project"


class NotAnAdministratorAnyMore(Forbidden):
    """The role was taken away, and the gateway had not heard of it yet."""

    title = "You are no administrator any more"


class TooLong(Unprocessable):
    """The time asked for is longer than the installation allows."""

    title = "Break-glass is not allowed for this long"


class OwnReview(Forbidden):
    """The reviewer is whoever opened it."""

    title = "Nobody reviews what they did themselves"


class StillOpen(Conflict):
    """It is reviewed as a whole, when it is over."""

    title = "The break-glass is still open: it is reviewed when it has ended"


class HasAnOwner(Conflict):
    """Owners are made by owners, as long as there is one."""

    title = "The project has a Data Owner: they decide who else is one"


class ReviewIsMissing(Conflict):
    """What the person opened there before is over, and nobody has looked at it."""

    title = "What you opened in this project before is not reviewed yet: ask an auditor or a Data Owner for it, or another administrator"


class AlreadyReviewed(Conflict):
    """One review stands."""

    title = "This break-glass is reviewed already"


def open_for(
    break_glass_id: UUID,
    project: Project,
    user_id: UUID,
    username: str,
    before: Membership | None,
    unreviewed: bool,
    reason: str,
    lasts: timedelta,
    longest: timedelta,
    review_within: timedelta,
    now: datetime,
) -> tuple[BreakGlass, Membership]:
    """A break-glass from now on, and the membership that it gives; ``before`` is the administrator's own row, which gives way if it begins later.

    ``unreviewed``: something that they opened there before waits for its review. Raises TooLong, ProjectNotActive, AlreadyAMember,
    ReviewIsMissing.
    """
    if lasts > longest:
        raise TooLong(f"At most {longest}.")
    if project.state not in OPEN_TO:
        raise ProjectNotActive
    if before is not None and counts(before, now):
        raise AlreadyAMember
    if unreviewed:
        raise ReviewIsMissing
    opened = BreakGlass(
        break_glass_id=break_glass_id,
        project_id=project.project_id,
        user_id=user_id,
        username=username,
        reason=reason,
        opened_at=now,
        ends_at=now + lasts,
        review_due_at=now + lasts + review_within,
        version=1,
    )
    return opened, become(project.project_id, user_id, username, before, ROLE, PURPOSE, now, opened.ends_at, break_glass_id)


def appoint(
    break_glass_id: UUID,
    project: Project,
    user_id: UUID,
    username: str,
    person: Person,
    before: Membership | None,
    memberships: Iterable[tuple[Membership, Person | None]],
    reason: str,
    review_within: timedelta,
    now: datetime,
) -> tuple[BreakGlass, Membership]:
    """Make somebody (``person``, with their row ``before``) the Data Owner of a project that nobody of its ``memberships`` owns.

    It is over at once. Raises ProjectNotActive, HasAnOwner.
    """
    if project.state not in OPEN_TO:
        raise ProjectNotActive
    demand_no_owner(memberships, now)
    opened = BreakGlass(
        break_glass_id=break_glass_id,
        project_id=project.project_id,
        user_id=user_id,
        username=username,
        appointed_id=person.user_id,
        appointed=person.username,
        reason=reason,
        opened_at=now,
        ends_at=now,
        ended_at=now,
        review_due_at=now + review_within,
        version=1,
    )
    return opened, become(project.project_id, person.user_id, person.username, before, Role.DATA_OWNER, APPOINTED, now, None)


def close(opened: BreakGlass, review_within: timedelta, now: datetime) -> None:
    """Say that it is over; from here on its review is waited for."""
    opened.ended_at = min(now, opened.ends_at)
    opened.review_due_at = opened.ended_at + review_within
    opened.version += 1


def demand_no_owner(memberships: Iterable[tuple[Membership, Person | None]], now: datetime) -> None:
    """Condition.PROJECT_HAS_NO_OWNER: none of a project's memberships is that of a lasting owner who can act. Raises HasAnOwner."""
    if has_owner(memberships, now):
        raise HasAnOwner


def demand_administrator(person: Person | None) -> None:
    """Whoever auth does not call an administrator any more opens nothing, whatever the gateway knows. Raises NotAnAdministratorAnyMore."""
    if person is not None and not person.administrator:
        raise NotAnAdministratorAnyMore


def demand_active_person(person: Person | None) -> Person:
    """Who can be appointed: somebody who is there, not somebody who may come. Raises NoSuchPerson."""
    if person is None or person.status != events.UserStatus.ACTIVE:
        raise NoSuchPerson
    return person


def reads_words(actor: Actor, opened: BreakGlass) -> bool:
    """Whether somebody who is no Data Owner of the project reads reason and review: auditors, and whoever opened it."""
    return ClusterRole.AUDITOR in actor.cluster_roles or actor.user_id == opened.user_id


def may_list(actor: Actor, role: Role) -> bool:
    """Whether somebody with this role in a project lists its break-glass, by what they showed: an API key may be for less."""
    return decide(actor.model_copy(update={"role": role}), Action.PROJECT_BREAK_GLASS_LIST).allowed


def demand_another(opened: BreakGlass, reviewer: UUID) -> None:
    """Condition.REVIEWER_IS_ANOTHER: nobody reviews what they did themselves, or what made them an owner. Raises OwnReview."""
    if reviewer in (opened.user_id, opened.appointed_id):
        raise OwnReview


def review(opened: BreakGlass, verdict: Verdict, words: str, reviewer: UUID, username: str, now: datetime) -> None:
    """Keep what another person makes of it. Raises StillOpen, AlreadyReviewed."""
    if opened.ended_at is None:
        raise StillOpen
    if opened.reviewed_at is not None:
        raise AlreadyReviewed
    opened.verdict = verdict.value
    opened.review = words
    opened.reviewer_id = reviewer
    opened.reviewer = username
    opened.reviewed_at = now
    opened.version += 1


def report(opened: BreakGlass, now: datetime) -> None:
    """Say that nobody reviewed it in time; where its project goes before that, its time is over now."""
    opened.review_due_at = min(opened.review_due_at, now)
    opened.reported_at = now
    opened.version += 1


def owners_among(memberships: Iterable[tuple[Membership, Person | None]], now: datetime) -> tuple[UUID, ...]:
    """Who decides in the project at this moment, and is to be told."""
    return tuple(
        member.user_id
        for member, person in memberships
        if member.role == Role.DATA_OWNER and counts(member, now) and (person is None or person.status in MAY_JOIN)
    )


def fact(opened: BreakGlass, owners: tuple[UUID, ...]) -> events.BreakGlass:
    """What it is now, for others to hear: ids and times, and no words."""
    return events.BreakGlass(
        version=opened.version,
        break_glass_id=opened.break_glass_id,
        project_id=opened.project_id,
        user_id=opened.user_id,
        appointed_id=opened.appointed_id,
        owners=owners,
        opened_at=opened.opened_at,
        ends_at=opened.ends_at,
        ended_at=opened.ended_at,
        review_due_at=opened.review_due_at,
        reviewed_at=opened.reviewed_at,
        verdict=Verdict(opened.verdict) if opened.verdict else None,
        unreviewed=opened.reported_at is not None and opened.reviewed_at is None,
    )
