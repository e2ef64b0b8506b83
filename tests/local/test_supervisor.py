"""`make up` and `make down` when something stands in the way."""

import json
import os
import socket
import subprocess
import sys

import pytest

from compose.local import supervisor
from compose.local.home import REPOSITORY, Home, keep
from compose.local.ports import free_port, give_back, is_free
from compose.local.process import boot_id


def command(home: Home, what: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"HORTUS_HOME": str(home.path)} | settings
    return subprocess.run(
        [sys.executable, "-m", "compose.local", what],
        cwd=REPOSITORY,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_port_in_use_is_one_sentence_with_the_fix(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        answer = command(home, "up", HORTUS_PEOPLE_PORT=str(port))
    assert answer.returncode == 1
    assert answer.stderr.startswith(f"Port {port} is in use; stop what listens there")
    assert answer.stderr.rstrip().endswith("or set HORTUS_PEOPLE_PORT to another port.")
    assert answer.stderr.count("\n") == 1


@pytest.mark.parametrize("replicas", ["two", "0", "17", "-1"])
def test_a_number_of_replicas_that_is_none_is_one_sentence(home: Home, replicas: str) -> None:
    answer = command(home, "up", HORTUS_REPLICAS=replicas)
    assert answer.returncode == 1
    assert "set it to a number between 1 and 16" in answer.stderr


@pytest.mark.parametrize("port", ["eighty", "0", "65536", "-1"])
def test_a_port_that_is_none_is_one_sentence(home: Home, port: str) -> None:
    answer = command(home, "up", HORTUS_CERTIFICATE_PORT=port)
    assert answer.returncode == 1
    assert "set it to a port between 1 and 65535" in answer.stderr


def test_a_stale_pid_is_repaired_and_its_new_owner_is_let_be(home: Home) -> None:
    pid_file = home.run / "supervisor.pid"
    with subprocess.Popen(["/bin/sleep", "600"]) as stranger:
        stale = json.dumps({"pid": stranger.pid, "started": f"{boot_id()}:1"}).encode()
        keep(pid_file, stale)
        answer = command(home, "down")
        assert (answer.returncode, answer.stdout) == (0, "Hortus was not running.\n")
        assert not pid_file.exists()
        keep(pid_file, stale)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            answer = command(home, "up", HORTUS_PEOPLE_PORT=str(taken.getsockname()[1]))
        assert "the pid file of a runner that is gone was removed" in answer.stdout
        assert not pid_file.exists()
        assert stranger.poll() is None
        stranger.kill()


def test_a_pid_file_that_was_cut_off_is_no_runner(home: Home) -> None:
    (home.run / "supervisor.pid").write_text('{"pid": 1')
    answer = command(home, "status")
    assert answer.returncode == 1
    assert answer.stdout == "Hortus is not running; start it with `make up`.\n"


def test_a_second_runner_is_kept_out_of_a_home(home: Home) -> None:
    lock = supervisor._take_lock(home)
    assert lock is not None
    try:
        assert "just starting or stopping" in command(home, "up").stdout
        assert "Another runner holds this home" in command(home, "supervise").stderr
    finally:
        os.close(lock)


def test_down_without_a_home_is_harmless_twice(home: Home) -> None:
    assert command(home, "down").returncode == 0
    assert command(home, "down").returncode == 0


def test_free_ports_are_free_and_not_given_twice() -> None:
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    assert all(is_free("127.0.0.1", port) for port in ports)
    for port in ports:
        give_back(port)
