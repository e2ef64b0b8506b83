"""The doors of projects."""

from uuid import UUID

from fastapi import Response

from chassis.guard import IfMatch, Uow, doors, may
from chassis.pages import Page, Paging
from contracts.policy import Action, Service
from contracts.roles import Role
from services.projects import service
from services.projects.models import Membership, Project
from services.projects.schemas import MemberChange, MemberView, NewMember, NewProject, ProjectChange, ProjectView

router = doors(Service.PROJECTS)


def _project(project: Project, role: Role | str | None) -> ProjectView:
    return ProjectView.model_validate({**project.model_dump(), "role": role})


def _member(member: Membership) -> MemberView:
    return MemberView.model_validate(member)


@router.post("/projects", status_code=201, dependencies=[may(Action.PROJECT_CREATE)])
async def create_project(wanted: NewProject, uow: Uow) -> ProjectView:
    """Create a project; the caller becomes its Data Owner."""
    return _project(*await service.create(uow, wanted.name, wanted.description, wanted.purpose))


@router.get("/projects", dependencies=[may(Action.PROJECT_LIST)])
async def list_projects(paging: Paging, uow: Uow) -> Page[ProjectView]:
    """The caller's projects."""
    rows = await service.list_own(uow, paging.after_id(), paging.limit + 1)
    return paging.page(rows, lambda row: (row[0].project_id,), lambda row: _project(row[0], row[1].role))


@router.get("/projects/{project_id}", dependencies=[may(Action.PROJECT_READ)])
async def read_project(project_id: UUID, uow: Uow) -> ProjectView:
    """One project."""
    return _project(*await service.read(uow, project_id))


@router.patch("/projects/{project_id}", dependencies=[may(Action.PROJECT_CHANGE)])
async def change_project(project_id: UUID, change: ProjectChange, version: IfMatch, uow: Uow) -> ProjectView:
    """Change a project's description."""
    return _project(*await service.change(uow, project_id, version, change.description))


@router.post("/projects/{project_id}/members", status_code=201, dependencies=[may(Action.MEMBER_ADD)])
async def add_member(project_id: UUID, wanted: NewMember, uow: Uow) -> MemberView:
    """Give somebody a role in the project."""
    return _member(
        await service.add_member(uow, project_id, wanted.username, wanted.role, wanted.purpose, wanted.starts_at, wanted.ends_at)
    )


@router.get("/projects/{project_id}/members", dependencies=[may(Action.MEMBER_LIST)])
async def list_members(project_id: UUID, paging: Paging, uow: Uow) -> Page[MemberView]:
    """Who has a role in the project."""
    rows = await service.list_members(uow, project_id, paging.after_id(), paging.limit + 1)
    return paging.page(rows, lambda row: (row.user_id,), _member)


@router.patch("/projects/{project_id}/members/{user_id}", dependencies=[may(Action.MEMBER_CHANGE)])
async def change_member(project_id: UUID, user_id: UUID, change: MemberChange, version: IfMatch, uow: Uow) -> MemberView:
    """Change a member's role, purpose or end."""
    wanted = {field: getattr(change, field) for field in change.model_fields_set}
    return _member(await service.change_member(uow, project_id, user_id, version, wanted))


@router.delete("/projects/{project_id}/members/{user_id}", status_code=204, dependencies=[may(Action.MEMBER_REMOVE)])
async def remove_member(project_id: UUID, user_id: UUID, uow: Uow) -> Response:
    """Take a member's role away."""
    await service.remove_member(uow, project_id, user_id)
    return Response(status_code=204)
