"""Job environments: which Python a program runs with and which folders of the host it needs to see."""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

PLAIN = "python"
SYSTEM_FOLDERS = tuple(Path(name) for name in ("/usr/bin", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/share/zoneinfo"))
BROAD = {Path(name) for name in ("/", "/usr", "/home", "/root", "/opt", "/var", "/srv", "/tmp")}  # noqa: S108


class UnknownEnvironment(Exception):
    """This machine has no environment of that name, or one that would show too much of the machine."""


@dataclass(frozen=True)
class Environment:
    """``python``: its command line; ``trees``: folders to show read-only at their own paths."""

    python: tuple[str, ...]
    trees: tuple[str, ...]


def find(name: str, folder: Path) -> Environment:
    """The environment ``name`` below ``folder``; ``python`` without one there is the bare standard library.

    Raises UnknownEnvironment.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_-]{0,31}", name):
        raise UnknownEnvironment("the name is none of an environment")
    home = (folder / name).resolve()
    python = home / "bin" / "python"
    if python.exists():
        return Environment((str(python), "-u"), _trees(home, python))
    if name == PLAIN:
        base = Path(sys._base_executable).resolve()  # type: ignore[attr-defined]  # noqa: SLF001
        return Environment((str(base), "-u", "-s", "-S"), _trees(None, base))
    raise UnknownEnvironment(f"this machine has no environment {name}")


def _trees(home: Path | None, python: Path) -> tuple[str, ...]:
    """The system's libraries, the environment, and the interpreter that it rests on."""
    prefix = python.resolve().parent.parent
    wanted = [path for path in SYSTEM_FOLDERS if path.is_dir() and not path.is_symlink()]
    if prefix != Path("/usr"):
        wanted += [prefix / part for part in ("bin", "lib")] if prefix in BROAD or prefix == Path("/usr/local") else [prefix]
    if home is not None:
        wanted += [home]
        configured = next((line.split("=", 1)[1].strip() for line in _lines(home / "pyvenv.cfg") if line.startswith("home")), None)
        if configured and (base := Path(configured).parent) != prefix and base not in BROAD:
            wanted += [base]
    if any(path in BROAD for path in wanted):
        raise UnknownEnvironment(f"the environment at {home} would show a whole folder of the machine")
    kept = [path for path in wanted if path.is_dir() and not any(other != path and path.is_relative_to(other) for other in wanted)]
    return tuple(str(path) for path in dict.fromkeys(kept))


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []
