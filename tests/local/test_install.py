"""A machine that lacks something is told so in one sentence."""

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

from compose.local import account, bootstrap, install
from compose.local.problems import SetupProblem


def test_an_old_python_is_one_sentence_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 2, "final", 0))
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(SystemExit, match=r"^Hortus needs Python 3\.11 or newer, and this is 3\.9; install it"):
        bootstrap.main()


def test_another_system_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(SystemExit, match="Hortus runs on Linux"):
        bootstrap.main()


def test_a_python_without_venv_is_one_sentence_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(SetupProblem, match=r"has no `venv` with pip; install it \(Debian: `apt-get install python3-venv`\)"):
        install._demand_venv_module()


def test_the_bootstrap_can_be_read_by_an_old_python() -> None:
    import ast  # noqa: PLC0415 - for this one question

    text = Path(bootstrap.__file__).read_text()
    ast.parse(text, feature_version=(3, 6))


def test_the_suite_runs_on_the_python_of_the_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(install.NAMED, raising=False)
    (tmp_path / "python3").symlink_to(sys.executable)
    monkeypatch.setattr(install, "SYSTEM_PYTHONS", (str(tmp_path / "absent"), "/bin/false", str(tmp_path / "python3")))
    assert install.suite_python() == Path(sys.executable).resolve()


def test_the_suite_runs_on_the_python_that_was_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(install.NAMED, "python3")
    assert install.suite_python() == Path(sys.executable)


def test_where_the_system_has_none_that_is_new_enough_the_suite_runs_on_the_one_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(install.NAMED, raising=False)
    monkeypatch.setattr(install, "SYSTEM_PYTHONS", ("/bin/false",))
    assert install.suite_python() == Path(sys.executable)


def test_programs_of_jobs_run_on_a_python_that_their_account_can_reach() -> None:
    python = install.job_python()
    assert install._is_new_enough(python)
    assert account.jobs().reaches(python)


def test_a_complete_environment_is_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    python, digest = (install.VENV / install.STAMP).read_text().split()
    assert digest == install._digest(*(install.REQUIREMENTS / lock for lock in install.LOCKS))
    monkeypatch.setattr(install, "suite_python", lambda: Path(python))
    monkeypatch.setattr(install, "_run", lambda command: pytest.fail(f"ran {command}"))
    install.ensure_venv()
