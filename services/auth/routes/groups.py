"""The doors of groups."""

from uuid import UUID

from fastapi import Response

from chassis.guard import IfMatch, Uow, doors, may
from chassis.pages import Page, Paging
from contracts.policy import Action, Service
from services.auth.schemas.groups import GroupChange, GroupMemberView, GroupView, NewGroup
from services.auth.service import groups

router = doors(Service.AUTH)


@router.post("/groups", status_code=201, dependencies=[may(Action.GROUP_CREATE)])
async def create_group(wanted: NewGroup, uow: Uow) -> GroupView:
    """Make a group."""
    return GroupView.model_validate(await groups.create(uow, wanted.name, wanted.factor_policy, wanted.cluster_roles, wanted.external))


@router.get("/groups", dependencies=[may(Action.GROUP_LIST)])
async def list_groups(paging: Paging, uow: Uow) -> Page[GroupView]:
    """All groups."""
    rows = await groups.list_groups(uow, paging.after_id(), paging.limit + 1)
    return paging.page(rows, lambda row: (row.group_id,), GroupView.model_validate)


@router.patch("/groups/{group_id}", dependencies=[may(Action.GROUP_CHANGE)])
async def change_group(group_id: UUID, change: GroupChange, version: IfMatch, uow: Uow) -> GroupView:
    """Change a group's cluster roles, its say about second factors, or its names in directories."""
    wanted = {field: getattr(change, field) for field in change.model_fields_set}
    return GroupView.model_validate(await groups.change(uow, group_id, version, wanted))


@router.delete("/groups/{group_id}", status_code=204, dependencies=[may(Action.GROUP_REMOVE)])
async def remove_group(group_id: UUID, uow: Uow) -> Response:
    """Remove a group, and what its people had by it."""
    await groups.remove(uow, group_id)
    return Response(status_code=204)


@router.get("/groups/{group_id}/members", dependencies=[may(Action.GROUP_MEMBER_LIST)])
async def list_group_members(group_id: UUID, paging: Paging, uow: Uow) -> Page[GroupMemberView]:
    """Who is in a group."""
    rows = await groups.list_members(uow, group_id, paging.after_id(), paging.limit + 1)
    return paging.page(rows, lambda row: (row.user_id,), GroupMemberView.model_validate)


@router.put("/groups/{group_id}/members/{user_id}", status_code=204, dependencies=[may(Action.GROUP_MEMBER_ADD)])
async def add_group_member(group_id: UUID, user_id: UUID, uow: Uow) -> Response:
    """Put somebody into a group."""
    await groups.add_member(uow, group_id, user_id)
    return Response(status_code=204)


@router.delete("/groups/{group_id}/members/{user_id}", status_code=204, dependencies=[may(Action.GROUP_MEMBER_REMOVE)])
async def remove_group_member(group_id: UUID, user_id: UUID, uow: Uow) -> Response:
    """Take somebody out of a group."""
    await groups.remove_member(uow, group_id, user_id)
    return Response(status_code=204)
