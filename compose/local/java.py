"""Find a Java that Kafka and Elasticsearch run on."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from compose.local.account import Account
from compose.local.problems import SetupProblem

OLDEST = 17
PACKAGE = "openjdk-17-jre-headless"
FOLDERS = ("/usr/lib/jvm", "/usr/java", "/opt/java", "/opt/jdk")


def find_java(account: Account, environment: Mapping[str, str] | None = None) -> Path:
    """The `java` program of the first Java ≥ 17 that ``account`` can run.

    Looked for in `HORTUS_JAVA_HOME`, `JAVA_HOME`, the path and the usual folders, in this order; as root on Debian it is
    installed when there is none. One that `HORTUS_JAVA_HOME` names is taken or refused, never passed over.
    """
    settings = os.environ if environment is None else environment
    named = settings.get("HORTUS_JAVA_HOME")
    if named:
        return _named(Path(named), account)
    found = _first(settings, account)
    if found is None and _may_install():
        _install()
        found = _first(settings, account)
    if found is None:
        raise SetupProblem(
            f"Hortus needs Java {OLDEST} or newer; install it (Debian: `apt-get install {PACKAGE}`) or name its folder in HORTUS_JAVA_HOME."
        )
    return found


def version_of(java: Path) -> int | None:
    """The feature version (17, 21, 25 …) that a `java` program prints; None where it is not one."""
    try:
        answer = subprocess.run([java, "-version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r'version "(\d+)(?:\.(\d+))?', answer.stderr + answer.stdout)
    if match is None:
        return None
    first = int(match[1])
    return int(match[2] or 0) if first == 1 else first


def _named(home: Path, account: Account) -> Path:
    java = home / "bin" / "java"
    version = version_of(java)
    if version is None:
        raise SetupProblem(f"HORTUS_JAVA_HOME names {home}, where no bin/java answers; name the folder of a Java {OLDEST} or newer.")
    if version < OLDEST:
        raise SetupProblem(f"HORTUS_JAVA_HOME names a Java {version}, and Hortus needs {OLDEST} or newer; name another folder.")
    if not account.reaches(java):
        raise SetupProblem(f"The account `{account.name}` cannot reach {home}; name a Java in HORTUS_JAVA_HOME that every account can run.")
    return java.resolve()


def _first(settings: Mapping[str, str], account: Account) -> Path | None:
    for candidate in _candidates(settings):
        version = version_of(candidate)
        if version is not None and version >= OLDEST and account.reaches(candidate):
            return candidate.resolve()
    return None


def _candidates(settings: Mapping[str, str]) -> Iterator[Path]:
    if settings.get("JAVA_HOME"):
        yield Path(settings["JAVA_HOME"]) / "bin" / "java"
    on_path = shutil.which("java", path=settings.get("PATH"))
    if on_path:
        yield Path(on_path)
    for folder in FOLDERS:
        yield from sorted(Path(folder).glob("*/bin/java"), reverse=True)


def _may_install() -> bool:
    return os.geteuid() == 0 and Path("/etc/debian_version").exists() and shutil.which("apt-get") is not None


def _install() -> None:
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update"], ["apt-get", "install", "--yes", "--no-install-recommends", PACKAGE]):
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env=quiet, check=False)
