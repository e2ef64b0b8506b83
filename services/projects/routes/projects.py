"""The doors of projects, members and groups' roles."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from fastapi import Response
from fastapi.responses import JSONResponse

from chassis.guard import IfMatch, Uow, doors, may
from chassis.outbox import UnitOfWork
from chassis.pages import Page, Paging
from contracts.policy import Action, Service
from contracts.roles import Role
from services.projects import domain
from services.projects.models import Deletion, DeletionPart, Membership, Project
from services.projects.routes.here import Configured, founders, show_member
from services.projects.schemas.projects import (
    BreakGlassCounts,
    DeletionRequest,
    DeletionView,
    ErasureView,
    GroupRoleView,
    ListedErasureView,
    MemberChange,
    MemberView,
    NewGroupRole,
    NewMember,
    NewProject,
    ProjectChange,
    ProjectView,
    Restoration,
)
from services.projects.service import break_glass, deletion, group_roles, lifecycle, projects
from services.projects.service.deletion import Progress

router = doors(Service.PROJECTS)


async def _project(uow: UnitOfWork, project: Project, role: Role, progress: Progress | None = None) -> ProjectView:
    counted = await break_glass.counted_for(uow, [(project.project_id, role)])
    return _shown(project, role, counted.get(project.project_id), progress)


def _shown(project: Project, role: Role | str | None, counted: tuple[int, int] | None, progress: Progress | None = None) -> ProjectView:
    return ProjectView.model_validate(
        {
            **project.model_dump(),
            "role": role,
            "deletion": None if progress is None else _deletion(*progress),
            "break_glass": None if counted is None else BreakGlassCounts(open=counted[0], to_review=counted[1]),
        }
    )


def _deletion(deletion: Deletion, parts: Sequence[DeletionPart]) -> DeletionView:
    return DeletionView(
        **deletion.model_dump(include={"asked_by", "asked_at", "purging_at"}),
        closed=domain.deletion.closed(parts),
        purged=domain.deletion.purged(parts),
        awaited=domain.deletion.awaited(deletion, parts),
    )


def _listed(deletion: Deletion, parts: Sequence[DeletionPart]) -> ListedErasureView:
    return ListedErasureView(
        **deletion.model_dump(include={"project_id", "asked_by", "asked_at", "erased_at", "sha256", "document"}),
        state=domain.deletion.state(deletion),
        awaited=domain.deletion.awaited(deletion, parts),
    )


@router.post("/projects", status_code=201, dependencies=[may(Action.PROJECT_CREATE)])
async def create_project(wanted: NewProject, settings: Configured, uow: Uow) -> ProjectView:
    """Create a project; the caller becomes its Data Owner."""
    return await _project(uow, *await projects.create(uow, founders(settings), **wanted.model_dump()))


@router.get("/projects", dependencies=[may(Action.PROJECT_LIST)])
async def list_projects(paging: Paging, uow: Uow) -> Page[ProjectView]:
    """The caller's projects."""
    rows = await projects.list_own(uow, paging.after_id(), paging.limit + 1)
    counted = await break_glass.counted_for(uow, [(project.project_id, Role(member.role)) for project, member in rows if member.role])

    def show(row: tuple[Project, Membership]) -> ProjectView:
        return _shown(row[0], row[1].role, counted.get(row[0].project_id))

    return paging.page(rows, lambda row: (row[0].project_id,), show)


@router.get("/projects/{project_id}", dependencies=[may(Action.PROJECT_READ)])
async def read_project(project_id: UUID, uow: Uow) -> ProjectView:
    """One project, and how far its deletion is."""
    project, role = await projects.read(uow, project_id)
    return await _project(uow, project, role, await deletion.progress(uow, project))


@router.patch("/projects/{project_id}", dependencies=[may(Action.PROJECT_CHANGE)])
async def change_project(project_id: UUID, change: ProjectChange, version: IfMatch, uow: Uow) -> ProjectView:
    """Change what is known of a project."""
    return await _project(uow, *await lifecycle.change(uow, project_id, version, change.model_dump(exclude_unset=True)))


@router.post("/projects/{project_id}/archive", dependencies=[may(Action.PROJECT_ARCHIVE)])
async def archive_project(project_id: UUID, uow: Uow) -> ProjectView:
    """Let a project be read and no more changed; its runs end."""
    return await _project(uow, *await lifecycle.archive(uow, project_id))


@router.post("/projects/{project_id}/restoration", dependencies=[may(Action.PROJECT_RESTORE)])
async def restore_project(project_id: UUID, wanted: Restoration, uow: Uow) -> ProjectView:
    """Let an archived project be changed again."""
    return await _project(uow, *await lifecycle.restore(uow, project_id, wanted.model_dump(exclude_unset=True)))


