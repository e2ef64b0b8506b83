"""Who can act in Hortus: roles of people, kinds of principal, and the actor that a decision is made about."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field


class Role(StrEnum):
    """What a person is in one project. Data Owners decide, Data Scientists process."""

    DATA_OWNER = "data_owner"
    DATA_SCIENTIST = "data_scientist"


def counts(role: str | None, starts_at: datetime, ends_at: datetime | None, now: datetime) -> bool:
    """Whether a membership gives its role at ``now``: from its beginning on, and no longer at its end."""
    return role is not None and starts_at <= now and (ends_at is None or now < ends_at)


class ClusterRole(StrEnum):
    """What a person is for the whole installation; it opens no project."""

    ADMINISTRATOR = "administrator"
    AUDITOR = "auditor"


class Principal(StrEnum):
    """What kind of party shows a credential."""

    NOBODY = "nobody"
    PERSON = "person"
    AGENT = "agent"
    JOB = "job"
    SERVICE = "service"


class Actor(BaseModel):
    """The party a request is decided about, as the gateway knows it from fresh authority topics.

    ``project_id`` and ``role`` speak of the project named in the request's path (``role`` is None for someone who is
    no member of it). ``projects`` is filled only for requests whose path names no project. ``versions`` are the
    positions of the facts that the decision rests on, by ``topic:key``. ``key_id`` and ``scopes`` are there when an API key
    was shown: only the actions in ``scopes`` are open to it. ``factor_fresh``: the second factor of the session was shown
    less than 5 minutes ago. ``service`` names the service, or the gateway, that came itself and not for somebody.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    principal: Principal = Principal.NOBODY
    user_id: UUID | None = None
    username: str | None = None
    session_id: UUID | None = None
    certificate_id: str | None = None
    key_id: UUID | None = None
    scopes: frozenset[str] | None = None
    cluster_roles: frozenset[ClusterRole] = frozenset()
    project_id: UUID | None = None
    role: Role | None = None
    purpose: str | None = None
    projects: dict[UUID, Role] = Field(default_factory=dict)
    agent_id: UUID | None = None
    run_id: UUID | None = None
    fencing_token: int | None = None
    service: str | None = None
    factor_at: datetime | None = None
    factor_fresh: bool = False
    versions: dict[str, int] = Field(default_factory=dict)


NOBODY = Actor()
