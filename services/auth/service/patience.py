"""Patience after failed tries, for everything that somebody could guess at.

``look`` before slow work, ``take`` under lock afterwards, then ``refused`` or ``succeeded``:

    watched = await patience.look(tools, patience.sign_in(tools, about, name, user, now))
    …
    turn = await patience.take(uow, watched)
    … return await turn.refused(problem, user) … or … await turn.succeeded()
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar
from uuid import UUID

from chassis.errors import Problem
from chassis.outbox import UnitOfWork, unit_of_work
from contracts.policy import Action, Service
from services.auth import domain, repository, vault
from services.auth.domain.patience import Bucket
from services.auth.models import Attempts, Link, User
from services.auth.service import devices
from services.auth.service.tools import About, Tools
from services.auth.settings import DirectorySettings

Watched = dict[bytes, Bucket]
Refusal = TypeVar("Refusal", bound=Problem)
REFUSED = "session.refuse"
TRIES = frozenset({Action.SESSION_CREATE, Action.SESSION_STEP_UP, Action.OIDC_CALLBACK})


@dataclass(frozen=True)
class Turn:
    """A try whose counts are locked; ``now`` is the database's clock after waiting for the locks."""

    uow: UnitOfWork
    counts: tuple[tuple[Bucket, Attempts], ...]
    now: datetime

    async def failed(self) -> None:
        """Count a failure. The transaction has to commit, so a refusal is returned, not raised."""
        domain.patience.fail_together(self.counts, self.now)
        await repository.patience.keep_attempts(self.uow.session, [attempts for _, attempts in self.counts])

    async def refused(self, problem: Refusal, user: User | None = None) -> Refusal:
        """Count a failure and record whose account was tried; the refusal is to be returned, not raised.

        What was typed as a name is never recorded: it may be a password. Where it is nobody's a record is written as well, so that the
        work is the same. ``user``: whose account it is, where the record does not say so yet.
        """
        await self.failed()
        return self.record(problem, user)

    def record(self, problem: Refusal, user: User | None) -> Refusal:
        """Record a refusal, without counting anything; the rest as in ``refused``."""
        if self.uow.action in TRIES:
            self.uow.action = REFUSED
        if user is not None:
            self.uow.note(user_id=user.user_id)
        elif "user_id" not in self.uow.resource:
            self.uow.note(account="unknown")
        self.uow.refuse(problem)
        return problem

    @property
    def guessed_at(self) -> bool:
        """Whether one code of an authenticator is not enough."""
        return any(domain.patience.is_guessed_at(bucket, attempts, self.now) for bucket, attempts in self.counts)

    async def succeeded(self) -> None:
        """Forget the failures that a success may forget."""
        gone = [attempts.name for bucket, attempts in self.counts if bucket.resets and attempts.failures]
        if gone:
            await repository.patience.drop_attempts(self.uow.session, gone)


def sign_in(tools: Tools, about: About, name: str | None, user: User | None, now: datetime) -> tuple[Bucket, ...]:
    """Where a sign-in counts: ``name`` as it was typed, in its normal form (none for a passkey alone), ``user`` whom it names, if any."""
    return domain.patience.for_sign_in(name, about.source, _device(tools, about, user, now, name))


def with_guesses(tools: Tools, watched: Watched, name: str, whose: UUID | None, *, at_directory: bool) -> Watched:
    """Where a sign-in counts once its password was looked at, as ``domain.patience.guessing`` says; on a known device only to be told of."""
    bucket = domain.patience.guessing(name, whose, at_directory=at_directory)
    counted = repository.patience.of_account(whose) if whose else tools.vault.blind(bucket.name)
    told = {repository.patience.to_tell(counted): domain.patience.telling(name, whose, at_directory=at_directory)}
    on_device = not any(each.slots_of for each in watched.values())
    return watched | told if on_device else watched | told | {counted: bucket}


async def is_first_code(uow: UnitOfWork, about: About, user: User, now: datetime) -> bool:
    """Whether a right code, shown beside the right password, is the first one from this address in five minutes; the next one is not."""
    here = vault.token_hash(f"code of {user.user_id} {domain.patience.source_prefix(about.source)}")
    return await repository.spent.spend(uow.session, here, now + domain.patience.ANOTHER_CODE_WITHIN)


