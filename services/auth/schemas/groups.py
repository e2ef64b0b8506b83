"""Request and answer shapes of groups."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from contracts.roles import ClusterRole
from services.auth.schemas.fields import Request

MOST_NAMES = 100
LONGEST_NAME = 1024


def _shown(value: str) -> str:
    if not value.isprintable() or value != value.strip():
        raise ValueError("contains a character that cannot be shown, or begins or ends with a space")
    return value


Policy = Literal["optional", "required", "passkey"]
GroupName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
External = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME), AfterValidator(_shown)]
Externals = Annotated[frozenset[External], Field(max_length=MOST_NAMES)]


class NewGroup(Request):
    """A group to make; ``external`` are its names in directories: DNs, or values of an identity provider's claim as ``provider:value``."""

    name: GroupName
    factor_policy: Policy | None = None
    cluster_roles: frozenset[ClusterRole] = frozenset()
    external: Externals = frozenset()


class GroupChange(Request):
    """What is changed of a group; an absent field stays, ``factor_policy`` null takes its say away. A name is for ever."""

    factor_policy: Policy | None = None
    cluster_roles: frozenset[ClusterRole] = frozenset()
    external: Externals = frozenset()


class GroupView(BaseModel):
    """A group."""

    model_config = ConfigDict(from_attributes=True)

    group_id: UUID
    name: str
    factor_policy: Policy | None
    cluster_roles: list[ClusterRole]
    external: list[str]
    version: int
    created_at: datetime


class GroupMemberView(BaseModel):
    """Somebody in a group, and who put them there."""

    model_config = ConfigDict(from_attributes=True)

    user_id: UUID
    username: str
    by_hand: bool
    by_directory: bool
