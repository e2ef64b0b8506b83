"""The keys that sign access tokens."""

from datetime import timedelta

from chassis.errors import NotFound
from chassis.outbox import UnitOfWork
from services.auth import domain, repository
from services.auth.models import SigningKey
from services.auth.repository.signing import Signs
from services.auth.service.tools import Tools
from services.auth.vault import Vault


async def signing_key(uow: UnitOfWork, safe: Vault) -> Signs:
    """The key that signs access tokens; the first call ever makes it and says so."""
    key = await repository.signing.signing_key(uow.session)
    if key is None:
        await repository.accounts.lock_set_up(uow.session)
        key = await repository.signing.signing_key(uow.session)
    if key is None:
        made = await _succeed(uow, safe)
        key = Signs(made.key_id, made.sealed)
    return key


async def rotate(uow: UnitOfWork, tools: Tools) -> SigningKey:
    """Another key, known everywhere at once, which signs in a minute. Raises NextKeyWaits."""
    await repository.accounts.lock_set_up(uow.session)
    return await _succeed(uow, tools.vault)


async def withdraw(uow: UnitOfWork, tools: Tools, key_id: str) -> None:
    """A key that does not sign, and all its tokens, count no more. Raises NotFound, SigningKeySigns."""
    await repository.accounts.lock_set_up(uow.session)
    keys = await repository.signing.live_keys(uow.session)
    key = next((each for each in keys if each.key_id == key_id), None) or await repository.signing.key(uow.session, key_id)
    if key is None:
        raise NotFound
    if domain.signing.withdraw(key, keys, await repository.clock(uow.session)):
        _tell(uow, key)
        tools.vault.forget_signing_keys_but({each.key_id for each in keys if each.live})


async def tend(uow: UnitOfWork, tools: Tools) -> None:
    """Rotate when it is time, withdraw what has outlived its tokens, and forget private keys that do not count any more."""
    await repository.accounts.lock_set_up(uow.session)
    keys = await repository.signing.live_keys(uow.session)
    now = await repository.clock(uow.session)
    for key in domain.signing.outlived(keys, timedelta(seconds=tools.settings.token_s), now):
        if domain.signing.withdraw(key, keys, now):
            _tell(uow, key)
    if domain.signing.is_due(keys, timedelta(days=tools.settings.signing_key_days), now):
        await _succeed(uow, tools.vault)
    tools.vault.forget_signing_keys_but({key.key_id for key in keys if key.live})


async def list_keys(uow: UnitOfWork, after: str, limit: int) -> tuple[list[SigningKey], str | None]:
    """All keys, and the id of the one that signs."""
    signing = await repository.signing.signing_key(uow.session)
    return await repository.signing.keys(uow.session, after, limit), signing.key_id if signing else None


async def _succeed(uow: UnitOfWork, safe: Vault) -> SigningKey:
    """Make the next key, under the lock of set-up."""
    keys = await repository.signing.live_keys(uow.session)
    key_id = str(uow.new_id())
    sealed, jwk = safe.new_signing_key(key_id)
    key = domain.signing.succeed(keys, key_id, sealed, jwk, await repository.clock(uow.session))
    uow.session.add(key)
    _tell(uow, key)
    return key


def _tell(uow: UnitOfWork, key: SigningKey) -> None:
    uow.emit(domain.signing.key_fact(key))
