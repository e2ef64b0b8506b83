"""The shape of a line of the feed."""

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, ConfigDict


class ActivityView(BaseModel):
    """Who did what to whom, and when; without an actor it happened by itself. ``details`` are words about it."""

    model_config = ConfigDict(from_attributes=True)

    activity_id: UUID
    at: datetime
    deed: str
    actor_id: UUID | None
    actor: str | None
    subject_id: UUID | None
    subject: str | None
    details: dict[str, str]
