"""What nobody gives themselves, and Data Owners whose time ends nobody else. Pure."""

from collections.abc import Collection
from datetime import datetime
from uuid import UUID

from chassis.errors import Forbidden
from contracts.roles import Role
from services.projects.models import GroupRole, Membership


class RaisesYourself(Forbidden):
    """The deed would give the caller more than they hold, or hold it for them by another way."""

    title = "Nobody gives themselves more than they hold: ask another Data Owner"


class OwnersByGroupMakeNone(Forbidden):
    """Whoever leaves the group would leave owners behind who are it for good."""

    title = "You are a Data Owner by a group: only who was made one themselves makes others Data Owners"


class LongerThanYours(Forbidden):
    """The caller's own role ends earlier than the one they want to give."""

    title = "Your own role ends: until then, and no longer, you can make somebody a Data Owner"


def lasts_longer(ends_at: datetime | None, than: datetime | None) -> bool:
    """Whether one end lies after another; None is no end."""
    return than is not None and (ends_at is None or ends_at > than)


def demand_somebody_else(caller: UUID, user_id: UUID) -> None:
    """Condition.NOBODY_RAISES_THEMSELVES: nobody adds or invites themselves. Raises RaisesYourself."""
    if caller == user_id:
        raise RaisesYourself


def demand_no_more(before: Membership, role: Role, ends_at: datetime | None) -> None:
    """Condition.NOBODY_RAISES_THEMSELVES: what somebody makes of their own membership is no more than it was. Raises RaisesYourself."""
    if (role is Role.DATA_OWNER and before.role != Role.DATA_OWNER) or lasts_longer(ends_at, before.ends_at):
        raise RaisesYourself


def demand_no_more_by_group(giver: Membership, groups: Collection[str], group: str, role: Role, ends_at: datetime | None) -> None:
    """Condition.NOBODY_RAISES_THEMSELVES: a group that the giver is in (one of ``groups``) becomes a Data Scientist within their time.

    As its owner they would stay one when their own role is taken away. Raises RaisesYourself.
    """
    if group in groups and (role is Role.DATA_OWNER or lasts_longer(ends_at, giver.ends_at)):
        raise RaisesYourself


def demand_leaving_lessens(membership: Membership, by_group: GroupRole | None) -> None:
    """Condition.NOBODY_RAISES_THEMSELVES: who gives their own role up does not become more ``by_group``. Raises RaisesYourself."""
    if by_group is not None and by_group.role == Role.DATA_OWNER and membership.role != Role.DATA_OWNER:
        raise RaisesYourself


def demand_within_own_time(giver: Membership, role: Role, ends_at: datetime | None, before: Membership | None) -> None:
    """Condition.OWNERS_GIVE_WITHIN_THEIR_TIME: who makes a Data Owner, or lets one be it for longer, is one for as long.

    Who is one by a group can stop at any moment, and makes none. ``before`` is what is there already: to make less of it is always
    possible. Raises OwnersByGroupMakeNone, LongerThanYours.
    """
    makes = role is Role.DATA_OWNER and (before is None or before.role != Role.DATA_OWNER or lasts_longer(ends_at, before.ends_at))
    if makes and giver.by_group is not None:
        raise OwnersByGroupMakeNone
    if makes and lasts_longer(ends_at, giver.ends_at):
        raise LongerThanYours
