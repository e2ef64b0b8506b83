"""Request and answer shapes of registrations."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from contracts.roles import ClusterRole
from services.auth.schemas.fields import Request


class RegistrationAsked(Request):
    """Somebody who wants an account: their address, and a note for the administrator who decides."""

    email: Annotated[str, Field(min_length=3, max_length=320)]
    note: Annotated[str, Field(max_length=500, pattern=r"^[^\x00-\x08\x0b-\x1f\x7f-\x9f]*$")] = ""


class Approval(Request):
    """The cluster roles of the account that a request becomes."""

    cluster_roles: frozenset[ClusterRole] = frozenset()


class RegistrationView(BaseModel):
    """A request that waits to be decided."""

    model_config = ConfigDict(from_attributes=True)

    registration_id: UUID
    email: str
    note: str
    created_at: datetime
    version: int
