"""Certificates that running services had renewed."""

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlmodel import col

from chassis.db import look
from services.ca.models import CertificateState, ServiceCertificate
from services.ca.repository.reading import newest

_FOLLOWED_TWICE = """SELECT service, follows FROM service_certificates WHERE state = 'live' AND not_after > now()
                     GROUP BY service, follows HAVING count(*) > 1 ORDER BY service, follows"""


async def intent(session: AsyncSession, certificate_id: str) -> ServiceCertificate:
    """One that was announced and not signed yet, locked."""
    found = select(ServiceCertificate).where(
        col(ServiceCertificate.certificate_id) == certificate_id, col(ServiceCertificate.state) == CertificateState.INTENDED
    )
    return (await session.execute(newest(found).with_for_update())).scalar_one()


async def followed_twice(engine: AsyncEngine) -> list[tuple[str, str]]:
    """Services, and the serials of their certificates that more than one living certificate follows."""
    return [(service, follows) for service, follows in await look(engine, _FOLLOWED_TWICE)]
