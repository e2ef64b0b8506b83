"""What a process logs: all that it says itself, and of what the Kafka client repeats once in ten seconds."""

import json
import logging
import subprocess
import sys

import pytest

from chassis import log

SAYS = """
import logging
from chassis import log
log.set_up("jobs", "1")
for node in range(50):
    logging.getLogger("aiokafka").error("Unable connect to node with id %s: %s", node, "refused")
    logging.getLogger("aiokafka.consumer").error("Group Coordinator Request failed: %s", "away")
    log.logger("chassis.relay").warning("not published", attempt=node)
"""


def test_what_the_kafka_client_repeats_is_written_once_and_what_we_say_always() -> None:
    done = subprocess.run([sys.executable, "-c", SAYS], capture_output=True, check=True, text=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in lines if line["logger"].startswith("aiokafka")] == [
        "Unable connect to node with id 0: refused",
        "Group Coordinator Request failed: away",
    ]
    assert [line["attempt"] for line in lines if line["logger"] == "chassis.relay"] == list(range(50))


def test_after_ten_seconds_it_is_said_again_with_how_often_it_was_kept_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("chassis.log.time.monotonic", lambda: now)
    rarely = log.Rarely()

    def said(node: int) -> str | None:
        record = logging.LogRecord("aiokafka", logging.ERROR, "", 0, "Unable connect to %s", (node,), None)
        return record.getMessage() if rarely.filter(record) else None

    assert [said(1), said(2), said(3)] == ["Unable connect to 1", None, None]
    now += log.RARELY_S
    assert [said(4), said(5)] == ["Unable connect to 4 (2 times more since the last time)", None]
    now += log.RARELY_S
    assert said(6) == "Unable connect to 6 (1 times more since the last time)"
