"""Node agents: announced, enrolled, withdrawn."""

import secrets
from uuid import UUID

from chassis.errors import NotFound
from chassis.outbox import UnitOfWork
from services.jobs import domain, repository
from services.jobs.models import Agent
from services.jobs.service.ending import tell

LOCAL_AGENT = "local"


async def announce_agent(uow: UnitOfWork, name: str) -> tuple[Agent, str]:
    """Announce an agent; the token that enrols it is returned this once."""
    token = f"agent_{secrets.token_urlsafe(32)}"
    agent = _new_agent(uow, name, domain.agents.token_hash(token))
    agent.enrol_before = uow.now + domain.agents.ENROLMENT
    uow.conceal()
    uow.note(agent_id=agent.agent_id)
    return agent, token


async def know_local_agent(uow: UnitOfWork, token_sha256: bytes) -> None:
    """Announce the agent on this machine, whose token the set-up made."""
    if await repository.agents.agent_of_token(uow.session, token_sha256) is None:
        _new_agent(uow, LOCAL_AGENT, token_sha256)


def _new_agent(uow: UnitOfWork, name: str, token_sha256: bytes) -> Agent:
    agent = Agent(agent_id=uow.new_id(), name=name, token_sha256=token_sha256, created_at=uow.now, version=1)
    uow.session.add(agent)
    uow.emit(domain.agents.agent_fact(agent))
    return agent


async def withdraw_agent(uow: UnitOfWork, agent_id: UUID) -> None:
    """An agent counts no longer: its certificate ends, and its runs wait for another. Safe to repeat. Raises NotFound."""
    agent = await repository.agents.agent(uow.session, agent_id, lock=True)
    if agent is None:
        raise NotFound
    if not domain.agents.withdraw(agent):
        return
    uow.emit(domain.agents.agent_fact(agent))
    uow.note(agent_id=agent_id)
    for job, run in await repository.jobs.held_by(uow.session, agent_id):
        domain.runs.release(run)
        await tell(uow, job, run)


async def list_agents(uow: UnitOfWork, after: UUID | None, limit: int) -> list[Agent]:
    """The agents, oldest first."""
    return await repository.agents.agents(uow.session, after, limit)


async def enrol(uow: UnitOfWork, token: str, csr: str) -> Agent:
    """Bind an enrolment token to a key and ask for its certificate. Raises EnrolmentTokenRefused, CsrRefused."""
    hashed = domain.agents.token_hash(token)
    agent = await repository.agents.agent_of_token(uow.session, hashed)
    if domain.agents.enrol(agent, hashed, domain.agents.key_of(csr), csr, uow.now) and agent is not None:
        uow.emit(domain.agents.agent_fact(agent))
        uow.note(agent_id=agent.agent_id)
    if agent is None:
        raise domain.agents.EnrolmentTokenRefused
    return agent


async def calling_agent(uow: UnitOfWork, *, lock: bool = False) -> UUID:
    """The agent that asks; ``lock`` makes a withdrawal wait. Raises UnknownAgent."""
    if uow.actor.agent_id is None:
        raise domain.agents.UnknownAgent
    agent = await repository.agents.agent(uow.session, uow.actor.agent_id, lock=lock)
    if agent is None or not agent.live:
        raise domain.agents.UnknownAgent
    return agent.agent_id
