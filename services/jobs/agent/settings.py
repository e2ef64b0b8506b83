"""What the node agent is told."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class AgentSettings(BaseSettings):
    """Environment variables that start with ``HORTUS_``.

    ``agent_slots`` is how many runs it takes at a time, ``agent_look_s`` how many seconds it waits at most before it looks
    for work without a notice, and at the age of its own certificate. A run whose certificate does not come for ``agent_certificate_s`` fails.
    ``enrolment_url`` is the gateway's port that asks for no certificate, where an agent gets its first one.
    """

    model_config = SettingsConfigDict(env_prefix="HORTUS_", extra="ignore", frozen=True)

    service: str = "agent"
    instance: str = "1"
    log_level: str = "INFO"
    state_dir: Path
    agent_token_file: Path
    gateway_url: str
    enrolment_url: str
    root: Path
    environments_dir: Path
    bwrap: Path | None = None
    run_as: str | None = None
    valkey_url: str = Field(repr=False)
    agent_slots: int = Field(default=2, ge=1, le=64)
    agent_look_s: float = Field(default=3.0, gt=0, le=60)
    agent_certificate_s: float = Field(default=300.0, gt=0)
