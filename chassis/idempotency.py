"""Requests with an Idempotency-Key are done once, and whoever sends one again gets the answer that was given.

A key is claimed in the transaction that does what is asked for, before anything else of it, and the answer is kept in the same one: both are there or neither.
Whoever comes with a key that is claimed in a transaction under way waits for its end. All claim in one order, so that nobody waits for
another in a circle.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from chassis.db import Row, fetch
from chassis.errors import CannotDecide, ChangedMeanwhile, Conflict, Problem, Unprocessable

_CLAIM = """INSERT INTO idempotency (owner, key, fingerprint) SELECT * FROM unnest($1::text[], $2::text[], $3::text[])
            ON CONFLICT DO NOTHING RETURNING owner, key"""
_PATIENCE = "SELECT set_config('lock_timeout', $1, true)"
_READ = """SELECT i.owner, i.key, i.fingerprint, i.status, i.body, i.headers
           FROM unnest($1::text[], $2::text[]) AS asked (owner, key) JOIN idempotency i USING (owner, key)"""
# By way of the conflict, since the row is found by its key then, whatever the planner thinks of a table that was empty a minute ago.
_KEEP = """INSERT INTO idempotency (owner, key, fingerprint, status, body, headers)
           SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::integer[], $5::bytea[], $6::jsonb[])
           ON CONFLICT (owner, key) DO UPDATE SET status = excluded.status, body = excluded.body, headers = excluded.headers"""
_GIVE_UP = """DELETE FROM idempotency i USING unnest($1::text[], $2::text[]) AS claimed (owner, key)
              WHERE i.owner = claimed.owner AND i.key = claimed.key"""
NOT_LOCKED = "55P03"


class UnderWay(CannotDecide):
    """What a key is for is being done in another transaction, and how that ends is not known yet."""

    slug = "cannot-decide"


class KeyReused(Unprocessable):
    """One Idempotency-Key, two different requests."""

    title = "This Idempotency-Key was used for another request"
    slug = "idempotency-key-reused"


class AnswerWasSecret(Conflict):
    """The request was carried out before; its answer held a secret that is shown once."""

    title = "This was done before, and its answer is shown only once"


@dataclass(frozen=True, order=True)
class Claim:
    """A key of somebody's, and the hash of the request that it is for."""

    owner: str
    key: str
    fingerprint: str


@dataclass(frozen=True)
class Answer:
    """What is kept of an answer; of one that holds a secret no body."""

    status: int
    headers: Mapping[str, str]
    body: bytes | None


class AnsweredBefore(Exception):
    """The request was carried out before, and this was its answer."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        super().__init__(status)
        self.status = status
        self.headers = headers
        self.body = body


async def claim(session: AsyncSession, claims: Sequence[Claim]) -> list[Exception | None]:
    """Claim keys in a transaction that has done nothing yet: for each None when it is taken, else what its request ends with.

    That is AnsweredBefore, KeyReused or AnswerWasSecret; ChangedMeanwhile for a key that is claimed twice here, or was forgotten just now.
    """
    taken = {(row["owner"], row["key"]) for row in await fetch(session, _CLAIM, *_columns(sorted(claims)))}
    others = [each for each in claims if (each.owner, each.key) not in taken]
    owners, keys, _ = _columns(others)
    kept = {(row["owner"], row["key"]): row for row in (await fetch(session, _READ, owners, keys) if others else ())}
    ends: list[Exception | None] = []
    for each in claims:
        place = (each.owner, each.key)
        ends.append(None if place in taken else _end(each, kept.get(place)))
        taken.discard(place)
    return ends


async def claim_within(session: AsyncSession, claims: Sequence[Claim], within_s: float) -> list[Exception | None]:
    """The same, waiting for a transaction under way no longer than so many seconds. Raises UnderWay."""
    await fetch(session, _PATIENCE, f"{within_s * 1000:.0f}ms")
    try:
        ends = await claim(session, claims)
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != NOT_LOCKED:
            raise
        raise UnderWay("The same request is under way, and how it ends is not known yet.", retry_after=1) from error
    await fetch(session, _PATIENCE, "0")
    return ends


async def keep(session: AsyncSession, answers: Sequence[tuple[Claim, Answer]]) -> None:
    """Keep what is answered to requests whose keys were claimed in this transaction."""
    if answers:
        told = [answer for _, answer in answers]
        headers = [json.dumps(dict(answer.headers)) for answer in told]
        claimed = _columns([claimed for claimed, _ in answers])
        await fetch(session, _KEEP, *claimed, [answer.status for answer in told], [answer.body for answer in told], headers)


async def give_up(session: AsyncSession, claims: Sequence[Claim]) -> None:
    """Leave keys that were claimed in this transaction to whoever asks again: nothing was done."""
    if claims:
        owners, keys, _ = _columns(claims)
        await fetch(session, _GIVE_UP, owners, keys)


def _columns(claims: Sequence[Claim]) -> tuple[list[str], list[str], list[str]]:
    return [each.owner for each in claims], [each.key for each in claims], [each.fingerprint for each in claims]


def _end(claimed: Claim, kept: Row | None) -> AnsweredBefore | Problem:
    """What a request ends with whose key is not free."""
    if kept is None or kept["status"] is None:
        return ChangedMeanwhile()
    if kept["fingerprint"] != claimed.fingerprint:
        return KeyReused()
    if kept["body"] is None:
        return AnswerWasSecret()
    return AnsweredBefore(kept["status"], kept["headers"], kept["body"])
