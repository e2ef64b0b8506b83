"""Limits on a run's memory, processes and processor time: control groups where they can be written, else rlimits alone."""

import contextlib
import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROCESSES = 512
OPEN_FILES = 4096
PERIOD_US = 100_000
EMPTY_S = 2.0
MIB = 1024 * 1024


@dataclass(frozen=True)
class Hierarchy:
    """Where control groups can be made: one folder for each controller (all the same one in version 2)."""

    version: int
    folders: dict[str, Path]

    def __str__(self) -> str:
        return f"control groups version {self.version} ({', '.join(sorted(self.folders))}) and rlimits"


@dataclass(frozen=True)
class Group:
    """The control group of one run."""

    version: int
    folders: dict[str, Path]

    def add(self, pid: int) -> None:
        """Put a process, and all that it will start, under the limits. Raises OSError."""
        for folder in set(self.folders.values()):
            (folder / "cgroup.procs").write_text(str(pid))

    def out_of_memory(self) -> bool:
        """Whether the kernel ended a process of the run because the memory was used up."""
        folder = self.folders.get("memory")
        if folder is None:
            return False
        name = "memory.events" if self.version == 2 else "memory.oom_control"  # noqa: PLR2004
        with contextlib.suppress(OSError):
            counts = dict(line.split(maxsplit=1) for line in (folder / name).read_text().splitlines())
            return int(counts.get("oom_kill", "0")) > 0
        return False

    def kill(self) -> None:
        """End every process of the run and wait until none is left, at most two seconds."""
        until = time.monotonic() + EMPTY_S
        for folder in set(self.folders.values()):
            with contextlib.suppress(OSError):
                (folder / "cgroup.kill").write_text("1")
            while time.monotonic() < until and (pids := _pids(folder)):
                for pid in pids:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                time.sleep(0.005)

    def remove(self) -> None:
        """Kill what is left and remove the group."""
        self.kill()
        for folder in set(self.folders.values()):
            with contextlib.suppress(OSError):
                folder.rmdir()


def probe() -> Hierarchy | None:
    """Find control groups by putting a process into one; None where that cannot be done."""
    return next((candidate for candidate in _candidates() if _works(candidate)), None)


def name_of(run: str) -> str:
    """The name of a run's group; it carries this process's number, so that a later agent can tell what was left behind."""
    return f"hortus-{os.getpid()}-{run}"


def clear(hierarchy: Hierarchy) -> None:
    """Remove the groups of agents that are gone."""
    for folder in set(hierarchy.folders.values()):
        for left in folder.glob("hortus-*-*"):
            pid = left.name.split("-")[1]
            if pid.isdigit() and not Path("/proc", pid).exists():
                Group(hierarchy.version, dict.fromkeys(hierarchy.folders, left)).remove()


def make(hierarchy: Hierarchy, name: str, memory: int, cores: int) -> Group:
    """A group with at most ``memory`` bytes, 512 processes and threads, and ``cores`` processors' time. Raises OSError."""
    group = Group(hierarchy.version, {controller: folder / name for controller, folder in hierarchy.folders.items()})
    for folder in set(group.folders.values()):
        folder.mkdir()
    second = hierarchy.version == 2  # noqa: PLR2004
    (group.folders["memory"] / ("memory.max" if second else "memory.limit_in_bytes")).write_text(str(memory))
    (group.folders["pids"] / "pids.max").write_text(str(PROCESSES))
    with contextlib.suppress(OSError):
        swap = group.folders["memory"] / ("memory.swap.max" if second else "memory.memsw.limit_in_bytes")
        swap.write_text("0" if second else str(memory))
    if "cpu" in group.folders:
        quota = str(cores * PERIOD_US)
        (group.folders["cpu"] / ("cpu.max" if second else "cpu.cfs_quota_us")).write_text(f"{quota} {PERIOD_US}" if second else quota)
    return group


def rlimits(memory: int, largest_file: int, wall_seconds: int, cores: int, *, grouped: bool) -> dict[int, int]:
    """The rlimits of every process of a run, by resource number.

    The data limit holds for each process by itself; it is the memory limit where no control group counts them together.
    """
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_FSIZE: largest_file,
        resource.RLIMIT_CPU: wall_seconds * max(cores, 1) + 10,
        resource.RLIMIT_MEMLOCK: 8 * MIB,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    if not grouped:
        limits[resource.RLIMIT_DATA] = memory
    return limits


def _candidates() -> Iterator[Hierarchy]:
    """Where a group could be made: never by moving processes that are not ours."""
    own = dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    for unified in [Path(mount[1]) for mount in mounts if mount[2] == "cgroup2"]:
        inside = _below(unified, own.get("", "/"))
        for folder in (inside, inside.parent, unified):
            opened = _words(folder / "cgroup.subtree_control")
            if {"memory", "pids"} <= opened:
                yield Hierarchy(2, dict.fromkeys({"memory", "pids", "cpu"} & opened, folder))
    folders = {}
    for controller in ("memory", "pids", "cpu"):
        mounted = next((Path(mount[1]) for mount in mounts if mount[2] == "cgroup" and controller in mount[3].split(",")), None)
        if mounted is not None:
            folders[controller] = _below(mounted, next((path for names, path in own.items() if controller in names.split(",")), "/"))
    if {"memory", "pids"} <= folders.keys():
        yield Hierarchy(1, folders)


def _works(hierarchy: Hierarchy) -> bool:
    """Whether a group can be made, limited and entered."""
    group = Group(hierarchy.version, {name: folder / name_of("probe") for name, folder in hierarchy.folders.items()})
    try:
        make(hierarchy, name_of("probe"), 64 * MIB, 1)
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as child:
            group.add(child.pid)
            child.kill()
    except OSError:
        return False
    else:
        return True
    finally:
        group.remove()


def _below(mounted: Path, path: str) -> Path:
    inside = mounted / path.lstrip("/")
    return inside if inside.is_dir() else mounted


def _words(path: Path) -> set[str]:
    try:
        return set(path.read_text().split())
    except OSError:
        return set()


def _pids(folder: Path) -> list[int]:
    try:
        return [int(line) for line in (folder / "cgroup.procs").read_text().split()]
    except OSError:
        return []
