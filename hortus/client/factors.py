"""Doors for the caller's second factors. Passkeys are added in the browser, which holds them (`hortus factors add-passkey`)."""

from typing import cast

from hortus.client.shapes import Factors as FactorsShape
from hortus.client.shapes import RecoveryCodes, SecondFactor
from hortus.client.wire import Wire


class Factors:
    """The caller's authenticator, passkeys and recovery codes; changing them asks for a fresh second factor."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def list(self) -> FactorsShape:
        """What there is, and what the caller's groups ask for."""
        return cast("FactorsShape", self._wire.call("GET", "/users/me/factors"))

    def begin_totp(self) -> SecondFactor:
        """A new secret for an authenticator application; it counts once it is confirmed."""
        return cast("SecondFactor", self._wire.call("POST", "/users/me/totp", once=True))

    def confirm_totp(self, code: str) -> None:
        """Show that the authenticator works; it replaces the one before."""
        self._wire.call("POST", "/users/me/totp/confirmation", {"code": code}, once=True)

    def remove_totp(self) -> None:
        """Do without an authenticator."""
        self._wire.call("DELETE", "/users/me/totp")

    def remove_passkey(self, passkey_id: str) -> None:
        """Let a passkey count no longer."""
        self._wire.call("DELETE", f"/users/me/passkeys/{passkey_id}")

    def new_recovery_codes(self) -> RecoveryCodes:
        """Ten new recovery codes, shown this once; those before count no longer."""
        return cast("RecoveryCodes", self._wire.call("POST", "/users/me/recovery-codes", once=True))
