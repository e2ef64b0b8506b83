"""Groups: who is in them, and what that makes of people."""

from collections.abc import Collection

from chassis.outbox import UnitOfWork
from services.auth import domain, repository
from services.auth.models import User


async def set_from_directory(uow: UnitOfWork, user: User, external: Collection[str]) -> None:
    """Let somebody be in the groups that a directory or an identity provider names, and in no other by its word; the account is locked."""
    named = domain.groups.named_by(await repository.groups.groups(uow.session), external)
    await repository.groups.set_by_directory(uow.session, user.user_id, {group.group_id for group in named})
    if domain.groups.belong(user, await repository.groups.groups_of(uow.session, user.user_id)):
        uow.emit(domain.accounts.user_fact(user))
