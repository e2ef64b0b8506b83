"""The rules of registrations: requests for an account, which an administrator decides."""

from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from chassis.errors import Conflict, Forbidden, NotFound, TooManyRequests
from services.auth.models import Registration

MOST_OPEN = 1000
DECIDED_KEPT = timedelta(days=30)
OPEN_KEPT = timedelta(days=90)


class State(StrEnum):
    """Where a request is."""

    OPEN = "open"
    APPROVED = "approved"
    DECLINED = "declined"


class RegistrationClosed(Forbidden):
    """REGISTRATION_IS_OPEN: self-registration is switched off."""

    title = "Accounts are made by invitation here: ask an administrator"


class RegistrationsFull(TooManyRequests):
    """Too many requests wait to be decided."""

    title = "Too many requests for accounts wait to be decided; try another day"


class AlreadyDecided(Conflict):
    """REGISTRATION_IS_OPEN: an administrator has decided this request."""

    title = "This request was decided already"


def demand_switched_on(on: bool) -> None:
    """Condition.REGISTRATION_IS_OPEN: people may ask for accounts. Raises RegistrationClosed."""
    if not on:
        raise RegistrationClosed


def ask(registration_id: UUID, email: str, note: str, now: datetime) -> Registration:
    """A request for an account."""
    return Registration(registration_id=registration_id, email=email, note=note, state=State.OPEN.value, created_at=now, version=1)


def decide(registration: Registration | None, state: State, by: UUID, now: datetime) -> Registration:
    """Condition.REGISTRATION_IS_OPEN: approve or decline a request once. Raises NotFound, AlreadyDecided."""
    if registration is None:
        raise NotFound
    if registration.state != State.OPEN:
        raise AlreadyDecided
    registration.state = state.value
    registration.decided_at = now
    registration.decided_by = by
    registration.version += 1
    return registration
