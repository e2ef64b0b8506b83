"""What is printed: tables for people, JSON for machines; results on standard output, everything else on standard error."""

import contextlib
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def plain(value: Any) -> str:
    """Text that cannot steer a terminal; lists joined, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(plain(part) for part in value)
    if isinstance(value, dict):
        return ", ".join(f"{plain(name)} {plain(part)}" for name, part in value.items())
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "�", str(value))


def as_json(value: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def say(sentence: str) -> None:
    """A sentence for the person, on standard error."""
    err.print(Text(plain(sentence)), soft_wrap=True)


def moment(at: str) -> str:
    """A time of the server by this machine's clock and zone."""
    return datetime.fromisoformat(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def span(passed: timedelta) -> str:
    """How long ago, roughly."""
    minutes = max(0, int(passed.total_seconds())) // 60
    if minutes < 1:
        return "less than a minute"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h"


def rows(items: Iterable[Mapping[str, Any]], columns: Sequence[str], *, machine: bool) -> None:
    """A table of ``columns`` (all fields as a JSON list for machines)."""
    if machine:
        as_json(list(items))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    for item in items:
        table.add_row(*(_cell(item, column) for column in columns))
    out.print(table)


def one(item: Mapping[str, Any], columns: Sequence[str], *, machine: bool) -> None:
    """One thing, a line per field (all fields for machines)."""
    if machine:
        as_json(item)
        return
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for column in columns:
        grid.add_row(column.replace("_", " "), _cell(item, column))
    out.print(grid)


def _cell(item: Mapping[str, Any], column: str) -> Text:
    value = item.get(column)
    if (column == "at" or column.endswith("_at")) and isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = moment(value)
    return Text(plain(value))


def bar() -> Progress:
    """A progress bar in bytes, on standard error; nothing where that is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=err,
        disable=not err.is_terminal,
    )


def size_of(files: Iterable[Path]) -> int:
    """Bytes of files on disk."""
    return sum(file.stat().st_size for file in files)
