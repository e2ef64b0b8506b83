"""The first thing a child runs: change account, ask to die with the runner, become the server. Standard library alone.

It runs as a script of its own because an account may only be given up before a program starts, the kernel forgets the
wish to die with a parent when the account changes, and code between fork and exec of a threaded process can hang.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
RUNNER_IS_GONE = 70


def main(arguments: list[str]) -> None:
    """Run ``uid gid umask parent program …``; a uid of -1 keeps the account."""
    uid, gid, umask, parent = (int(argument) for argument in arguments[:4])
    command = arguments[4:]
    if uid >= 0:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit(f"prctl failed: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:
        sys.exit(RUNNER_IS_GONE)
    os.umask(umask)
    os.execv(command[0], command)  # noqa: S606 - becoming the server is what this script is for


if __name__ == "__main__":
    main(sys.argv[1:])
