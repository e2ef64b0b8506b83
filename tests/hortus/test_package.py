"""What the published package needs and holds."""

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def test_importing_hortus_needs_the_standard_library_alone() -> None:
    program = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); import hortus; print(sorted(hortus.__all__))"
    ended = subprocess.run([sys.executable, "-S", "-I", "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == "['inputs', 'metric', 'outputs']"


def test_the_client_imports_no_other_part() -> None:
    program = "import sys, hortus.cli; print([name for name in sys.modules if name.split('.')[0] in sys.argv[1:]])"
    parts = ["contracts", "chassis", "services", "gateway", "compose", "pydantic", "sqlalchemy"]
    ended = subprocess.run([sys.executable, "-c", program, *parts], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert ended.stdout.strip() == "[]"
