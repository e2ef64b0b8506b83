"""Commands for groups of people, their roles in projects, and the keys that sign tokens."""

from enum import StrEnum
from typing import Annotated, Any

import typer

from hortus.cli import show
from hortus.cli.options import Json, ProjectOption, is_id, project_id, signed_in
from hortus.cli.people import ClusterRole
from hortus.cli.projects import Ends, Purpose, RoleName
from hortus.client import Client

groups = typer.Typer(no_args_is_help=True, help="Groups of people (administrators).")
group_roles = typer.Typer(no_args_is_help=True, help="What the people of a group are in a project.")
signing_keys = typer.Typer(no_args_is_help=True, help="The keys that sign access tokens (administrators).")
GROUP = ("name", "factor_policy", "cluster_roles", "external", "group_id")
GROUP_MEMBER = ("username", "by_hand", "by_directory", "user_id")
GROUP_ROLE = ("group", "role", "purpose", "ends_at", "group_role_id")
SIGNING_KEY = ("signing_key_id", "signs", "live", "signs_from", "replaced_at")

Group = Annotated[str, typer.Argument(help="The group: its name or id.")]
Who = Annotated[str, typer.Argument(help="The person: username, e-mail address or id.")]
ClusterRoles = Annotated[list[ClusterRole] | None, typer.Option("--cluster-role", help="What its people are; may be given twice.")]
External = Annotated[
    list[str] | None,
    typer.Option("--external", help="A group of the directory or of an identity provider whose people belong to it; may be repeated."),
]


class Policy(StrEnum):
    """What a group asks of its people's sign-ins; the strictest of all their groups counts."""

    optional = "optional"
    required = "required"
    passkey = "passkey"
    none = "none"


@groups.command("create")
def create_group(
    name: Annotated[str, typer.Argument(help="The group's name.")],
    policy: Annotated[Policy, typer.Option(help="The second factor that it asks for; `none`: it has no say.")] = Policy.none,
    cluster_role: ClusterRoles = None,
    external: External = None,
    machine: Json = False,
) -> None:
    """Make a group."""
    with signed_in() as client:
        made = client.groups.create(
            name, factor_policy=_policy(policy), cluster_roles=tuple(cluster_role or ()), external=tuple(external or ())
        )
    show.one(made, GROUP, machine=machine)


@groups.command("list")
def list_groups(machine: Json = False) -> None:
    """List the groups."""
    with signed_in() as client:
        show.rows(client.groups.list(), GROUP, machine=machine)


@groups.command("change")
def change_group(
    group: Group,
    policy: Annotated[Policy | None, typer.Option(help="The second factor that it asks for; `none`: it has no say.")] = None,
    cluster_role: ClusterRoles = None,
    no_cluster_roles: Annotated[bool, typer.Option("--no-cluster-roles", help="Its people are nothing by belonging to it.")] = False,
    external: External = None,
    no_external: Annotated[bool, typer.Option("--no-external", help="Nobody belongs to it by a directory.")] = False,
    machine: Json = False,
) -> None:
    """Change what is given of a group; what is given replaces what was there."""
    changes: dict[str, Any] = {}
    if policy is not None:
        changes["factor_policy"] = _policy(policy)
    if cluster_role or no_cluster_roles:
        changes["cluster_roles"] = [] if no_cluster_roles else list(cluster_role or ())
    if external or no_external:
        changes["external"] = [] if no_external else list(external or ())
    with signed_in() as client:
        found = client.groups.find(group)
        show.one(client.groups.change(found["group_id"], found["version"], **changes), GROUP, machine=machine)


@groups.command("remove")
def remove_group(group: Group) -> None:
    """Remove a group; what its people had by it ends."""
    with signed_in() as client:
        found = client.groups.find(group)
        client.groups.remove(found["group_id"])
    show.say(f"The group {found['name']} is removed.")


@groups.command("members")
def list_group_members(group: Group, machine: Json = False) -> None:
    """List who belongs to a group."""
    with signed_in() as client:
        show.rows(client.groups.members(client.groups.find(group)["group_id"]), GROUP_MEMBER, machine=machine)


@groups.command("add")
def add_to_group(group: Group, user: Who) -> None:
    """Put a person into a group."""
    with signed_in() as client:
        found = client.groups.find(group)
        client.groups.add(found["group_id"], _user_id(client, user))
    show.say(f"{user} belongs to {found['name']}.")


@groups.command("take")
def take_from_group(group: Group, user: Who) -> None:
    """Take a person out of a group who was put there by hand."""
    with signed_in() as client:
        found = client.groups.find(group)
        client.groups.take(found["group_id"], _user_id(client, user))
    show.say(f"{user} does not belong to {found['name']} any more.")


@group_roles.command("give")
def give_group_role(
    group: Annotated[str, typer.Argument(help="The group's name.")],
    role: Annotated[RoleName, typer.Argument(help="What its people become.")],
    project: ProjectOption,
    purpose: Purpose = None,
    ends: Ends = None,
    machine: Json = False,
) -> None:
    """Give a role in a project to everybody whom the directory puts into a group, for as long as it does (Data Owners)."""
    with signed_in() as client:
        given = client.group_roles.give(project_id(client, project), group, role.value, purpose=purpose, ends_at=ends)
    show.one(given, GROUP_ROLE, machine=machine)


@group_roles.command("list")
def list_group_roles(project: ProjectOption, machine: Json = False) -> None:
    """List the roles of groups in a project."""
    with signed_in() as client:
        show.rows(client.group_roles.list(project_id(client, project)), GROUP_ROLE, machine=machine)


@group_roles.command("remove")
def remove_group_role(
    group_role_id: Annotated[str, typer.Argument(help="The id of the group's role (`hortus members groups list`).")], project: ProjectOption
) -> None:
    """Take a group's role in a project away (Data Owners)."""
    with signed_in() as client:
        client.group_roles.remove(project_id(client, project), group_role_id)
    show.say("The group's role is taken away.")


@signing_keys.command("list")
def list_signing_keys(machine: Json = False) -> None:
    """List the keys with which tokens are signed or checked."""
    with signed_in() as client:
        show.rows(client.signing_keys.list(), SIGNING_KEY, machine=machine)


@signing_keys.command("rotate")
def rotate_signing_key(machine: Json = False) -> None:
    """Make a new key, which signs as soon as every part knows it; nobody is signed out."""
    with signed_in() as client:
        show.one(client.signing_keys.rotate(), SIGNING_KEY, machine=machine)


@signing_keys.command("withdraw")
def withdraw_signing_key(signing_key_id: Annotated[str, typer.Argument(help="The key's id (`hortus signing-keys list`).")]) -> None:
    """Let a key that does not sign any more count no longer; what it signed is refused."""
    with signed_in() as client:
        client.signing_keys.withdraw(signing_key_id)
    show.say("The key is withdrawn.")


def _policy(policy: Policy) -> str | None:
    return None if policy is Policy.none else policy.value


def _user_id(client: Client, name: str) -> str:
    return name if is_id(name) else client.users.find(name)["user_id"]
