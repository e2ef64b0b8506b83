"""People of the story: each types `hortus` commands on a machine of their own, with an authenticator in their pocket."""

import json
import os
import secrets
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import IO, Any

from examples.wdbc.codes import Authenticator
from examples.wdbc.doors import Door, refresh_token
from examples.wdbc.probes import Held
from hortus.client import Client, FileKeeper, FileMemory

LONG_AWAY_SECONDS = 600.0


class Ended(Exception):
    """A command ended with another number than 0; ``said`` is its sentence."""

    def __init__(self, code: int, said: str) -> None:
        self.code = code
        self.said = said
        super().__init__(f"{said} (exit code {code})")


class Person:
    """Somebody with a password, an authenticator and a folder of their own for the `hortus` command."""

    def __init__(self, folder: Path, address: str, certificate_address: str, root: Path) -> None:
        self.folder = folder
        self.username = ""
        self.user_id = ""
        self._address = address
        self._certificate_address = certificate_address
        self._root = root
        self._password = secrets.token_urlsafe(18)
        self._factor = Authenticator()
        self._seen = time.monotonic()
        folder.mkdir(parents=True, mode=0o700)

    def join(self, **once: str) -> None:
        """`hortus setup` or `hortus accept` with its one-time secret: set a password and a second factor, confirm it with a code."""
        self.set_up("setup" if "HORTUS_SETUP_LINK" in once else "accept", **once)

    def set_up(self, *arguments: str, **once: str) -> None:
        """A command that shows a new second factor and asks for a code of it."""
        command = [sys.executable, "-m", "hortus.cli", *arguments, "--json"]
        with subprocess.Popen(command, env=self._environment() | once, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True) as typed:
            shown = _document(typed.stdout)
            if shown:
                factor = json.loads(shown)
                self.username, self._factor = factor["username"], Authenticator(factor["totp_secret"])
            _, said = typed.communicate(self._factor.code() + "\n" if shown else None)
        if typed.returncode != 0:
            raise Ended(typed.returncode, said.strip())

    def sign_in(self) -> None:
        """`hortus login` with password and code."""
        self.user_id = json.loads(self._run(["login", self.username, "--json"], HORTUS_CODE=self._factor.code()))["user"]["user_id"]

    def confirm(self) -> None:
        """`hortus confirm` with a code, for what asks for a second factor of this moment."""
        self._run(["confirm"], HORTUS_CODE=self._factor.code())

    def hortus(self, *arguments: str) -> Any:
        """Type a command with ``--json`` and get what it printed; raises ``Ended`` with its sentence and number."""
        self._come_back()
        return json.loads(self._run([*arguments, "--json"]) or "null")

    def says(self, *arguments: str) -> None:
        """Type a command that prints no result."""
        self._come_back()
        self._run(list(arguments))

    def client(self, **settings: Any) -> Client:
        """The library with the same sign-in, which both renew."""
        self._come_back()
        return Client(self._address, self._root, refresh=FileKeeper(self._config), memory=self._memory(), **settings)

    def certified(self, folder: Path, **settings: Any) -> Client:
        """The library with a project certificate, at the certificate port."""
        pair = (folder / "certificate.pem", folder / "key.pem")
        return Client(self._certificate_address, self._root, certificate=pair, memory=self._memory(), **settings)

    def holds(self, project: str, certificate: Path) -> Held:
        """What the person holds in a project: a token, a sign-in as a browser has it, an API key, and the project certificate in a folder."""
        self.confirm()
        ends = (datetime.now(UTC) + timedelta(days=1)).isoformat()
        with self.client() as mine:
            key = mine.keys.create(f"program-{project[-8:]}", scopes=("dataset.*", "search"), expires_at=ends)["secret"]
            token = mine.wire.token or ""
        held = Held(self._address, self._certificate_address, self._root, project, token=token, key=key)
        held.certificate = (certificate / "certificate.pem", certificate / "key.pem")
        shown = json.dumps({"username": self.username, "password": self._password, "code": self._factor.code()}).encode()
        held.refresh = refresh_token(Door(self._address, self._root).ask("POST", "/sessions", shown, Content_Type="application/json"))
        return held

    @property
    def _config(self) -> Path:
        return self.folder / "sign-in.json"

    def _come_back(self) -> None:
        """Sign in anew after having been away for long: a session that nobody uses ends after 15 minutes."""
        if time.monotonic() - self._seen > LONG_AWAY_SECONDS:
            self.sign_in()
        self._seen = time.monotonic()

    def _memory(self) -> FileMemory:
        return FileMemory(self._config.with_name(self._config.name + ".facts"), FileKeeper(self._config).read().session_id)

    def _run(self, arguments: list[str], **more: str) -> str:
        command = [sys.executable, "-m", "hortus.cli", *arguments]
        ended = subprocess.run(command, env=self._environment() | more, stdin=DEVNULL, capture_output=True, text=True, check=False)
        if ended.returncode != 0:
            raise Ended(ended.returncode, ended.stderr.strip().splitlines()[0] if ended.stderr.strip() else "no word")
        return ended.stdout

    def _environment(self) -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if not name.startswith("HORTUS_")} | {
            "HORTUS_CONFIG": str(self._config),
            "HORTUS_ADDRESS": self._address,
            "HORTUS_CERTIFICATE_ADDRESS": self._certificate_address,
            "HORTUS_ROOT": str(self._root),
            "HORTUS_PASSWORD": self._password,
        }


def _document(stream: IO[str] | None) -> str:
    """The JSON object that a command prints before it asks; empty when it ended without one."""
    lines: list[str] = []
    for line in stream or ():
        lines.append(line)
        if line == "}\n":
            return "".join(lines)
    return ""
