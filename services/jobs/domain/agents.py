"""Node agents: who is one, and with which key."""

import hashlib
import hmac
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from chassis.csr import read_csr
from chassis.errors import Forbidden
from contracts import events
from services.jobs.models import Agent

ENROLMENT = timedelta(hours=24)


class UnknownAgent(Forbidden):
    """The certificate is an agent's, and the agent was withdrawn."""

    title = "This agent was withdrawn"


class EnrolmentTokenRefused(Forbidden):
    """ENROLMENT_TOKEN_IS_OPEN: the token is not known, or was used with another key."""

    title = "This enrolment token cannot be used"


def token_hash(token: str) -> bytes:
    """What is kept of an enrolment token."""
    return hashlib.sha256(token.encode()).digest()


def key_of(csr: str) -> bytes:
    """SHA-256 of the public key of a request that ca will answer. Raises CsrRefused."""
    key = read_csr(csr).public_key
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def enrol(agent: Agent | None, token: bytes, key: bytes, csr: str, now: datetime) -> bool:
    """Condition.ENROLMENT_TOKEN_IS_OPEN: bind a token to the first key that shows it; whether a new certificate is asked for.

    The same key may ask again: with the request it sent before it waits, with a new one it gets a new certificate.
    Raises EnrolmentTokenRefused.
    """
    if agent is None or not agent.live or not hmac.compare_digest(agent.token_sha256, token):
        raise EnrolmentTokenRefused
    if agent.key_sha256 is None and agent.enrol_before is not None and agent.enrol_before <= now:
        raise EnrolmentTokenRefused("Nobody used it in time; announce the agent again.")
    if agent.key_sha256 is not None and not hmac.compare_digest(agent.key_sha256, key):
        raise EnrolmentTokenRefused
    if agent.csr == csr:
        return False
    agent.key_sha256 = key
    agent.csr = csr
    agent.chain = agent.certificate_id = None
    agent.version += 1
    return True


def withdraw(agent: Agent) -> bool:
    """The agent counts no longer, for ever; whether it did before."""
    if not agent.live:
        return False
    agent.live = False
    agent.csr = agent.chain = agent.certificate_id = None
    agent.version += 1
    return True


def certify_agent(agent: Agent, fact: events.Certificate) -> None:
    """Take over the certificate for the agent's newest request, or forget it when it was revoked.

    Facts of an agent's several certificates come in any order: those for earlier requests are not looked at.
    """
    if agent.csr is None or fact.csr_sha256 != read_csr(agent.csr).sha256:
        return
    if fact.live:
        agent.chain = fact.chain
        agent.certificate_id = fact.certificate_id
    elif agent.certificate_id == fact.certificate_id:
        agent.chain = agent.certificate_id = None


def agent_fact(agent: Agent) -> events.Agent:
    """The agent as ca knows it."""
    return events.Agent(agent_id=agent.agent_id, version=agent.version, name=agent.name, csr=agent.csr, live=agent.live)
