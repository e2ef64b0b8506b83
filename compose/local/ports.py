"""Ports that no other suite and no outgoing connection of this machine takes."""

import fcntl
import os
import secrets
import socket
from pathlib import Path

from compose.local.home import cache_folder
from compose.local.problems import SetupProblem

FIRST, LAST = 20000, 32000
TRIES = 2000
_held: dict[int, int] = {}


def free_port() -> int:
    """A free port on 127.0.0.1 that stays this process's until it ends or gives it back.

    It lies below the range that the kernel takes ports for outgoing connections from (32768 and up), and a lock file in
    the cache keeps other suites of this machine away from it until it is bound.
    """
    folder = cache_folder() / "ports"
    folder.mkdir(exist_ok=True, mode=0o700)
    for _ in range(TRIES):
        port = FIRST + secrets.randbelow(LAST - FIRST)
        if port not in _held and _reserve(folder, port):
            if is_free("127.0.0.1", port):
                return port
            give_back(port)
    raise SetupProblem(f"No port between {FIRST} and {LAST} is free on 127.0.0.1; stop something that listens there.")


def give_back(port: int) -> None:
    """Let others have ``port`` again."""
    handle = _held.pop(port, None)
    if handle is not None:
        os.close(handle)


def is_free(host: str, port: int) -> bool:
    """Whether something could listen on ``host:port`` now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def demand_free(host: str, port: int, setting: str) -> None:
    """Raise SetupProblem with the fix where ``port`` is taken; ``setting`` is the variable that names another."""
    if not is_free(host, port):
        raise SetupProblem(
            f"Port {port} is in use; stop what listens there (`ss -ltnp 'sport = :{port}'`) or set {setting} to another port."
        )


def _reserve(folder: Path, port: int) -> bool:
    handle = os.open(folder / str(port), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return False
    _held[port] = handle
    return True
