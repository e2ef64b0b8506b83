"""What deleted projects left: chains with their names, and serial numbers that lists need."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import ColumnElement, and_, delete, func, literal, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from services.ca.models import Certificate, CertificateState, Ending, Member, RevocationList, Run, Table
from services.ca.repository.reading import newest


async def with_chain(session: AsyncSession, project_id: UUID, limit: int) -> Sequence[Certificate]:
    """Some issued certificates of a project whose chains are still here, locked."""
    issued = and_(col(Certificate.state) != CertificateState.INTENDED, col(Certificate.chain) != "")
    found = select(Certificate).where(col(Certificate.project_id) == project_id, issued).order_by(col(Certificate.certificate_id))
    return (await session.execute(newest(found).limit(limit).with_for_update())).scalars().all()


async def purge(session: AsyncSession, project_id: UUID) -> tuple[dict[str, int], int]:
    """Delete what is known of a project whose chains are gone; how many of what, and how many certificates stay for the lists."""
    conditions: dict[str, tuple[type[Table], ColumnElement[bool]]] = {
        "certificates": (Certificate, and_(col(Certificate.project_id) == project_id, ~_needed())),
        "runs": (Run, col(Run.project_id) == project_id),
        "memberships": (Member, col(Member.project_id) == project_id),
    }
    counted = {}
    for name, (table, condition) in conditions.items():
        counted[name] = len((await session.execute(delete(table).where(condition).returning(literal(1)))).all())
    left = select(func.count()).where(col(Certificate.project_id) == project_id)
    return counted, (await session.execute(left)).scalar_one()


async def forget_listed(session: AsyncSession) -> None:
    """Delete the certificates of deleted projects that no list needs any more."""
    nameless = and_(col(Certificate.state) == CertificateState.REVOKED, col(Certificate.chain) == "")
    await session.execute(delete(Certificate).where(nameless, ~_needed()))


def _needed() -> ColumnElement[bool]:
    """Whether a certificate is on the lists that its issuer's key signs from now on (RFC 5280 section 3.3)."""
    revoked = and_(col(Certificate.state) == CertificateState.REVOKED, col(Certificate.ending) != Ending.EXPIRED)
    since = select(col(RevocationList.since)).where(col(RevocationList.issuer_key) == col(Certificate.issuer_key)).scalar_subquery()
    return and_(revoked, col(Certificate.not_after) > func.coalesce(since, func.now()))
