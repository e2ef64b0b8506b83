"""The settings of auth."""

from pathlib import Path

from pydantic import Field

from chassis.settings import Settings


class AuthSettings(Settings):
    """What auth is told beside what every service is; times are seconds unless a name says otherwise.

    ``origins`` are the addresses that browsers reach the gateway at (``https://host[:port]``), the first one for links and
    passkeys. ``token_s``: the life of an access token; ``idle_s`` and ``session_s``: when an unused session ends, and when any.
    """

    master_key_file: Path
    setup_file: Path
    administrator_email: str = "admin@localhost"
    origins: tuple[str, ...] = ("https://localhost:8443",)
    token_s: int = 300
    idle_s: int = 15 * 60
    session_s: int = 12 * 3600
    hash_threads: int = 2
    factor_policy: str = Field(default="required", pattern="^(optional|required|passkey)$")
    registration: bool = False
    signing_key_days: int = 30
    smtp_url: str = ""
    smtp_password_file: Path | None = None
    smtp_from: str = "hortus@localhost"
    smtp_trust: Path | None = None
    ldap_file: Path | None = None
    oidc_file: Path | None = None
