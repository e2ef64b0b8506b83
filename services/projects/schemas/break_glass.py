"""The shapes of break-glass."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, BaseModel, Field

from contracts.events import Verdict
from services.projects.schemas.projects import Request, Username, plain

MOST_SECONDS = 366 * 24 * 3600


def _said(value: str) -> str:
    words = plain(value)
    if not words:
        raise ValueError("says nothing")
    return words


Words = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_said)]


class NewBreakGlass(Request):
    """A break-glass to open: in which project (its name or id), why, and for how long; without ``lasts_s`` for the usual time."""

    project: Annotated[str, Field(min_length=1, max_length=100)]
    reason: Words
    lasts_s: Annotated[int | None, Field(ge=1, le=MOST_SECONDS)] = None


class NewAppointment(Request):
    """Who is to own a project that nobody owns: its name or id, the person's username, and why."""

    project: Annotated[str, Field(min_length=1, max_length=100)]
    username: Username
    reason: Words


class Review(Request):
    """What another person makes of it."""

    verdict: Verdict
    words: Words


class BreakGlassView(BaseModel):
    """A break-glass; it is open while ``ended_at`` is null and ``ends_at`` lies ahead. ``unreviewed``: nobody reviewed it in time.

    ``appointed``: whom it made a Data Owner, instead of opening the project. ``reason`` and ``review`` are null for administrators who
    did not write them.
    """

    break_glass_id: UUID
    project_id: UUID
    user_id: UUID
    username: str
    appointed_id: UUID | None
    appointed: str | None
    reason: str | None
    opened_at: datetime
    ends_at: datetime
    ended_at: datetime | None
    review_due_at: datetime
    unreviewed: bool
    verdict: Verdict | None
    review: str | None
    reviewed_by: str | None
    reviewed_at: datetime | None
    version: int
