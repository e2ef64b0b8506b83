"""A process that is started with this folder on its path and ``CLOCK_OFF_S`` sees a clock that is so many seconds ahead."""

import os
import time

_right = time.time
time.time = lambda: _right() + float(os.environ["CLOCK_OFF_S"])
