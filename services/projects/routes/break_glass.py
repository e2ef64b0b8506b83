"""The doors of break-glass: for administrators who open it, and for auditors and Data Owners who look at it."""

from typing import Annotated
from uuid import UUID

from fastapi import Query

from chassis.guard import Uow, doors, may
from chassis.pages import Page, Paging
from contracts.policy import Action, Service
from contracts.roles import Actor
from services.projects import domain
from services.projects.models import BreakGlass
from services.projects.routes.here import Configured
from services.projects.schemas.break_glass import BreakGlassView, NewAppointment, NewBreakGlass, Review
from services.projects.service import break_glass

router = doors(Service.PROJECTS)
Reviewed = Annotated[bool | None, Query(description="Only those that are reviewed, or only those that are not; open ones are not.")]


def _shown(opened: BreakGlass) -> BreakGlassView:
    unreviewed = opened.reported_at is not None and opened.reviewed_at is None
    return BreakGlassView.model_validate({**opened.model_dump(), "reviewed_by": opened.reviewer, "unreviewed": unreviewed})


def _shown_to(actor: Actor, opened: BreakGlass) -> BreakGlassView:
    """As a caller without a role in the project sees it: its words are for auditors, and for whoever opened it."""
    shown = _shown(opened)
    reads = domain.break_glass.reads_words(actor, opened)
    return shown if reads else shown.model_copy(update={"reason": None, "review": None})


@router.post("/break-glass", status_code=201, dependencies=[may(Action.BREAK_GLASS_OPEN)])
async def open_break_glass(wanted: NewBreakGlass, settings: Configured, uow: Uow) -> BreakGlassView:
    """Become a Data Scientist of a project for a short time, in an emergency; its Data Owners and the auditors are told."""
    return _shown(await break_glass.open_for_caller(uow, settings, wanted.project, wanted.reason, wanted.lasts_s))


@router.get("/break-glass", dependencies=[may(Action.BREAK_GLASS_LIST)])
async def list_break_glass(paging: Paging, uow: Uow, reviewed: Reviewed = None) -> Page[BreakGlassView]:
    """Every break-glass of the installation, newest first; ``unreviewed`` marks those whose review is missing."""
    rows = await break_glass.list_all(uow, reviewed, paging.after_id(), paging.limit + 1)
    return paging.page(rows, lambda row: (row.break_glass_id,), lambda row: _shown_to(uow.actor, row))


@router.delete("/break-glass/{break_glass_id}", dependencies=[may(Action.BREAK_GLASS_END)])
async def end_break_glass(break_glass_id: UUID, settings: Configured, uow: Uow) -> BreakGlassView:
    """End a break-glass before its time."""
    return _shown_to(uow.actor, await break_glass.end(uow, settings, break_glass_id))


@router.post("/owner-appointments", status_code=201, dependencies=[may(Action.OWNER_APPOINT)])
async def appoint_owner(wanted: NewAppointment, settings: Configured, uow: Uow) -> BreakGlassView:
    """Make somebody else a Data Owner of a project that nobody owns any more; the auditors are told, and somebody reviews it."""
    return _shown(await break_glass.appoint(uow, settings, wanted.project, wanted.username, wanted.reason))


@router.post("/break-glass/{break_glass_id}/review", dependencies=[may(Action.BREAK_GLASS_REVIEW)])
async def review_break_glass(break_glass_id: UUID, wanted: Review, uow: Uow) -> BreakGlassView:
    """Say whether a break-glass that is over was justified (auditors)."""
    return _shown(await break_glass.review(uow, break_glass_id, None, wanted.verdict, wanted.words))


@router.get("/projects/{project_id}/break-glass", dependencies=[may(Action.PROJECT_BREAK_GLASS_LIST)])
async def list_project_break_glass(project_id: UUID, paging: Paging, uow: Uow, reviewed: Reviewed = None) -> Page[BreakGlassView]:
    """Every break-glass in the project, newest first, with its reason."""
    rows = await break_glass.list_of_project(uow, project_id, reviewed, paging.after_id(), paging.limit + 1)
    return paging.page(rows, lambda row: (row.break_glass_id,), _shown)


@router.post("/projects/{project_id}/break-glass/{break_glass_id}/review", dependencies=[may(Action.PROJECT_BREAK_GLASS_REVIEW)])
async def review_project_break_glass(project_id: UUID, break_glass_id: UUID, wanted: Review, uow: Uow) -> BreakGlassView:
    """Say whether a break-glass in the project that is over was justified (Data Owners)."""
    return _shown(await break_glass.review(uow, break_glass_id, project_id, wanted.verdict, wanted.words))
