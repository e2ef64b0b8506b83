"""Commands for accounts: joining, and the administrator's list of people and requests."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hortus.cli import asking, show, signin
from hortus.cli.options import Address, Json, PasswordFile, Svg, Trust, is_id, signed_in
from hortus.client import Client
from hortus.client.shapes import Invited, UserDetail

users = typer.Typer(no_args_is_help=True, help="People's accounts (administrators).")
registrations = typer.Typer(no_args_is_help=True, help="Requests for an account (administrators).")
USER = ("username", "email", "status", "cluster_roles", "user_id")
SESSION = ("session_id", "method", "client", "source", "created_at", "last_used_at", "factor_at")
KEY = ("name", "scopes", "project_id", "expires_at", "last_used_at", "key_id")
WHOLE_USER = (*USER, "own_roles", "groups", "source", "factors", "last_sign_in_at", "created_at")
REGISTRATION = ("email", "note", "created_at", "registration_id")


class Status(StrEnum):
    """What an account can be."""

    invited = "invited"
    active = "active"
    blocked = "blocked"
    deactivated = "deactivated"


class ClusterRole(StrEnum):
    """What a person can be for the whole installation."""

    administrator = "administrator"
    auditor = "auditor"


def setup(
    link: Annotated[
        str | None,
        typer.Argument(
            envvar="HORTUS_SETUP_LINK",
            help="The one-time link that was printed when Hortus was started; left out, it is asked for and not shown.",
            show_default=False,
        ),
    ] = None,
    trust: Trust = None,
    password_file: PasswordFile = None,
    svg: Svg = None,
    machine: Json = False,
) -> None:
    """Become the first administrator: set a password and a second factor."""
    address, token = asking.link(link or asking.secret("Link", "HORTUS_SETUP_LINK"))
    if address is None:
        raise typer.BadParameter("this is not a one-time link (https://…#…)", param_hint="LINK")
    _join(token, address, trust, password_file, svg, machine)


def accept(
    token: Annotated[
        str | None,
        typer.Argument(
            envvar="HORTUS_INVITATION",
            help="The one-time token or link of your invitation; left out, it is asked for and not shown.",
            show_default=False,
        ),
    ] = None,
    address: Address = None,
    trust: Trust = None,
    password_file: PasswordFile = None,
    svg: Svg = None,
    machine: Json = False,
) -> None:
    """Accept an invitation: set a password and a second factor.

    Shows the secret for your authenticator application and asks for a code of it. Where the input is no terminal, the
    code is one line on standard input.
    """
    place, read = asking.link(token or asking.secret("Token or link", "HORTUS_INVITATION"))
    _join(read, place or address, trust, password_file, svg, machine)


def register(
    email: Annotated[str, typer.Argument(help="Your e-mail address.")],
    note: Annotated[str, typer.Option(help="Who you are and what you need it for.")] = "",
    address: Address = None,
    trust: Trust = None,
) -> None:
    """Ask for an account, where an administrator may approve that."""
    with signin.anonymous(signin.settle(address, trust)) as client:
        client.registrations.ask(email, note)
    show.say("An administrator decides; you get a letter when you are invited.")


Who = Annotated[str, typer.Argument(help="Username, e-mail address or id.")]
ClusterRoles = Annotated[list[ClusterRole] | None, typer.Option("--cluster-role", help="administrator or auditor; may be given twice.")]


@users.command("create")
def create_user(
    email: Annotated[str, typer.Argument(help="The person's e-mail address.")],
    cluster_role: ClusterRoles = None,
    machine: Json = False,
) -> None:
    """Invite a person; prints their one-time token, once, unless it is mailed to them."""
    with signed_in() as client:
        _show_invited(client.users.create(email, tuple(cluster_role or ())), machine)


@users.command("list")
def list_users(
    status: Annotated[Status | None, typer.Option(help="Only who is this.")] = None,
    words: Annotated[str | None, typer.Option("--find", help="Only whose username or address begins with this.")] = None,
    machine: Json = False,
) -> None:
    """List people."""
    with signed_in() as client:
        show.rows(client.users.list(status=status, words=words), USER, machine=machine)


@users.command("show")
def show_user(user: Who, machine: Json = False) -> None:
    """Show a person's account."""
    with signed_in() as client:
        show.one(_find(client, user), WHOLE_USER, machine=machine)


@users.command("block")
def block_user(user: Who, machine: Json = False) -> None:
    """Block a person: everything of theirs is refused from now on, until they are unblocked."""
    _set_status(user, Status.blocked, machine)


@users.command("unblock")
def unblock_user(user: Who, machine: Json = False) -> None:
    """Let a blocked person in again."""
    _set_status(user, Status.active, machine)


@users.command("deactivate")
def deactivate_user(user: Who, machine: Json = False) -> None:
    """Deactivate the account of somebody who left: their sessions and API keys are ended."""
    _set_status(user, Status.deactivated, machine)