@router.post("/projects/{project_id}/deletion", status_code=202, dependencies=[may(Action.PROJECT_DELETE)])
async def delete_project(project_id: UUID, wanted: DeletionRequest, uow: Uow) -> ProjectView:
    """Delete a project for good: everything in it is erased in every service, and that is certified."""
    return await _project(uow, *await deletion.ask(uow, project_id, wanted.name))


@router.get("/erasure-certificates", dependencies=[may(Action.ERASURE_LIST)])
async def list_erasures(paging: Paging, uow: Uow) -> Page[ListedErasureView]:
    """The certificates of erasure of projects that the caller owned or deleted; for administrators and auditors all, and the deletions under way."""
    rows = await deletion.list_seen(uow, paging.after_id(), paging.limit + 1)
    return paging.page(rows, lambda row: (row[0].project_id,), lambda row: _listed(*row))


@router.get("/erasure-certificates/{erased_id}", dependencies=[may(Action.ERASURE_READ)])
async def read_erasure(erased_id: UUID, uow: Uow) -> ErasureView:
    """The certificate of erasure of a deleted project, by the project's id."""
    return ErasureView.model_validate(await deletion.certificate(uow, erased_id))


@router.post("/projects/{project_id}/members", status_code=201, dependencies=[may(Action.MEMBER_ADD)])
async def add_member(project_id: UUID, wanted: NewMember, settings: Configured, uow: Uow) -> MemberView:
    """Give somebody a role in the project."""
    return show_member(
        await projects.add_member(uow, settings, project_id, wanted.username, wanted.role, wanted.purpose, wanted.starts_at, wanted.ends_at)
    )


@router.get("/projects/{project_id}/members", dependencies=[may(Action.MEMBER_LIST)])
async def list_members(project_id: UUID, paging: Paging, uow: Uow) -> Page[MemberView]:
    """Who has a role in the project."""
    rows = await projects.list_members(uow, project_id, paging.after_id(), paging.limit + 1)
    return paging.page(rows, lambda row: (row.user_id,), show_member)


@router.patch("/projects/{project_id}/members/{user_id}", dependencies=[may(Action.MEMBER_CHANGE)])
async def change_member(project_id: UUID, user_id: UUID, change: MemberChange, version: IfMatch, uow: Uow) -> MemberView:
    """Change a member's role, purpose or end."""
    wanted = {field: getattr(change, field) for field in change.model_fields_set}
    return show_member(await projects.change_member(uow, project_id, user_id, version, wanted))


REMAINS: dict[int | str, dict[str, Any]] = {
    200: {"model": MemberView, "description": "What remains of the membership: the role that comes by a group"}
}


@router.delete("/projects/{project_id}/members/me", status_code=204, responses=REMAINS, dependencies=[may(Action.MEMBER_LEAVE)])
async def leave_project(project_id: UUID, uow: Uow) -> Response:
    """Give your own role up; a role that a group gives you remains, and is shown."""
    left = await projects.leave(uow, project_id)
    return Response(status_code=204) if left is None else JSONResponse(show_member(left).model_dump(mode="json"))


@router.delete(
    "/projects/{project_id}/members/{user_id}",
    status_code=204,
    responses=REMAINS,
    dependencies=[may(Action.MEMBER_REMOVE)],
)
async def remove_member(project_id: UUID, user_id: UUID, uow: Uow) -> Response:
    """Take a member's own role away; a role that a group gives them remains, and is shown."""
    left = await projects.remove_member(uow, project_id, user_id)
    return Response(status_code=204) if left is None else JSONResponse(show_member(left).model_dump(mode="json"))


@router.post("/projects/{project_id}/group-roles", status_code=201, dependencies=[may(Action.GROUP_ROLE_GIVE)])
async def give_group_role(project_id: UUID, wanted: NewGroupRole, uow: Uow) -> GroupRoleView:
    """Give everybody in a group a role in the project."""
    return GroupRoleView.model_validate(await group_roles.give(uow, project_id, wanted.group, wanted.role, wanted.purpose, wanted.ends_at))


@router.get("/projects/{project_id}/group-roles", dependencies=[may(Action.GROUP_ROLE_LIST)])
async def list_group_roles(project_id: UUID, paging: Paging, uow: Uow) -> Page[GroupRoleView]:
    """Which groups have a role in the project."""
    rows = await group_roles.list_given(uow, project_id, paging.after_id(), paging.limit + 1)
    return paging.page(rows, lambda row: (row.group_role_id,), GroupRoleView.model_validate)


@router.delete("/projects/{project_id}/group-roles/{group_role_id}", status_code=204, dependencies=[may(Action.GROUP_ROLE_REMOVE)])
async def remove_group_role(project_id: UUID, group_role_id: UUID, uow: Uow) -> Response:
    """Take a group's role away, and with it the memberships that came by it."""
    await group_roles.remove(uow, project_id, group_role_id)
    return Response(status_code=204)
