"""The agent's own identity: enrolled once with the administrator's token, kept in its state folder."""

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path

from chassis.log import logger
from services.jobs.agent import keys
from services.jobs.agent.door import Away, Door, Refused
from services.jobs.agent.settings import AgentSettings

log = logger(__name__)
KEY = "key.pem"
CERTIFICATE = "cert.pem"
SHORTEST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0
REFUSED_PAUSE_S = 15.0


@dataclass(frozen=True)
class Identity:
    """The agent's key and certificate chain, PEM."""

    key: str
    chain: str


def stored(state: Path) -> Identity | None:
    """The identity from an earlier start."""
    try:
        return Identity((state / KEY).read_text(), (state / CERTIFICATE).read_text())
    except FileNotFoundError:
        return None


async def enrolled(settings: AgentSettings, *, anew: bool = False) -> Identity:
    """The identity of this agent; enrols it, or asks for a new certificate (``anew``), until the gateway grants it.

    The key is stored before it is shown to anybody, so an enrolment that was cut off goes on with the same key.
    """
    known = stored(settings.state_dir)
    if known is not None and not anew and not keys.past_half_life(known.chain):
        return known
    request = keys.ask_again(_own_key(settings.state_dir))
    pause = SHORTEST_PAUSE_S
    async with Door(settings.enrolment_url, settings.root) as door:
        while True:
            try:
                token = settings.agent_token_file.read_text().strip()
                answer = (await door.call("POST", "/agents/enrolment", json={"token": token, "csr": request.csr})).json()
                if answer["chain"] is not None:
                    keep(settings.state_dir / CERTIFICATE, answer["chain"])
                    log.info("enrolled", agent_id=answer["agent_id"])
                    return Identity(request.key, answer["chain"])
                pause = SHORTEST_PAUSE_S
            except (Away, OSError) as error:
                log.info("waits for the gateway to enrol", error=str(error))
                pause = min(pause * 2, LONGEST_PAUSE_S)
            except Refused as error:
                log.error("enrolment refused; announce the agent anew and give it the new token", reason=error.slug)
                pause = REFUSED_PAUSE_S
            await asyncio.sleep(pause)


def _own_key(state: Path) -> str:
    """The agent's key, made at the first start."""
    if not (state / KEY).exists():
        keep(state / KEY, keys.fresh().key)
    return (state / KEY).read_text()


def keep(path: Path, text: str) -> None:
    """Write a secret file for this user alone, whole or not at all."""
    part = path.with_suffix(".part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
