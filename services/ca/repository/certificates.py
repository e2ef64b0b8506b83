"""Certificates from intent to end."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import Select, exists, func, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased
from sqlmodel import col

from chassis.db import fetch
from contracts.events import CertificateKind
from services.ca.models import Certificate, CertificateState, Member
from services.ca.repository.reading import newest

LIVE = col(Certificate.state) == CertificateState.LIVE
ISSUED = col(Certificate.state) != CertificateState.INTENDED
JOB = col(Certificate.kind) == CertificateKind.JOB
AGENT = col(Certificate.kind) == CertificateKind.AGENT
DUE_AT_ONCE = 200
_SOME_OF_MEMBER = "SELECT 1 FROM certificates WHERE state = 'live' AND project_id = $1 AND user_id = $2 LIMIT 1"
COUNTS_UNTIL = func.least(col(Certificate.not_after), col(Certificate.right_ends_at))


async def project_certificate(session: AsyncSession, project_id: UUID, certificate_id: str) -> Certificate | None:
    """A person's certificate of a project, locked."""
    found = select(Certificate).where(
        col(Certificate.project_id) == project_id,
        col(Certificate.certificate_id) == certificate_id,
        col(Certificate.kind) == CertificateKind.PROJECT,
        ISSUED,
    )
    return (await session.execute(newest(found).with_for_update())).scalar_one_or_none()


async def project_certificates(
    session: AsyncSession, project_id: UUID, user_id: UUID | None, after: tuple[datetime, str] | None, limit: int
) -> Sequence[Certificate]:
    """People's certificates of a project, oldest first, of one person or of all; one more than ``limit``."""
    found = select(Certificate).where(col(Certificate.project_id) == project_id, col(Certificate.kind) == CertificateKind.PROJECT, ISSUED)
    if user_id is not None:
        found = found.where(col(Certificate.user_id) == user_id)
    order = (col(Certificate.created_at), col(Certificate.certificate_id))
    if after is not None:
        found = found.where(tuple_(*order) > after)
    return (await session.execute(found.order_by(*order).limit(limit + 1))).scalars().all()


async def live_in_project(session: AsyncSession, project_id: UUID) -> Sequence[Certificate]:
    """All certificates of a project that count, locked."""
    return (await session.execute(_live().where(col(Certificate.project_id) == project_id))).scalars().all()


async def live_of_person(session: AsyncSession, user_id: UUID) -> Sequence[Certificate]:
    """All certificates of a person that count, in all projects, locked."""
    return (await session.execute(_live().where(col(Certificate.user_id) == user_id))).scalars().all()


async def live_of_member(session: AsyncSession, project_id: UUID, user_id: UUID) -> Sequence[Certificate]:
    """All certificates of a person in a project that count, those of their runs included, locked."""
    own = _live().where(col(Certificate.project_id) == project_id, col(Certificate.user_id) == user_id)
    return (await session.execute(own)).scalars().all()


async def some_of_member(session: AsyncSession, project_id: UUID, user_id: UUID) -> bool:
    """Whether a person has a certificate in a project that counts, one of a run included. Most who lose a right have none."""
    return bool(await fetch(session, _SOME_OF_MEMBER, project_id, user_id))


async def live_of_run(session: AsyncSession, run_id: UUID) -> Sequence[Certificate]:
    """The certificates of a run that count, locked."""
    return (await session.execute(_live().where(JOB, col(Certificate.run_id) == run_id))).scalars().all()


async def live_of_agent(session: AsyncSession, agent_id: UUID) -> Sequence[Certificate]:
    """The certificates of an agent that count, locked."""
    return (await session.execute(_live().where(AGENT, col(Certificate.agent_id) == agent_id))).scalars().all()


async def superseded(session: AsyncSession, until: datetime) -> Sequence[Certificate]:
    """Agents' certificates that count although the agent got a younger one before ``until``, locked."""
    younger = aliased(Certificate)
    followed = exists().where(
        col(younger.agent_id) == col(Certificate.agent_id),
        col(younger.kind) == CertificateKind.AGENT,
        col(younger.state) == CertificateState.LIVE,
        col(younger.created_at) > col(Certificate.created_at),
        col(younger.created_at) <= until,
    )
    return (await session.execute(_live().where(AGENT, followed))).scalars().all()


async def was_issued_for_lease(session: AsyncSession, run_id: UUID, fencing_token: int) -> bool:
    """Whether this lease of a run has had its certificate."""
    found = select(col(Certificate.certificate_id)).where(
        JOB, col(Certificate.run_id) == run_id, col(Certificate.fencing_token) == fencing_token, ISSUED
    )
    return (await session.execute(found)).first() is not None


async def was_issued_for_request(session: AsyncSession, agent_id: UUID, csr_sha256: str) -> bool:
    """Whether this request of an agent has had its certificate."""
    found = select(col(Certificate.certificate_id)).where(
        AGENT, col(Certificate.agent_id) == agent_id, col(Certificate.csr_sha256) == csr_sha256, ISSUED
    )
    return (await session.execute(found)).first() is not None


async def due(session: AsyncSession, now: datetime) -> Sequence[Certificate]:
    """Certificates whose end has come, or that of the membership behind them, locked, unless another replica is at them; those first that ended first."""
    found = select(Certificate).where(LIVE, now >= COUNTS_UNTIL).order_by(COUNTS_UNTIL).limit(DUE_AT_ONCE)
    return (await session.execute(newest(found).with_for_update(skip_locked=True))).scalars().all()


async def next_due(session: AsyncSession) -> datetime | None:
    """When the next certificate, or a membership behind one, ends; None when there is none."""
    instant: datetime | None = (await session.execute(select(func.min(COUNTS_UNTIL)).where(LIVE))).scalar_one()
    return instant


async def bind(session: AsyncSession, member: Member) -> None:
    """Let a member's certificates count as long as the membership; those whose instant has passed ended with it, whatever comes afterwards."""
    own = (LIVE, col(Certificate.project_id) == member.project_id, col(Certificate.user_id) == member.user_id)
    goes_on = or_(col(Certificate.right_ends_at).is_(None), col(Certificate.right_ends_at) > func.now())
    await session.execute(
        update(Certificate).where(*own, goes_on).values(right_ends_at=member.ends_at).execution_options(synchronize_session=False)
    )


def _live() -> Select[Certificate]:
    return newest(select(Certificate).where(LIVE).order_by(col(Certificate.certificate_id)).with_for_update())
