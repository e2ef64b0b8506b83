"""What the gateway is told by its environment."""

from pathlib import Path

from chassis.settings import ProcessSettings


class GatewaySettings(ProcessSettings):
    """The settings of every process, and the gateway's own.

    ``upstreams`` are ``https://host:port`` addresses by service; ``client_issuers`` and ``root`` are PEM files.
    """

    service: str = "gateway"
    listen: str = "127.0.0.1:8440"
    people_listen: str = "127.0.0.1:8443"
    certificate_listen: str = "127.0.0.1:8444"
    upstreams: dict[str, list[str]]
    client_issuers: Path
    root: Path

    @property
    def source(self) -> str:
        """The gateway's name in the ledger."""
        return f"gateway-{self.instance}"
