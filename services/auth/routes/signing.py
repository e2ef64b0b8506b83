"""The doors of the keys that sign access tokens."""

from fastapi import Response

from chassis.guard import Uow, doors, may
from chassis.pages import Page, Paging
from contracts.policy import Action, Service
from services.auth.models import SigningKey
from services.auth.routes.tools import Here
from services.auth.schemas.signing import SigningKeyView
from services.auth.service import signing

router = doors(Service.AUTH)


def _view(key: SigningKey, signs: str | None) -> SigningKeyView:
    return SigningKeyView(
        signing_key_id=key.key_id,
        live=key.live,
        signs=key.key_id == signs,
        created_at=key.created_at,
        signs_from=key.signs_from,
        replaced_at=key.replaced_at,
        version=key.version,
    )


@router.get("/signing-keys", dependencies=[may(Action.SIGNING_KEY_LIST)])
async def list_signing_keys(paging: Paging, uow: Uow) -> Page[SigningKeyView]:
    """All keys, those that were withdrawn too."""
    rows, signs = await signing.list_keys(uow, paging.after_text(), paging.limit + 1)
    return paging.page(rows, lambda row: (row.key_id,), lambda row: _view(row, signs))


@router.post("/signing-keys", status_code=201, dependencies=[may(Action.SIGNING_KEY_ROTATE)])
async def rotate_signing_key(uow: Uow, here: Here) -> SigningKeyView:
    """Have another key take the place of the one that signs, in a minute."""
    return _view(await signing.rotate(uow, here), None)


@router.delete("/signing-keys/{signing_key_id}", status_code=204, dependencies=[may(Action.SIGNING_KEY_WITHDRAW)])
async def withdraw_signing_key(signing_key_id: str, uow: Uow, here: Here) -> Response:
    """Let a spare key, and all its tokens, count no more."""
    await signing.withdraw(uow, here, signing_key_id)
    return Response(status_code=204)
