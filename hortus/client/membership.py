"""Doors for invitations into projects, break-glass, and the feed of a project."""

from collections.abc import Iterator
from typing import Literal, NotRequired, TypedDict, cast

from hortus.client.shapes import Activity, Member, ProjectInvitation, Role
from hortus.client.wire import Wire, given

Verdict = Literal["justified", "unjustified"]


class BreakGlass(TypedDict):
    """A project that an administrator opened for a short time; ``unreviewed``: nobody reviewed it in time.

    ``appointed``: whom they made its Data Owner, instead. ``reason`` and ``review`` are None for other administrators.
    """

    break_glass_id: str
    project_id: str
    user_id: str
    username: str
    appointed_id: NotRequired[str | None]
    appointed: NotRequired[str | None]
    reason: str | None
    opened_at: str
    ends_at: str
    ended_at: str | None
    review_due_at: str
    unreviewed: bool
    verdict: str | None
    review: str | None
    reviewed_by: str | None
    reviewed_at: str | None
    version: int


class ProjectInvitations:
    """Invitations into projects: those that a project's Data Owners made, and the caller's own."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def create(
        self,
        project_id: str,
        username: str,
        role: Role,
        *,
        purpose: str | None = None,
        starts_at: str | None = None,
        ends_at: str | None = None,
    ) -> ProjectInvitation:
        """Offer a person a role, from ``starts_at`` (default: when they accept) until ``ends_at`` (default open), RFC 3339."""
        body = given(username=username, role=role, purpose=purpose, starts_at=starts_at, ends_at=ends_at)
        return cast("ProjectInvitation", self._wire.call("POST", f"/projects/{project_id}/invitations", body))

    def list(self, project_id: str) -> Iterator[ProjectInvitation]:
        """A project's invitations that are not answered yet (Data Owners)."""
        yield from self._wire.pages(f"/projects/{project_id}/invitations")

    def withdraw(self, project_id: str, invitation_id: str) -> None:
        """Take an invitation back."""
        self._wire.call("DELETE", f"/projects/{project_id}/invitations/{invitation_id}")

    def own(self) -> Iterator[ProjectInvitation]:
        """The caller's invitations that are not answered yet."""
        yield from self._wire.pages("/project-invitations")

    def accept(self, invitation_id: str) -> Member:
        """Become a member, as offered."""
        return cast("Member", self._wire.call("POST", f"/project-invitations/{invitation_id}/acceptance"))

    def decline(self, invitation_id: str) -> None:
        """Turn an invitation down."""
        self._wire.call("DELETE", f"/project-invitations/{invitation_id}")


class BreakGlasses:
    """What administrators did in projects in an emergency: opened them for themselves, or appointed an owner."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def open(self, project: str, reason: str, *, lasts_s: int | None = None) -> BreakGlass:
        """Become a Data Scientist of a project (its name or id) for a short time; its Data Owners and the auditors are told."""
        return cast("BreakGlass", self._wire.call("POST", "/break-glass", given(project=project, reason=reason, lasts_s=lasts_s)))

    def appoint_owner(self, project: str, username: str, reason: str) -> BreakGlass:
        """Make somebody else a Data Owner of a project (its name or id) that nobody owns; somebody reviews that (administrators)."""
        body = {"project": project, "username": username, "reason": reason}
        return cast("BreakGlass", self._wire.call("POST", "/owner-appointments", body))

    def list(self, project_id: str | None = None, *, reviewed: bool | None = None) -> Iterator[BreakGlass]:
        """Every one, newest first: in a project for its Data Owners, without one for administrators and auditors.

        ``reviewed``: only those that are reviewed, or only those that are not, open ones included.
        """
        path = "/break-glass" if project_id is None else f"/projects/{project_id}/break-glass"
        yield from self._wire.pages(path, {"reviewed": None if reviewed is None else str(reviewed).lower()})

    def end(self, break_glass_id: str) -> BreakGlass:
        """End one before its time (administrators)."""
        return cast("BreakGlass", self._wire.call("DELETE", f"/break-glass/{break_glass_id}", told=True))

    def review(self, break_glass_id: str, verdict: Verdict, words: str, project_id: str | None = None) -> BreakGlass:
        """Say whether one that is over was justified: with ``project_id`` as a Data Owner there, without it as an auditor."""
        below = "" if project_id is None else f"/projects/{project_id}"
        path = f"{below}/break-glass/{break_glass_id}/review"
        return cast("BreakGlass", self._wire.call("POST", path, {"verdict": verdict, "words": words}))


class Feed:
    """What happened to a project and its members."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def list(self, project_id: str, most: int | None = None) -> Iterator[Activity]:
        """The lines of a project's feed, newest first, at most so many."""
        yield from self._wire.pages(f"/projects/{project_id}/activity", {}, most)
