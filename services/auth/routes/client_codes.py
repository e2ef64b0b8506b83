"""The door of client codes."""

from chassis.guard import Uow, doors, may
from contracts.policy import Action, Service
from services.auth.routes.tools import Here
from services.auth.schemas.oidc import ClientCodeView, NewClientCode
from services.auth.service import client_codes

router = doors(Service.AUTH)


@router.post("/client-codes", status_code=201, dependencies=[may(Action.CLIENT_CODE_CREATE)])
async def create_client_code(wanted: NewClientCode, uow: Uow, here: Here) -> ClientCodeView:
    """Hand the sign-in over to a client on the same machine; the code is shown once."""
    return ClientCodeView(code=await client_codes.create(uow, here, wanted.challenge))
