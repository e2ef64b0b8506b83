"""What a project's feed of activity tells. Pure."""

from enum import StrEnum
from uuid import UUID

from services.projects.models import Membership


class Deed(StrEnum):
    """What happened to a project or a membership."""

    PROJECT_CREATED = "project.created"
    PROJECT_CHANGED = "project.changed"
    PROJECT_ARCHIVED = "project.archived"
    PROJECT_RESTORED = "project.restored"
    PROJECT_ENDED = "project.ended"
    DELETION_ASKED = "project.deletion_asked"
    MEMBER_ADDED = "member.added"
    MEMBER_CHANGED = "member.changed"
    MEMBER_REMOVED = "member.removed"
    MEMBER_LEFT = "member.left"
    MEMBER_EXPIRED = "member.expired"
    MEMBER_GONE = "member.account_closed"
    MEMBER_FOLLOWED = "member.followed_group"
    GROUP_ROLE_GIVEN = "group_role.given"
    GROUP_ROLE_REMOVED = "group_role.removed"
    INVITED = "invitation.made"
    INVITATION_ACCEPTED = "invitation.accepted"
    INVITATION_DECLINED = "invitation.declined"
    INVITATION_WITHDRAWN = "invitation.withdrawn"
    INVITATION_EXPIRED = "invitation.expired"
    OWNER_APPOINTED = "owner.appointed"
    BREAK_GLASS_OPENED = "break_glass.opened"
    BREAK_GLASS_ENDED = "break_glass.ended"
    BREAK_GLASS_REVIEWED = "break_glass.reviewed"
    BREAK_GLASS_UNREVIEWED = "break_glass.unreviewed"


FOR_OWNERS = frozenset({Deed.INVITED, Deed.INVITATION_DECLINED, Deed.INVITATION_WITHDRAWN, Deed.INVITATION_EXPIRED})
"""Who is invited is for Data Owners to know, until somebody accepts."""

Subject = tuple[UUID, str]


def of_member(member: Membership) -> Subject:
    """Whom a deed about a membership is about."""
    return member.user_id, member.username


def standing(member: Membership) -> dict[str, str]:
    """What a membership is now, in a few words for the feed."""
    said = {"role": member.role or "none"}
    if member.ends_at is not None and member.role is not None:
        said["ends_at"] = member.ends_at.isoformat()
    if member.by_group is not None:
        said["group"] = member.by_group
    return said
