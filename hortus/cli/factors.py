"""Commands for what shows who you are: second factors, passwords and API keys."""

from pathlib import Path
from typing import Annotated

import typer

from hortus.cli import asking, browser, show, signin
from hortus.cli.options import Address, Json, NoOpen, PasswordFile, Svg, Trust, project_id, signed_in
from hortus.client import Refused, write_private

factors = typer.Typer(no_args_is_help=True, help="Your second factors: authenticator, passkeys, recovery codes.")
password = typer.Typer(no_args_is_help=True, help="Your password.")
keys = typer.Typer(no_args_is_help=True, help="Your API keys, for programs that act in your name.")
PASSKEY = ("name", "created_at", "last_used_at", "backed_up", "passkey_id")
KEY = ("name", "scopes", "project_id", "created_at", "expires_at", "last_used_at", "key_id")
NewPasswordFile = Annotated[
    Path | None,
    typer.Option("--new-password-file", help="Read the new password from this file (else HORTUS_NEW_PASSWORD, else a prompt)."),
]
Out = Annotated[Path | None, typer.Option("--out", help="Write it to this file, which only you can read, and do not show it.")]


@factors.command("list")
def list_factors(machine: Json = False) -> None:
    """Show your second factors, and what your groups ask for."""
    with signed_in() as client:
        found = client.factors.list()
    if machine:
        show.as_json(found)
        return
    totp = found["totp"]
    about = {"asked_for": found["policy"], "authenticator": f"since {show.moment(totp['since'])}" if totp else "none"}
    show.one({**about, "recovery_codes_left": found["recovery_codes_left"]}, (*about, "recovery_codes_left"), machine=False)
    if found["passkeys"]:
        show.rows(found["passkeys"], PASSKEY, machine=False)


@factors.command("totp")
def set_up_totp(svg: Svg = None, machine: Json = False) -> None:
    """Set up an authenticator application in the place of the one before.

    Shows its secret and asks for a code of it. Where the input is no terminal, the code is one line on standard input.
    """
    with signed_in() as client:
        asking.show_factor(client.factors.begin_totp(), svg, machine=machine)
        client.factors.confirm_totp(asking.code())
    if not machine:
        show.say("The authenticator counts from now on; the one before does not.")


@factors.command("remove-totp")
def remove_totp() -> None:
    """Do without an authenticator application."""
    with signed_in() as client:
        client.factors.remove_totp()
    show.say("The authenticator counts no longer.")


@factors.command("add-passkey")
def add_passkey(no_open: NoOpen = False) -> None:
    """Add a passkey in the browser, which holds it: sign in there, then give the new passkey a name.

    Who has no second factor yet is asked there for the password once more.
    Opens the page and ends; `hortus factors list` shows the passkey when it is there.
    """
    browser.go("Add it in your browser", signin.settle().address, browser.FRESH, opens=not no_open)


@factors.command("remove-passkey")
def remove_passkey(passkey: Annotated[str, typer.Argument(help="The passkey: its name or id.")]) -> None:
    """Let a passkey count no longer."""
    with signed_in() as client:
        ids = [known["passkey_id"] for known in client.factors.list()["passkeys"] if passkey in (known["name"], known["passkey_id"])]
        if len(ids) != 1:
            raise Refused(404, "not-found", f"You have {'several passkeys' if ids else 'no passkey'} {passkey!r}")
        client.factors.remove_passkey(ids[0])
    show.say("The passkey counts no longer.")


@factors.command("recovery-codes")
def new_recovery_codes(out: Out = None, machine: Json = False) -> None:
    """Make ten new recovery codes, shown once; those before count no longer."""
    with signed_in() as client:
        made = client.factors.new_recovery_codes()
    if out is not None:
        write_private(out, ("\n".join(made["codes"]) + "\n").encode())
        show.say(f"The codes are in {out}. Each opens one session in the place of your second factor.")
    elif machine:
        show.as_json(made)
    else:
        for code in made["codes"]:
            show.out.print(show.plain(code), markup=False)
        show.say("Keep them where your authenticator is not; they are shown only now. Each counts once.")


