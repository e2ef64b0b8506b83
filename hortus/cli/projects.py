"""Commands for projects and their members."""

from enum import StrEnum
from typing import Annotated

import typer

from hortus.cli import asking, notices, show
from hortus.cli.options import Json, ProjectOption, project_id, signed_in
from hortus.client import shapes

projects = typer.Typer(no_args_is_help=True, help="Projects: sandboxes of people, data and programs.")
members = typer.Typer(no_args_is_help=True, help="Who is what in a project.")
PROJECT = ("name", "role", "state", "description", "project_id")
ABOUT = ("name", "role", "state", "description", "purpose", "legal_basis", "ethics_approval_id", "ends_at", "project_id", "created_at")
MEMBER = ("username", "role", "by_group", "purpose", "starts_at", "ends_at", "user_id")

Project = Annotated[str, typer.Argument(help="The project: its name or id.")]
User = Annotated[str, typer.Argument(help="The person: username or id.")]
Ends = Annotated[str | None, typer.Option("--ends", help="When the role ends by itself (RFC 3339).")]
Basis = Annotated[str | None, typer.Option("--legal-basis", help="What allows the processing, such as an article of the GDPR.")]
Approval = Annotated[str | None, typer.Option("--ethics-approval", help="The id of the ethics committee's approval.")]
Purpose = Annotated[str | None, typer.Option(help="What the person needs the data for.")]


class RoleName(StrEnum):
    """The roles of a project."""

    data_owner = "data_owner"
    data_scientist = "data_scientist"


@projects.command("create")
def create_project(
    name: Annotated[str, typer.Argument(help="The project's name.")],
    description: Annotated[str, typer.Option(help="What it is about.")] = "",
    purpose: Annotated[str, typer.Option(help="What the data is needed for.")] = "",
    legal_basis: Basis = None,
    ethics_approval: Approval = None,
    ends: Annotated[str | None, typer.Option("--ends", help="When it is archived by itself (RFC 3339); never if not given.")] = None,
    machine: Json = False,
) -> None:
    """Make a project; you become its Data Owner."""
    with signed_in() as client:
        made = client.projects.create(name, description, purpose, legal_basis=legal_basis, ethics_approval_id=ethics_approval, ends_at=ends)
    show.one(made, PROJECT, machine=machine)


@projects.command("list")
def list_projects(machine: Json = False) -> None:
    """List your projects."""
    with signed_in() as client:
        found = list(client.projects.list())
    show.rows(found, PROJECT, machine=machine)
    if not machine:
        notices.of_projects(found)


@projects.command("show")
def show_project(project: Project, machine: Json = False) -> None:
    """Show a project."""
    with signed_in() as client:
        found = client.projects.get(project_id(client, project))
    show.one(found, ABOUT, machine=machine)
    if not machine:
        notices.of_projects([found])


@projects.command("change")
def change_project(
    project: Project,
    description: Annotated[str | None, typer.Option(help="The new description.")] = None,
    purpose: Annotated[str | None, typer.Option(help="What the data is needed for.")] = None,
    legal_basis: Basis = None,
    ethics_approval: Approval = None,
    ends: Annotated[str | None, typer.Option("--ends", help="When it is archived by itself (RFC 3339), or `never`.")] = None,
    machine: Json = False,
) -> None:
    """Change what is known of a project (Data Owners); what is not given stays."""
    with signed_in() as client:
        changed = client.projects.change(
            project_id(client, project),
            description=description,
            purpose=purpose,
            legal_basis=legal_basis,
            ethics_approval_id=ethics_approval,
            **asking.end(ends),
        )
    show.one(changed, ABOUT, machine=machine)


@members.command("add")
def add_member(
    user: Annotated[str, typer.Argument(help="The person's username.")],
    role: Annotated[RoleName, typer.Argument(help="What they become.")],
    project: ProjectOption,
    purpose: Purpose = None,
    ends: Ends = None,
    machine: Json = False,
) -> None:
    """Give a person a role in a project from now on (Data Owners); `invite` offers one that begins later."""
    with signed_in() as client:
        project = project_id(client, project)
        member = client.members.add(project, user, role.value, purpose=purpose, ends_at=ends)
    show.one(member, MEMBER, machine=machine)


@members.command("list")
def list_members(project: ProjectOption, machine: Json = False) -> None:
    """List a project's members."""
    with signed_in() as client:
        show.rows(client.members.list(project_id(client, project)), MEMBER, machine=machine)


@members.command("change")
def change_member(
    user: User,
    project: ProjectOption,
    role: Annotated[RoleName | None, typer.Option(help="The new role.")] = None,
    purpose: Purpose = None,
    ends: Annotated[str | None, typer.Option("--ends", help="When the role ends by itself (RFC 3339), or `never`.")] = None,
    machine: Json = False,
) -> None:
    """Change a member's role, purpose or end (Data Owners)."""
    with signed_in() as client:
        project = project_id(client, project)
        member = client.members.find(project, user)
        changed = client.members.change(
            project,
            member["user_id"],
            role=role.value if role else None,
            purpose=purpose,
            **asking.end(ends),
            version=member["version"],
        )
    show.one(changed, MEMBER, machine=machine)


@members.command("remove")
def remove_member(user: User, project: ProjectOption) -> None:
    """Take a person's role away: their transfers are cut and their jobs killed (Data Owners)."""
    with signed_in() as client:
        project = project_id(client, project)
        member = client.members.find(project, user)
        left = client.members.remove(project, member["user_id"])
    name = member["username"]
    show.say(f"{name} is no member any more." if left is None else f"{name} has no role of their own any more, and is {by_group(left)}.")


def by_group(left: shapes.Member) -> str:
    """What somebody still is when their own role is taken away."""
    return f"{left['role']} by the group {left.get('by_group')}"