def vouched_for(tools: Tools, about: About, user: User | None, now: datetime) -> tuple[Bucket, ...]:
    """Where the second factor counts of ``user``, whom a provider vouched for a moment ago; of nobody, as a sign-in without a name."""
    if user is None:
        return sign_in(tools, about, None, None, now)
    return domain.patience.beside(f"pending {user.user_id}", _device(tools, about, user, now))


def with_link(tools: Tools, about: About, link: Link, user: User, now: datetime) -> tuple[Bucket, ...]:
    """Where the first factor of somebody counts who has a one-time link."""
    return domain.patience.beside(f"link {link.token_hash.hex()}", _device(tools, about, user, now))


def _device(tools: Tools, about: About, user: User | None, now: datetime, name: str | None = None) -> str | None:
    known = devices.device(tools.vault, about.device, now)
    if known is None:
        return None
    theirs = known.user_id == user.user_id if user is not None else name is not None and known.login == tools.vault.blind(name)
    return known.nonce if theirs else None


async def sign_in_of(session: repository.Reading, user_id: UUID, session_id: UUID) -> str:
    """What counts as one session, also once it was handed over; one that is not theirs is refused later."""
    signed_in_at = await repository.sessions.signed_in_at(session, user_id, session_id)
    return domain.sessions.sign_in_of(user_id, signed_in_at) if signed_in_at is not None else str(session_id)


def in_session(sign_in: str) -> tuple[Bucket, ...]:
    """Where a step-up, or a change of the password, counts."""
    return domain.patience.in_session(sign_in)


def wishing(about: About) -> tuple[Bucket, ...]:
    """Where wishes count that anybody can make."""
    return domain.patience.wishing(about.source)


async def look(tools: Tools, buckets: tuple[Bucket, ...]) -> Watched:
    """Refuse at once, before slow work, who has to wait. Raises SlowDown."""
    async with repository.reading(tools.engine) as session:
        return await look_in(session, tools, buckets)


async def look_in(session: repository.Reading, tools: Tools, buckets: tuple[Bucket, ...]) -> Watched:
    """The same in a look that is already open."""
    watched = {tools.vault.blind(bucket.name): bucket for bucket in buckets}
    waiting = [name for name, bucket in watched.items() if bucket.waits]
    domain.patience.demand_until(*await repository.patience.next_try(session, waiting))
    return watched


async def take(uow: UnitOfWork, watched: Watched) -> Turn:
    """Lock the counts, across all replicas, before anything else is locked. Raises SlowDown."""
    return take_held(uow, watched, *await repository.patience.lock_attempts(uow.session, watched))


def take_held(uow: UnitOfWork, watched: Watched, attempts: Mapping[bytes, Attempts], now: datetime) -> Turn:
    """The same of counts that were locked, and read at ``now``, with something else. Raises SlowDown."""
    domain.patience.demand((attempts[name] for name, bucket in watched.items() if bucket.waits), now)
    return Turn(uow, tuple((bucket, attempts[name]) for name, bucket in watched.items()), now)


async def before_bind(tools: Tools, bucket: Bucket, settings: DirectorySettings) -> bool:
    """Whether a bind may be tried. It is counted as a failure, and committed, before it is: many at once are no way around."""
    name = tools.vault.blind(bucket.name)
    async with unit_of_work(tools.engine, Service.AUTH.value, "directory.bind") as uow:
        attempts, now = await repository.patience.lock_attempts(uow.session, [name])
        may = domain.patience.may_bind(attempts[name], bucket.free, timedelta(minutes=settings.in_minutes), now)
        await repository.patience.keep_attempts(uow.session, [attempts[name]])
        return may


async def forget_binds(tools: Tools, bucket: Bucket) -> None:
    """The bind was right: what was counted before is forgotten, as the directory does."""
    name = tools.vault.blind(bucket.name)
    async with unit_of_work(tools.engine, Service.AUTH.value, "directory.bind") as uow:
        await repository.patience.lock_attempts(uow.session, [name])
        await repository.patience.drop_attempts(uow.session, [name])


async def forget(uow: UnitOfWork) -> None:
    """Forget failures after a time of quiet."""
    await repository.patience.forget_attempts(uow.session, domain.patience.LONGEST_KEPT)
