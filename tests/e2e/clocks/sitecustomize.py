"""A process that is started with this folder on its path sees a clock that is ahead by the seconds that stand in the file ``CLOCK_OFF``."""

import os
import time
from pathlib import Path

_right = time.time
_off = Path(os.environ["CLOCK_OFF"])
time.time = lambda: _right() + float(_off.read_text())
