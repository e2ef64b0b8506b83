"""Break-glass: opened by an administrator, told to owners and auditors, ended by time, reviewed by somebody else."""

from collections.abc import Iterable
from datetime import timedelta
from uuid import UUID

from prometheus_client import Gauge

from chassis.errors import NotFound
from chassis.log import logger
from chassis.outbox import UnitOfWork
from contracts.events import Verdict
from contracts.roles import Role
from services.projects import domain, repository
from services.projects.domain.activity import Deed
from services.projects.models import BreakGlass, Project
from services.projects.service import activity, callers, group_roles, invitations
from services.projects.settings import ProjectsSettings

log = logger(__name__)
OPEN = Gauge("hortus_break_glass_open", "Memberships that administrators opened in an emergency and that are open now")
UNREVIEWED = Gauge("hortus_break_glass_unreviewed", "Break-glass whose review is missing although its time is over")
WITHOUT_OWNER = Gauge(
    "hortus_projects_without_owner", "Projects in which nobody who can act is a Data Owner by themselves and without an end"
)


async def open_for_caller(uow: UnitOfWork, settings: ProjectsSettings, project: str, reason: str, lasts_s: int | None) -> BreakGlass:
    """Make the caller a Data Scientist of a project (its name or id) for a short time.

    Raises NoSuchProject, TooLong, ProjectNotActive, AlreadyAMember, ReviewIsMissing, NotAnAdministratorAnyMore.
    """
    user_id, row = await _enter(uow, project)
    before = await repository.projects.membership(uow.session, row.project_id, user_id, lock=True)
    opened, member = domain.break_glass.open_for(
        uow.new_id(),
        row,
        user_id,
        uow.actor.username or "",
        before,
        await repository.break_glass.is_unreviewed(uow.session, row.project_id, user_id),
        reason,
        timedelta(seconds=lasts_s or settings.break_glass_s),
        timedelta(seconds=settings.break_glass_max_s),
        timedelta(seconds=settings.review_s),
        uow.now,
    )
    uow.session.add_all([opened, member])
    uow.emit(domain.projects.membership_fact(member))
    log.warning("break-glass opened", break_glass_id=str(opened.break_glass_id), project_id=str(row.project_id), user_id=str(user_id))
    await _tell(uow, opened, Deed.BREAK_GLASS_OPENED, until=opened.ends_at.isoformat())
    return opened


async def appoint(uow: UnitOfWork, settings: ProjectsSettings, project: str, username: str, reason: str) -> BreakGlass:
    """Make somebody else a Data Owner of a project (its name or id) that nobody owns; what is read of it is asked for as of a break-glass.

    Raises NoSuchProject, NoSuchPerson, RaisesYourself, ProjectNotActive, HasAnOwner, NotAnAdministratorAnyMore.
    """
    user_id, row = await _enter(uow, project)
    person = domain.break_glass.demand_active_person(await repository.projects.person(uow.session, username))
    domain.bounds.demand_somebody_else(user_id, person.user_id)
    before = await repository.projects.membership(uow.session, row.project_id, person.user_id, lock=True)
    opened, member = domain.break_glass.appoint(
        uow.new_id(),
        row,
        user_id,
        uow.actor.username or "",
        person,
        before,
        await repository.projects.everybody(uow.session, row.project_id),
        reason,
        timedelta(seconds=settings.review_s),
        uow.now,
    )
    uow.session.add_all([opened, member])
    uow.emit(domain.projects.membership_fact(member))
    log.warning("a Data Owner was appointed", break_glass_id=str(opened.break_glass_id), project_id=str(row.project_id))
    await uow.session.flush()
    await invitations.end_of_member(uow, row.project_id, person.user_id)
    await _tell(uow, opened, Deed.OWNER_APPOINTED, owner=person.username)
    uow.note(appointed_id=person.user_id)
    return opened


