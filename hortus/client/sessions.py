"""Doors for signing in and out."""

from collections.abc import Iterator
from typing import Any, cast

from hortus.client.shapes import Session, SteppedUp
from hortus.client.wire import Wire


class Sessions:
    """The caller's sign-ins."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def create(
        self,
        username: str | None = None,
        password: str | None = None,
        code: str | None = None,
        *,
        recovery_code: str | None = None,
        client_code: str | None = None,
        verifier: str | None = None,
    ) -> Session:
        """Sign in; the client is this person from here on and renews the sign-in by itself until the session's end.

        With username, password and a one-time ``code`` or a ``recovery_code`` (neither where the person's groups ask for no
        second factor), or with the ``client_code`` that a browser was given for a ``verifier`` (RFC 7636).
        """
        shown = {
            "username": username,
            "password": password,
            "code": code,
            "recovery_code": recovery_code,
            "client_code": client_code,
            "verifier": verifier,
        }
        return self._wire.enter({name: value for name, value in shown.items() if value is not None})

    def list(self) -> Iterator[Session]:
        """The caller's live sessions."""
        yield from self._wire.pages("/sessions")

    def end(self, session_id: str) -> None:
        """Sign out: the session's tokens are refused everywhere."""
        self._wire.call("DELETE", f"/sessions/{session_id}")

    def end_all(self) -> None:
        """End every session of the caller, also this one."""
        self._wire.call("DELETE", "/sessions")

    def step_up(
        self,
        code: str | None = None,
        *,
        recovery_code: str | None = None,
        passkey: dict[str, Any] | None = None,
        password: str | None = None,
    ) -> SteppedUp:
        """Show a second factor once more, for doors that ask for one that is less than 5 minutes old; the password where there is none."""
        shown = {"code": code, "recovery_code": recovery_code, "passkey": passkey, "password": password}
        return cast("SteppedUp", self._wire.step_up({name: value for name, value in shown.items() if value is not None}))
