"""What ca knows of projects, people, memberships, runs and agents; an issuing locks them in this order, certificates last."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Select, delete, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from chassis import db
from contracts.events import CertificateKind
from services.ca.models import AgentRequest, Certificate, CertificateState, Member, Person, Project, Run, Table
from services.ca.repository.reading import newest

_LOCK = """SELECT (SELECT true FROM projects WHERE project_id = $1 FOR SHARE) AS project,
                  (SELECT true FROM people WHERE user_id = $2 FOR SHARE) AS person"""
_STOPPED_SINCE = "SELECT true FROM people WHERE user_id = $1 AND stops <> $2"
_BEGINS_OTHERWISE = "SELECT true FROM members WHERE project_id = $1 AND user_id = $2 AND starts_at <> $3"


async def lock(session: AsyncSession, project_id: UUID, user_id: UUID) -> None:
    """Keep a project and a person as they are until the transaction ends."""
    await db.fetch(session, _LOCK, project_id, user_id)


async def project(session: AsyncSession, project_id: UUID) -> Project | None:
    """A project, kept as it is until the transaction ends."""
    found = select(Project).where(col(Project.project_id) == project_id)
    return (await session.execute(newest(found).with_for_update(read=True))).scalar_one_or_none()


async def person(session: AsyncSession, user_id: UUID) -> Person | None:
    """A person, kept as they are until the transaction ends."""
    found = select(Person).where(col(Person.user_id) == user_id)
    return (await session.execute(newest(found).with_for_update(read=True))).scalar_one_or_none()


async def member(session: AsyncSession, project_id: UUID, user_id: UUID) -> Member | None:
    """A membership, kept as it is until the transaction ends."""
    found = select(Member).where(col(Member.project_id) == project_id, col(Member.user_id) == user_id)
    return (await session.execute(newest(found).with_for_update(read=True))).scalar_one_or_none()


async def stopped_since(session: AsyncSession, person: Person) -> bool:
    """Whether an account is known here with another count of stops."""
    return bool(await db.fetch(session, _STOPPED_SINCE, person.user_id, person.stops))


async def begins_otherwise(session: AsyncSession, member: Member) -> bool:
    """Whether a membership is known here with another beginning."""
    return bool(await db.fetch(session, _BEGINS_OTHERWISE, member.project_id, member.user_id, member.starts_at))


async def put(session: AsyncSession, row: Table) -> None:
    """Keep what a fact says of an aggregate."""
    await db.put(session, row)


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


async def runs_without_certificate(session: AsyncSession) -> Sequence[Run]:
    """The leased and running runs that asked for a certificate and have none for this lease."""
    issued = select(col(Certificate.certificate_id)).where(
        col(Certificate.kind) == CertificateKind.JOB,
        col(Certificate.run_id) == col(Run.run_id),
        col(Certificate.fencing_token) == col(Run.fencing_token),
        col(Certificate.state) != CertificateState.INTENDED,
    )
    return (await session.execute(_runs().where(col(Run.csr).is_not(None), ~issued.exists()))).scalars().all()


async def run(session: AsyncSession, run_id: UUID) -> Run | None:
    """A run, locked."""
    return (await session.execute(newest(select(Run).where(col(Run.run_id) == run_id)).with_for_update())).scalar_one_or_none()


async def agents_waiting(session: AsyncSession) -> Sequence[UUID]:
    """The agents whose requests have no certificate yet."""
    return (await session.execute(select(col(AgentRequest.agent_id)).order_by(col(AgentRequest.agent_id)))).scalars().all()


async def agent_waits(session: AsyncSession, agent_id: UUID) -> bool:
    """Whether a request of an agent has no certificate yet, or is getting it at this moment."""
    found = select(col(AgentRequest.agent_id)).where(col(AgentRequest.agent_id) == agent_id)
    return (await session.execute(found)).first() is not None


async def agent_request(session: AsyncSession, agent_id: UUID) -> AgentRequest | None:
    """The request of an agent that has no certificate yet, locked."""
    found = select(AgentRequest).where(col(AgentRequest.agent_id) == agent_id)
    return (await session.execute(newest(found).with_for_update())).scalar_one_or_none()


async def forget_agent(session: AsyncSession, agent_id: UUID) -> None:
    """Drop what an agent asked for."""
    await session.execute(delete(AgentRequest).where(col(AgentRequest.agent_id) == agent_id))


def _runs() -> Select[Run]:
    return newest(select(Run).where(col(Run.active)).order_by(col(Run.run_id)))
