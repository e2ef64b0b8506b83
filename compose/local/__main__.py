"""``python -m compose.local up | down | status | migrate``: what `make` calls."""

import sys

try:
    from compose.local import supervisor
    from compose.local.problems import SetupProblem
except ModuleNotFoundError as missing:
    sys.exit(f".venv is not complete, it lacks {missing.name}; run `make .venv` and then this again.")

COMMANDS = {
    "up": supervisor.up,
    "down": supervisor.down,
    "status": supervisor.status,
    "migrate": supervisor.migrate,
    "supervise": supervisor.supervise,
}


def main() -> int:
    """Run one command; a problem is its sentence on standard error and status 1."""
    if len(sys.argv) != 2 or sys.argv[1] not in COMMANDS:
        print(f"usage: python -m compose.local {'|'.join(COMMANDS)}", file=sys.stderr)
        return 2
    try:
        return COMMANDS[sys.argv[1]]()
    except SetupProblem as problem:
        print(problem, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
