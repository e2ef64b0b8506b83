"""Who is signed in with a client: what is kept of that, and where."""

import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Self

from hortus.client.errors import Altered, HortusError
from hortus.client.keys import write_private
from hortus.client.shapes import Session

REFRESH_COOKIE = "__Host-hortus-refresh"
DEVICE_COOKIE = "__Host-hortus-device"
EARLY_S = 30.0


@dataclass(frozen=True)
class SignIn:
    """Where Hortus is, which root is trusted (PEM text), who is signed in, and with what.

    ``token``, ``refresh_token`` and ``device`` are secrets. The server's times are RFC 3339. ``renew_at`` and ``asked_at`` are Unix
    seconds by this machine's clock: when the token is renewed, and since when the answer to a renewal is not known (0: it is).
    """

    address: str = ""
    trust: str = ""
    certificate_address: str = ""
    username: str = ""
    user_id: str = ""
    session_id: str = ""
    token: str = ""
    token_expires_at: str = ""
    session_expires_at: str = ""
    refresh_token: str = ""
    device: str = ""
    renew_at: float = 0.0
    asked_at: float = 0.0

    def opened(self, session: Session, cookies: Mapping[str, str]) -> Self:
        """With a session that was just opened or renewed.

        Its token is renewed 30 s before its end, and not sooner than in 30 s, so that a clock that is ahead does not have
        it renewed with each request.
        """
        try:
            ends = datetime.fromisoformat(session["expires_at"]).timestamp()
            return replace(
                self,
                username=session["user"]["username"],
                user_id=session["user"]["user_id"],
                session_id=session["session_id"],
                token=session["access_token"],
                token_expires_at=session["expires_at"],
                session_expires_at=session["session_expires_at"],
                refresh_token=cookies.get(REFRESH_COOKIE, ""),
                device=cookies.get(DEVICE_COOKIE) or self.device,
                renew_at=max(ends - EARLY_S, time.time() + EARLY_S),
                asked_at=0.0,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise Altered("The answer to a sign-in has not the shape of a session.") from error

    def ended(self) -> Self:
        """Without a session. Address, root, username and device stay for the next one."""
        return type(self)(
            address=self.address,
            trust=self.trust,
            certificate_address=self.certificate_address,
            username=self.username,
            device=self.device,
        )


class Keeper:
    """Keeps a sign-in in memory, for the threads of one process."""

    def __init__(self, kept: SignIn | None = None) -> None:
        self._kept = kept or SignIn()
        self._lock = threading.Lock()

    def read(self) -> SignIn:
        """What is kept."""
        return self._kept

    def write(self, kept: SignIn) -> None:
        """Keep it; only inside of ``alone``."""
        self._kept = kept

    @contextmanager
    def alone(self) -> Iterator[SignIn]:
        """Hold the sign-in, so that nobody else who shares it renews or changes it; gives what is kept now."""
        with self._lock:
            yield self.read()


class FileKeeper(Keeper):
    """Keeps a sign-in in a file that only its owner can read, for all processes of one person."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def read(self) -> SignIn:
        """What is kept, or an empty sign-in. A file that others could read is an error."""
        try:
            mode = self._path.stat().st_mode
            text = self._path.read_text()
        except FileNotFoundError:
            return SignIn()
        except OSError as error:
            raise HortusError(f"{self._path} cannot be read: {error.strerror}.") from error
        if mode & 0o077:
            raise HortusError(f"Others can read {self._path}, which holds your sign-in: run `chmod 600 {self._path}`, then sign in anew.")
        try:
            kept = json.loads(text)
            return SignIn(**{name: type(unset)(kept.get(name, unset)) for name, unset in asdict(SignIn()).items()})
        except (ValueError, TypeError, AttributeError) as error:
            raise HortusError(f"{self._path} is damaged: remove it and sign in again.") from error

    def write(self, kept: SignIn) -> None:
        """Keep it (0600), whole or not at all; only inside of ``alone``."""
        write_private(self._path, json.dumps(asdict(kept), indent=1).encode())

    @contextmanager
    def alone(self) -> Iterator[SignIn]:
        """Hold the sign-in against every thread and process; gives what is kept now."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self._path.with_name(self._path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield self.read()
        finally:
            os.close(descriptor)
