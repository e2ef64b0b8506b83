"""The ``hortus`` command.

It ends with 0, or with 1: refused, or another problem; 2: not understood; 3: not signed in; 4: not found;
5: conflict; 6: cannot be decided now, or unreachable; 7: it was done, and its answer cannot be shown; 130: interrupted.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from hortus.cli import ledger, lifecycle, membership, people, sessions, show, signin
from hortus.cli.certificates import certificate
from hortus.cli.datasets import datasets
from hortus.cli.factors import factors, keys, password
from hortus.cli.groups import group_roles, groups, signing_keys
from hortus.cli.jobs import agents, jobs
from hortus.cli.options import Ambiguous, chosen
from hortus.cli.projects import members, projects
from hortus.client import FactorTooOld, HortusError, Refused, Unreachable
from hortus.client.answers import HELD_BACK

USAGE = 2
NOT_SIGNED_IN = 3
UNREACHABLE = 6
DONE = 7
INTERRUPTED = 130
BY_STATUS = {401: NOT_SIGNED_IN, 404: 4, 409: 5, 412: 5, 428: 5, 502: UNREACHABLE, 503: UNREACHABLE, 504: UNREACHABLE}

app = typer.Typer(
    name="hortus",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    epilog="Ends with 0, or 1: refused or another problem, 2: not understood, 3: not signed in, 4: not found, "
    "5: conflict, 6: cannot be decided now or unreachable, 7: done, but its answer cannot be shown, 130: interrupted.",
)


@app.callback()
def hortus(
    certificate: Annotated[
        Path | None,
        typer.Option(envvar="HORTUS_CERTIFICATE", help="Act with the project certificate in this folder (`hortus certificate create`)."),
    ] = None,
) -> None:
    """Work on data that stays where it is."""
    chosen.certificate = certificate


app.command("setup")(people.setup)
app.command("accept")(people.accept)
app.command("register")(people.register)
app.command("login")(sessions.login)
app.command("logout")(sessions.logout)
app.command("whoami")(sessions.whoami)
app.command("confirm")(sessions.confirm)
app.add_typer(password, name="password")
app.add_typer(factors, name="factors")
app.add_typer(sessions.sessions, name="sessions")
app.add_typer(keys, name="keys")
app.add_typer(people.users, name="users")
app.add_typer(people.registrations, name="registrations")
app.add_typer(groups, name="groups")
app.add_typer(signing_keys, name="signing-keys")
members.add_typer(group_roles, name="groups")
projects.command("archive")(lifecycle.archive)
projects.command("restore")(lifecycle.restore)
projects.command("delete")(lifecycle.delete)
projects.command("erasure")(lifecycle.erasure)
projects.command("appoint-owner")(membership.appoint_owner)
app.add_typer(projects, name="projects")
app.add_typer(members, name="members")
app.add_typer(membership.break_glass, name="break-glass")
app.command("activity")(membership.list_activity)
app.add_typer(datasets, name="datasets")
app.add_typer(certificate, name="certificate")
app.add_typer(jobs, name="jobs")
app.add_typer(agents, name="agents")
app.command("search")(ledger.search)
app.add_typer(ledger.audit, name="audit")


def exit_code(error: HortusError) -> int:
    """The number that the command ends with."""
    if isinstance(error, signin.NotSignedIn):
        return NOT_SIGNED_IN
    if isinstance(error, Ambiguous):
        return USAGE
    if isinstance(error, Unreachable):
        return UNREACHABLE
    if isinstance(error, Refused) and error.slug == HELD_BACK:
        return DONE
    if isinstance(error, Refused):
        return BY_STATUS.get(error.status, 1)
    return 1


def _advice(error: HortusError) -> str:
    """What to do about it."""
    if not isinstance(error, Refused):
        return ""
    if isinstance(error, FactorTooOld):
        return (
            "Show it with `hortus confirm` (a passkey, or an identity provider: `--browser`; no factor: `--password`), then do this again."
        )
    if error.retry_after and error.status == 429:
        return f"Try again in {error.retry_after:.0f} s."
    if error.status != 401 or error.slug == "sign-in-refused":
        return ""
    return f"This was asked with the key in {signin.API_KEY}." if os.environ.get(signin.API_KEY) else "Sign in with `hortus login`."


def main() -> None:
    """Run the command; every error is one sentence on standard error and a number."""
    try:
        ended = app(standalone_mode=False)
    except HortusError as error:
        show.say(str(error))
        advice = _advice(error)
        if advice:
            show.say(advice)
        sys.exit(exit_code(error))
    except typer.TyperException as error:
        show.say(error.format_message())
        sys.exit(USAGE)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        show.say(f"{error.filename or 'A file'}: {error.strerror}.")
        sys.exit(1)
    sys.exit(ended if isinstance(ended, int) else 0)
