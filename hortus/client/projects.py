"""Doors for projects, their members, the roles of groups, and project certificates."""

from collections.abc import Iterator
from typing import cast

from hortus.client.errors import Refused
from hortus.client.shapes import Certificate, GroupRole, Member, Project, Role
from hortus.client.wire import Wire, given


def _end(ends_at: str | None, *, open_end: bool) -> dict[str, str | None]:
    return {"ends_at": ends_at} if ends_at is not None or open_end else {}


class Projects:
    """The caller's sandboxes."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def create(
        self,
        name: str,
        description: str = "",
        purpose: str = "",
        *,
        legal_basis: str | None = None,
        ethics_approval_id: str | None = None,
        ends_at: str | None = None,
    ) -> Project:
        """Make a project, which is archived at ``ends_at`` (RFC 3339; default never); the caller becomes its Data Owner."""
        body = given(
            name=name,
            description=description,
            purpose=purpose,
            legal_basis=legal_basis,
            ethics_approval_id=ethics_approval_id,
            ends_at=ends_at,
        )
        return cast("Project", self._wire.call("POST", "/projects", body))

    def list(self) -> Iterator[Project]:
        """The projects that the caller is a member of."""
        yield from self._wire.pages("/projects")

    def get(self, project_id: str) -> Project:
        """One project; 404 for who is no member."""
        return cast("Project", self._wire.call("GET", f"/projects/{project_id}"))

    def change(
        self,
        project_id: str,
        *,
        description: str | None = None,
        purpose: str | None = None,
        legal_basis: str | None = None,
        ethics_approval_id: str | None = None,
        ends_at: str | None = None,
        open_end: bool = False,
        version: int | None = None,
    ) -> Project:
        """Change what is given, or with ``open_end`` take the end away; without ``version`` the newest is changed."""
        if version is None:
            version = self.get(project_id)["version"]
        body = given(description=description, purpose=purpose, legal_basis=legal_basis, ethics_approval_id=ethics_approval_id)
        body |= _end(ends_at, open_end=open_end)
        return cast("Project", self._wire.call("PATCH", f"/projects/{project_id}", body, version=version))

    def archive(self, project_id: str) -> Project:
        """Let the project be read and no more changed: its runs end, uploads are cut."""
        return cast("Project", self._wire.call("POST", f"/projects/{project_id}/archive"))

    def restore(self, project_id: str, *, ends_at: str | None = None, open_end: bool = False) -> Project:
        """Let an archived project be changed again, until ``ends_at`` where it is given, or with ``open_end`` for good."""
        return cast("Project", self._wire.call("POST", f"/projects/{project_id}/restoration", _end(ends_at, open_end=open_end)))


class Members:
    """Who is what in a project."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def add(
        self,
        project_id: str,
        username: str,
        role: Role,
        *,
        purpose: str | None = None,
        ends_at: str | None = None,
    ) -> Member:
        """Give a person a role from now until ``ends_at`` (default open), RFC 3339; an invitation offers one that begins later."""
        body = given(username=username, role=role, purpose=purpose, ends_at=ends_at)
        return cast("Member", self._wire.call("POST", f"/projects/{project_id}/members", body))

    def list(self, project_id: str) -> Iterator[Member]:
        """The members."""
        yield from self._wire.pages(f"/projects/{project_id}/members")

    def find(self, project_id: str, name: str) -> Member:
        """The member with this username or id."""
        for member in self.list(project_id):
            if name in (member["username"], member["user_id"]):
                return member
        raise Refused(404, "not-found", f"{name!r} is no member of this project")

    def change(
        self,
        project_id: str,
        user_id: str,
        *,
        role: Role | None = None,
        purpose: str | None = None,
        ends_at: str | None = None,
        open_end: bool = False,
        version: int | None = None,
    ) -> Member:
        """Change what is given, or with ``open_end`` take the end away; without ``version`` the newest is changed."""
        if version is None:
            version = self.find(project_id, user_id)["version"]
        body = given(role=role, purpose=purpose) | _end(ends_at, open_end=open_end)
        return cast("Member", self._wire.call("PATCH", f"/projects/{project_id}/members/{user_id}", body, version=version))

    def remove(self, project_id: str, user_id: str) -> Member | None:
        """Take the person's own role away; when this returns it is in force at the gateway, or about to be (202).

        What remains is given back where a group gives them a role as well.
        """
        return cast("Member | None", self._wire.call("DELETE", f"/projects/{project_id}/members/{user_id}", told=True))

    def leave(self, project_id: str) -> Member | None:
        """Give the caller's own role up; what remains is given back where a group gives them a role as well."""
        return cast("Member | None", self._wire.call("DELETE", f"/projects/{project_id}/members/me", told=True))


class Certificates:
    """Project certificates: what programs of a person show on the certificate port."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def create(self, project_id: str, csr: str) -> Certificate:
        """Have a CSR (PEM) signed for the caller in this project; the private key stays where it was made."""
        return cast("Certificate", self._wire.call("POST", f"/projects/{project_id}/certificates", {"csr": csr}))

    def list(self, project_id: str) -> Iterator[Certificate]:
        """The project's certificates that the caller may see."""
        yield from self._wire.pages(f"/projects/{project_id}/certificates")

    def revoke(self, project_id: str, certificate_id: str) -> None:
        """Withdraw a certificate: it is refused everywhere."""
        self._wire.call("DELETE", f"/projects/{project_id}/certificates/{certificate_id}")


class GroupRoles:
    """What the people of a group are in a project, as long as they belong to the group."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def give(self, project_id: str, group: str, role: Role, *, purpose: str | None = None, ends_at: str | None = None) -> GroupRole:
        """Give a role to everybody in a group, until ``ends_at`` (default open), RFC 3339."""
        body = given(group=group, role=role, purpose=purpose, ends_at=ends_at)
        return cast("GroupRole", self._wire.call("POST", f"/projects/{project_id}/group-roles", body))

    def list(self, project_id: str) -> Iterator[GroupRole]:
        """The roles of groups."""
        yield from self._wire.pages(f"/projects/{project_id}/group-roles")

    def remove(self, project_id: str, group_role_id: str) -> None:
        """Take a group's role away."""
        self._wire.call("DELETE", f"/projects/{project_id}/group-roles/{group_role_id}")
