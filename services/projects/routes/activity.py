"""The door of the feed."""

from uuid import UUID

from chassis.guard import Uow, doors, may
from chassis.pages import Page, Paging
from contracts.policy import Action, Service
from services.projects.schemas.activity import ActivityView
from services.projects.service import activity

router = doors(Service.PROJECTS)


@router.get("/projects/{project_id}/activity", dependencies=[may(Action.ACTIVITY_LIST)])
async def list_activity(project_id: UUID, paging: Paging, uow: Uow) -> Page[ActivityView]:
    """What happened to the project and its members, newest first."""
    rows = await activity.read(uow, project_id, paging.after_id(), paging.limit + 1)
    return paging.page(rows, lambda row: (row.activity_id,), ActivityView.model_validate)
