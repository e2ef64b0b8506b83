"""``python -m compose.local up | down | status | migrate | recover NAME | pki …``: what `make` calls."""

import functools
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
    match sys.argv[1:]:
        case ["recover", _, *_]:
            command = functools.partial(supervisor.recover, sys.argv[2:])
        case ["pki", *_]:
            command = functools.partial(supervisor.pki, sys.argv[2:])
        case [name] if name in COMMANDS:
            command = functools.partial(COMMANDS[name])
        case _:
            print(f"usage: python -m compose.local {'|'.join(COMMANDS)}|recover NAME|pki …", file=sys.stderr)
            return 2
    try:
        return command()
    except SetupProblem as problem:
        print(problem, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
