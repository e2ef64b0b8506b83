"""Commands for accounts: set-up, signing in and out, and the administrator's list of people."""

import os
import sys
from pathlib import Path
from typing import Annotated
from urllib.parse import parse_qs, urlsplit

import typer

from hortus.cli import show, signin
from hortus.cli.options import Address, Json, PasswordFile, Trust, signed_in
from hortus.client import HortusError, Refused
from hortus.client.shapes import SecondFactor, User

users = typer.Typer(no_args_is_help=True, help="People's accounts (administrators).")
USER = ("username", "email", "status", "cluster_roles", "user_id")


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
    machine: Json = False,
) -> None:
    """Become the first administrator: set a password and a second factor."""
    parts = urlsplit(link or typer.prompt("Link", hide_input=True, err=True))
    token = parts.fragment or "".join(parse_qs(parts.query).get("token", [])) or parts.path.rstrip("/").rpartition("/")[2]
    if parts.scheme != "https" or not parts.netloc or not token:
        raise typer.BadParameter("this is not a one-time link (https://…#…)", param_hint="LINK")
    _accept(token.removeprefix("token="), f"https://{parts.netloc}", trust, password_file, machine)


def accept(
    token: Annotated[
        str | None,
        typer.Argument(
            envvar="HORTUS_INVITATION",
            help="The one-time token of your invitation; left out, it is asked for and not shown.",
            show_default=False,
        ),
    ] = None,
    address: Address = None,
    trust: Trust = None,
    password_file: PasswordFile = None,
    machine: Json = False,
) -> None:
    """Accept an invitation: set a password and a second factor.

    Shows the secret for your authenticator application and asks for a code of it. Where the input is no terminal, the
    code is one line on standard input.
    """
    _accept(token or typer.prompt("Token", hide_input=True, err=True), address, trust, password_file, machine)


def login(
    username: Annotated[str | None, typer.Argument(help="Username or e-mail address.", show_default=False)] = None,
    address: Address = None,
    trust: Trust = None,
    certificate_address: Annotated[
        str | None,
        typer.Option(envvar="HORTUS_CERTIFICATE_ADDRESS", help="Where certificates are shown, if not port 8444 of the same host."),
    ] = None,
    password_file: PasswordFile = None,
    code: Annotated[str | None, typer.Option(envvar="HORTUS_CODE", help="The code of your authenticator (else a prompt).")] = None,
    machine: Json = False,
) -> None:
    """Sign in with password and one-time code; the sign-in is kept in a file that only you can read."""
    kept = signin.settle(address, trust)
    name = username or kept.username or typer.prompt("Username", err=True)
    password = _password(password_file)
    with signin.anonymous(kept) as client:
        session = client.sessions.create(name, password, code or typer.prompt("Code", err=True))
    kept.username = session["user"]["username"]
    kept.session_id = session["session_id"]
    kept.token = session["access_token"]
    kept.token_expires_at = session["expires_at"]
    kept.session_expires_at = session["session_expires_at"]
    if certificate_address:
        kept.certificate_address = certificate_address
    signin.save(kept)
    if machine:
        show.as_json({name: value for name, value in session.items() if name != "access_token"})
    else:
        show.say(f"Signed in as {kept.username} until {kept.token_expires_at}.")


def logout() -> None:
    """Sign out: the session ends everywhere, and this machine forgets it."""
    kept = signin.load()
    try:
        if kept.token:
            with signin.client() as client:
                client.sessions.end(kept.session_id)
    except Refused as refusal:
        if refusal.status not in {401, 404}:
            raise
    signin.forget()
    show.say("Signed out.")


def whoami(machine: Json = False) -> None:
    """Show who is signed in."""
    with signed_in() as client:
        show.one(client.users.me(), USER, machine=machine)


@users.command("create")
def create_user(
    email: Annotated[str, typer.Argument(help="The person's e-mail address.")],
    cluster_role: Annotated[list[str] | None, typer.Option("--cluster-role", help="administrator or auditor; may be given twice.")] = None,
    machine: Json = False,
) -> None:
    """Invite a person; prints their one-time token, once."""
    with signed_in() as client:
        user = client.users.create(email, tuple(cluster_role or ()))
    show.one(user, (*USER, "invitation"), machine=machine)
    if not machine:
        show.say(f"Give the token to {user['username']}: `hortus accept --address {signin.load().address} --trust root.pem` asks for it.")


@users.command("list")
def list_users(machine: Json = False) -> None:
    """List everybody."""
    with signed_in() as client:
        show.rows(client.users.list(), USER, machine=machine)


Who = Annotated[str, typer.Argument(help="Username, e-mail address or id.")]


@users.command("block")
def block_user(user: Who, machine: Json = False) -> None:
    """Block a person: everything of theirs is refused from now on."""
    show.one(_set_status(user, "blocked"), USER, machine=machine)


@users.command("unblock")
def unblock_user(user: Who, machine: Json = False) -> None:
    """Let a blocked person in again."""
    show.one(_set_status(user, "active"), USER, machine=machine)


def _set_status(name: str, status: str) -> User:
    with signed_in() as client:
        found = client.users.find(name)
        return client.users.change(found["user_id"], status=status, version=found["version"])


def _accept(token: str, address: str | None, trust: Path | None, password_file: Path | None, machine: bool) -> None:
    kept = signin.settle(address, trust)
    password = _password(password_file, confirm=True)
    with signin.anonymous(kept) as client:
        factor = client.invitations.accept(token, password)
        _show_factor(factor, machine)
        user = client.invitations.confirm(token, _code())
    kept.username = user["username"]
    signin.save(kept)
    if not machine:
        show.say(f"The account {user['username']} is active. Sign in with the next code: `hortus login`.")


def _show_factor(factor: SecondFactor, machine: bool) -> None:
    if machine:
        show.as_json(factor)
        sys.stdout.flush()
        return
    show.say("Add this account to your authenticator application; it is shown only now.")
    show.one(factor, ("username", "totp_secret", "totp_uri"), machine=False)


def _code() -> str:
    if sys.stdin.isatty():
        return str(typer.prompt("Code", err=True))
    return sys.stdin.readline().strip()


def _password(file: Path | None, *, confirm: bool = False) -> str:
    if file is not None:
        try:
            return file.read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise HortusError(f"The password file {file} cannot be read.") from error
    given = os.environ.get("HORTUS_PASSWORD")
    if given:
        return given
    if not sys.stdin.isatty():
        raise HortusError("There is no terminal to ask for the password: use --password-file or HORTUS_PASSWORD.")
    return str(typer.prompt("Password", hide_input=True, confirmation_prompt=confirm, err=True))
