"""Passkeys: challenges, registration, removal, and what is shown with one."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from chassis.outbox import UnitOfWork
from services.auth import domain, repository, vault
from services.auth.domain.letters import Kind
from services.auth.domain.passkeys import Assertion
from services.auth.models import Passkey, User
from services.auth.service import letters
from services.auth.service.tools import Tools

SIGN_IN = "passkey:sign-in"
TIME_BYTES = 8


@dataclass(frozen=True)
class ShownPasskey:
    """A passkey's answer to a challenge: the sealed challenge as it was given out, and the credential as the browser gave it."""

    challenge: str
    credential: dict[str, Any]


@dataclass(frozen=True)
class Challenge:
    """A challenge, sealed, and what the browser is asked for."""

    challenge: str
    options: dict[str, Any]


async def challenge(uow: UnitOfWork, tools: Tools) -> Challenge:
    """A challenge for whoever wants to sign in or to show their second factor again."""
    random = vault.random_bytes(domain.passkeys.CHALLENGE_BYTES)
    return Challenge(_sealed(tools, SIGN_IN, random, uow.now), domain.passkeys.request_options(random, _site(tools)))


async def options(uow: UnitOfWork, tools: Tools, user: User) -> Challenge:
    """A challenge for a new passkey of somebody."""
    random = vault.random_bytes(domain.passkeys.CHALLENGE_BYTES)
    known = await repository.passkeys.passkeys(uow.session, user.user_id)
    domain.passkeys.demand_room(len(known))
    asked = domain.passkeys.creation_options(user, known, random, _site(tools))
    return Challenge(_sealed(tools, await _register(uow, user), random, uow.now), asked)


async def add(uow: UnitOfWork, tools: Tools, user: User, shown: ShownPasskey, name: str) -> Passkey:
    """A new passkey of somebody; the account is locked. Raises WrongPasskey, PasskeyTaken, TooManyPasskeys."""
    now = await repository.clock(uow.session)
    opened = _opened(tools, await _register(uow, user), shown.challenge, now)
    if opened is None:
        raise domain.passkeys.WrongPasskey
    made = domain.passkeys.register(uow.new_id(), user, name, shown.credential, opened.random, _site(tools), now)
    domain.passkeys.demand_room(len(await repository.passkeys.passkeys(uow.session, user.user_id)))
    if await repository.passkeys.passkey(uow.session, made.credential_id) is not None:
        raise domain.passkeys.PasskeyTaken
    if not await _spend(uow, opened):
        raise domain.passkeys.WrongPasskey
    uow.session.add(made)
    user.factor_enrolled_at = user.factor_enrolled_at or now
    return made


async def owner(tools: Tools, shown: ShownPasskey) -> User | None:
    """Whose passkey it is, by what the credential says of itself: nothing of it is checked yet."""
    credential_id = domain.passkeys.credential_id(shown.credential) or b""
    async with repository.reading(tools.engine) as session:
        return await repository.passkeys.owner(session, credential_id)


async def is_right(session: repository.Reading, tools: Tools, user: User | None, shown: ShownPasskey, now: datetime) -> bool:
    """Whether an answer is right, new, and this person's, in a look ahead of slow work: nothing is used up.

    Its count is left to ``check``: a copied passkey has to come to where it is recorded and told.
    """
    opened, known, signed = await _read(session, tools, shown, now)
    if opened is None or await repository.spent.is_spent(session, opened.digest):
        return False
    return user is not None and known is not None and signed is not None and domain.passkeys.belongs(known, signed, user)


async def check(uow: UnitOfWork, tools: Tools, user: User | None, shown: ShownPasskey, now: datetime, *, use: bool) -> bool:
    """Whether an answer is right, new, and this person's; with ``use`` the challenge is used up.

    A count that went backwards is refused like anything else, recorded, and told to the person.
    """
    opened, known, signed = await _read(uow.session, tools, shown, now, lock=True)
    if user is None or opened is None or known is None or signed is None or not use:
        return False
    if not domain.passkeys.belongs(known, signed, user) or not await _spend(uow, opened):
        return False
    if not domain.passkeys.use(known, signed, now):
        uow.action = "passkey.find_copied"
        uow.note(user_id=user.user_id, passkey_id=known.passkey_id)
        await letters.write(uow, tools, user.user_id, user.email, Kind.PASSKEY_COPIED, name=known.name)
        return False
    uow.note(passkey_id=known.passkey_id)
    return True


@dataclass(frozen=True)
class _Opened:
    random: bytes
    made_at: datetime

    @property
    def digest(self) -> bytes:
        """What is remembered of a challenge that was used: its random part, since the sealed form can be written in more than one way."""
        return hashlib.sha256(self.random).digest()


async def _read(
    session: repository.Reading, tools: Tools, shown: ShownPasskey, now: datetime, *, lock: bool = False
) -> tuple[_Opened | None, Passkey | None, Assertion | None]:
    """The challenge, the passkey and what its authenticator signed, each where it is right; the work is the same where it is not."""
    opened = _opened(tools, SIGN_IN, shown.challenge, now)
    known = await repository.passkeys.passkey(session, domain.passkeys.credential_id(shown.credential) or b"", lock=lock)
    return opened, known, domain.passkeys.assertion(shown.credential, known, opened.random if opened else b"", _site(tools))


def _site(tools: Tools) -> domain.passkeys.Site:
    return domain.passkeys.site(tools.settings.origins)


async def _register(uow: UnitOfWork, user: User) -> str:
    """What a challenge for a new passkey is for; none outlives the password that it was given out beside."""
    credential = await repository.factors.credential(uow.session, user.user_id)
    return f"passkey:register:{user.user_id}:{credential.password_at if credential else None}"


def _sealed(tools: Tools, purpose: str, random: bytes, now: datetime) -> str:
    milliseconds = int(now.timestamp() * 1000)
    return tools.vault.carry(purpose, milliseconds.to_bytes(TIME_BYTES, "big") + random)


def _opened(tools: Tools, purpose: str, sealed: str, now: datetime) -> _Opened | None:
    """The challenge that was sealed for this purpose less than 5 minutes ago, or None."""
    content = tools.vault.carried(purpose, sealed)
    if content is None:
        return None
    made_at = datetime.fromtimestamp(int.from_bytes(content[:TIME_BYTES], "big") / 1000, UTC)
    return _Opened(content[TIME_BYTES:], made_at) if domain.passkeys.is_current(made_at, now) else None


async def _spend(uow: UnitOfWork, opened: _Opened) -> bool:
    """Use a challenge up; whether this was the first time."""
    return await repository.spent.spend(uow.session, opened.digest, opened.made_at + domain.passkeys.CHALLENGE_LIFE)
