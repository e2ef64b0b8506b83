"""A door of its own for every test, a client that trusts it, and the command as a process with a configuration of its own."""

import functools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer.main
import typer.testing
from typer.testing import CliRunner

from hortus.cli import app, main
from hortus.client import Client
from tests.hortus.door import SESSION, Answer, Door, Turning

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    made = Door(tmp_path)
    yield made
    made.close()


@pytest.fixture
def client(door: Door) -> Iterator[Client]:
    with Client(door.address, door.root, token="t0ken", patience=5.0) as made:
        yield made


@pytest.fixture
def turning(door: Door) -> Turning:
    return Turning(door)


@pytest.fixture
def environment(door: Door, tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HORTUS_")}
    return kept | {"HORTUS_CONFIG": str(tmp_path / "config" / "sign-in.json"), "HORTUS_ROOT": str(door.root), "TERM": "dumb"}


@pytest.fixture
def run(environment: dict[str, str]) -> Run:
    def go(*arguments: str, typed: str = "", **more: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "hortus.cli", *arguments]
        return subprocess.run(command, input=typed, capture_output=True, text=True, timeout=60, env=environment | more, check=False)

    return go


@pytest.fixture(scope="session", autouse=True)
def commands_are_made_once() -> Iterator[None]:
    """Typer makes all of a program's commands anew for each call, which a program makes once."""
    known = functools.cache(typer.main.get_command)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", known)
        patch.setattr(typer.testing, "_get_command", known)
        yield


@pytest.fixture
def run_here(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command in this process, from its words to the number it ends with; that it starts as one is shown where ``run`` is asked for."""

    def go(*arguments: str, typed: str = "", **more: str) -> "subprocess.CompletedProcess[str]":
        monkeypatch.setattr(sys, "argv", ["hortus", *arguments])
        known = environment | more
        settings = {name: known.get(name) for name in {*known, *os.environ}}
        with CliRunner().isolation(typed, settings) as (said, complained, _):
            with pytest.raises(SystemExit) as ended:
                main()
            sys.stdout.flush()
            sys.stderr.flush()
            written = said.getvalue().decode(), complained.getvalue().decode()
        return subprocess.CompletedProcess(arguments, int(str(ended.value.code)), *written)

    return go


@pytest.fixture
def signed_in(door: Door, run: Run, environment: dict[str, str]) -> Run:
    """The command when somebody has signed in by it; that in this process, which need not start another one for each test."""
    door.on("POST", "/sessions", Answer(201, SESSION))
    known = {name: environment.get(name) for name in {*environment, *os.environ}}
    login = ["login", "ada", "--address", door.address, "--code", "123456"]
    ended = CliRunner().invoke(app, login, env=known | {"HORTUS_PASSWORD": "correct horse battery"})
    assert ended.exit_code == 0, ended.output
    door.asked.clear()
    return run
