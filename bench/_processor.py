"""What PostgreSQL uses of the processor."""

import contextlib

import psutil


def database_processor() -> float:
    """Seconds of the processor that PostgreSQL has used, ended backends included."""
    used = 0.0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.name() == "postgres":
                times = process.cpu_times()
                used += times.user + times.system + times.children_user + times.children_system
    return used
