"""The SQL of failed tries."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from chassis.db import Row, fetch
from services.auth.models import Attempts

LOCKS = 0x74727973
_NEXT = "SELECT max(next_at) AS next_at, clock_timestamp() AS now FROM attempts WHERE name = ANY($1::bytea[])"
LOCK = "SELECT count(pg_advisory_xact_lock($1, k)::text) AS locked FROM unnest($2::int[]) AS k"
COUNTED = """SELECT (coalesce(a.failures, 0), coalesce(a.next_at, now.at), coalesce(a.seen_at, now.at), now.at)
             FROM (SELECT clock_timestamp() AS at) AS now, unnest($1::bytea[]) WITH ORDINALITY AS asked (name, place)
             LEFT JOIN attempts a USING (name) ORDER BY asked.place"""
_COUNTED = f"SELECT ARRAY({COUNTED})"
_KEEP = """INSERT INTO attempts (name, failures, next_at, seen_at)
           SELECT * FROM unnest($1::bytea[], $2::int[], $3::timestamptz[], $4::timestamptz[])
           ON CONFLICT (name) DO UPDATE SET failures = excluded.failures, next_at = excluded.next_at, seen_at = excluded.seen_at"""
_FORGET = """DELETE FROM attempts WHERE name IN (
                 SELECT name FROM attempts WHERE greatest(seen_at, next_at) < now() - $1::interval FOR UPDATE SKIP LOCKED)"""
_GUESSED = "SELECT name, failures, next_at FROM attempts WHERE length(name) = 17 AND failures >= $1"
_DROP = "DELETE FROM attempts WHERE name = ANY($1::bytea[])"
_DROP_TOLD = "DELETE FROM attempts WHERE name IN ($1, $2) RETURNING CASE WHEN name = $2 THEN failures ELSE 0 END AS told"


def of_account(user_id: UUID) -> bytes:
    """The name of the count of an account, which is no secret. The random end of its id comes first, by which locks are told apart."""
    return user_id.bytes[::-1]


def to_tell(name: bytes) -> bytes:
    """The name of the count of the same that is told of; both have one lock."""
    return name + b"t"


async def guessed_at(session: AsyncSession, least: int) -> list[tuple[UUID, int, datetime]]:
    """The accounts that have so many wrong second factors beside the right password in one day, to be told of: how many, and when it ends."""
    return [(UUID(bytes=row["name"][15::-1]), row["failures"], row["next_at"]) for row in await fetch(session, _GUESSED, least)]


async def forget_guesses(session: AsyncSession, user_id: UUID) -> int:
    """Forget the guesses beside a password that is none any more; how many of that day were to be told of."""
    name = of_account(user_id)
    return sum(row["told"] for row in await fetch(session, _DROP_TOLD, name, to_tell(name)))


async def next_try(session: AsyncSession, names: Collection[bytes]) -> tuple[datetime | None, datetime]:
    """When the next try is allowed by what is counted under these names (None: nothing is), and the database's clock."""
    (row,) = await fetch(session, _NEXT, list(names))
    return row["next_at"], row["now"]


def locks(names: Collection[bytes]) -> tuple[int, list[int]]:
    """What ``LOCK`` takes, to lock what is counted under these names until the transaction ends.

    Everybody locks in one order, so nobody waits in a circle. The locks are of names, not of rows: most names have failed nowhere,
    and a right sign-in then writes nothing here.
    """
    return LOCKS, sorted({int.from_bytes(name[:4], signed=True) for name in names})


async def lock_attempts(session: AsyncSession, names: Collection[bytes]) -> tuple[dict[bytes, Attempts], datetime]:
    """What is counted under these names, locked, and the database's clock after waiting for it; what changes is for ``keep_attempts``."""
    asked = list(names)
    await fetch(session, LOCK, *locks(asked))
    ((counted,),) = await fetch(session, _COUNTED, asked)
    return as_counted(asked, counted)


def as_counted(names: Sequence[bytes], counted: Sequence[Row]) -> tuple[dict[bytes, Attempts], datetime]:
    """What ``COUNTED`` brought of some names, and the database's clock then."""
    taken = {name: Attempts(name, failures, next_at, seen_at) for name, (failures, next_at, seen_at, _) in zip(names, counted, strict=True)}
    return taken, counted[0][3]


async def keep_attempts(session: AsyncSession, changed: Collection[Attempts]) -> None:
    """Store counts that are locked."""
    columns = [(each.name, each.failures, each.next_at, each.seen_at) for each in changed]
    await fetch(session, _KEEP, *map(list, zip(*columns, strict=True)))


async def drop_attempts(session: AsyncSession, names: Collection[bytes]) -> None:
    """Forget counts that are locked."""
    await fetch(session, _DROP, list(names))


async def forget_attempts(session: AsyncSession, older_than: timedelta) -> None:
    """Forget failures after a time of quiet, of which nothing is left by then; those that wait are none of them."""
    await fetch(session, _FORGET, older_than)
