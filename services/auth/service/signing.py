"""The keys that sign access tokens."""

from chassis.outbox import UnitOfWork
from services.auth import domain, repository
from services.auth.models import SigningKey
from services.auth.vault import Vault


async def signing_key(uow: UnitOfWork, safe: Vault) -> SigningKey:
    """The key that signs access tokens; the first call ever makes it and says so."""
    key = await repository.signing.signing_key(uow.session)
    if key is None:
        await repository.accounts.lock_set_up(uow.session)
        key = await repository.signing.signing_key(uow.session)
    if key is None:
        key_id = str(uow.new_id())
        sealed, jwk = safe.new_signing_key(key_id)
        key = SigningKey(key_id=key_id, sealed=sealed, jwk=jwk, live=True, version=1, created_at=uow.now, signs_from=uow.now)
        uow.session.add(key)
        uow.emit(domain.signing.key_fact(key))
    return key
