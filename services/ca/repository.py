"""All the SQL of ca. Rows that an issuing rests on are locked in one order: project, person, membership, run, certificates."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, Executable, Select, and_, delete, func, or_, select, text, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from chassis.db import fetch
from contracts.events import CertificateKind
from services.ca.models import Certificate, CertificateState, Ending, Issuer, Member, Person, Project, RevocationList, Run, Standing, Table

Q = TypeVar("Q", bound=Executable)
LIVE = col(Certificate.state) == CertificateState.LIVE
ISSUED = col(Certificate.state) != CertificateState.INTENDED
DUE_AT_ONCE = 200
_KNOWN = text("""SELECT coalesce((SELECT version FROM projects WHERE project_id = :project_id), 0) AS project,
                 coalesce((SELECT version FROM people WHERE user_id = :user_id), 0) AS person,
                 coalesce((SELECT version FROM members WHERE project_id = :project_id AND user_id = :user_id), 0) AS member""")
_STANDING = """SELECT state, ended_at, ending FROM certificates
             WHERE certificate_id = $1 AND kind = ANY($2::text[]) AND state <> 'intended'"""
_NEXT_DUE = text("""SELECT least(min(c.not_after), min(m.ends_at)) FROM certificates c
                    LEFT JOIN members m ON m.project_id = c.project_id AND m.user_id = c.user_id WHERE c.state = 'live'""")


async def project(session: AsyncSession, project_id: UUID) -> Project | None:
    """A project, kept as it is until the transaction ends."""
    found = select(Project).where(col(Project.project_id) == project_id)
    return (await session.execute(_newest(found).with_for_update(read=True))).scalar_one_or_none()


async def person(session: AsyncSession, user_id: UUID) -> Person | None:
    """A person, kept as they are until the transaction ends."""
    found = select(Person).where(col(Person.user_id) == user_id)
    return (await session.execute(_newest(found).with_for_update(read=True))).scalar_one_or_none()


async def member(session: AsyncSession, project_id: UUID, user_id: UUID) -> Member | None:
    """A membership, kept as it is until the transaction ends."""
    found = select(Member).where(col(Member.project_id) == project_id, col(Member.user_id) == user_id)
    return (await session.execute(_newest(found).with_for_update(read=True))).scalar_one_or_none()


async def versions(session: AsyncSession, project_id: UUID, user_id: UUID) -> tuple[int, int, int]:
    """How much is known of a project, a person and their membership: the version of each, 0 for none. Locks nothing."""
    found = await session.execute(_KNOWN, {"project_id": project_id, "user_id": user_id})
    known = found.one()
    return known.project, known.person, known.member


async def put(session: AsyncSession, row: Table) -> None:
    """Keep what a fact says of an aggregate."""
    await session.merge(row)
    await session.flush()


async def forget_project(session: AsyncSession, project_id: UUID) -> None:
    """Drop what is known of a project."""
    await session.execute(delete(Project).where(col(Project.project_id) == project_id))


async def forget_person(session: AsyncSession, user_id: UUID) -> None:
    """Drop what is known of a person."""
    await session.execute(delete(Person).where(col(Person.user_id) == user_id))


async def forget_member(session: AsyncSession, project_id: UUID, user_id: UUID) -> None:
    """Drop what is known of a membership."""
    await session.execute(delete(Member).where(col(Member.project_id) == project_id, col(Member.user_id) == user_id))


async def forget_run(session: AsyncSession, run_id: UUID) -> None:
    """Drop what is known of a run."""
    await session.execute(delete(Run).where(col(Run.run_id) == run_id))


async def active_runs_in_project(session: AsyncSession, project_id: UUID) -> Sequence[Run]:
    """The leased and running runs of a project."""
    return (await session.execute(_runs().where(col(Run.project_id) == project_id))).scalars().all()


async def active_runs_of_person(session: AsyncSession, user_id: UUID) -> Sequence[Run]:
    """The leased and running runs of a person, in all projects."""
    return (await session.execute(_runs().where(col(Run.user_id) == user_id))).scalars().all()


async def active_runs_of_member(session: AsyncSession, project_id: UUID, user_id: UUID) -> Sequence[Run]:
    """The leased and running runs of a person in a project."""
    own = _runs().where(col(Run.project_id) == project_id, col(Run.user_id) == user_id)
    return (await session.execute(own)).scalars().all()


async def run(session: AsyncSession, run_id: UUID) -> Run | None:
    """A run, locked."""
    return (await session.execute(_newest(select(Run).where(col(Run.run_id) == run_id)).with_for_update())).scalar_one_or_none()


async def intent(session: AsyncSession, certificate_id: str) -> Certificate:
    """A certificate that was announced and not signed yet, locked."""
    found = select(Certificate).where(col(Certificate.certificate_id) == certificate_id, ~ISSUED)
    return (await session.execute(_newest(found).with_for_update())).scalar_one()


async def project_certificate(session: AsyncSession, project_id: UUID, certificate_id: str) -> Certificate | None:
    """A person's certificate of a project, locked."""
    found = select(Certificate).where(
        col(Certificate.project_id) == project_id,
        col(Certificate.certificate_id) == certificate_id,
        col(Certificate.kind) == CertificateKind.PROJECT,
        ISSUED,
    )
    return (await session.execute(_newest(found).with_for_update())).scalar_one_or_none()


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


