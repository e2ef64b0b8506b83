"""Every service has the same nine rooms, and each thing happens in its room."""

import ast
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from contracts.policy import Service

ROOT = Path(__file__).parents[2]
ROOMS = ("app", "routes", "handlers", "service", "domain", "repository", "models", "schemas")
HEADINGS = ["Owns", "Doors", "Says", "Hears", "Refuses"]
MODULE, README = 300, 40
# Larger than the guide says, and not to grow: who splits one takes it off.
PAST_GUIDE = {
    "chassis/app.py": 393,
    "chassis/consumer.py": 319,
    "chassis/guard.py": 364,
    "chassis/projection.py": 309,
    "chassis/relay.py": 350,
    "compose/local/kafka.py": 306,
    "compose/local/suite.py": 513,
    "compose/local/supervisor.py": 386,
    "contracts/events.py": 460,
    "contracts/policy.py": 587,
    "gateway/plane.py": 410,
    "hortus/client/shapes.py": 434,
    "services/auth/directory.py": 313,
    "services/auth/domain/oidc.py": 360,
    "services/jobs/sandbox/cage.py": 359,
    "services/projects/domain/projects.py": 377,
}
PRODUCT = ("contracts", "chassis", "services", "gateway", "compose", "hortus")


def sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from (path for path in sorted((ROOT / folder).rglob("*.py")) if "/migrations/" not in str(path))


@pytest.mark.parametrize("service", list(Service))
def test_a_service_has_the_nine_rooms(service: Service) -> None:
    home = ROOT / "services" / service
    for room in ROOMS:
        assert (home / f"{room}.py").exists() or (home / room / "__init__.py").exists(), f"{service} lacks {room}"
    assert list((home / "migrations").glob("0001_*.py"))


@pytest.mark.parametrize("service", list(Service))
def test_a_services_readme_has_the_fixed_headings(service: Service) -> None:
    text = (ROOT / "services" / service / "README.md").read_text()
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == HEADINGS


def past_guide(root: Path) -> dict[str, int]:
    """What is longer than the guide says, in lines: modules of the product, and the services' READMEs."""
    sizes = {path: MODULE for folder in PRODUCT for path in (root / folder).rglob("*.py") if "/migrations/" not in str(path)}
    sizes |= dict.fromkeys((root / "services").glob("*/README.md"), README)
    lines = {path: len(path.read_text().splitlines()) for path in sizes}
    return {str(path.relative_to(root)): lines[path] for path, guide in sizes.items() if lines[path] > guide}


def test_what_is_past_its_guide_is_listed_and_does_not_grow() -> None:
    found = past_guide(ROOT)
    assert {path: lines for path, lines in found.items() if lines > PAST_GUIDE.get(path, 0)} == {}
    assert [path for path in PAST_GUIDE if path not in found] == []


def test_a_module_and_a_readme_that_grow_past_their_guide_are_found(tmp_path: Path) -> None:
    for path, lines in (("services/ca/service/x.py", 301), ("services/ca/service/y.py", 300), ("services/ca/README.md", 41)):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("x\n" * lines)
    assert past_guide(tmp_path) == {"services/ca/service/x.py": 301, "services/ca/README.md": 41}


def test_nothing_is_called_utils() -> None:
    assert [path for path in sources(*PRODUCT) if path.stem in ("utils", "helpers", "common", "misc")] == []


def test_only_the_chassis_commits() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sources("services", "gateway")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("commit", "rollback", "begin", "begin_nested")
    ]
    assert found == []


def test_no_service_opens_a_connection_to_another() -> None:
    """The import contract forbids HTTP clients; this forbids the ways around them.

    Agents call the gateway, sandboxes are local; auth sends letters, and asks directories and identity providers.
    """
    outward = {ROOT / "services/auth" / room for room in ("post.py", "directory.py", "provider.py")}
    ways = {"urllib.request", "socket", "socketserver", "ftplib", "smtplib", "xmlrpc", "xmlrpc.client", "telnetlib"}
    calls = {"open_connection", "create_connection", "open_unix_connection", "create_unix_connection"}
    found = []
    for path in sources("services"):
        if path.parent.name in ("agent", "sandbox") or path in outward:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Attribute):
                names = {node.attr}
            else:
                continue
            if names & (ways | calls):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert found == []


def test_sql_text_stands_only_in_repositories_models_and_the_chassis() -> None:
    statement = re.compile(r"^\s*(SELECT\s.+\sFROM|INSERT\s+INTO|UPDATE\s+\w+\s+SET|DELETE\s+FROM)\b", re.IGNORECASE | re.DOTALL)
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sources("services", "gateway", "contracts")
        if path.stem not in ("repository", "models") and path.parent.name != "repository"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and statement.match(node.value)
    ]
    assert found == []


def test_every_module_opens_with_a_docstring() -> None:
    missing = [
        str(path.relative_to(ROOT))
        for path in sources(*PRODUCT)
        if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert missing == []


def test_the_wheel_holds_only_the_client(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path], cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("hortus-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        about = next(archive.read(name).decode() for name in names if name.endswith(".dist-info/METADATA"))
    assert {name.split("/")[0].split("-")[0] for name in names} == {"hortus"}
    assert {"hortus/__init__.py", "hortus/cli/__init__.py", "hortus/client/__init__.py"} <= set(names)
    needed = {
        re.split(r"[^a-z0-9-]", line.removeprefix("Requires-Dist: "))[0]
        for line in about.splitlines()
        if line.startswith("Requires-Dist: ")
    }
    assert needed <= {"cryptography", "httpx2", "rich", "typer"}
