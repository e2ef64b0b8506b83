"""A process that is started with this folder on its path sees a clock that is ahead by the seconds that stand in the file ``CLOCK_OFF``.

From when the file is gone the clock is right.
"""

import os
import time
from pathlib import Path

_right = time.time
_off = Path(os.environ["CLOCK_OFF"])


def _wrong() -> float:
    try:
        return _right() + float(_off.read_text())
    except FileNotFoundError:
        time.time = _right
        return _right()


time.time = _wrong
