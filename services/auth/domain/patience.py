"""The rules of patience: waits after failed tries that grow, end, and cannot be aimed at somebody else.

Who shows a device cookie of an account is judged by that device's failures alone (after OWASP, "Slow Down Online Guessing
Attacks with Device Cookies"), and who has something else that strangers do not have by what failed beside it. Everybody else waits
for failures from their own address: of the name, and over all names. A name also has slots for tries, which all addresses share; but
only who has failed waits for the next of them. Names are those that were typed, known or not: were they accounts, a wait for somebody's
address after failures of their username would say that both are one person's.

Wrong second factors beside a right password are counted for the account, from wherever. Nobody waits for them, or the wait would say that the
password is right; but after a few one code of an authenticator is not enough: a second one has to follow it. For telling of them they are counted
once more, by the day and on known devices too, and a success forgets nothing there: it may be the guesser's.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from ipaddress import IPv6Address, IPv6Network, ip_address
from uuid import UUID

from chassis.errors import TooManyRequests
from services.auth.models import Attempts
from services.auth.settings import DirectorySettings

FREE_OF_NAME_FROM_SOURCE = 5
FREE_OF_NAME = 20
FREE_OF_SOURCE = 50
FREE_OF_DEVICE = 10
FREE_BESIDE_PROOF = 5
FREE_IN_SESSION = 10
FREE_WISHES = 10
FREE_GUESSES = 5
FREE_GUESSES_AT_DIRECTORY = 100
GUESSES_WITHIN = timedelta(days=1)
ANOTHER_CODE_WITHIN = timedelta(minutes=5)
LONGEST_WAIT_S = 60
LONGEST_TO_NEXT_SLOT = timedelta(days=1)
QUIET = timedelta(minutes=15)
LONGEST_KEPT = 2 * QUIET
SOURCE_PREFIX = 56


class SlowDown(TooManyRequests):
    """Too many failures in a row."""

    title = "Too many failed attempts; wait a moment"


@dataclass(frozen=True)
class Bucket:
    """What failures are counted for, and how many of them are free before the first wait; ``resets``: a success forgets them.

    ``slots_of``: the name of another count, which alone waits for the next slot of this one. ``within``: nobody waits for it, and its
    failures add up while none comes so long after the one before. ``tells``: they add up for so long after the first one, to be told of.
    """

    name: str
    free: int
    resets: bool
    slots_of: str | None = None
    within: timedelta | None = None
    tells: bool = False

    @property
    def waits(self) -> bool:
        """Whether who is counted here waits for it."""
        return self.slots_of is None and self.within is None


def source_prefix(source: str) -> str:
    """What counts as one source: an IPv4 address, or the /56 of an IPv6 address, a household's; everything else is one source together."""
    try:
        address = ip_address(source)
    except ValueError:
        return "nowhere"
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is None:
            return str(IPv6Network((int(address), SOURCE_PREFIX), strict=False))
        address = address.ipv4_mapped
    return f"{address}/32"


def for_sign_in(name: str | None, source: str, device: str | None) -> tuple[Bucket, ...]:
    """Where failures of a sign-in count: ``device`` is the nonce of a valid device cookie; without a name only the source counts."""
    if device is not None:
        return (_of_device(device),)
    prefix = source_prefix(source)
    of_source = Bucket(f"source {prefix}", FREE_OF_SOURCE, resets=False)
    if name is None:
        return (of_source,)
    from_here = f"name {prefix} {name}"
    return (
        Bucket(from_here, FREE_OF_NAME_FROM_SOURCE, resets=True),
        Bucket(f"name {name}", FREE_OF_NAME, resets=False, slots_of=from_here),
        of_source,
    )


def beside(proof: str, device: str | None) -> tuple[Bucket, ...]:
    """Where failures count beside a ``proof`` that strangers do not have, so that they cannot add to them; ``device`` as at a sign-in."""
    return (_of_device(device) if device is not None else Bucket(proof, FREE_BESIDE_PROOF, resets=True),)


def _of_device(device: str) -> Bucket:
    return Bucket(f"device {device}", FREE_OF_DEVICE, resets=True)


def guessing(name: str, whose: UUID | None, *, at_directory: bool) -> Bucket:
    """Where a wrong second factor counts beside the right password of ``whose``, or beside one that a directory was not asked about.

    Beside a wrong password it counts for the ``name``, where nothing adds up: so the work is the same. Strangers can add to what counts
    of a directory's people, so more are free.
    """
    if whose is None:
        return Bucket(f"guess {name}", FREE_GUESSES, resets=True, within=timedelta(0))
    return Bucket(f"guess of {whose}", FREE_GUESSES_AT_DIRECTORY if at_directory else FREE_GUESSES, resets=True, within=GUESSES_WITHIN)


def telling(name: str, whose: UUID | None, *, at_directory: bool) -> Bucket:
    """Where the same counts to be told of, on whichever device: no success forgets it."""
    return replace(guessing(name, whose, at_directory=at_directory), resets=False, tells=True)


def in_session(sign_in: str) -> tuple[Bucket, ...]:
    """Where failures of somebody who is signed in count: nobody without the session can add to them, and who hands it over keeps them."""
    return (Bucket(f"session {sign_in}", FREE_IN_SESSION, resets=True),)


