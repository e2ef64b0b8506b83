"""The settings of auth."""

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from chassis.settings import Settings

Claim = Annotated[str, StringConstraints(min_length=1, max_length=256)]
ClaimName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:/-]{1,128}$")]


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


class IdentityProvider(BaseModel):
    """One ``[[provider]]`` of the file that ``oidc_file`` names: who else may say who somebody is (OpenID Connect).

    ``issuer`` is an ``https`` address, exactly as the provider writes it; ``trust`` are the authorities of its certificate
    (PEM), the system's without. ``algorithms`` may sign its tokens. ``trusts_factor`` are values of ``amr`` or ``acr`` that
    count as a second factor. ``only_groups`` are values of ``groups_claim`` of which a person needs one; empty lets all in.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
    title: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    issuer: Annotated[str, StringConstraints(max_length=512)]
    trust: Path | None = None
    client_id: Claim
    client_secret_file: Path
    scopes: tuple[ClaimName, ...] = ("openid", "email")
    groups_claim: ClaimName | None = None
    email_claim: ClaimName = "email"
    algorithms: Annotated[tuple[Literal["RS256", "ES256", "PS256"], ...], Field(min_length=1)] = ("RS256",)
    trusts_factor: frozenset[Claim] = frozenset()
    only_groups: frozenset[Claim] = frozenset()
    creates_accounts: bool = True

    @field_validator("issuer")
    @classmethod
    def _issuer(cls, value: str) -> str:
        if not is_https(value) or urlsplit(value).query:
            raise ValueError("an issuer is an https address without a query")
        return value

    @field_validator("scopes")
    @classmethod
    def _scopes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "openid" not in value:
            raise ValueError("openid is one of the scopes")
        return value


class IdentityProviders(BaseModel):
    """The file of identity providers; no two have the same name."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    provider: tuple[IdentityProvider, ...]

    @field_validator("provider")
    @classmethod
    def _names(cls, value: tuple[IdentityProvider, ...]) -> tuple[IdentityProvider, ...]:
        if len({each.name for each in value}) < len(value):
            raise ValueError("two identity providers have the same name")
        return value


def is_https(address: object) -> bool:
    """Whether this is an ``https`` address of a host, without a user or a fragment."""
    if not isinstance(address, str) or not address.isascii() or not address.isprintable() or " " in address:
        return False
    try:
        parts = urlsplit(address)
        return parts.scheme == "https" and bool(parts.hostname) and "@" not in parts.netloc and not parts.fragment and parts.port != 0
    except ValueError:
        return False
