"""Commands for searching and for the auditor."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from hortus.cli import show
from hortus.cli.options import Json, project_id, signed_in
from hortus.client import HortusError

audit = typer.Typer(no_args_is_help=True, help="The ledger of who did what (auditors).")
HIT = ("kind", "name", "description", "project_id", "id")


class Kind(StrEnum):
    """What can be found."""

    datasets = "datasets"
    jobs = "jobs"


def search(
    words: Annotated[str, typer.Argument(help="Words to look for.")],
    kind: Annotated[Kind | None, typer.Option(help="Only datasets, or only jobs.")] = None,
    project: Annotated[str | None, typer.Option("--project", "-p", help="Only in this project.")] = None,
    most: Annotated[int, typer.Option(help="The most hits to show.", min=1)] = 50,
    machine: Json = False,
) -> None:
    """Find datasets and jobs by their words, in all of your projects."""
    with signed_in() as client:
        within = project_id(client, project) if project else None
        show.rows(client.search(words, kind=kind.value if kind else None, project_id=within, most=most), HIT, machine=machine)


@audit.command("list")
def list_records(
    actor: Annotated[str | None, typer.Option(help="Who did it: username or id.")] = None,
    action: Annotated[str | None, typer.Option(help="What was done, e.g. file.download.")] = None,
    outcome: Annotated[str | None, typer.Option(help="allowed, refused, opened, closed or failed.")] = None,
    source: Annotated[str | None, typer.Option(help="Which part wrote the record.")] = None,
    project: Annotated[str | None, typer.Option("--project", "-p", help="Id of the project it was about.")] = None,
    most: Annotated[int, typer.Option(help="The most records to show.", min=1)] = 200,
    machine: Json = False,
) -> None:
    """List who did what, refusals included, oldest first."""
    with signed_in() as client:
        records = client.audit.records(source=source, actor=actor, action=action, outcome=outcome, project_id=project, most=most)
        if machine:
            show.as_json(list(records))
            return
        lines = [
            {
                **record,
                "who": record["actor"].get("username") or record["actor"].get("user_id") or record["actor"].get("principal"),
                "on": record["resource"],
            }
            for record in records
        ]
    show.rows(lines, ("at", "who", "address", "action", "outcome", "reason", "on", "source", "number"), machine=False)


@audit.command("verify")
def verify(
    earlier: Annotated[
        Path | None,
        typer.Option(help="What an earlier `verify --json` printed: the chains have to pass through those heads.", exists=True),
    ] = None,
    machine: Json = False,
) -> None:
    """Fetch the whole ledger and recompute every hash, chain and number here.

    A ledger that was rewritten from its beginning shows only against what was noted before: keep what --json prints, and give
    it as --earlier.
    """
    with signed_in() as client:
        checks = client.audit.verify(_earlier(earlier))
    found = [
        {"source": check.source, "records": check.records, "head": check.head, "holds": check.holds, "findings": check.findings}
        for check in checks
    ]
    show.rows(found, ("source", "records", "holds", "head", "findings"), machine=machine)
    broken = [check for check in checks if not check.holds]
    if broken:
        raise HortusError(f"The ledger does not hold: {broken[0].source}: {broken[0].findings[0]}")
    if not checks:
        raise HortusError("The ledger is empty.")


def _earlier(path: Path | None) -> dict[str, tuple[int, str]] | None:
    if path is None:
        return None
    try:
        heads = cast("list[dict[str, Any]]", json.loads(path.read_text()))
        return {str(head["source"]): (int(head["records"]), str(head["head"])) for head in heads}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HortusError(f"{path} is not what `hortus audit verify --json` prints.") from error
