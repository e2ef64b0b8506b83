"""Doors for accounts: invitations, signing in and out, and the administrator's list of people."""

from collections.abc import Iterator
from typing import cast

from hortus.client.errors import Refused
from hortus.client.shapes import SecondFactor, Session, User
from hortus.client.wire import Wire


class Invitations:
    """From a one-time token to an account that can sign in."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def accept(self, token: str, password: str) -> SecondFactor:
        """Set the password (12 to 128 characters) and get the second factor; repeatable until confirmed."""
        body = {"token": token, "password": password}
        return cast("SecondFactor", self._wire.call("POST", "/invitations/acceptance", body, once=True))

    def confirm(self, token: str, code: str) -> User:
        """Show that the authenticator works: the account becomes active and the token is spent."""
        return cast("User", self._wire.call("POST", "/invitations/confirmation", {"token": token, "code": code}, once=True))


class Sessions:
    """Signing in and out."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def create(self, username: str, password: str, code: str) -> Session:
        """Sign in with password and one-time code; the client uses the new token from here on."""
        body = {"username": username, "password": password, "code": code}
        session = cast("Session", self._wire.call("POST", "/sessions", body, once=True))
        self._wire.token = session["access_token"]
        return session

    def list(self) -> Iterator[Session]:
        """The caller's live sessions."""
        yield from self._wire.pages("/sessions")

    def end(self, session_id: str) -> None:
        """Sign out: the session's tokens are refused everywhere."""
        self._wire.call("DELETE", f"/sessions/{session_id}")


class Users:
    """People's accounts; all but ``me`` is for administrators."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def me(self) -> User:
        """The caller's own account."""
        return cast("User", self._wire.call("GET", "/users/me"))

    def create(self, email: str, cluster_roles: tuple[str, ...] = ()) -> User:
        """Invite a person; ``invitation`` in the answer is their one-time token, shown this once."""
        return cast("User", self._wire.call("POST", "/users", {"email": email, "cluster_roles": list(cluster_roles)}))

    def list(self) -> Iterator[User]:
        """Everybody."""
        yield from self._wire.pages("/users")

    def find(self, name: str) -> User:
        """The account with this username, address or id."""
        for user in self.list():
            if name in (user["username"], user["email"], user["user_id"]):
                return user
        raise Refused(404, "not-found", f"There is no account {name!r}")

    def change(
        self,
        user_id: str,
        *,
        status: str | None = None,
        cluster_roles: tuple[str, ...] | None = None,
        version: int | None = None,
    ) -> User:
        """Block (``blocked``), unblock (``active``) or give cluster roles; without ``version`` the newest is changed."""
        if version is None:
            version = self.find(user_id)["version"]
        change: dict[str, object] = {}
        if status is not None:
            change["status"] = status
        if cluster_roles is not None:
            change["cluster_roles"] = list(cluster_roles)
        return cast("User", self._wire.call("PATCH", f"/users/{user_id}", change, version=version))
