"""The shape of an invitation; what is offered has the shape of a new member."""

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel

from contracts.roles import Role


class InvitationView(BaseModel):
    """An invitation that is open until ``expires_at``; without ``starts_at`` the role begins when it is accepted."""

    invitation_id: UUID
    project_id: UUID
    project: str
    user_id: UUID
    username: str
    role: Role
    purpose: str
    starts_at: datetime | None
    ends_at: datetime | None
    invited_by: str
    created_at: datetime
    expires_at: datetime
