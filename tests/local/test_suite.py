"""A start that fails leaves nothing behind."""

from pathlib import Path

import psutil
import pytest

from compose.local.home import Home
from compose.local.problems import SetupProblem
from compose.local.suite import Suite
from tests.local.test_java import fake


def test_a_start_that_fails_stops_what_had_started(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {process.pid for process in psutil.Process().children()}  # not those of theirs: PostgreSQL starts and ends workers as it likes
    monkeypatch.setenv("HORTUS_JAVA_HOME", str(fake(tmp_path / "old", "11.0.2")))
    suite = Suite(home, services=(), agent=False)
    with pytest.raises(SetupProblem, match="names a Java 11"):
        suite.start()
    assert {process.pid for process in psutil.Process().children()} <= before
    assert not list((home.run / "processes").iterdir())


def test_browsers_reach_each_gateway_under_each_name_and_the_usual_port_is_not_written(home: Home) -> None:
    assert Suite(home, people_port=9443).origins == ["https://localhost:9443"]
    named = Suite(home, people_port=443, names=["Hortus.hospital.example"], replicas=2)
    second = named.addresses[1].rpartition(":")[2]
    assert named.origins == [
        "https://hortus.hospital.example",
        f"https://hortus.hospital.example:{second}",
        "https://localhost",
        f"https://localhost:{second}",
    ]


def test_a_suite_says_what_each_part_takes(suite: Suite) -> None:
    taken = suite.resident()
    assert set(taken) == {"postgres", "kafka", "elasticsearch", "valkey"}
    assert all(size > 1_000_000 for size in taken.values())
    assert sum(taken.values()) < 1.5 * 2**30


def test_the_servers_data_is_their_accounts_own(suite: Suite) -> None:
    for name in ("postgres", "kafka", "elasticsearch", "valkey"):
        state = suite.home.server_folder(name).stat()
        assert state.st_mode & 0o077 == 0
        assert state.st_uid == suite.postgres.account.uid
