"""Commands for invitations into projects, leaving one, break-glass, and the feed of a project."""

from enum import StrEnum
from typing import Annotated

import typer

from hortus.cli import asking, show
from hortus.cli.options import Json, ProjectOption, project_id, signed_in
from hortus.cli.projects import MEMBER, Ends, Project, Purpose, RoleName, by_group, members
from hortus.client import Client, Refused

break_glass = typer.Typer(no_args_is_help=True, help="Projects that administrators open for themselves in an emergency.")
INVITATION = ("project", "username", "role", "purpose", "starts_at", "ends_at", "invited_by", "expires_at", "invitation_id")
BREAK_GLASS = (
    "username",
    "project_id",
    "appointed",
    "reason",
    "opened_at",
    "ends_at",
    "ended_at",
    "verdict",
    "reviewed_by",
    "unreviewed",
    "break_glass_id",
)
ACTIVITY = ("at", "actor", "deed", "subject", "details")

InvitationId = Annotated[str, typer.Argument(help="The invitation: its id, or the name of the project that it leads into.")]
BreakGlassId = Annotated[str, typer.Argument(help="The id of the break-glass (`hortus break-glass list`).")]
InProject = Annotated[
    str | None,
    typer.Option("--project", "-p", help="The project of which you are a Data Owner; without it you ask as an auditor or administrator."),
]


class Verdict(StrEnum):
    """What the reviewer makes of it."""

    justified = "justified"
    unjustified = "unjustified"


@members.command("invite")
def invite_member(
    user: Annotated[str, typer.Argument(help="The person's username.")],
    role: Annotated[RoleName, typer.Argument(help="What they become when they accept.")],
    project: ProjectOption,
    purpose: Purpose = None,
    starts: Annotated[str | None, typer.Option("--starts", help="When the role begins (RFC 3339); at the acceptance if not given.")] = None,
    ends: Ends = None,
    machine: Json = False,
) -> None:
    """Invite a person into a project: they become a member when they accept (Data Owners)."""
    with signed_in() as client:
        made = client.project_invitations.create(
            project_id(client, project), user, role.value, purpose=purpose, starts_at=starts, ends_at=ends
        )
    show.one(made, INVITATION, machine=machine)


@members.command("invitations")
def list_invitations(
    project: Annotated[str | None, typer.Option("--project", "-p", help="Those of a project (Data Owners); without it your own.")] = None,
    machine: Json = False,
) -> None:
    """List invitations that are not answered yet: your own, or those of a project."""
    with signed_in() as client:
        found = client.project_invitations.own() if project is None else client.project_invitations.list(project_id(client, project))
        show.rows(found, INVITATION, machine=machine)


@members.command("withdraw")
def withdraw_invitation(
    invitation: Annotated[str, typer.Argument(help="The invitation: its id, or the username of whoever is invited.")],
    project: ProjectOption,
) -> None:
    """Take an invitation back (Data Owners)."""
    with signed_in() as client:
        project = project_id(client, project)
        found = next(
            (each for each in client.project_invitations.list(project) if invitation in (each["invitation_id"], each["username"])), None
        )
        if found is None:
            raise Refused(404, "not-found", f"There is no open invitation {invitation!r} into this project")
        client.project_invitations.withdraw(project, found["invitation_id"])
    show.say(f"The invitation of {found['username']} is withdrawn.")


@members.command("accept")
def accept_invitation(invitation: InvitationId, machine: Json = False) -> None:
    """Accept an invitation: you become a member, as it offers."""
    with signed_in() as client:
        show.one(client.project_invitations.accept(_own(client, invitation)), MEMBER, machine=machine)


@members.command("decline")
def decline_invitation(invitation: InvitationId) -> None:
    """Decline an invitation."""
    with signed_in() as client:
        client.project_invitations.decline(_own(client, invitation))
    show.say("The invitation is declined.")


@members.command("leave")
def leave_project(project: ProjectOption) -> None:
    """Give your own role in a project up; the last Data Owner cannot."""
    with signed_in() as client:
        left = client.members.leave(project_id(client, project))
    show.say("You are no member any more." if left is None else f"You have no role of your own any more, and are {by_group(left)}.")


@break_glass.command("open")
def open_break_glass(
    project: Annotated[str, typer.Argument(help="The project: its name or id.")],
    reason: Annotated[str, typer.Option(help="Why: Data Owners and auditors read it.")],
    lasts: Annotated[str | None, typer.Option("--for", help="For how long: 30m, 2h; the usual time if not given.")] = None,
    machine: Json = False,
) -> None:
    """Become a Data Scientist of a project for a short time, in an emergency (administrators)."""
    seconds = None if lasts is None else asking.seconds(lasts, "--for")
    with signed_in() as client:
        show.one(client.break_glass.open(project, reason, lasts_s=seconds), BREAK_GLASS, machine=machine)


def appoint_owner(
    project: Project,
    user: Annotated[str, typer.Argument(help="Who is to own it: the person's username. Not yourself.")],
    reason: Annotated[str, typer.Option(help="Why: Data Owners and auditors read it.")],
    machine: Json = False,
) -> None:
    """Make somebody a Data Owner of a project that nobody owns any more (administrators).

    The auditors are told, and somebody else reviews it, as with break-glass.
    """
    with signed_in() as client:
        show.one(client.break_glass.appoint_owner(project, user, reason), BREAK_GLASS, machine=machine)


@break_glass.command("list")
def list_break_glass(
    project: InProject = None,
    reviewed: Annotated[
        bool | None, typer.Option("--reviewed/--not-reviewed", help="Only those that are reviewed, or are not; open ones are not.")
    ] = None,
    machine: Json = False,
) -> None:
    """List them, newest first: of a project, or all (administrators and auditors)."""
    with signed_in() as client:
        where = None if project is None else project_id(client, project)
        show.rows(client.break_glass.list(where, reviewed=reviewed), BREAK_GLASS, machine=machine)


@break_glass.command("end")
def end_break_glass(break_glass_id: BreakGlassId, machine: Json = False) -> None:
    """End one before its time (administrators)."""
    with signed_in() as client:
        show.one(client.break_glass.end(break_glass_id), BREAK_GLASS, machine=machine)


@break_glass.command("review")
def review_break_glass(
    break_glass_id: BreakGlassId,
    verdict: Annotated[Verdict, typer.Argument(help="Whether it was justified.")],
    words: Annotated[str, typer.Option("--words", help="What you looked at, and what you found.")],
    project: InProject = None,
    machine: Json = False,
) -> None:
    """Review one that is over and that somebody else opened (auditors, or Data Owners with `--project`)."""
    with signed_in() as client:
        where = None if project is None else project_id(client, project)
        show.one(client.break_glass.review(break_glass_id, verdict.value, words, where), BREAK_GLASS, machine=machine)


def list_activity(
    project: ProjectOption,
    most: Annotated[int, typer.Option("--most", min=1, help="How many lines.")] = 50,
    machine: Json = False,
) -> None:
    """Show what happened to a project and its members, newest first."""
    with signed_in() as client:
        show.rows(client.activity.list(project_id(client, project), most), ACTIVITY, machine=machine)


def _own(client: Client, name: str) -> str:
    found = [each["invitation_id"] for each in client.project_invitations.own() if name in (each["invitation_id"], each["project"])]
    if not found:
        raise Refused(404, "not-found", f"You have no open invitation {name!r}")
    return found[0]
