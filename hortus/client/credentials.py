"""Doors for API keys, with which programs act for people."""

from collections.abc import Iterator
from typing import cast

from hortus.client.errors import Refused
from hortus.client.shapes import ApiKey, NewApiKey
from hortus.client.wire import Wire


class ApiKeys:
    """The caller's API keys, for programs that act in their name."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def create(self, name: str, scopes: tuple[str, ...], expires_at: str, project_id: str | None = None) -> NewApiKey:
        """A key for the actions in ``scopes`` (``dataset.read``, ``dataset.*``), in one project or in all; at most for a year.

        ``secret`` in the answer is shown this once.
        """
        body: dict[str, object] = {"name": name, "scopes": list(scopes), "expires_at": expires_at}
        if project_id is not None:
            body["project_id"] = project_id
        return cast("NewApiKey", self._wire.call("POST", "/keys", body, once=True))

    def list(self) -> Iterator[ApiKey]:
        """The caller's keys that count."""
        yield from self._wire.pages("/keys")

    def find(self, name: str) -> ApiKey:
        """The key with this id, or the newest with this name."""
        fitting = [key for key in self.list() if name in (key["name"], key["key_id"])]
        if not fitting:
            raise Refused(404, "not-found", f"You have no key {name!r}")
        return max(fitting, key=lambda key: key["created_at"])

    def end(self, key_id: str) -> None:
        """Let a key count no longer."""
        self._wire.call("DELETE", f"/keys/{key_id}")
