"""Make `.venv` complete with nothing but the system's Python. Any Python can read this file, so that an old one gets a sentence."""

import os
import shutil
import sys

OLDEST = (3, 11)
NEWER = ("python3.13", "python3.12", "python3.11", "python3.14")
HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - older than pathlib's habits


def main() -> None:
    """Hand over to a Python that is new enough, and install."""
    if not sys.platform.startswith("linux"):
        sys.exit("Hortus runs on Linux; use a Linux machine or a virtual one.")
    if sys.version_info < OLDEST:
        for name in NEWER:
            found = shutil.which(name)
            if found:
                os.execv(found, [found, *sys.argv])  # noqa: S606 - the same script under a newer Python
        sys.exit(
            "Hortus needs Python 3.11 or newer, and this is {}.{}; install it (Debian 12 has it) or run `make PYTHON=/path/to/python3.11`.".format(
                *sys.version_info[:2]
            )
        )
    sys.path.insert(0, os.path.dirname(os.path.dirname(HERE)))  # noqa: PTH120
    from compose.local.install import main as install  # noqa: PLC0415 - only now is this Python known to understand it

    install(sys.argv[1:])


if __name__ == "__main__":
    main()
