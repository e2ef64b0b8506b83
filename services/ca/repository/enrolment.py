"""Certificates that running services had renewed."""

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from services.ca.models import CertificateState, ServiceCertificate
from services.ca.repository.reading import newest


async def intent(session: AsyncSession, certificate_id: str) -> ServiceCertificate:
    """One that was announced and not signed yet, locked."""
    found = select(ServiceCertificate).where(
        col(ServiceCertificate.certificate_id) == certificate_id, col(ServiceCertificate.state) == CertificateState.INTENDED
    )
    return (await session.execute(newest(found).with_for_update())).scalar_one()