async def _enter(uow: UnitOfWork, project: str) -> tuple[UUID, Project]:
    """The caller, and the project that is named (by its name or id), both kept as they are until the transaction ends.

    The caller is an administrator until then: losing that waits for it, and ends what was opened. Raises NotAnAdministratorAnyMore, NoSuchProject.
    """
    user_id = callers.caller(uow)
    domain.break_glass.demand_administrator(await repository.projects.person_by_id(uow.session, user_id, hold=True))
    row = await repository.projects.project(uow.session, await _project_id(uow, project), lock=True)
    if row is None:
        raise domain.break_glass.NoSuchProject
    return user_id, row


async def list_all(uow: UnitOfWork, reviewed: bool | None, before: UUID | None, limit: int) -> list[BreakGlass]:
    """Every break-glass, or those that are ``reviewed`` or not, newest first."""
    return await repository.break_glass.page(uow.session, None, before, limit, reviewed=reviewed)


async def list_of_project(uow: UnitOfWork, project_id: UUID, reviewed: bool | None, before: UUID | None, limit: int) -> list[BreakGlass]:
    """Every break-glass in a project, or those that are ``reviewed`` or not, newest first. Raises NotFound, RoleMayNot."""
    domain.projects.demand_owner(await repository.projects.membership(uow.session, project_id, callers.caller(uow)), uow.now)
    return await repository.break_glass.page(uow.session, project_id, before, limit, reviewed=reviewed)


async def counted_for(uow: UnitOfWork, roles: Iterable[tuple[UUID, Role]]) -> dict[UUID, tuple[int, int]]:
    """How many are open, and how many are over and wait for the caller's review, in those of their projects whose break-glass they may list.

    ``roles``: the projects, each with the caller's role in it.
    """
    listable = [project_id for project_id, role in roles if domain.break_glass.may_list(uow.actor, role)]
    if not listable:
        return {}
    return await repository.break_glass.counted_in(uow.session, listable, callers.caller(uow), uow.now)


async def end(uow: UnitOfWork, settings: ProjectsSettings, break_glass_id: UUID) -> BreakGlass:
    """End a break-glass before its time; once more changes nothing. Raises NotFound, RaisesYourself, FactorTooOld."""
    known = await repository.break_glass.one(uow.session, break_glass_id)
    if known is None:
        raise NotFound
    await repository.projects.project(uow.session, known.project_id, lock=True)
    opened = await repository.break_glass.one(uow.session, break_glass_id, lock=True)
    if opened is None:
        raise NotFound
    member = await repository.projects.membership(uow.session, opened.project_id, opened.user_id, lock=True)
    is_theirs = member is not None and member.break_glass_id == break_glass_id
    if member is not None and is_theirs:
        by_group = await group_roles.by_group(uow, member, uow.now)
        if opened.user_id == callers.caller(uow):
            domain.bounds.demand_leaving_lessens(member, by_group)
        if by_group is not None and member.role != Role.DATA_OWNER:
            domain.projects.demand_fresh_factor_for(Role(by_group.role), by_group.ends_at, None, fresh=uow.actor.factor_fresh)
        uow.emit(domain.projects.membership_fact(domain.projects.end(member, by_group, uow.now)))
    if opened.ended_at is None:
        await _say_end(uow, opened, timedelta(seconds=settings.review_s))
    if member is not None and is_theirs and member.by_group is not None:
        group_roles.write_followed(uow, member)
    return opened


async def review(uow: UnitOfWork, break_glass_id: UUID, project_id: UUID | None, verdict: Verdict, words: str) -> BreakGlass:
    """Keep what somebody else makes of a break-glass: an auditor, or with ``project_id`` a Data Owner there.

    Raises NotFound, RoleMayNot, OwnReview, StillOpen, AlreadyReviewed.
    """
    if project_id is not None:
        await callers.as_owner(uow, project_id)
    opened = await repository.break_glass.one(uow.session, break_glass_id, project_id, lock=True)
    if opened is None:
        raise NotFound
    reviewer = callers.caller(uow)
    domain.break_glass.demand_another(opened, reviewer)
    domain.break_glass.review(opened, verdict, words, reviewer, uow.actor.username or "", uow.now)
    await _tell(uow, opened, Deed.BREAK_GLASS_REVIEWED, verdict=verdict.value)
    uow.note(verdict=verdict.value)
    return opened


