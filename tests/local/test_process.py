"""Children end with the runner, however it ends, and say why they did not start."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from compose.local.home import REPOSITORY, Home, keep
from compose.local.pki import Pki
from compose.local.problems import SetupProblem
from compose.local.process import Child, base_environment, boot_id, end_leftovers, started_at
from compose.local.suite import Process

SLEEP = ["/bin/sleep", "600"]
RUNNER = """
import sys
from pathlib import Path
from compose.local.home import Home
from compose.local.process import Child, base_environment
child = Child(Home(Path(sys.argv[1])), "sleeper", ["/bin/sleep", "600"], base_environment())
child.start()
print(child.pid, flush=True)
sys.stdin.read()
"""


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_a_child_dies_when_its_runner_is_killed(home: Home) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(home.path)], cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as runner:
        assert runner.stdout is not None
        pid = int(runner.stdout.readline())
        assert started_at(pid) is not None
        runner.kill()
    assert eventually(lambda: started_at(pid) is None)


def test_a_child_outlives_the_thread_that_asked_for_it(home: Home) -> None:
    child = Child(home, "sleeper", SLEEP, base_environment())
    asking = threading.Thread(target=child.start)
    asking.start()
    asking.join()
    try:
        assert not eventually(lambda: not child.running, 0.5)
    finally:
        child.stop()


def test_stopping_takes_along_what_the_child_started_even_if_it_will_not_go(home: Home) -> None:
    script = "trap '' TERM; /bin/sleep 600 & echo $!; while :; do wait; done"
    child = Child(home, "stubborn", ["/bin/sh", "-c", script], base_environment())
    child.start()
    child.wait_until(lambda: bool(child.said().strip()), 10)
    grandchild = int(child.said())
    child.stop(0.3)
    assert not child.running
    assert eventually(lambda: started_at(grandchild) is None)


def test_a_part_gets_a_fresh_certificate_each_time_it_is_started(home: Home, pki: Pki) -> None:
    folder = home.tls_folder("auth-1")
    child = Child(home, "auth-1", SLEEP, base_environment())
    part = Process(child, list, lambda: pki.issue_service_certificate("auth", folder))
    try:
        part.start()
        first = (folder / "cert.pem").read_bytes()
        part.kill()
        part.launch()
        assert (folder / "cert.pem").read_bytes() != first
    finally:
        part.stop()


def test_a_paused_child_can_be_stopped(home: Home) -> None:
    child = Child(home, "sleeper", SLEEP, base_environment())
    child.start()
    child.pause()
    child.stop(5)
    assert child.exit_code == -signal.SIGTERM


def test_a_child_that_ends_before_it_is_ready_shows_its_last_words(home: Home) -> None:
    child = Child(home, "broken", ["/bin/sh", "-c", "echo the disk is on fire; exit 3"], base_environment())
    child.start()
    with pytest.raises(SetupProblem, match=r"^broken ended with status 3 before it was ready; .*\nthe disk is on fire"):
        child.wait_until(lambda: False, 10)
    child.stop()


def test_a_child_that_takes_too_long_is_a_problem(home: Home) -> None:
    child = Child(home, "slow", SLEEP, base_environment())
    child.start()
    with pytest.raises(SetupProblem, match="slow was not ready within 0 s"):
        child.wait_until(lambda: False, 0.2)
    child.stop()


def test_a_child_sees_no_secrets_of_the_runners_environment(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HORTUS_ROOT_PASSPHRASE", "correct horse")
    child = Child(home, "printer", ["/usr/bin/env"], base_environment(WORD="given"))
    child.start()
    child.wait_for_end(10)
    child.stop()
    assert "WORD=given" in child.said()
    assert "correct horse" not in child.said()


def test_what_a_crashed_runner_left_is_ended(home: Home) -> None:
    with subprocess.Popen(SLEEP, start_new_session=True) as left:
        record(home, "left", left.pid, started_at(left.pid) or "")
        assert end_leftovers(home) == ["left"]
        assert left.wait(5) == -signal.SIGKILL
    assert end_leftovers(home) == []


def test_a_left_group_is_ended_after_its_leader_is_gone(home: Home) -> None:
    with subprocess.Popen(
        ["/bin/sh", "-c", "/bin/sleep 600 & echo $!"], start_new_session=True, stdout=subprocess.PIPE, text=True
    ) as leader:
        assert leader.stdout is not None
        follower = int(leader.stdout.readline())
        began = started_at(leader.pid) or f"{boot_id()}:0"
        leader.wait(5)
        record(home, "left", leader.pid, began)
        assert end_leftovers(home) == ["left"]
        assert eventually(lambda: started_at(follower) is None)


def test_what_still_works_in_the_servers_data_is_ended(home: Home) -> None:
    with subprocess.Popen(SLEEP, cwd=home.server_folder("postgres"), start_new_session=True) as orphan:
        end_leftovers(home)
        assert orphan.wait(5) == -signal.SIGKILL


def test_stopping_takes_along_what_left_the_childs_group(home: Home) -> None:
    child = Child(home, "forker", ["/bin/sh", "-c", "setsid /bin/sleep 600 & echo $!; wait"], base_environment())
    child.start()
    child.wait_until(lambda: bool(child.said().strip()), 10)
    runaway = int(child.said())
    assert eventually(lambda: os.getpgid(runaway) == runaway)
    child.stop()
    assert eventually(lambda: started_at(runaway) is None)


def test_a_reused_pid_is_let_be(home: Home) -> None:
    with subprocess.Popen(SLEEP, start_new_session=True) as stranger:
        record(home, "left", stranger.pid, f"{boot_id()}:1")
        assert end_leftovers(home) == []
        assert stranger.poll() is None
        stranger.kill()


def test_a_record_from_before_a_reboot_is_let_be(home: Home) -> None:
    record(home, "left", 2**22, "another-boot:1")
    assert end_leftovers(home) == []
    assert not list((home.run / "processes").iterdir())


def record(home: Home, name: str, pid: int, began: str) -> None:
    folder: Path = home.run / "processes"
    folder.mkdir(exist_ok=True)
    keep(folder / f"{name}.json", f'{{"pid": {pid}, "started": "{began}"}}'.encode())


def test_a_process_that_is_not_there_has_no_start() -> None:
    assert started_at(2**22 + 1) is None
    assert started_at(os.getpid()) == started_at(os.getpid())
