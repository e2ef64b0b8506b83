"""What the four servers have in common."""

import os
import shutil
import signal
import stat
import tempfile
from pathlib import Path

from compose.local import account
from compose.local.home import Home, keep
from compose.local.process import Child, started_at

LONGEST_RUNTIME = 40
RUNNER = ".runner"


def short_folder(purpose: str) -> Path:
    """A new 0700 folder with a path short enough for a unix socket, given to the servers' account.

    It remembers who made it; folders of runners that are gone are removed on the way.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    usable = 0 < len(runtime) <= LONGEST_RUNTIME and os.access(runtime, os.W_OK) and os.geteuid() != 0
    place = Path(runtime) if usable else Path("/tmp")  # noqa: S108 - mkdtemp makes a folder of mode 0700
    for left in place.glob("hortus-*"):
        if _is_abandoned(left):
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"hortus-{purpose}-", dir=place))
    keep(folder / RUNNER, f"{os.getpid()} {started_at(os.getpid())}".encode())
    account.servers().own(folder)
    return folder


def remove_sockets(home: Home) -> None:
    """Remove the socket folders that a home's runner left behind when it crashed."""
    for record in home.run.glob("*.socket"):
        folder = Path(record.read_text())
        if _is_abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)
        record.unlink(missing_ok=True)


def _is_abandoned(folder: Path) -> bool:
    try:
        state = folder.lstat()
        if not stat.S_ISDIR(state.st_mode) or state.st_uid not in {os.geteuid(), account.servers().uid}:
            return False
        pid, _, started = (folder / RUNNER).read_text().partition(" ")
        return started_at(int(pid)) != started
    except (OSError, ValueError):
        return False


class Server:
    """A server of one home: start and stop are synchronous, and starting returns when it answers."""

    name: str
    start_seconds = 120.0
    stop_seconds = 30.0
    stop_signal = signal.SIGTERM

    def __init__(self, home: Home | Path) -> None:
        """Nothing starts yet."""
        self.home = home if isinstance(home, Home) else Home(home)
        self.account = account.servers()
        self.child: Child | None = None

    @property
    def running(self) -> bool:
        """Whether the server's process lives."""
        return self.child is not None and self.child.running

    @property
    def folder(self) -> Path:
        """The server's own folder: data, configuration and certificates."""
        return self.home.server_folder(self.name)

    def start(self) -> None:
        """Start the server and wait until it answers; raises SetupProblem with the log's end."""
        raise NotImplementedError

    def stop(self) -> None:
        """Stop the server; what it had acknowledged is kept. Safe to repeat."""
        if self.child is not None:
            self.child.stop(self.stop_seconds, self.stop_signal)

    def restart(self) -> None:
        """Stop the server and start it again at the same address."""
        if self.child is not None:
            self.child.stop(self.stop_seconds, self.stop_signal)
        self.start()

    def pause(self) -> None:
        """Let the server hang: it keeps its connections and answers nothing."""
        if self.child is not None:
            self.child.pause()

    def resume(self) -> None:
        """Let a paused server go on."""
        if self.child is not None:
            self.child.resume()

    def kill(self) -> None:
        """Kill the server as a crash would."""
        if self.child is not None:
            self.child.kill()

    def resident(self) -> int:
        """Resident memory in bytes."""
        return self.child.resident() if self.child is not None else 0


class SocketServer(Server):
    """A server that listens on a unix socket in a short 0700 folder of its own."""

    _sockets: Path | None = None

    @property
    def sockets(self) -> Path:
        """The folder of the socket: the same while the home's record of it holds, else a new one."""
        if self._sockets is None:
            record = self.home.run / f"{self.name}.socket"
            known = Path(record.read_text()) if record.exists() else None
            if known is None or not self._is_ours(known):
                known = short_folder(self.name)
                record.write_text(str(known))
            self._sockets = known
        return self._sockets

    def _is_ours(self, folder: Path) -> bool:
        # the folder lies in /tmp: after a clean-up somebody else could have taken its name
        try:
            state = folder.lstat()
        except FileNotFoundError:
            return False
        return stat.S_ISDIR(state.st_mode) and stat.S_IMODE(state.st_mode) == 0o700 and state.st_uid == self.account.uid

    def stop(self) -> None:
        """Stop the server and remove its socket's folder. Safe to repeat."""
        super().stop()
        if self._sockets is not None:
            shutil.rmtree(self._sockets, ignore_errors=True)
            (self.home.run / f"{self.name}.socket").unlink(missing_ok=True)
            self._sockets = None
