"""What is over: chains of deleted projects with their names, and certificates that no list needs any more."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, delete, func, literal, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from services.ca.models import Certificate, CertificateState, Ending, Member, RevocationList, Run, ServiceCertificate, Table
from services.ca.repository.reading import newest


async def with_chain(session: AsyncSession, project_id: UUID, limit: int) -> Sequence[Certificate]:
    """Some issued certificates of a project whose chains are still here, locked."""
    issued = and_(col(Certificate.state) != CertificateState.INTENDED, col(Certificate.chain) != "")
    found = select(Certificate).where(col(Certificate.project_id) == project_id, issued).order_by(col(Certificate.certificate_id))
    return (await session.execute(newest(found).limit(limit).with_for_update())).scalars().all()


async def over_in_project(session: AsyncSession, project_id: UUID, limit: int) -> Sequence[Certificate]:
    """Some certificates of a project that counted once and that no list needs, locked."""
    return (await session.execute(_over().where(col(Certificate.project_id) == project_id).limit(limit).with_for_update())).scalars().all()


async def over_before(session: AsyncSession, instant: datetime, limit: int) -> Sequence[Certificate]:
    """Some certificates that had come to their end before an instant and that no list needs, locked, unless another replica is at them."""
    found = _over().where(col(Certificate.not_after) <= instant).order_by(col(Certificate.not_after)).limit(limit)
    return (await session.execute(found.with_for_update(skip_locked=True))).scalars().all()


async def remove(session: AsyncSession, certificates: Sequence[Certificate]) -> None:
    """Delete certificates."""
    gone = [certificate.certificate_id for certificate in certificates]
    await session.execute(delete(Certificate).where(col(Certificate.certificate_id).in_(gone)))


async def remove_untold(session: AsyncSession, instant: datetime) -> None:
    """Delete intents from before an instant, and certificates of services that had ended by then."""
    never = and_(col(Certificate.state) == CertificateState.INTENDED, col(Certificate.created_at) < instant)
    await session.execute(delete(Certificate).where(never))
    await session.execute(delete(ServiceCertificate).where(col(ServiceCertificate.not_after) < instant))


async def purge(session: AsyncSession, project_id: UUID) -> tuple[dict[str, int], int]:
    """Delete what is known of a project whose certificates have no chains, and its intents; how many of what, and how many certificates stay for the lists."""
    conditions: dict[str, tuple[type[Table], ColumnElement[bool]]] = {
        "certificates": (Certificate, and_(col(Certificate.project_id) == project_id, col(Certificate.state) == CertificateState.INTENDED)),
        "runs": (Run, col(Run.project_id) == project_id),
        "memberships": (Member, col(Member.project_id) == project_id),
    }
    counted = {}
    for name, (table, condition) in conditions.items():
        counted[name] = len((await session.execute(delete(table).where(condition).returning(literal(1)))).all())
    left = select(func.count()).where(col(Certificate.project_id) == project_id)
    return counted, (await session.execute(left)).scalar_one()


def _over() -> Select[Certificate]:
    return newest(select(Certificate).where(col(Certificate.state) == CertificateState.REVOKED, ~_needed()))


def _needed() -> ColumnElement[bool]:
    """Whether a revoked certificate is on the lists that its issuer's key signs from now on (RFC 5280 section 3.3)."""
    since = select(col(RevocationList.since)).where(col(RevocationList.issuer_key) == col(Certificate.issuer_key)).scalar_subquery()
    return and_(col(Certificate.ending) != Ending.EXPIRED, col(Certificate.not_after) > func.coalesce(since, func.now()))
