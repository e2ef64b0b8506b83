"""Each rule bites: a planted violation on a copy of the tree turns its check red."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHECKED = ("contracts", "chassis", "services", "gateway", "compose", "hortus", "tests/__init__.py", "tests/architecture", "docs")
FILES = (".importlinter", "pyproject.toml", "LICENSE", "README.md")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in CHECKED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, tmp_path / name)
    for name in FILES:
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def run(tree: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=tree,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tree)},
    )


def lint(tree: Path) -> subprocess.CompletedProcess[str]:
    return run(tree, "-c", "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())")


def check(tree: Path, test: str) -> subprocess.CompletedProcess[str]:
    return run(tree, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"tests/architecture/{test}")


def plant(path: Path, line: str) -> None:
    path.write_text(path.read_text() + "\n" + line + "\n")


def test_the_untouched_tree_is_green(tree: Path) -> None:
    linted = lint(tree)
    assert linted.returncode == 0, linted.stdout
    for test in ("test_doors.py", "test_rooms.py", "test_golden.py"):
        checked = check(tree, test)
        assert checked.returncode == 0, checked.stdout


def test_a_sibling_import_is_red(tree: Path) -> None:
    plant(tree / "services/ca/service/ending.py", "import services.datasets.models")
    linted = lint(tree)
    assert linted.returncode == 1
    assert "services.ca is not allowed to import services.datasets" in linted.stdout


def test_sql_in_a_route_is_red(tree: Path) -> None:
    plant(tree / "services/projects/routes/projects.py", 'QUERY = "SELECT name FROM project"')
    assert "services/projects/routes/projects.py" in check(tree, "test_rooms.py").stdout
    plant(tree / "services/projects/routes/projects.py", "from sqlalchemy import text")
    assert "services.projects.routes is not allowed to import sqlalchemy" in lint(tree).stdout


def test_a_route_without_a_row_is_red(tree: Path) -> None:
    plant(
        tree / "services/projects/routes/projects.py",
        '\n@router.get("/projects/{project_id}/secret")\nasync def secret() -> None:\n    """A door that nobody wrote into the policy."""',
    )
    checked = check(tree, "test_doors.py")
    assert checked.returncode == 1
    assert "secret" in checked.stdout


def test_a_changed_event_schema_is_red(tree: Path) -> None:
    events = tree / "contracts/events.py"
    events.write_text(events.read_text().replace("    output_name: str\n", "    output_title: str\n"))
    checked = check(tree, "test_golden.py")
    assert checked.returncode == 1
    assert "run.v1.json" in checked.stdout
    written = run(tree, "-m", "chassis.golden")
    assert written.returncode == 1
    assert "output_name was removed" in written.stderr


def test_a_service_that_calls_a_service_is_red(tree: Path) -> None:
    plant(tree / "services/datasets/service/sweep.py", "import httpx2")
    linted = lint(tree)
    assert linted.returncode == 1
    assert "services.datasets is not allowed to import httpx2" in linted.stdout


@pytest.mark.parametrize("line", ["import urllib.request", "from socket import create_connection"])
def test_a_service_that_reaches_out_by_another_way_is_red(tree: Path, line: str) -> None:
    plant(tree / "services/datasets/service/sweep.py", line)
    checked = check(tree, "test_rooms.py")
    assert checked.returncode == 1
    assert "services/datasets/service/sweep.py" in checked.stdout
    assert "test_no_service_opens_a_connection_to_another" in checked.stdout