async def say_end(uow: UnitOfWork, settings: ProjectsSettings) -> int:
    """Say of one break-glass that it is over, by its time or because its membership was taken away; how many."""
    opened = await repository.break_glass.over(uow.session)
    if opened is None:
        return 0
    await _say_end(uow, opened, timedelta(seconds=settings.review_s))
    return 1


async def report(uow: UnitOfWork) -> int:
    """Say of one break-glass that nobody reviewed it in time; how many."""
    opened = await repository.break_glass.overdue(uow.session)
    if opened is None:
        return 0
    await _report(uow, opened)
    return 1


async def settle(uow: UnitOfWork, project_id: UUID) -> None:
    """End what is open in a project that is being deleted, and report what nobody has reviewed: the project takes its review along. Safe to repeat.

    The caller has the project's lock. The ledger is told of each in a record of its own.
    """
    part = uow
    for opened in await repository.break_glass.unreported(uow.session, project_id):
        if opened.ended_at is None:
            await _end_membership(uow, opened)
            part = _next_part(part, project_id, "break_glass.end")
            await _say_end(part, opened, timedelta(0))
        part = _next_part(part, project_id, "break_glass.report")
        await _report(part, opened)


async def measure(uow: UnitOfWork) -> int:
    """Bring the metrics up to date; nothing is ever left to do."""
    are_open, without_review = await repository.break_glass.counted(uow.session)
    OPEN.set(are_open)
    UNREVIEWED.set(without_review)
    WITHOUT_OWNER.set(await repository.projects.without_owner(uow.session))
    return 0


async def _project_id(uow: UnitOfWork, project: str) -> UUID:
    try:
        return UUID(project)
    except ValueError:
        found = await repository.break_glass.project_named(uow.session, project.lower())
    if found is None:
        raise domain.break_glass.NoSuchProject
    return found


async def _end_membership(uow: UnitOfWork, opened: BreakGlass) -> None:
    """End what somebody is by a break-glass in a project that is being deleted, which lets nobody in by a group instead."""
    member = await repository.projects.membership(uow.session, opened.project_id, opened.user_id, lock=True)
    if member is not None and member.break_glass_id == opened.break_glass_id:
        uow.emit(domain.projects.membership_fact(domain.projects.end(member, None, uow.now)))


def _next_part(uow: UnitOfWork, project_id: UUID, action: str) -> UnitOfWork:
    part = uow.inside(project_id)
    part.action = action
    return part


async def _say_end(uow: UnitOfWork, opened: BreakGlass, review_within: timedelta) -> None:
    domain.break_glass.close(opened, review_within, uow.now)
    await _tell(uow, opened, Deed.BREAK_GLASS_ENDED)


async def _report(uow: UnitOfWork, opened: BreakGlass) -> None:
    domain.break_glass.report(opened, uow.now)
    log.error("break-glass without review", break_glass_id=str(opened.break_glass_id), project_id=str(opened.project_id))
    await _tell(uow, opened, Deed.BREAK_GLASS_UNREVIEWED)


async def _tell(uow: UnitOfWork, opened: BreakGlass, deed: Deed, **details: str) -> None:
    others = await repository.projects.others(uow.session, opened.project_id, opened.user_id)
    uow.emit(domain.break_glass.fact(opened, domain.break_glass.owners_among(others, uow.now)))
    activity.write(uow, opened.project_id, deed, (opened.user_id, opened.username), **details)
    uow.project_id = opened.project_id
    uow.note(project_id=opened.project_id, break_glass_id=opened.break_glass_id, user_id=opened.user_id, version=opened.version)
    await repository.projects.wake(uow.session)
