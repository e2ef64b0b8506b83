"""What a sign-in by name asks of the database, in as few ways as can be: whoever signs in waits for each."""

from collections.abc import Collection
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from chassis.db import as_stored, fetch
from services.auth.models import Attempts, Credential, User
from services.auth.repository import factors, patience, signing

_PERSON = tuple(User.model_fields)
_SECRETS = tuple(Credential.model_fields)
# Counts come first, as everywhere: an account is looked for, and then locked, only when they are.
_LOCKED = f"""WITH counts AS MATERIALIZED ({patience.LOCK}),
         person AS (SELECT {", ".join(_PERSON)} FROM users WHERE user_id = $3 AND (SELECT locked FROM counts) IS NOT NULL FOR UPDATE),
         secrets AS (SELECT {", ".join(_SECRETS)} FROM credentials WHERE user_id = (SELECT user_id FROM person) FOR UPDATE)
    SELECT person.*, secrets.* FROM counts LEFT JOIN person ON true LEFT JOIN secrets ON true"""  # noqa: S608 - our columns
_THEN = f"""SELECT ARRAY({patience.COUNTED}) AS counted, signs.*, {factors.STANDING.format(user_id="$2")}
            FROM (SELECT) AS one LEFT JOIN ({signing.SIGNS}) AS signs ON true"""  # noqa: S608 - constants


class Held(NamedTuple):
    """What a sign-in rests on, once it is locked.

    The counts of tries, the database's clock, the account (to be read), what it has as second factors and is asked for, and the key that signs.
    """

    attempts: dict[bytes, Attempts]
    now: datetime
    user: User | None
    standing: factors.Standing
    key: signing.Signs | None


async def hold(session: AsyncSession, names: Collection[bytes], user_id: UUID) -> Held:
    """Lock the counts under these names, then an account, then what it signs in with, until the transaction ends."""
    asked = list(names)
    (locked,) = await fetch(session, _LOCKED, *patience.locks(asked), user_id)
    (then,) = await fetch(session, _THEN, asked, user_id)
    person = dict(zip(_PERSON, locked[: len(_PERSON)], strict=True))
    secrets = dict(zip(_SECRETS, locked[len(_PERSON) :], strict=True))
    factors.hold(session, user_id, as_stored(Credential, secrets) if secrets["user_id"] else None)
    counted, key_id, sealed, *standing = then
    attempts, now = patience.as_counted(asked, counted)
    return Held(
        attempts,
        now,
        as_stored(User, person) if person["user_id"] else None,
        factors.Standing(*standing),
        signing.Signs(key_id, sealed) if key_id else None,
    )
