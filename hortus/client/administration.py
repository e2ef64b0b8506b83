"""Doors for administrators: groups of people, and the keys that sign access tokens."""

from collections.abc import Iterator
from typing import cast

from hortus.client.errors import Refused
from hortus.client.shapes import Group, GroupMember, SigningKey
from hortus.client.wire import Wire


class Groups:
    """Groups of people"""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def create(
        self,
        name: str,
        *,
        factor_policy: str | None = None,
        cluster_roles: tuple[str, ...] = (),
        external: tuple[str, ...] = (),
    ) -> Group:
        """A group; ``external`` are the directory groups and provider claims whose people belong to it."""
        body = {"name": name, "factor_policy": factor_policy, "cluster_roles": list(cluster_roles), "external": list(external)}
        return cast("Group", self._wire.call("POST", "/groups", body))

    def list(self) -> Iterator[Group]:
        """All groups."""
        yield from self._wire.pages("/groups")

    def find(self, name: str) -> Group:
        """The group with this name or id."""
        for group in self.list():
            if name in (group["name"], group["group_id"]):
                return group
        raise Refused(404, "not-found", f"There is no group {name!r}")

    def change(self, group_id: str, version: int, **changes: object) -> Group:
        """Change what is given: ``factor_policy`` (None: no say), ``cluster_roles``, ``external``."""
        return cast("Group", self._wire.call("PATCH", f"/groups/{group_id}", changes, version=version))

    def remove(self, group_id: str) -> None:
        """Remove a group, with all that it gives."""
        self._wire.call("DELETE", f"/groups/{group_id}")

    def members(self, group_id: str) -> Iterator[GroupMember]:
        """Who belongs to a group, by hand or by a directory."""
        yield from self._wire.pages(f"/groups/{group_id}/members")

    def add(self, group_id: str, user_id: str) -> None:
        """Put somebody into a group."""
        self._wire.call("PUT", f"/groups/{group_id}/members/{user_id}")

    def take(self, group_id: str, user_id: str) -> None:
        """Take somebody out of a group who was put there by hand."""
        self._wire.call("DELETE", f"/groups/{group_id}/members/{user_id}")


class SigningKeys:
    """The keys that sign access tokens"""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def list(self) -> Iterator[SigningKey]:
        """The keys with which tokens are checked."""
        yield from self._wire.pages("/signing-keys")

    def rotate(self) -> SigningKey:
        """Sign with a new key from here on; the one before counts until its last token is gone."""
        return cast("SigningKey", self._wire.call("POST", "/signing-keys"))

    def withdraw(self, signing_key_id: str) -> None:
        """Let a key count no longer: what it signed is refused."""
        self._wire.call("DELETE", f"/signing-keys/{signing_key_id}")
