"""The settings that every process of Hortus has; a service adds its own in its ``app.py``."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class ProcessSettings(BaseSettings):
    """What every process is told, by environment variables that start with ``HORTUS_``.

    ``renewal_addresses``: the ``https://host:port`` addresses of ca, where the process has its certificate renewed; none: somebody else
    puts a new one into ``tls_dir`` in time.
    """

    model_config = SettingsConfigDict(env_prefix="HORTUS_", extra="ignore", frozen=True)

    service: str
    instance: str = "1"
    listen: str = "127.0.0.1:0"
    tls_dir: Path
    trust_domain: str = "hortus.internal"
    kafka: str
    state_dir: Path
    renewal_addresses: tuple[str, ...] = ()
    log_level: str = "INFO"

    @property
    def host(self) -> str:
        """The address to listen on."""
        return self.listen.rpartition(":")[0]

    @property
    def port(self) -> int:
        """The port to listen on."""
        return int(self.listen.rpartition(":")[2])


class Settings(ProcessSettings):
    """What every service is told: the above and its database.

    Times are seconds. ``connections`` are held with the database at most. ``lease_s`` is how long a relay may lead without renewing; ``sleep_limit_s`` is how long a
    consumer may be away before it reads its compacted topics anew (the broker's ``delete.retention.ms``).
    """

    database_url: str = Field(repr=False)
    connections: int = 10
    position_s: float = 0.2
    lease_s: float = 2.0
    sleep_limit_s: float = 24 * 3600.0
    retries: int = 5
