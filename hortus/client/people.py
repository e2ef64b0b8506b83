"""Doors for accounts: invitations, links, registrations, passwords, and the administrator's list of people."""

from collections.abc import Iterator
from typing import cast

from hortus.client.errors import Refused
from hortus.client.shapes import ApiKey, Invited, Link, Registration, SecondFactor, Session, User, UserDetail
from hortus.client.wire import Wire


class Invitations:
    """From a one-time token to an account that can sign in."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def accept(self, token: str, password: str) -> SecondFactor:
        """Set the password (12 to 128 characters) and get the second factor; repeatable until confirmed."""
        body = {"token": token, "password": password}
        return cast("SecondFactor", self._wire.call("POST", "/invitations/acceptance", body, once=True, anonymous=True))

    def confirm(self, token: str, code: str) -> User:
        """Show that the authenticator works: the account becomes active and the token is spent."""
        body = {"token": token, "code": code}
        return cast("User", self._wire.call("POST", "/invitations/confirmation", body, once=True, anonymous=True))


class Enrolments:
    """From a one-time token to a new second factor, for somebody who has none or lost it."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def accept(self, token: str, password: str | None = None) -> SecondFactor:
        """Get a second factor; repeatable until confirmed. The link of an administrator's reset takes the ``password`` beside it."""
        body = {"token": token} if password is None else {"token": token, "password": password}
        return cast("SecondFactor", self._wire.call("POST", "/factor-enrolments/acceptance", body, once=True, anonymous=True))

    def confirm(self, token: str, code: str) -> User:
        """Show that the authenticator works: it counts from now on, the token is spent, and all sessions end."""
        body = {"token": token, "code": code}
        return cast("User", self._wire.call("POST", "/factor-enrolments/confirmation", body, once=True, anonymous=True))


class Passwords:
    """Changing a password, and setting one that was forgotten. Both end every session of the person."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def change(self, password: str, new_password: str) -> None:
        """Replace the caller's password."""
        self._wire.call("POST", "/users/me/password", {"password": password, "new_password": new_password}, once=True)

    def ask_reset(self, name: str) -> None:
        """Ask for a letter with a one-time link; what is answered does not tell whether the account exists."""
        self._wire.call("POST", "/password-resets", {"name": name}, anonymous=True)

    def reset(self, token: str, password: str) -> None:
        """Set a new password with a one-time token; the second factor stays as it is."""
        self._wire.call("POST", "/password-resets/acceptance", {"token": token, "password": password}, once=True, anonymous=True)


class Registrations:
    """Requests for an account, where the installation takes them. All but ``ask`` is for administrators."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def ask(self, email: str, note: str = "") -> None:
        """Ask for an account; what is answered does not tell whether one exists."""
        self._wire.call("POST", "/registrations", {"email": email, "note": note}, anonymous=True)

    def list(self) -> Iterator[Registration]:
        """What waits for a decision."""
        yield from self._wire.pages("/registrations")

    def find(self, name: str) -> Registration:
        """The request with this address or id."""
        for registration in self.list():
            if name in (registration["email"], registration["registration_id"]):
                return registration
        raise Refused(404, "not-found", f"There is no request of {name!r} that waits for a decision")

    def approve(self, registration_id: str, cluster_roles: tuple[str, ...] = ()) -> Invited:
        """Invite the person."""
        path = f"/registrations/{registration_id}/approval"
        return cast("Invited", self._wire.call("POST", path, {"cluster_roles": list(cluster_roles)}))

    def decline(self, registration_id: str) -> None:
        """Forget the request."""
        self._wire.call("DELETE", f"/registrations/{registration_id}")


class Users:
    """People's accounts; all but ``me`` is for administrators."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def me(self) -> User:
        """The caller's own account."""
        return cast("User", self._wire.call("GET", "/users/me"))

    def create(self, email: str, cluster_roles: tuple[str, ...] = ()) -> Invited:
        """Invite a person; ``invitation`` in the answer is their one-time token, shown this once, or None where it was mailed."""
        return cast("Invited", self._wire.call("POST", "/users", {"email": email, "cluster_roles": list(cluster_roles)}))

    def list(self, *, status: str | None = None, words: str | None = None) -> Iterator[User]:
        """Everybody, or those in a ``status``, or whose username or address begins with ``words``."""
        yield from self._wire.pages("/users", {"status": status, "q": words})

    def get(self, user_id: str) -> UserDetail:
        """One account, with what it can sign in with and where it belongs."""
        return cast("UserDetail", self._wire.call("GET", f"/users/{user_id}"))

    def find(self, name: str) -> User:
        """The account with this username or address."""
        for user in self.list(words=name):
            if name.lower() in (user["username"], user["email"].lower()):
                return user
        raise Refused(404, "not-found", f"There is no account {name!r}")

    def change(
        self,
        user_id: str,
        *,
        status: str | None = None,
        cluster_roles: tuple[str, ...] | None = None,
        version: int | None = None,
    ) -> Invited:
        """Set the status (``active``, ``blocked``, ``deactivated``) or the roles of its own; without ``version`` the newest is changed.

        Who was deactivated and becomes active is invited anew: the answer is then that of ``create``.
        """
        if version is None:
            version = self.get(user_id)["version"]
        change: dict[str, object] = {}
        if status is not None:
            change["status"] = status
        if cluster_roles is not None:
            change["cluster_roles"] = list(cluster_roles)
        return cast("Invited", self._wire.call("PATCH", f"/users/{user_id}", change, version=version))

    def sessions(self, user_id: str) -> Iterator[Session]:
        """A person's live sessions."""
        yield from self._wire.pages(f"/users/{user_id}/sessions")

    def end_sessions(self, user_id: str) -> None:
        """Sign a person out everywhere."""
        self._wire.call("DELETE", f"/users/{user_id}/sessions")

    def keys(self, user_id: str) -> Iterator[ApiKey]:
        """A person's API keys."""
        yield from self._wire.pages(f"/users/{user_id}/keys")

    def end_keys(self, user_id: str) -> None:
        """End all of a person's API keys."""
        self._wire.call("DELETE", f"/users/{user_id}/keys")

    def reset_password(self, user_id: str) -> Link:
        """A one-time link with which the person sets a new password."""
        return cast("Link", self._wire.call("POST", f"/users/{user_id}/password-reset"))

    def reset_factors(self, user_id: str) -> Link:
        """A one-time link with which the person sets up a new second factor."""
        return cast("Link", self._wire.call("POST", f"/users/{user_id}/factor-reset"))
