"""What the use cases of auth work with beside their transaction."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from services.auth import repository
from services.auth.directory import Directory
from services.auth.provider import Provider
from services.auth.settings import AuthSettings
from services.auth.vault import Passwords, Vault


@dataclass(frozen=True)
class Tools:
    """What use cases work with: the database outside of transactions, the master key, the threads that hash passwords, the settings.

    And who else may say who somebody is: identity providers by name, and a directory, if there is one.
    """

    engine: repository.Engine
    vault: Vault
    passwords: Passwords
    settings: AuthSettings
    providers: Mapping[str, Provider] = field(default_factory=dict)
    directory: Directory | None = None


@dataclass(frozen=True)
class About:
    """What a request says about itself: nothing of it is believed, but for ``source``, which the gateway names.

    ``client`` is what the caller calls itself, ``source`` its address (empty when it is not known), ``device`` the device cookie
    it shows. ``provider``, ``provider_session`` and ``id_token`` are there when an identity provider vouched for the person.
    """

    client: str = ""
    source: str = ""
    device: str | None = None
    provider: str | None = None
    provider_session: str | None = None
    id_token: str | None = None