def wishing(source: str) -> tuple[Bucket, ...]:
    """Where wishes count that cost nothing to make (for an account, for a new password), each as a failure would."""
    return (Bucket(f"wish {source_prefix(source)}", FREE_WISHES, resets=False),)


def for_bind(settings: DirectorySettings, whose: str, device: str | None, *, factor: bool, sign_in: str | None = None) -> Bucket:
    """Where a failed bind as somebody counts, by whichever name: ``whose`` is their id in the directory, ``device`` as at a sign-in.

    Who shows their right second factor, or what stands in for it (``factor``), has a count of their own, on a device and elsewhere: nobody
    without it can use it up. So has the session in which somebody without a second factor shows their password, by its ``sign_in``.
    """
    if sign_in is not None:
        return Bucket(f"bind {settings.name} session {sign_in}", settings.most_failed_binds, resets=True)
    at = f"bind {settings.name} factor" if factor else f"bind {settings.name}"
    if device is not None:
        return Bucket(f"{at} device {device}", FREE_OF_DEVICE, resets=True)
    return Bucket(f"{at} {whose}", settings.most_failed_binds, resets=True)


def may_bind(attempts: Attempts, most: int, window: timedelta, now: datetime) -> bool:
    """Whether one more bind may fail; it is counted as if it did.

    These counts do not leak: directories forget failures only after a time without any, which ``window`` is to be no shorter than.
    """
    if now - attempts.seen_at > window:
        attempts.failures = 0
    if attempts.failures >= most:
        return False
    attempts.failures += 1
    attempts.seen_at = now
    attempts.next_at = now + window
    return True


def demand(attempts: Iterable[Attempts], now: datetime) -> None:
    """Refuse while one of the counts has to wait. Raises SlowDown with the seconds that are left."""
    demand_until(max((each.next_at for each in attempts), default=None), now)


def demand_until(next_at: datetime | None, now: datetime) -> None:
    """Refuse before ``next_at``. Raises SlowDown with the seconds that are left."""
    left = (next_at - now).total_seconds() if next_at is not None else 0.0
    if left > 0:
        raise SlowDown(retry_after=max(1, int(left + 0.999)))


def fail_together(counts: Sequence[tuple[Bucket, Attempts]], now: datetime) -> None:
    """Count a failure in each of the counts that a try has."""
    slots = {bucket.slots_of: next_slot(attempts, bucket.free, now) for bucket, attempts in counts if bucket.slots_of is not None}
    for bucket, attempts in counts:
        if bucket.within is not None:
            (guess_to_tell if bucket.tells else guess)(attempts, bucket.within, now)
        elif bucket.waits:
            fail(attempts, bucket.free, now)
            attempts.next_at = max(attempts.next_at, slots.get(bucket.name, attempts.next_at))


def next_slot(attempts: Attempts, free: int, now: datetime) -> datetime:
    """Give away the next slot, and say when it is: there is one in each ``free``-th part of 15 min, and those of the last 15 min are kept.

    ``next_at`` is that of the last one that was given away (the generic cell rate algorithm, ITU-T I.371). Each failure takes one, so in
    any 24 h N addresses have no more than 97 * ``free`` + N tries, however they time them: those with a slot by then, and one more each.
    """
    last = max(attempts.next_at, now - QUIET) if attempts.failures else now - QUIET
    attempts.next_at = min(last + QUIET / free, now + LONGEST_TO_NEXT_SLOT)
    attempts.seen_at = now
    attempts.failures += 1
    return attempts.next_at


def fail(attempts: Attempts, free: int, now: datetime) -> None:
    """Count a failure; from the last free one on, the wait doubles from 1 s to 60 s.

    Counts leak: one failure is forgotten in each ``free``-th part of 15 min, so that only failures which come faster than this add
    up; after one such part more, all are. ``seen_at`` moves by whole parts and keeps what is left over of the last one.
    """
    leak = QUIET / free
    forgotten = max((now - attempts.seen_at) // leak, 0)
    attempts.failures = 0 if forgotten > free else max(attempts.failures - forgotten, 0)
    attempts.seen_at = attempts.seen_at + forgotten * leak if attempts.failures else now
    attempts.failures += 1
    beyond = attempts.failures - free
    if beyond >= 0:
        attempts.next_at = now + timedelta(seconds=min(2 ** min(beyond, 16), LONGEST_WAIT_S))


def guess(attempts: Attempts, within: timedelta, now: datetime) -> None:
    """Count a second factor that may have been guessed at; these counts do not leak, but end when there is none for as long as ``within``."""
    if now - attempts.seen_at > within:
        attempts.failures = 0
    attempts.failures += 1
    attempts.seen_at = now
    attempts.next_at = now + within


def guess_to_tell(attempts: Attempts, within: timedelta, now: datetime) -> None:
    """Count it to be told of: with all of the time ``within`` that began at the first one, and ends at ``next_at``."""
    if now >= attempts.next_at:
        attempts.failures = 0
        attempts.next_at = now + within
    attempts.failures += 1
    attempts.seen_at = now


def is_guessed_at(bucket: Bucket, attempts: Attempts, now: datetime) -> bool:
    """Whether one code of an authenticator is not enough, because there were too many wrong second factors."""
    if bucket.within is None or bucket.tells:
        return False
    return attempts.failures >= bucket.free and now - attempts.seen_at <= bucket.within