@factors.command("enrol")
def enrol(password_file: PasswordFile = None, address: Address = None, trust: Trust = None, svg: Svg = None, machine: Json = False) -> None:
    """Set up a new second factor with a one-time link, after an administrator took back the one you lost.

    Asks for the link, or takes it from HORTUS_ENROLMENT, and for your password: the link alone is not enough.
    """
    place, token = asking.link(asking.secret("Token or link", "HORTUS_ENROLMENT"))
    with signin.anonymous(signin.settle(place or address, trust)) as client:
        given = client.enrolments.accept(token, asking.password(password_file))
        asking.show_factor(given, svg, machine=machine)
        user = client.enrolments.confirm(token, asking.code())
    if not machine:
        show.say(f"The second factor of {user['username']} counts from now on. Sign in with the next code: `hortus login`.")


@password.command("change")
def change_password(password_file: PasswordFile = None, new_password_file: NewPasswordFile = None) -> None:
    """Change your password; every session of yours ends, also this one."""
    with signed_in() as client:
        old = asking.password(password_file, said="Password until now")
        client.passwords.change(old, _new_password(new_password_file))
    signin.forget()
    show.say("The password is changed, and all your sessions are ended: sign in with `hortus login`.")


@password.command("forgot")
def ask_reset(
    name: Annotated[str, typer.Argument(help="Your username or e-mail address.")], address: Address = None, trust: Trust = None
) -> None:
    """Ask for a letter with a one-time link for a new password."""
    with signin.anonymous(signin.settle(address, trust)) as client:
        client.passwords.ask_reset(name)
    show.say("If there is such an account, and Hortus sends letters here, one is on its way: use it with `hortus password reset`.")


@password.command("reset")
def reset_password(address: Address = None, trust: Trust = None, new_password_file: NewPasswordFile = None) -> None:
    """Set a new password with a one-time link; every session of yours ends, the second factor stays.

    Asks for the link, or takes it from HORTUS_RESET_LINK.
    """
    place, token = asking.link(asking.secret("Token or link", "HORTUS_RESET_LINK"))
    with signin.anonymous(signin.settle(place or address, trust)) as client:
        client.passwords.reset(token, _new_password(new_password_file))
    show.say("The password is set: sign in with `hortus login`.")


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="What it is for.")],
    scope: Annotated[list[str], typer.Option("--scope", "-s", help="What it may do: dataset.read, job.*; may be repeated.")],
    project: Annotated[str | None, typer.Option("--project", "-p", help="Only in this project: its name or id.")] = None,
    expires: Annotated[str, typer.Option(help="When it ends: a number of days (90d), a date or a time; at most a year.")] = "90d",
    out: Out = None,
    machine: Json = False,
) -> None:
    """Make an API key. It may do less than you, and never more; its secret is shown once.

    Programs show it as HORTUS_API_KEY.
    """
    ends = asking.when(expires)
    with signed_in() as client:
        key = client.keys.create(name, tuple(scope), ends, project_id(client, project) if project else None)
    if out is None:
        show.one(key, (*KEY[:3], "expires_at", "key_id", "secret"), machine=machine)
        if not machine:
            show.say("The secret is shown only now.")
        return
    write_private(out, (key["secret"] + "\n").encode())
    show.one({field: value for field, value in key.items() if field != "secret"}, (*KEY[:3], "expires_at", "key_id"), machine=machine)
    show.say(f"The secret is in {out}.")


@keys.command("list")
def list_keys(machine: Json = False) -> None:
    """List your API keys."""
    with signed_in() as client:
        show.rows(client.keys.list(), KEY, machine=machine)


@keys.command("end")
def end_key(key: Annotated[str, typer.Argument(help="The key: its id, or its name (the newest of that name).")]) -> None:
    """End an API key: it is refused from now on."""
    with signed_in() as client:
        found = client.keys.find(key)
        client.keys.end(found["key_id"])
    show.say(f"The key {found['name']} is ended.")


def _new_password(file: Path | None) -> str:
    return asking.password(file, said="New password", variable="HORTUS_NEW_PASSWORD", confirm=True)
