"""The settings of auth, of the directory that it may ask, and of identity providers."""

import json
import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from chassis.settings import Settings

VOUCH_DAYS = 30
MISSING_DAYS = 3
TLS_SCHEMES = ("ldaps", "ldap")
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
    token_s: int = Field(default=300, gt=0)
    idle_s: int = Field(default=15 * 60, gt=0)
    session_s: int = Field(default=12 * 3600, gt=0)
    hash_threads: int = Field(default=2, gt=0)
    factor_policy: str = Field(default="required", pattern="^(optional|required|passkey)$")
    registration: bool = False
    signing_key_days: int = Field(default=30, gt=0)
    smtp_url: str = ""
    smtp_password_file: Path | None = None
    smtp_from: str = "hortus@localhost"
    smtp_trust: Path | None = None
    ldap_file: Path | None = None
    ldap_sync_s: float = Field(default=300.0, gt=0)
    oidc_file: Path | None = None


class IdentityProvider(BaseModel):
    """One ``[[provider]]`` of the file that ``oidc_file`` names: who else may say who somebody is (OpenID Connect).

    ``issuer`` is an ``https`` address, exactly as the provider writes it; ``trust`` are the authorities of its certificate
    (PEM), the system's without. ``algorithms`` may sign its tokens. ``trusts_factor`` are values of ``amr`` or ``acr`` that
    count as a second factor. ``only_groups`` are values of ``groups_claim`` of which a person needs one; empty lets all in.
    ``trusts_email``: addresses count although the provider does not say ``email_verified``.
    ``vouch_days``: when it has not vouched for somebody for so long, their API keys end and they leave the groups that it put them into.
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
    trusts_email: bool = False
    vouch_days: Annotated[int, Field(ge=1, le=3650)] = VOUCH_DAYS

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


class BadDirectoryFile(Exception):
    """The file that describes the directory cannot be used; the message is one sentence."""


def _url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in TLS_SCHEMES or not parts.hostname or parts.path.strip("/") or parts.query or parts.username:
        raise ValueError("is no ldaps://host[:port] or ldap://host[:port]")
    _ = parts.port
    return value


def _there(value: Path) -> Path:
    if not value.is_file() or not value.read_bytes().strip():
        raise ValueError("is no file, or an empty one")
    return value


Text = Annotated[str, Field(min_length=1, max_length=1024)]
Attribute = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9-]{0,63}$")]


class DirectorySettings(BaseModel):
    """A directory (LDAP or Active Directory) that checks passwords and says who is in which group.

    ``account`` and the password in ``password_file`` are for looking people up. ``login_attributes``: what people may type.
    ``active_directory``: nested groups by its own matching rule, else step by step. ``only_groups``: who may sign in at all.
    ``mail_domain``: the domain of the address of somebody without one; without it they cannot sign in. ``most_failed_binds`` as one
    person ``in_minutes``: fewer than the directory locks them out after, in a time no shorter than the one after which it forgets.
    ``missing_days``: when it lacks too many to be believed, after how long their API keys and sessions end and they leave the groups that it
    put them into; ``vouch_days``: the same for everybody, when it did not answer, or shows nobody, for so long.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
    urls: Annotated[tuple[Annotated[str, AfterValidator(_url)], ...], Field(min_length=1, max_length=8)]
    starttls: bool = False
    trust_file: Annotated[Path, AfterValidator(_there)] | None = None
    account: Text
    password_file: Annotated[Path, AfterValidator(_there)]
    people_base: Text
    people_filter: Text = "(objectClass=person)"
    login_attributes: Annotated[tuple[Literal["uid", "sAMAccountName", "userPrincipalName", "mail"], ...], Field(min_length=1)]
    id_attribute: Literal["entryUUID", "objectGUID"]
    mail_attribute: Attribute = "mail"
    mail_domain: Text | None = None
    group_base: Text | None = None
    group_style: Literal["memberOf", "member"] = "memberOf"
    nested: bool = False
    active_directory: bool = False
    only_groups: tuple[Text, ...] = ()
    timeout_s: Annotated[int, Field(ge=1, le=60)] = 5
    threads: Annotated[int, Field(ge=1, le=64)] = 8
    most_failed_binds: Annotated[int, Field(ge=1, le=1000)] = 3
    in_minutes: Annotated[int, Field(ge=1, le=1440)] = 30
    missing_days: Annotated[int, Field(ge=1, le=365)] = MISSING_DAYS
    vouch_days: Annotated[int, Field(ge=1, le=3650)] = VOUCH_DAYS

    @model_validator(mode="after")
    def _sound(self) -> Self:
        schemes = {urlsplit(url).scheme for url in self.urls}
        if schemes != ({"ldap"} if self.starttls else {"ldaps"}):
            raise ValueError("urls: nothing is sent without TLS: use ldaps://, or ldap:// with starttls = true")
        if self.group_base is None and (self.group_style == "member" or (self.nested and self.active_directory)):
            raise ValueError("group_base: is needed to search for groups")
        if not (self.people_filter.startswith("(") and self.people_filter.endswith(")")):
            raise ValueError("people_filter: is no filter in parentheses (RFC 4515)")
        return self


def read_directory(path: Path) -> DirectorySettings:
    """The directory that a TOML file (or a JSON file, by its name) describes. Raises BadDirectoryFile."""
    try:
        text = path.read_text(encoding="utf-8")
        return DirectorySettings.model_validate(json.loads(text) if path.suffix == ".json" else tomllib.loads(text))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BadDirectoryFile(f"{path}: {place + ': ' if place else ''}{first['msg']}") from None
    except (OSError, ValueError) as error:
        raise BadDirectoryFile(f"{path}: cannot be read: {error}") from None
