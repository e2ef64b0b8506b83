"""Install what the suite runs on: uv by pip, `.venv` by uv, and the environments of jobs. Standard library alone."""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from compose.local import account
from compose.local.home import REPOSITORY, cache_folder, file_lock, keep
from compose.local.problems import SetupProblem

REQUIREMENTS = REPOSITORY / "requirements"
VENV = REPOSITORY / ".venv"
STAMP = ".complete"
LOCKS = ("suite.txt", "dev.txt")
SYSTEM_PYTHONS = ("/usr/bin/python3", "/usr/bin/python3.13", "/usr/bin/python3.12", "/usr/bin/python3.11")
NAMED = "HORTUS_PYTHON"
ENVIRONMENTS = {"python": None, "torch": "torch.txt"}
COMMAND = """#!{python}
import sys
sys.path.insert(0, {repository!r})
from hortus.cli import main
sys.exit(main())
"""


def main(arguments: Sequence[str]) -> None:
    """`` `` makes `.venv` complete, ``uv …`` runs uv, ``environments`` makes those of jobs."""
    try:
        if arguments[:1] == ["uv"]:
            sys.exit(subprocess.run([uv(), *arguments[1:]], env=_settings(), check=False).returncode)
        ensure_venv()
        if arguments[:1] == ["environments"]:
            ensure_environments()
    except SetupProblem as problem:
        sys.exit(str(problem))


def ensure_venv() -> None:
    """Make `.venv` hold exactly what the locks say, byte-compiled; does nothing where its stamp says so already."""
    python = suite_python()
    wanted = f"{python} {_digest(*(REQUIREMENTS / lock for lock in LOCKS))}"
    stamp = VENV / STAMP
    if _stamped(stamp, wanted):
        return
    with file_lock(cache_folder() / f"venv-{hashlib.sha256(os.fsencode(REPOSITORY)).hexdigest()[:12]}.lock"):
        if _stamped(stamp, wanted):
            return
        _say("Installing the packages that the suite runs on into .venv …")
        made_by = stamp.read_text().partition(" ")[0] if stamp.exists() else ""
        stamp.unlink(missing_ok=True)
        if made_by != str(python) or not _works(VENV / "bin" / "python"):
            _run([uv(), "venv", "--clear", "--python", python, VENV])
        locks = [REQUIREMENTS / lock for lock in LOCKS]
        _run([uv(), "pip", "sync", "--python", VENV / "bin" / "python", "--require-hashes", "--compile-bytecode", *locks])
        command = VENV / "bin" / "hortus"
        keep(command, COMMAND.format(python=VENV / "bin" / "python", repository=str(REPOSITORY)).encode(), 0o755)
        keep(stamp, wanted.encode())


def ensure_environments() -> dict[str, Path]:
    """Make the environments that jobs name, in the cache, and return where each lies."""
    return {name: _environment(name, lock) for name, lock in ENVIRONMENTS.items()}


def uv() -> Path:
    """The program uv, fetched once by pip into an environment of its own in the cache."""
    lock = REQUIREMENTS / "uv.txt"
    folder = cache_folder() / f"uv-{_digest(lock)[:12]}-{sysconfig.get_python_version()}"
    program = folder / "bin" / "uv"
    if (folder / STAMP).exists() and _works(program):
        return program
    with file_lock(folder.with_name(folder.name + ".lock")):
        if not ((folder / STAMP).exists() and _works(program)):
            _demand_venv_module()
            _say("Fetching uv …")
            shutil.rmtree(folder, ignore_errors=True)
            _run([sys.executable, "-m", "venv", folder])
            _run([folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-input", "--require-hashes", "--requirement", lock])
            keep(folder / STAMP, b"")
    return program


def suite_python() -> Path:
    """The Python that the suite runs on: the one that ``make PYTHON=…`` names, else the system's where it is new enough, else the one at work.

    The system's is built with profile-guided optimisation and has its security updates from the distribution.
    """
    if NAMED not in os.environ:
        for candidate in SYSTEM_PYTHONS:
            python = Path(candidate)
            if python.exists() and _is_new_enough(python):
                return python.resolve()
    return Path(sys.executable)


def job_python() -> Path:
    """The Python that programs of jobs run on: one that the jobs' account can reach, the system's first."""
    runner = account.jobs()
    for candidate in (*SYSTEM_PYTHONS, str(Path(sys.executable).resolve())):
        python = Path(candidate)
        if python.exists() and runner.reaches(python.resolve()) and _is_new_enough(python):
            return python.resolve()
    raise SetupProblem(
        f"Programs of jobs need a Python 3.11 or newer that the account `{runner.name}` can reach; install the system's python3."
    )


def _environment(name: str, lock: str | None) -> Path:
    python = job_python()
    version = subprocess.run([python, "--version"], capture_output=True, text=True, check=True).stdout
    described = f"{python} {version} {_digest(REQUIREMENTS / lock) if lock else ''}"
    folder = cache_folder() / "environments" / f"{name}-{hashlib.sha256(described.encode()).hexdigest()[:12]}"
    stamp = folder / STAMP
    if stamp.exists():
        return folder
    folder.parent.mkdir(exist_ok=True)
    folder.parent.chmod(0o755)
    with file_lock(folder.with_name(folder.name + ".lock")):
        if stamp.exists():
            return folder
        _say(f"Making the job environment `{name}` …")
        _run([uv(), "venv", "--clear", "--python", python, folder])
        if lock is not None:
            packages: list[str | Path] = ["--require-hashes", "--compile-bytecode", "--requirement", REQUIREMENTS / lock]
            _run([uv(), "pip", "install", "--python", folder / "bin" / "python", *packages])
        keep(stamp, described.encode(), 0o644)
    return folder


def _demand_venv_module() -> None:
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        raise SetupProblem(f"This Python ({sys.executable}) has no `venv` with pip; install it (Debian: `apt-get install python3-venv`).")


def _is_new_enough(python: Path) -> bool:
    answer = subprocess.run(
        [python, "-I", "-c", "import sys; sys.exit(sys.version_info < (3, 11))"], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    return answer.returncode == 0


def _works(program: Path) -> bool:
    if not program.exists():
        return False
    return subprocess.run([program, "--version"], stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0


def _stamped(stamp: Path, wanted: str) -> bool:
    return stamp.exists() and stamp.read_text() == wanted and (VENV / "bin" / "python").exists()


def _digest(*paths: Path) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def _settings() -> dict[str, str]:
    settings = dict(os.environ) | {"UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1"}
    settings.setdefault("UV_SYSTEM_CERTS", "1")  # as pip does: a house may have an authority of its own before the index
    settings.pop("VIRTUAL_ENV", None)
    if "PIP_INDEX_URL" in settings:
        settings.setdefault("UV_DEFAULT_INDEX", settings["PIP_INDEX_URL"])
    return settings


def _run(command: Sequence[str | Path]) -> None:
    answer = subprocess.run(command, env=_settings(), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        what = " ".join(str(part) for part in command[:3])
        raise SetupProblem(f"`{what} …` failed; check the network or the package index:\n{answer.stderr.strip()[-2000:]}")


def _say(sentence: str) -> None:
    print(sentence, flush=True)
