"""Commands for the life of a project: archived, restored, deleted, and the certificate of what was erased."""

import json
import sys
from typing import Annotated, Any

import typer

from hortus.cli import asking, show
from hortus.cli.options import Json, project_id, signed_in
from hortus.cli.projects import ABOUT, Project
from hortus.client import HortusError, shapes

ERASURE = ("project_id", "asked_by", "asked_at", "erased_at", "sha256")
LISTED = ("project_id", "state", "awaited", "asked_by", "asked_at", "erased_at", "sha256")
PART = ("service", "closed_at", "purged_at", "removed", "kept")


def archive(project: Project, machine: Json = False) -> None:
    """Let a project be read and no more changed: its runs end, uploads are cut (Data Owners)."""
    with signed_in() as client:
        show.one(client.projects.archive(project_id(client, project)), ABOUT, machine=machine)


def restore(
    project: Project,
    ends: Annotated[
        str | None, typer.Option("--ends", help="When it is archived again by itself (RFC 3339), or `never`; as before if not given.")
    ] = None,
    machine: Json = False,
) -> None:
    """Let an archived project be changed again (Data Owners)."""
    with signed_in() as client:
        restored = client.projects.restore(project_id(client, project), **asking.end(ends))
    show.one(restored, ABOUT, machine=machine)


def delete(
    project: Project,
    yes_delete: Annotated[
        str | None, typer.Option("--yes-delete", metavar="NAME", help="The project's name once more, instead of being asked.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Wait until everything is erased, and show the certificate.")] = False,
    machine: Json = False,
) -> None:
    """Delete a project for good, with everything in it (Data Owners); to keep it and only close it, archive it.

    Its datasets, keys, jobs, logs, certificates and memberships are erased in every service. It cannot be taken back.
    """
    with signed_in() as client:
        found = client.projects.get(project_id(client, project))
        asked = client.erasures.ask(found["project_id"], yes_delete if yes_delete is not None else _typed(found["name"]))
        if watch:
            _show(client.erasures.wait(asked["project_id"], seconds=float("inf"), changed=_tell), machine=machine)
        else:
            show.one(asked, ABOUT, machine=machine)
            show.say(f"It is being deleted: `hortus projects erasure {asked['project_id']}` shows the certificate when that is done.")


def erasure(
    project: Annotated[str | None, typer.Argument(help="The id of a deleted project; without it, all that you may see are listed.")] = None,
    document: Annotated[bool, typer.Option("--document", help="Print the certificate alone, byte by byte, for `sha256sum`.")] = False,
    machine: Json = False,
) -> None:
    """Show certificates of erasure: what was removed of a deleted project, by whose will, and when.

    The list shows administrators and auditors also the deletions that are under way, and for which services they wait.
    The SHA-256 of the document stands in the ledger, in the record `project.erase` of the project.
    """
    with signed_in() as client:
        if project is None:
            show.rows(client.erasures.list(), LISTED, machine=machine)
            return
        found = client.erasures.get(project)
    if document:
        sys.stdout.buffer.write(found["document"].encode())
        return
    _show(found, machine=machine)


def _typed(name: str) -> str:
    if not asking.terminal():
        raise HortusError("There is no terminal to ask for the project's name: use --yes-delete NAME.")
    show.say(f"Everything in the project {name} is erased for good. Type its name to go on.")
    return str(typer.prompt("Name", err=True)).strip()


def _tell(project: shapes.Project) -> None:
    deletion = project.get("deletion")
    waits = f", waits for {', '.join(deletion['awaited'])}" if deletion and deletion["awaited"] else ""
    show.say(f"{project['state']}{waits}")


def _show(found: shapes.Erasure, *, machine: bool) -> None:
    show.one(found, ERASURE, machine=machine)
    if not machine:
        parts: dict[str, Any] = json.loads(found["document"])["services"]
        show.rows([{"service": name, **part} for name, part in sorted(parts.items())], PART, machine=False)