@users.command("reactivate")
def reactivate_user(user: Who, machine: Json = False) -> None:
    """Invite somebody whose account was deactivated anew; what they had before counts no longer, unless only a directory deactivated it."""
    _set_status(user, Status.active, machine)


@users.command("roles")
def change_roles(
    user: Who,
    give: Annotated[list[ClusterRole] | None, typer.Option("--give", help="administrator or auditor; may be given twice.")] = None,
    take: Annotated[list[ClusterRole] | None, typer.Option("--take", help="administrator or auditor; may be given twice.")] = None,
    machine: Json = False,
) -> None:
    """Give a person cluster roles, or take them away."""
    with signed_in() as client:
        found = _find(client, user)
        roles = tuple(sorted({*found["own_roles"], *(give or ())} - set(take or ())))
        changed = client.users.change(found["user_id"], cluster_roles=roles, version=found["version"])
    show.one(changed, USER, machine=machine)


@users.command("sessions")
def list_user_sessions(user: Who, machine: Json = False) -> None:
    """List a person's sign-ins."""
    with signed_in() as client:
        show.rows(client.users.sessions(_find(client, user)["user_id"]), SESSION, machine=machine)


@users.command("end-sessions")
def end_user_sessions(user: Who) -> None:
    """Sign a person out everywhere."""
    with signed_in() as client:
        found = _find(client, user)
        client.users.end_sessions(found["user_id"])
    show.say(f"All sessions of {found['username']} are ended.")


@users.command("keys")
def list_user_keys(user: Who, machine: Json = False) -> None:
    """List a person's API keys."""
    with signed_in() as client:
        show.rows(client.users.keys(_find(client, user)["user_id"]), KEY, machine=machine)


@users.command("end-keys")
def end_user_keys(user: Who) -> None:
    """End all API keys of a person."""
    with signed_in() as client:
        found = _find(client, user)
        client.users.end_keys(found["user_id"])
    show.say(f"All API keys of {found['username']} are ended.")


@users.command("reset-password")
def reset_user_password(user: Who, machine: Json = False) -> None:
    """Give a person who forgot their password a one-time link for a new one; it is printed, unless it is mailed to them."""
    with signed_in() as client:
        link = client.users.reset_password(_find(client, user)["user_id"])
        show.one(link, ("link_token",) if link["link_token"] else (), machine=machine)
        if not machine:
            asking.show_link(client.wire.address, "hortus password reset", link["link_token"])


@users.command("reset-factors")
def reset_user_factors(user: Who, machine: Json = False) -> None:
    """Give a person who lost their second factor a one-time link for a new one; it is printed, unless it is mailed to them."""
    with signed_in() as client:
        link = client.users.reset_factors(_find(client, user)["user_id"])
        show.one(link, ("link_token",) if link["link_token"] else (), machine=machine)
        if not machine:
            asking.show_link(client.wire.address, "hortus factors enrol", link["link_token"])


Request = Annotated[str, typer.Argument(help="The request: its e-mail address or id.")]


@registrations.command("list")
def list_registrations(machine: Json = False) -> None:
    """List the requests that wait for a decision."""
    with signed_in() as client:
        show.rows(client.registrations.list(), REGISTRATION, machine=machine)


@registrations.command("approve")
def approve_registration(request: Request, cluster_role: ClusterRoles = None, machine: Json = False) -> None:
    """Invite somebody who asked for an account."""
    with signed_in() as client:
        found = client.registrations.find(request)
        _show_invited(client.registrations.approve(found["registration_id"], tuple(cluster_role or ())), machine)


@registrations.command("decline")
def decline_registration(request: Request) -> None:
    """Decline a request; it is forgotten."""
    with signed_in() as client:
        found = client.registrations.find(request)
        client.registrations.decline(found["registration_id"])
    show.say(f"The request of {found['email']} is declined.")


def _find(client: Client, name: str) -> UserDetail:
    return client.users.get(name if is_id(name) else client.users.find(name)["user_id"])


def _set_status(name: str, status: Status, machine: bool) -> None:
    with signed_in() as client:
        found = _find(client, name)
        changed = client.users.change(found["user_id"], status=status, version=found["version"])
    if changed["invitation"] or changed["mailed"]:
        _show_invited(changed, machine)
    else:
        show.one(changed, USER, machine=machine)


def _show_invited(user: Invited, machine: bool) -> None:
    show.one(user, (*USER, "invitation") if user["invitation"] else USER, machine=machine)
    if not machine:
        asking.show_link(signin.load().address, "hortus accept", user["invitation"])


def _join(token: str, address: str | None, trust: Path | None, password_file: Path | None, svg: Path | None, machine: bool) -> None:
    kept = signin.settle(address, trust)
    password = asking.password(password_file, confirm=True)
    with signin.anonymous(kept) as client:
        asking.show_factor(client.invitations.accept(token, password), svg, machine=machine)
        user = client.invitations.confirm(token, asking.code())
    signin.know(kept, user["username"])
    if not machine:
        show.say(f"The account {user['username']} is active. Sign in with the next code: `hortus login`.")
