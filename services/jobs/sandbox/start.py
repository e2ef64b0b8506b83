"""The first thing inside a sandbox: bound the number of processes where only this run's are counted, then be the program."""

import os
import resource
import sys

most = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NPROC, (most, most))
os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606
