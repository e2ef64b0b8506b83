"""Options and arguments that several commands share, and how names become ids."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer

from hortus.cli import asking, holding, signin
from hortus.client import Client, Folder, HortusError, Refused

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines, and nothing else, on standard output.")]
ProjectOption = Annotated[
    str, typer.Option("--project", "-p", envvar="HORTUS_PROJECT", help="The project: its name or id.", show_default=False)
]
Address = Annotated[
    str | None, typer.Option("--address", envvar="HORTUS_ADDRESS", help="Where Hortus is: https://host:port.", show_default=False)
]
Trust = Annotated[
    Path | None,
    typer.Option("--trust", envvar="HORTUS_ROOT", help="PEM file of the root certificate to trust; kept from then on.", show_default=False),
]
PasswordFile = Annotated[
    Path | None,
    typer.Option("--password-file", help="Read the password from this file (else HORTUS_PASSWORD, else a prompt)."),
]
Code = Annotated[str | None, typer.Option(envvar="HORTUS_CODE", help="The code of your authenticator (else a prompt).", show_default=False)]
RecoveryCode = Annotated[
    bool, typer.Option("--recovery-code", help="Use a recovery code in its place (HORTUS_RECOVERY_CODE, else a prompt); it is used up.")
]
Svg = Annotated[Path | None, typer.Option("--svg", help="Write the QR code for your authenticator to this file.", show_default=False)]
NoOpen = Annotated[bool, typer.Option("--no-open", help="For the browser: print the address, and open no window.")]
Dataset = Annotated[str, typer.Argument(help="The dataset: its name or id.")]


class Ambiguous(HortusError):
    """A name fits several things; the command line has to say which."""


class _Chosen:
    certificate: Path | None = None


chosen = _Chosen()


@contextmanager
def signed_in() -> Iterator[Client]:
    """The client of who is signed in, of the API key in the environment, or of the certificate that ``--certificate`` names.

    On a terminal it asks for a second factor where a door wants a fresh one. A certificate that was made by this command is renewed on the
    way, when half of its life is over and its owner is signed in.
    """
    if chosen.certificate is not None:
        holding.keep_young(Folder(chosen.certificate))
    with signin.client(chosen.certificate, asking.fresh_factor if asking.terminal() else None) as client:
        yield client


def is_id(name: str) -> bool:
    """Whether this is an id already."""
    try:
        return str(UUID(name)) == name.lower()
    except ValueError:
        return False


def project_id(client: Client, name: str) -> str:
    """The id of one of the caller's projects."""
    return name if is_id(name) else _the(name, "project", client.projects.list(), lambda item: str(item["project_id"]))


def dataset_id(client: Client, project: str, name: str) -> str:
    """The id of a dataset in a project."""
    return name if is_id(name) else _the(name, "dataset", client.datasets.list(project), lambda item: str(item["dataset_id"]))


def job_id(client: Client, project: str, name: str) -> str:
    """The id of a job in a project; of several of one name the newest."""
    if is_id(name):
        return name
    ids = [job["job_id"] for job in client.jobs.list(project) if job["name"] == name]
    if not ids:
        raise Refused(404, "not-found", f"There is no job {name!r} that you may know of")
    return max(ids)


def agent_id(client: Client, name: str) -> str:
    """The id of a node agent that is not withdrawn."""
    live = (item for item in client.agents.list() if item["live"])
    return name if is_id(name) else _the(name, "agent", live, lambda item: str(item["agent_id"]))


def _the(name: str, what: str, items: Iterable[Mapping[str, Any]], identify: Callable[[Mapping[str, Any]], str]) -> str:
    ids = [identify(item) for item in items if item["name"] == name]
    if not ids:
        raise Refused(404, "not-found", f"There is no {what} {name!r} that you may know of")
    if len(ids) > 1:
        raise Ambiguous(f"Several {what}s are named {name!r}; say which by its id: {', '.join(ids)}.")
    return ids[0]
