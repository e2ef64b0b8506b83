"""Request and answer shapes of projects."""

import unicodedata
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from contracts.roles import Role

BREAKS = "\n\t"
FIRST_YEAR = 2000
LAST_YEAR = 9000
BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def plain(value: str) -> str:
    """Text in NFC without control characters, unassigned code points or marks that turn the reading direction."""
    for character in value:
        if character in BREAKS:
            continue
        if unicodedata.category(character) in {"Cc", "Cs", "Cn", "Co"} or character in BIDI:
            raise ValueError("contains a character that cannot be shown")
    return unicodedata.normalize("NFC", value).strip()


def _sane(value: datetime) -> datetime:
    if not FIRST_YEAR <= value.year <= LAST_YEAR:
        raise ValueError(f"lies outside the years {FIRST_YEAR} to {LAST_YEAR}")
    return value.astimezone(UTC)


Text = Annotated[str, Field(max_length=2000), AfterValidator(plain)]
Purpose = Annotated[str, Field(max_length=500), AfterValidator(plain)]
ApprovalId = Annotated[str, Field(max_length=100), AfterValidator(plain)]
Instant = Annotated[AwareDatetime, AfterValidator(_sane)]
GroupName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Username = Annotated[str, Field(pattern=r"^[a-z0-9]{8}$")]


class Request(BaseModel):
    """Requests take no field that they do not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NewProject(Request):
    """A project to create; the rules of its name stand in the domain."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    description: Text = ""
    purpose: Purpose = ""
    legal_basis: Purpose = ""
    ethics_approval_id: ApprovalId = ""
    ends_at: Instant | None = None


class ProjectChange(Request):
    """What can be changed of a project; an absent field stays, ``ends_at`` null takes the end away."""

    description: Text = ""
    purpose: Purpose = ""
    legal_basis: Purpose = ""
    ethics_approval_id: ApprovalId = ""
    ends_at: Instant | None = None


class Restoration(Request):
    """How a project goes on; ``ends_at`` null takes the end away."""

    ends_at: Instant | None = None


class NewMember(Request):
    """Somebody to add or invite; without ``starts_at`` from now, without ``ends_at`` for good. Who is to begin later is invited."""

    username: Username
    role: Role
    purpose: Purpose = ""
    starts_at: Instant | None = None
    ends_at: Instant | None = None


class MemberChange(Request):
    """What can be changed of a membership; an absent field stays, ``ends_at`` null takes the end away."""

    role: Role | None = None
    purpose: Purpose | None = None
    ends_at: Instant | None = None


class NewGroupRole(Request):
    """What everybody in a group is to be, from now on; without ``ends_at`` for good."""

    group: GroupName
    role: Role
    purpose: Purpose = ""
    ends_at: Instant | None = None


class DeletionRequest(Request):
    """What is typed to delete a project for good: its name."""

    name: Annotated[str, Field(max_length=100)]


class DeletionView(BaseModel):
    """How far a deletion is: which services have closed and purged the project, and for whose answer it waits."""

    asked_by: UUID
    asked_at: datetime
    purging_at: datetime | None
    closed: list[str]
    purged: list[str]
    awaited: list[str]


class ErasureView(BaseModel):
    """A certificate of erasure: ``sha256`` (hex) is that of ``document`` in UTF-8, and stands in the ledger (``project.erase``)."""

    model_config = ConfigDict(from_attributes=True)

    project_id: UUID
    asked_by: UUID
    asked_at: datetime
    erased_at: datetime
    sha256: str
    document: str


class ListedErasureView(BaseModel):
    """A project's deletion: its certificate of erasure once ``state`` is ``deleted``, and before that for whose answer it waits."""

    project_id: UUID
    asked_by: UUID
    asked_at: datetime
    state: str
    awaited: list[str]
    erased_at: datetime | None
    sha256: str | None
    document: str | None


class BreakGlassCounts(BaseModel):
    """How many break-glass in a project are open now, and how many are over, or were appointments, and wait for the caller's review."""

    open: int
    to_review: int


class ProjectView(BaseModel):
    """A project as one of its members sees it; ``role`` is the caller's. ``deletion`` is told of one project alone, not in lists.

    ``break_glass`` is told to whoever may list the break-glass in this one; ``version`` does not count it.
    """

    model_config = ConfigDict(from_attributes=True)

    project_id: UUID
    name: str
    description: str
    purpose: str
    legal_basis: str
    ethics_approval_id: str
    ends_at: datetime | None
    state: str
    role: Role
    version: int
    created_at: datetime
    deletion: DeletionView | None = None
    break_glass: BreakGlassCounts | None = None


class MemberView(BaseModel):
    """A membership; ``starts_at`` may lie ahead. ``by_group``: the group that it comes by, if it was not given to the person.

    ``break_glass_id``: an administrator opened it in an emergency.
    """

    model_config = ConfigDict(from_attributes=True)

    project_id: UUID
    user_id: UUID
    username: str
    role: Role
    purpose: str
    starts_at: datetime
    ends_at: datetime | None
    version: int
    by_group: str | None
    break_glass_id: UUID | None


class GroupRoleView(BaseModel):
    """A group's role in a project."""

    model_config = ConfigDict(from_attributes=True)

    group_role_id: UUID
    project_id: UUID
    group: Annotated[str, Field(validation_alias="group_name")]
    role: Role
    purpose: str
    ends_at: datetime | None
    created_at: datetime