async def count_live(session: AsyncSession, project_id: UUID, user_id: UUID) -> int:
    """How many certificates of a project a person holds that count."""
    found = select(func.count()).where(
        col(Certificate.project_id) == project_id,
        col(Certificate.user_id) == user_id,
        col(Certificate.kind) == CertificateKind.PROJECT,
        LIVE,
    )
    return (await session.execute(found)).scalar_one()


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


async def live_of_run(session: AsyncSession, run_id: UUID) -> Sequence[Certificate]:
    """The certificates of a run that count, locked."""
    return (await session.execute(_live().where(col(Certificate.run_id) == run_id))).scalars().all()


async def live_of_agent(session: AsyncSession, agent_id: UUID) -> Sequence[Certificate]:
    """The certificates of an agent that count, locked."""
    return (await session.execute(_live().where(col(Certificate.agent_id) == agent_id))).scalars().all()


async def was_issued_for_lease(session: AsyncSession, run_id: UUID, fencing_token: int) -> bool:
    """Whether this lease of a run has had its certificate."""
    found = select(col(Certificate.certificate_id)).where(
        col(Certificate.run_id) == run_id, col(Certificate.fencing_token) == fencing_token, ISSUED
    )
    return (await session.execute(found)).first() is not None


async def was_issued_for_request(session: AsyncSession, agent_id: UUID, csr_sha256: str) -> bool:
    """Whether this request of an agent has had its certificate."""
    found = select(col(Certificate.certificate_id)).where(
        col(Certificate.agent_id) == agent_id, col(Certificate.csr_sha256) == csr_sha256, ISSUED
    )
    return (await session.execute(found)).first() is not None


async def due(session: AsyncSession, now: datetime) -> Sequence[tuple[Certificate, bool]]:
    """Certificates whose end has come, locked, unless another replica is at them; and whether it is their own end.

    Those that are not due by their own end are due by that of the membership behind them.
    """
    over = col(Certificate.not_after) <= now
    found = (
        select(Certificate, over)
        .join(
            Member,
            (col(Member.project_id) == col(Certificate.project_id)) & (col(Member.user_id) == col(Certificate.user_id)),
            isouter=True,
        )
        .where(LIVE, or_(over, col(Member.ends_at) <= now))
        .order_by(col(Certificate.certificate_id))
        .limit(DUE_AT_ONCE)
        .with_for_update(of=Certificate, skip_locked=True)
    )
    return [(certificate, own) for certificate, own in (await session.execute(_newest(found))).all()]


async def next_due(session: AsyncSession) -> datetime | None:
    """When the next certificate, or a membership behind one, ends; None when there is none."""
    instant: datetime | None = (await session.execute(_NEXT_DUE)).scalar_one()
    return instant


async def standing(session: AsyncSession, certificate_id: str, kinds: Sequence[CertificateKind]) -> Standing | None:
    """What became of a certificate of these kinds, in one look; None where none was issued."""
    rows = await fetch(session, _STANDING, certificate_id, list(kinds))
    return Standing(*rows[0]) if rows else None


async def revocation_list(session: AsyncSession, issuer: Issuer, kinds: Sequence[CertificateKind]) -> tuple[RevocationList, int, datetime]:
    """The newest list of an issuer, how many certificates would be on it by now, and the database's clock, in one look."""
    would_be = select(func.count()).where(_revoked(kinds, col(RevocationList.since))).correlate(RevocationList).scalar_subquery()
    found = select(RevocationList, would_be, func.clock_timestamp()).where(col(RevocationList.issuer) == issuer)
    kept, count, now = (await session.execute(_newest(found))).one()
    return kept, count, now


async def lock_revocation_list(session: AsyncSession, issuer: Issuer) -> None:
    """Be the only one who makes the issuer's next list, until the transaction ends."""
    await session.execute(select(col(RevocationList.issuer)).where(col(RevocationList.issuer) == issuer).with_for_update())


async def revoked_since(session: AsyncSession, kinds: Sequence[CertificateKind], since: datetime) -> Sequence[tuple[str, Standing]]:
    """The revoked certificates of these kinds whose life went on after ``since``, and what became of them."""
    columns = (col(Certificate.certificate_id), col(Certificate.state), col(Certificate.ended_at), col(Certificate.ending))
    found = select(*columns).where(_revoked(kinds, since)).order_by(col(Certificate.certificate_id))
    return [(row[0], Standing(*row[1:])) for row in (await session.execute(found)).all()]


def _revoked(kinds: Sequence[CertificateKind], since: Any) -> ColumnElement[bool]:
    return and_(
        col(Certificate.kind).in_(kinds),
        col(Certificate.state) == CertificateState.REVOKED,
        col(Certificate.ending) != Ending.EXPIRED,
        col(Certificate.not_after) > since,
    )


def _live() -> Select[Certificate]:
    return _newest(select(Certificate).where(LIVE).order_by(col(Certificate.certificate_id)).with_for_update())


def _runs() -> Select[Run]:
    return _newest(select(Run).where(col(Run.active)).order_by(col(Run.run_id)))


def _newest(statement: Q) -> Q:
    return statement.execution_options(populate_existing=True)
