"""What can stand in the way of a set-up: one sentence, with the fix."""

from pathlib import Path

TAIL_LINES = 25


class SetupProblem(Exception):
    """Something that the person at the keyboard has to know; its text is one sentence that names the fix."""


def tail(log: Path, lines: int = TAIL_LINES) -> str:
    """The last ``lines`` lines of a log file, or a remark that there are none."""
    try:
        text = log.read_text(errors="replace").splitlines()
    except OSError:
        text = []
    return "\n".join(text[-lines:]) if text else "(the log is empty)"
