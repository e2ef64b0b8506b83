"""API keys."""

from collections.abc import Collection
from datetime import datetime
from uuid import UUID

from chassis import deletion
from chassis.deletion import Slice
from chassis.errors import NotFound
from chassis.keys import new_key, read_key
from chassis.outbox import UnitOfWork
from contracts import events
from services.auth import domain, repository
from services.auth.domain.letters import Kind
from services.auth.models import ApiKey
from services.auth.service import callers, letters
from services.auth.service.tools import Tools

BATCH = 200


async def make_key(
    uow: UnitOfWork, tools: Tools, name: str, scopes: Collection[str], project_id: UUID | None, expires_at: datetime
) -> tuple[ApiKey, str]:
    """A new key of the caller's, and its text, which is shown this once; the person is told by letter.

    One at a time for each person. Keys that have expired end on the way. Raises the domain's, and as ``callers.current``.
    """
    meant = domain.keys.open_scopes(scopes, project_id, uow.actor.projects)
    if project_id is not None and await deletion.is_closing(uow.session, project_id):
        raise domain.keys.ProjectIsBeingDeleted
    user, _ = await callers.current(uow, tools)
    now = await repository.clock(uow.session)
    others = await repository.keys.open_keys(uow.session, user.user_id)
    expired = [key for key in others if key.expires_at <= now]
    _end(uow, expired, now)
    await uow.session.flush()
    key_id = uow.new_id()
    text = new_key(key_id)
    shown = read_key(text)
    if shown is None:
        raise RuntimeError("a new key cannot be read")
    living = [key for key in others if key.ended_at is None]
    key = domain.keys.make_key(key_id, user, name, shown.secret_sha256, meant, project_id, expires_at, living, now)
    uow.session.add(key)
    uow.emit(domain.keys.key_fact(key))
    uow.note(key_id=key_id, user_id=user.user_id, scopes=" ".join(meant), expires_at=expires_at.isoformat())
    uow.conceal()
    await letters.write(uow, tools, user.user_id, user.email, Kind.KEY_MADE, name=name, expires=f"{expires_at:%Y-%m-%d %H:%M} UTC")
    return key, text


async def list_keys(uow: UnitOfWork, after: UUID | None, limit: int) -> list[ApiKey]:
    """The caller's keys that still count."""
    return await repository.keys.live_keys(uow.session, callers.caller(uow), uow.now, after, limit)


async def list_keys_of(uow: UnitOfWork, user_id: UUID, after: UUID | None, limit: int) -> list[ApiKey]:
    """A person's keys that still count. Raises NotFound."""
    if await repository.accounts.user(uow.session, user_id) is None:
        raise NotFound
    return await repository.keys.live_keys(uow.session, user_id, uow.now, after, limit)


async def end_key(uow: UnitOfWork, key_id: UUID) -> None:
    """End one of the caller's keys. Raises NotFound."""
    caller = callers.caller(uow)
    key = domain.keys.own_key(await repository.keys.key_of(uow.session, caller, key_id), caller)
    if _end(uow, [key], uow.now):
        uow.note(key_id=key_id)


async def end_keys_of(uow: UnitOfWork, user_id: UUID) -> None:
    """End all keys of a person. Raises NotFound."""
    if await repository.accounts.user(uow.session, user_id, lock=True) is None:
        raise NotFound
    uow.note(user_id=user_id, keys=await end_all(uow, user_id))


async def end_all(uow: UnitOfWork, user_id: UUID) -> int:
    """End and tell every key of a person that is open; how many there were."""
    return _end(uow, await repository.keys.open_keys(uow.session, user_id), uow.now)


async def end_expired(uow: UnitOfWork) -> bool:
    """End keys that expired, so that nobody has to remember them; whether there may be more. They stopped counting by the clock."""
    expired = await repository.keys.expired_keys(uow.session, uow.now, BATCH)
    if _end(uow, expired, uow.now):
        uow.note(keys=len(expired))
    return len(expired) == BATCH


async def erase_ended(uow: UnitOfWork) -> bool:
    """Delete keys a day after they ended, and take them off their topic; whether there may be more."""
    gone = await repository.keys.keys_ended_before(uow.session, uow.now - domain.keys.KEEP_ENDED, BATCH)
    for key in gone:
        uow.erase(domain.keys.key_fact(key))
    if gone:
        await repository.keys.remove_keys(uow.session, gone)
        uow.note(keys=len(gone))
    return len(gone) == BATCH


async def follow_project(uow: UnitOfWork, project: events.Project) -> None:
    """The keys that are bound to a project end when it is deleted."""
    await deletion.follow(uow, project, _close)


async def _close(uow: UnitOfWork, project_id: UUID) -> None:
    _end(uow, await repository.keys.open_keys_of_project(uow.session, project_id), uow.now)


async def purge(uow: UnitOfWork, project_id: UUID) -> Slice:
    """Delete some of the keys of a deleted project; they ended when it was closed."""
    keys = await repository.keys.keys_of_project(uow.session, project_id, BATCH)
    _end(uow, keys, uow.now)
    await uow.session.flush()
    await deletion.erase_later(uow, [domain.keys.key_fact(key) for key in keys])
    await repository.keys.remove_keys(uow.session, keys)
    return Slice({"api_keys": len(keys)} if keys else {}, more=len(keys) == BATCH)


def _end(uow: UnitOfWork, keys: Collection[ApiKey], now: datetime) -> int:
    ended = [key for key in keys if domain.keys.end_key(key, now)]
    for key in ended:
        uow.emit(domain.keys.key_fact(key))
    return len(ended)
