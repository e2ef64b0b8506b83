"""The rules of one-time links."""

from collections.abc import Collection
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from chassis.errors import Conflict, NotFound
from contracts.events import UserStatus
from services.auth.models import Link, User


class Purpose(StrEnum):
    """What a link is for: a new password, or a second factor, after the first one was shown or beside it."""

    PASSWORD_RESET = "password-reset"  # noqa: S105 - a purpose
    FACTOR_ENROLMENT = "factor-enrolment"
    FACTOR_RESET = "factor-reset"


ONE_HALF = timedelta(days=7)
TO_ENROL = frozenset({Purpose.FACTOR_ENROLMENT, Purpose.FACTOR_RESET})


class LinkNotOpen(NotFound):
    """LINK_IS_OPEN: the token is unknown, was used, or is too old, or the account is not active."""

    title = "This link is not known, was used, or is too old"


class OtherHalfIsYours(Conflict):
    """One administrator was shown both halves of a sign-in of somebody else's: they could sign in as that person."""

    title = (
        "You were shown a link for this person's other factor less than 7 days ago: another administrator does this,"
        " or you deactivate the account and invite its person anew"
    )


def demand_one_half(other_was_shown: bool) -> None:
    """An administrator is shown no link for the password and one for the second factor of the same person. Raises OtherHalfIsYours."""
    if other_was_shown:
        raise OtherHalfIsYours


def link(user_id: UUID, purpose: Purpose, token_hash: bytes, now: datetime, life: timedelta) -> Link:
    """A one-time link, open for ``life``."""
    return Link(token_hash=token_hash, user_id=user_id, purpose=purpose.value, expires_at=now + life, created_at=now)


def demand_open_link(link: Link | None, user: User | None, purposes: Collection[Purpose], now: datetime) -> tuple[Link, User]:
    """Condition.LINK_IS_OPEN: the link, which is for one of ``purposes``, and its account. Raises LinkNotOpen."""
    if link is None or user is None or link.purpose not in purposes or link.expires_at <= now or user.status != UserStatus.ACTIVE:
        raise LinkNotOpen
    return link, user
