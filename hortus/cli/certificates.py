"""Commands for project certificates: make one, keep it young, see what is said of it, end it."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from hortus.cli import holding, show
from hortus.cli.options import Json, ProjectOption, chosen, is_id, project_id, signed_in
from hortus.client import About, Folder, HortusError
from hortus.client import status as asked
from hortus.client.folder import CHAIN_FILE, KEY_FILE, TRUST_FILE

certificate = typer.Typer(no_args_is_help=True, help="Project certificates, for programs that act for you in one project.")
LISTED = ("certificate_id", "user_id", "not_before", "not_after", "live")
HELD = ("username", "project", "certificate_id", "ends_at", "folder")
SAID = ("by", "status", "revoked_at", "reason", "until")

OneProject = Annotated[
    str | None, typer.Option("--project", "-p", envvar="HORTUS_PROJECT", help="The project: its name or id.", show_default=False)
]
OneFolder = Annotated[Path | None, typer.Option("--folder", help="The folder that the certificate lies in, if not the usual one.")]


@certificate.command("create")
def create_certificate(
    project: ProjectOption,
    folder: Annotated[
        Path | None,
        typer.Option(help=f"Where {KEY_FILE}, {CHAIN_FILE} and {TRUST_FILE} go (0600); beside your sign-in if not given."),
    ] = None,
    machine: Json = False,
) -> None:
    """Make a key on this machine and have it certified for one project; use it with `hortus --certificate FOLDER …`.

    The certificate lives for hours. While you are signed in, a command that uses it has it renewed in time.
    """
    with signed_in() as client:
        identity = project_id(client, project)
    target = holding.usual(identity) if folder is None else Folder(folder)
    with target.alone():
        known = holding.order(target, identity, project)
    _show(target, known, machine=machine)
    show.say(f"It ends at {show.moment(known.not_after)}; renew it with `hortus certificate renew`.")


@certificate.command("renew")
def renew_certificate(project: OneProject = None, folder: OneFolder = None, machine: Json = False) -> None:
    """Have a new key certified in place of the one on this machine; you have to be signed in."""
    target, known = _held(project, folder)
    _show(target, holding.renew(target, known), machine=machine)


@certificate.command("show")
def show_certificate(project: OneProject = None, folder: OneFolder = None, machine: Json = False) -> None:
    """Show the certificate on this machine: whose it is, and when it ends."""
    target, known = _held(project, folder)
    _show(target, known, machine=machine)


@certificate.command("check")
def check_certificate(
    project: OneProject = None,
    folder: OneFolder = None,
    commands: Annotated[
        bool, typer.Option("--commands", help="Print commands that ask the same with openssl and curl, and ask nothing.")
    ] = False,
    machine: Json = False,
) -> None:
    """Ask whether the certificate on this machine still counts: its issuer's OCSP responder and list of revoked certificates.

    Ends with 0 when both say that it is good, else with 1.
    """
    target, _ = _held(project, folder)
    chain, trust = target.chain(), target.path / TRUST_FILE
    if commands:
        leaf, _ = asked.leaf_and_issuer(chain, trust)
        _lines(asked.lines(leaf, target.path / CHAIN_FILE, trust), machine=machine)
        return
    answers = asked.ask(chain, trust)
    show.rows([{"by": by, **asdict(told)} for by, told in answers.items()], SAID, machine=machine)
    if {told.status for told in answers.values()} != {"good"}:
        raise typer.Exit(1)


@certificate.command("list")
def list_certificates(project: ProjectOption, machine: Json = False) -> None:
    """List the project's certificates that you may see."""
    with signed_in() as client:
        show.rows(client.certificates.list(project_id(client, project)), LISTED, machine=machine)


@certificate.command("revoke")
def revoke_certificate(
    certificate_id: Annotated[
        str | None,
        typer.Argument(help="The certificate's id (its serial in hex); the one on this machine if not given.", show_default=False),
    ] = None,
    project: OneProject = None,
    folder: OneFolder = None,
) -> None:
    """Withdraw a certificate: it is refused everywhere. The one on this machine is removed with its key."""
    if certificate_id is None:
        target, known = _held(project, folder)
        with signed_in() as client:
            client.certificates.revoke(known.project_id, known.certificate_id)
        with target.alone():
            now = target.read()
            newest = now is not None and now.certificate_id == known.certificate_id
            if newest:
                target.erase()
        if newest:
            show.say(f"The certificate is withdrawn, and its key is removed from {target.path}.")
        else:
            show.say(f"The certificate is withdrawn. A newer one came meanwhile, and stays in {target.path}.")
        return
    if project is None:
        raise HortusError("Say which project the certificate is for: --project.")
    with signed_in() as client:
        client.certificates.revoke(project_id(client, project), certificate_id)
    show.say("The certificate is withdrawn.")


def _held(project: str | None, folder: Path | None) -> tuple[Folder, About]:
    return holding.find(project if project is None or not is_id(project) else project.lower(), folder or chosen.certificate)


def _show(target: Folder, known: About, *, machine: bool) -> None:
    files = {name: str(target.path / file) for name, file in (("key", KEY_FILE), ("chain", CHAIN_FILE), ("trust", TRUST_FILE))}
    show.one({**asdict(known), "ends_at": known.not_after, "folder": str(target.path), **files}, HELD, machine=machine)


def _lines(lines: list[str], *, machine: bool) -> None:
    if machine:
        show.as_json(lines)
        return
    for line in lines:
        typer.echo(line)
