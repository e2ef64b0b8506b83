"""What the use cases of auth work with beside their transaction."""

from dataclasses import dataclass

from services.auth import repository
from services.auth.settings import AuthSettings
from services.auth.vault import Passwords, Vault


@dataclass(frozen=True)
class Tools:
    """The database outside of transactions, the master key, the threads that hash passwords, and the settings."""

    engine: repository.Engine
    vault: Vault
    passwords: Passwords
    settings: AuthSettings
