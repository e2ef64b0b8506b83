"""What the gateway is told by its environment."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints

from chassis.settings import ProcessSettings
from contracts.policy import STEP_UP_S

Origin = Annotated[str, StringConstraints(pattern=r"^https://([a-z0-9.-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?$")]


class GatewaySettings(ProcessSettings):
    """The settings of every process, and the gateway's own.

    ``upstreams`` are ``https://host:port`` addresses by service; ``client_issuers`` and ``root`` are PEM files. ``origins``
    are the addresses that browsers reach Hortus at, as they write them (no port where it is 443). ``step_up_s``: for how long
    a second factor is fresh; ``activity_s``: how often the use of one session or API key is told at most; seconds.
    """

    service: str = "gateway"
    listen: str = "127.0.0.1:8440"
    people_listen: str = "127.0.0.1:8443"
    certificate_listen: str = "127.0.0.1:8444"
    upstreams: dict[str, list[str]]
    client_issuers: Path
    root: Path
    origins: tuple[Origin, ...] = ("https://localhost:8443",)
    step_up_s: float = Field(default=STEP_UP_S, gt=0)
    activity_s: float = Field(default=15.0, gt=0)

    @property
    def source(self) -> str:
        """The gateway's name in the ledger."""
        return f"gateway-{self.instance}"
