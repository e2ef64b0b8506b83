"""Where an account is in its life, and how often it has left a place there."""

from chassis.errors import Conflict
from contracts.events import UserStatus
from services.auth.models import User


class NotConfirmedYet(Conflict):
    """An account becomes active only when its person confirms the invitation."""

    title = "This person has not confirmed their invitation yet"


class HasLeft(Conflict):
    """A deactivated account has nothing to block and takes no roles; it can only be activated again."""

    title = "This person has left: their account is deactivated"


def next_status(user: User, wanted: UserStatus | None) -> UserStatus:
    """The status that an account gets when an administrator wants one for it. Raises HasLeft, NotConfirmedYet."""
    now = UserStatus(user.status)
    if wanted is None or wanted is now or wanted is UserStatus.DEACTIVATED:
        return wanted or now
    if wanted is UserStatus.BLOCKED:
        if now is UserStatus.DEACTIVATED:
            raise HasLeft
        return wanted
    if now is UserStatus.INVITED:
        raise NotConfirmedYet
    return UserStatus.INVITED if user.confirmed_at is None else UserStatus.ACTIVE


def put_status(user: User, status: UserStatus) -> None:
    """Give an account a status; what it stops being is counted, for those who hear of it only when it is that again."""
    user.stops += user.status == UserStatus.ACTIVE and status is not UserStatus.ACTIVE
    user.departures += user.status != UserStatus.DEACTIVATED and status is UserStatus.DEACTIVATED
    user.status = status.value
