"""Files that cross the wall of a sandbox: inputs written into its memory, outputs and metrics read out of it.

Everything is reached from a folder's descriptor, one name at a time and never through a link.
"""

import contextlib
import json
import math
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass

LONGEST_NAME = 255
LONGEST_PATH = 512
DEEPEST = 16
MOST_OUTPUTS = 10_000
PAGE = 4096
METRICS_READ = 256 * 1024
MOST_METRICS = 100
METRIC_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,63}")


class Refused(Exception):
    """A file or a name that may not cross the wall; the sentence is for the person who submitted the job."""


@dataclass(frozen=True)
class Output:
    """One ordinary file that a program left, by its path below the outputs' folder."""

    path: str
    size: int
    parts: tuple[str, ...]


def parts_of(path: str) -> tuple[str, ...]:
    """The names of a relative path with ``/`` between them. Raises Refused for anything that could mean another place."""
    parts = tuple(path.split("/"))
    if len(path.encode()) > LONGEST_PATH or len(parts) > DEEPEST:
        raise Refused("a path is too long or too deep")
    for part in parts:
        if part in ("", ".", "..") or not part.isprintable() or "\\" in part or len(part.encode()) > LONGEST_NAME:
            raise Refused("a path has a part that is no plain name")
    return parts


def room_for(sizes: list[int]) -> int:
    """Bytes of a file system in memory that holds files of these sizes: whole pages, and room for names and folders."""
    return sum(-(-size // PAGE) * PAGE + PAGE for size in sizes) + 64 * PAGE


def create(folder: int, path: str) -> int:
    """Create a file below ``folder`` for writing, with its parents; returns its descriptor. Raises Refused, OSError."""
    *parents, name = parts_of(path)
    opened = os.dup(folder)
    try:
        for parent in parents:
            with contextlib.suppress(FileExistsError):
                os.mkdir(parent, 0o755, dir_fd=opened)
            inner = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=opened)
            os.close(opened)
            opened = inner
            os.fchmod(opened, 0o755)
        made = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=opened)
        os.fchmod(made, 0o644)
        return made
    finally:
        os.close(opened)


def outputs(folder: int) -> list[Output]:
    """What a program left, in order of path. Raises Refused for links, pipes, sockets, devices and odd names."""
    found: list[Output] = []
    for output in _walk(folder, ()):
        found.append(output)
        if len(found) > MOST_OUTPUTS:
            raise Refused(f"the program left more than {MOST_OUTPUTS} files")
    return sorted(found, key=lambda output: output.path)


def _walk(folder: int, above: tuple[str, ...]) -> Iterator[Output]:
    with os.scandir(folder) as entries:
        listed = sorted(entry.name for entry in entries)
    for name in listed:
        shown = name.encode(errors="replace").decode()
        parts_of("/".join((*above, shown)))
        if shown != name:
            raise Refused("an output has a name that is no UTF-8")
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise Refused("outputs can only be ordinary files and folders")
        inner = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        try:
            if stat.S_ISDIR(mode):
                yield from _walk(inner, (*above, name))
            else:
                yield Output("/".join((*above, name)), os.fstat(inner).st_size, (*above, name))
        finally:
            os.close(inner)


def open_output(folder: int, output: Output) -> int:
    """A descriptor to read an output that ``outputs`` found. Raises OSError."""
    opened = os.dup(folder)
    try:
        for part in output.parts:
            inner = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=opened)
            os.close(opened)
            opened = inner
    except OSError:
        os.close(opened)
        raise
    return opened


def metrics(folder: int) -> dict[str, float]:
    """The last value of each metric that a program reported; what is no metric is passed over."""
    try:
        opened = os.open("metrics", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return {}
    try:
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            return {}
        data = os.pread(opened, METRICS_READ, 0)
    finally:
        os.close(opened)
    found: dict[str, float] = {}
    for line in data.splitlines():
        pair = _metric(line)
        if pair is not None and (pair[0] in found or len(found) < MOST_METRICS):
            found[pair[0]] = pair[1]
    return found


def _metric(line: bytes) -> tuple[str, float] | None:
    try:
        name, value = json.loads(line)
        number = float(value)
    except (ValueError, TypeError, RecursionError, OverflowError):
        return None
    if not isinstance(name, str) or not METRIC_NAME.fullmatch(name) or not math.isfinite(number):
        return None
    return name, number
