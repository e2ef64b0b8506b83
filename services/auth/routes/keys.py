"""The doors of API keys."""

from uuid import UUID

from fastapi import Response

from chassis.guard import Uow, doors, may
from chassis.pages import Page, Paging
from contracts.policy import Action, Service
from services.auth.routes.tools import Here
from services.auth.schemas.keys import KeyView, NewKey, NewKeyView
from services.auth.service import keys

router = doors(Service.AUTH)


@router.post("/keys", status_code=201, dependencies=[may(Action.KEY_CREATE)])
async def create_key(wanted: NewKey, uow: Uow, here: Here) -> NewKeyView:
    """Make an API key; its text is shown this once."""
    key, text = await keys.make_key(uow, here, wanted.name, wanted.scopes, wanted.project_id, wanted.expires_at)
    return NewKeyView.model_validate({**key.model_dump(), "secret": text})


@router.get("/keys", dependencies=[may(Action.KEY_LIST)])
async def list_keys(paging: Paging, uow: Uow) -> Page[KeyView]:
    """The caller's live API keys."""
    rows = await keys.list_keys(uow, paging.after_id(), paging.limit + 1)
    return paging.page(rows, lambda row: (row.key_id,), KeyView.model_validate)


@router.delete("/keys/{key_id}", status_code=204, dependencies=[may(Action.KEY_END)])
async def end_key(key_id: UUID, uow: Uow) -> Response:
    """End one of the caller's API keys."""
    await keys.end_key(uow, key_id)
    return Response(status_code=204)


@router.get("/users/{user_id}/keys", dependencies=[may(Action.USER_KEY_LIST)])
async def list_keys_of(user_id: UUID, paging: Paging, uow: Uow) -> Page[KeyView]:
    """A person's live API keys."""
    rows = await keys.list_keys_of(uow, user_id, paging.after_id(), paging.limit + 1)
    return paging.page(rows, lambda row: (row.key_id,), KeyView.model_validate)


@router.delete("/users/{user_id}/keys", status_code=204, dependencies=[may(Action.USER_KEY_END_ALL)])
async def end_keys_of(user_id: UUID, uow: Uow) -> Response:
    """End all API keys of a person."""
    await keys.end_keys_of(uow, user_id)
    return Response(status_code=204)
