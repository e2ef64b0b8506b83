"""What is revoked, and the lists of it, for each key of an issuer."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, func, select, text, union_all
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import defer
from sqlmodel import col

from chassis.db import look
from services.ca.models import Certificate, CertificateState, Ending, RevocationList, Standing
from services.ca.repository.certificates import COUNTS_UNTIL, LIVE
from services.ca.repository.reading import newest

_STANDING = """SELECT clock.now, c.state, c.ended_at, c.ending, c.not_after, c.right_ends_at FROM (SELECT now() AS now) AS clock
               LEFT JOIN certificates c ON c.certificate_id = $1 AND c.issuer_key = $2 AND c.state <> 'intended'"""
_FIRST = text("""INSERT INTO revocation_lists (issuer_key, number, this_update, next_update, since, entries, der)
                 VALUES (:issuer_key, 0, now(), now(), now(), 0, '') ON CONFLICT DO NOTHING""")


async def standing(engine: AsyncEngine, certificate_id: str, issuer_key: str) -> tuple[datetime, Standing | None]:
    """The database's clock, and what became of a certificate that a key signed, in one look; None where it signed none."""
    [(now, *found)] = await look(engine, _STANDING, certificate_id, issuer_key)
    return now, None if found[0] is None else Standing(*found)


async def begin_list(session: AsyncSession, issuer_key: str) -> None:
    """Put the list before the first one where a key has none yet."""
    await session.execute(_FIRST, {"issuer_key": issuer_key})


async def newest_list(session: AsyncSession, issuer_key: str) -> tuple[RevocationList, int, datetime] | None:
    """The newest list of a key without its content, how many certificates would be on it by now, and the database's clock, in one look."""
    since = col(RevocationList.since)
    revoked, lapsed = (
        select(func.count()).where(condition).correlate(RevocationList).scalar_subquery()
        for condition in (_revoked(issuer_key, since), _lapsed(issuer_key, since))
    )
    found = select(RevocationList, revoked + lapsed, func.clock_timestamp()).where(col(RevocationList.issuer_key) == issuer_key)
    without = found.options(defer(RevocationList.der))  # type: ignore[arg-type]
    row = (await session.execute(newest(without))).one_or_none()
    return None if row is None else (row[0], row[1], row[2])


async def content(session: AsyncSession, issuer_key: str) -> tuple[int, bytes]:
    """The number and the content of a key's newest list."""
    found = select(col(RevocationList.number), col(RevocationList.der)).where(col(RevocationList.issuer_key) == issuer_key)
    number, der = (await session.execute(found)).one()
    return number, der


async def lock_list(session: AsyncSession, issuer_key: str) -> None:
    """Be the only one who makes the key's next list, until the transaction ends."""
    await session.execute(select(col(RevocationList.number)).where(col(RevocationList.issuer_key) == issuer_key).with_for_update())


async def revoked_since(session: AsyncSession, issuer_key: str, since: datetime) -> Sequence[tuple[str, Standing]]:
    """The revoked certificates of a key whose life went on after ``since``, and what became of them."""
    columns = (
        col(Certificate.certificate_id),
        col(Certificate.state),
        col(Certificate.ended_at),
        col(Certificate.ending),
        col(Certificate.not_after),
        col(Certificate.right_ends_at),
    )
    found = union_all(*[select(*columns).where(condition(issuer_key, since)) for condition in (_revoked, _lapsed)]).order_by(
        "certificate_id"
    )
    return [(row[0], Standing(*row[1:])) for row in (await session.execute(found)).all()]


def _revoked(issuer_key: str, since: Any) -> ColumnElement[bool]:
    return and_(
        col(Certificate.issuer_key) == issuer_key,
        col(Certificate.state) == CertificateState.REVOKED,
        col(Certificate.ending) != Ending.EXPIRED,
        col(Certificate.not_after) > since,
    )


def _lapsed(issuer_key: str, since: Any) -> ColumnElement[bool]:
    """Those whose membership ended before them, which nobody has written down yet."""
    return and_(
        col(Certificate.issuer_key) == issuer_key,
        LIVE,
        func.now() >= COUNTS_UNTIL,
        col(Certificate.right_ends_at) < col(Certificate.not_after),
        col(Certificate.not_after) > since,
    )
