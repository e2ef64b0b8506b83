"""An authenticator in somebody's pocket: the one-time codes of a second factor."""

import time

import pyotp

STEP_SECONDS = 30
LOOK_SECONDS = 0.05
TYPED_WITHIN_SECONDS = 10.0


class Authenticator:
    """Gives codes of one secret, each once."""

    def __init__(self, secret: str = "") -> None:
        self.secret = secret
        self._last_step = 0

    def code(self) -> str:
        """The oldest code that is accepted and was not used yet, when it comes: a code counts once, and one step behind or ahead is accepted."""
        while (step := max(self._last_step + 1, _oldest(time.time()))) > int(time.time()) // STEP_SECONDS + 1:
            time.sleep(LOOK_SECONDS)
        self._last_step = step
        return pyotp.TOTP(self.secret).at(step * STEP_SECONDS)


def _oldest(now: float) -> int:
    """The oldest step whose code is still accepted when somebody has typed it."""
    return int(now - STEP_SECONDS + TYPED_WITHIN_SECONDS) // STEP_SECONDS
