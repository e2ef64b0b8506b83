"""The rules of API keys."""

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from uuid import UUID

from chassis.errors import Conflict, NotFound, Unprocessable
from contracts import events, policy
from contracts.roles import Role
from services.auth.models import ApiKey, User

LONGEST_LIFE = timedelta(days=365)
MOST_KEYS = 50
ANY_VERB = ".*"
KEEP_ENDED = timedelta(hours=24)


class ScopesNotOpen(Unprocessable):
    """Something was asked for that no API key can be given."""

    title = "An API key cannot be given all of these scopes"


class ProjectNotYours(Unprocessable):
    """A key for a project that the caller is no member of, or that does not exist: the answer is the same."""

    title = "An API key can only be bound to a project of yours"


class ProjectIsBeingDeleted(Conflict):
    """A project that ends gets no keys any more."""

    title = "The project is being deleted"


class BadExpiry(Unprocessable):
    """A key ends at some time, and within a year."""

    title = "An API key expires in the future, and within 365 days"


class KeyNameTaken(Conflict):
    """The name tells one key from the other."""

    title = "You have a live API key of this name"


class TooManyKeys(Conflict):
    """More keys than anybody keeps an eye on."""

    title = f"You have {MOST_KEYS} live API keys; end one first"


def open_scopes(wanted: Collection[str], project_id: UUID | None, projects: Mapping[UUID, Role]) -> list[str]:
    """Condition.SCOPES_ARE_OPEN: the actions that ``wanted`` means, of those that a key can be given at all.

    ``noun.*`` means what can be given of a noun now, not what comes later. The person's own rights are not looked at here: they are
    decided at each use, and change. Raises ScopesNotOpen, ProjectNotYours.
    """
    possible = policy.scopes()
    meant = {scope: _actions(scope, possible) for scope in wanted}
    unknown = sorted(scope for scope, actions in meant.items() if not actions)
    if unknown or not meant:
        told = f"These are unknown or not open to keys: {', '.join(unknown)}." if unknown else "A key is for something."
        raise ScopesNotOpen(told, members={"unknown": unknown, "possible": sorted(possible)})
    if project_id is not None and project_id not in projects:
        raise ProjectNotYours
    return sorted(set[str]().union(*meant.values()))


def _actions(scope: str, possible: Collection[str]) -> set[str]:
    if scope.endswith(ANY_VERB):
        return {action for action in possible if action.startswith(scope.removesuffix("*"))}
    return {scope} & set(possible)


def make_key(
    key_id: UUID,
    user: User,
    name: str,
    secret_sha256: str,
    scopes: list[str],
    project_id: UUID | None,
    expires_at: datetime,
    others: Collection[ApiKey],
    now: datetime,
) -> ApiKey:
    """A new key beside the person's ``others`` that live. Raises BadExpiry, KeyNameTaken, TooManyKeys."""
    if not now < expires_at <= now + LONGEST_LIFE:
        raise BadExpiry
    if any(other.name == name for other in others):
        raise KeyNameTaken
    if len(others) >= MOST_KEYS:
        raise TooManyKeys
    return ApiKey(
        key_id=key_id,
        user_id=user.user_id,
        name=name,
        secret_hash=bytes.fromhex(secret_sha256),
        scopes=scopes,
        project_id=project_id,
        created_at=now,
        expires_at=expires_at,
        version=1,
    )


def own_key(key: ApiKey | None, user_id: UUID) -> ApiKey:
    """Condition.KEY_IS_OWN: a key of the caller's; another's does not exist. Raises NotFound."""
    if key is None or key.user_id != user_id:
        raise NotFound
    return key


def end_key(key: ApiKey, now: datetime) -> bool:
    """End a key; whether it was open until now."""
    if key.ended_at is not None:
        return False
    key.ended_at = now
    key.version += 1
    return True


def key_fact(key: ApiKey) -> events.ApiKey:
    """What a key is now, for those who check it: the hash of its secret, never its name."""
    return events.ApiKey(
        version=key.version,
        key_id=key.key_id,
        user_id=key.user_id,
        secret_sha256=key.secret_hash.hex(),
        scopes=frozenset(key.scopes),
        project_id=key.project_id,
        expires_at=key.expires_at,
        live=key.ended_at is None,
    )
