"""Commands for datasets: files in and out, and sharing."""

from pathlib import Path
from typing import Annotated

import typer

from hortus.cli import show
from hortus.cli.options import Dataset, Json, ProjectOption, dataset_id, project_id, signed_in
from hortus.client import HortusError, inside

datasets = typer.Typer(no_args_is_help=True, help="Datasets: trees of files, encrypted at rest.")
DATASET = ("name", "files", "size", "shared", "description", "dataset_id")
FILE = ("path", "size", "sha256", "created_at")
NOT_YOURS = "A program made these files out of datasets; a Data Owner of the project that all of them came from may take them out."
SHARE = ("dataset_name", "state", "share_id", "project_id", "target_project_id")


@datasets.command("create")
def create_dataset(
    name: Annotated[str, typer.Argument(help="The dataset's name.")],
    project: ProjectOption,
    description: Annotated[str, typer.Option(help="What it holds; found by searching.")] = "",
    machine: Json = False,
) -> None:
    """Make an empty dataset (Data Owners)."""
    with signed_in() as client:
        made = client.datasets.create(project_id(client, project), name, description)
    show.one(made, DATASET, machine=machine)


@datasets.command("list")
def list_datasets(project: ProjectOption, machine: Json = False) -> None:
    """List a project's datasets, own and shared in."""
    with signed_in() as client:
        show.rows(client.datasets.list(project_id(client, project)), DATASET, machine=machine)


@datasets.command("show")
def show_dataset(dataset: Dataset, project: ProjectOption, machine: Json = False) -> None:
    """Show a dataset, with the datasets that its bytes came from."""
    with signed_in() as client:
        project = project_id(client, project)
        found = client.datasets.get(project, dataset_id(client, project, dataset))
    show.one(found, (*DATASET, "kind", "origins", "created_at"), machine=machine)


@datasets.command("put")
def put_files(
    dataset: Dataset,
    source: Annotated[Path, typer.Argument(help="A file, or a folder whose files are all put in.", exists=True)],
    project: ProjectOption,
    to: Annotated[str | None, typer.Option("--to", help="Name in the dataset (for a folder: put before each name).")] = None,
    machine: Json = False,
) -> None:
    """Put a file or a folder in (Data Owners); every file's hash is checked on arrival."""
    if source.is_dir():
        files = {file.relative_to(source).as_posix(): file for file in sorted(source.rglob("*")) if file.is_file()}
        names = {f"{to.rstrip('/')}/{name}" if to else name: file for name, file in files.items()}
    else:
        names = {to or source.name: source}
    if not names:
        raise HortusError(f"There is no file in {source}.")
    with signed_in() as client, show.bar() as bar:
        project = project_id(client, project)
        target = dataset_id(client, project, dataset)
        task = bar.add_task(dataset, total=show.size_of(names.values()))
        stored = [client.datasets.put(project, target, file, name, lambda count: bar.advance(task, count)) for name, file in names.items()]
    show.rows(stored, FILE, machine=machine)


@datasets.command("ls")
def list_files(dataset: Dataset, project: ProjectOption, machine: Json = False) -> None:
    """List the files of a dataset."""
    with signed_in() as client:
        project = project_id(client, project)
        show.rows(client.datasets.files(project, dataset_id(client, project, dataset)), FILE, machine=machine)


@datasets.command("get")
def get_files(
    dataset: Dataset,
    project: ProjectOption,
    path: Annotated[str | None, typer.Argument(help="One file; all of them if not given.")] = None,
    to: Annotated[Path, typer.Option("--to", help="The folder they go to.")] = Path(),
    machine: Json = False,
) -> None:
    """Take files out (Data Owners, and only what came from their own project)."""
    with signed_in() as client, show.bar() as bar:
        project = project_id(client, project)
        source = dataset_id(client, project, dataset)
        files = [file for file in client.datasets.files(project, source) if path in {None, file["path"]}]
        if not files and path:
            client.datasets.download(project, source, path, inside(to, path))
        if not files:
            raise HortusError(NOT_YOURS if client.datasets.get(project, source)["files"] else "The dataset has no files.")
        task = bar.add_task(dataset, total=sum(file["size"] for file in files))
        for file in files:
            target = inside(to, file["path"])
            client.datasets.download(project, source, file, target, lambda count: bar.advance(task, count))
    show.rows(files, FILE, machine=machine)


@datasets.command("share")
def share_dataset(
    dataset: Dataset,
    target: Annotated[str, typer.Argument(help="The other project: its id, or its name if you are a member there.")],
    project: ProjectOption,
    machine: Json = False,
) -> None:
    """Offer a dataset to another project; no byte moves (Data Owners).

    It is not said whether there is such a project: the offer stands until one accepts it, or you withdraw it.
    """
    with signed_in() as client:
        project = project_id(client, project)
        offered = client.datasets.share(project, dataset_id(client, project, dataset), project_id(client, target))
    show.one(offered, SHARE, machine=machine)


@datasets.command("shares")
def list_shares(
    project: ProjectOption,
    dataset: Annotated[str | None, typer.Argument(help="Shares of this dataset; what was offered to the project if not given.")] = None,
    machine: Json = False,
) -> None:
    """List to whom a dataset was offered, or what was offered to the project."""
    with signed_in() as client:
        project = project_id(client, project)
        if dataset is None:
            show.rows(client.datasets.incoming(project), SHARE, machine=machine)
        else:
            show.rows(client.datasets.shares(project, dataset_id(client, project, dataset)), SHARE, machine=machine)


@datasets.command("accept")
def accept_share(
    share_id: Annotated[str, typer.Argument(help="The share's id, from `hortus datasets shares`.")],
    project: ProjectOption,
    machine: Json = False,
) -> None:
    """Take an offered dataset into the project (Data Owners)."""
    with signed_in() as client:
        show.one(client.datasets.accept(project_id(client, project), share_id), SHARE, machine=machine)


@datasets.command("unshare")
def withdraw_share(dataset: Dataset, share_id: Annotated[str, typer.Argument(help="The share's id.")], project: ProjectOption) -> None:
    """Withdraw a share (Data Owners)."""
    with signed_in() as client:
        project = project_id(client, project)
        client.datasets.unshare(project, dataset_id(client, project, dataset), share_id)
    show.say("The share is withdrawn.")
