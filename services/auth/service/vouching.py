"""The end of what people have by the word of a directory or an identity provider that no longer vouches for them."""

from datetime import datetime
from uuid import UUID

from chassis.outbox import unit_of_work
from contracts.policy import Service
from services.auth import domain, repository
from services.auth.domain.letters import Kind
from services.auth.models import User
from services.auth.service import groups, keys, letters, sessions
from services.auth.service.tools import Tools


async def end_doubtful(tools: Tools) -> None:
    """End what people have by the word of who has not vouched for them for too long; they are told by letter.

    The last administrator's role stays, as ever. Whom a directory shows again, and who comes back by the provider, has their groups
    again, and makes new keys.
    """
    async with repository.reading(tools.engine) as session:
        now = await repository.clock(session)
        people = await repository.directory.with_something(session)
    for user in people:
        if _is_in_doubt(tools, user, now):
            await _end(tools, user.user_id)


def _is_in_doubt(tools: Tools, user: User, now: datetime) -> bool:
    if user.source != domain.directory.SOURCE:
        asked = tools.providers.get(user.provider or "")
        return domain.oidc.is_in_doubt(user, asked.config if asked else None, now)
    directory = tools.directory
    if directory is not None and not directory.asked:
        return False  # who was off for long asks first
    settings = directory.settings if directory is not None and directory.settings.name == user.provider else None
    return domain.directory.is_in_doubt(user, settings, now)


async def _end(tools: Tools, user_id: UUID) -> None:
    async with unit_of_work(tools.engine, Service.AUTH.value, "account.end_doubtful") as uow:
        user = await groups.lock_one(uow, user_id)
        if user is None or not _is_in_doubt(tools, user, uow.now):
            return
        before = user.version, user.gone_at
        await groups.set_from_directory(uow, user, ())
        ended, closed, kind = await keys.end_all(uow, user_id), 0, Kind.NOT_VOUCHED_BY_PROVIDER
        if user.source == domain.directory.SOURCE:
            kind = Kind.NOT_VOUCHED
            domain.directory.miss(user, uow.now)
            if await repository.sessions.open_sessions(uow.session, user_id):
                closed = await sessions.end_all(uow, user_id, domain.directory.LEFT)
        if ended or closed or (user.version, user.gone_at) != before:
            uow.note(user_id=user_id, provider=user.provider, keys=ended, sessions=closed)
            told = {"username": user.username, "keys": ended, "sessions": closed}
            await letters.write(uow, tools, user_id, user.email, kind, **told)
