"""Keycloak as the peer of ``bench.auth``: fetched from Maven Central, started in development mode, asked by HTTP, stopped again."""

import hashlib
import json
import os
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from compose.local.account import current
from compose.local.fetch import repository_address
from compose.local.home import cache_folder
from compose.local.java import find_java
from compose.local.ports import free_port

VERSION = "26.7.3"
ARTIFACT = f"org.keycloak:keycloak-quarkus-dist:{VERSION}:tar.gz"
PLACE = f"org/keycloak/keycloak-quarkus-dist/{VERSION}/keycloak-quarkus-dist-{VERSION}.tar.gz"
SHA256 = "77657f30b7e90d70f727712ce1c967f430fd6a5e9f458d32d8c6df0635345f47"
REALM, CLIENT, SECRET, USER, PASSWORD = "bench", "bench-client", "bench-secret", "bench-user", "correct horse battery staple"
FIRST_START_S, START_S = 600.0, 300.0


class NotFetched(Exception):
    """Keycloak cannot be had here; the text shows what was tried."""


def fetch() -> Path:
    """The archive, from the cache, by Maven, or straight from its address. Raises NotFetched."""
    kept = cache_folder() / Path(PLACE).name
    tried = []
    for how in (None, _by_maven, _by_address):
        try:
            if how is not None:
                how(kept)
        except (OSError, subprocess.SubprocessError) as error:
            tried.append(f"{type(error).__name__}: {error}")
        if kept.is_file() and hashlib.sha256(kept.read_bytes()).hexdigest() == SHA256:
            return kept
    raise NotFetched("; ".join(tried) or "what came has another hash than expected")


def _by_maven(kept: Path) -> None:
    subprocess.run(["mvn", "-q", "dependency:get", f"-Dartifact={ARTIFACT}", "-Dtransitive=false"], check=True, capture_output=True)
    shutil.copyfile(Path.home() / ".m2" / "repository" / PLACE, kept)


def _by_address(kept: Path) -> None:
    with urllib.request.urlopen(f"{repository_address()}/{PLACE}", timeout=60) as source, kept.open("wb") as file:  # noqa: S310 - https
        shutil.copyfileobj(source, file)


class Keycloak:
    """One server with a realm, a confidential client and a person; ``options`` are its own, beside the usual ones."""

    def __init__(self, archive: Path, folder: Path, *options: str) -> None:
        folder.mkdir()
        subprocess.run(["tar", "-xzf", archive, "-C", folder, "--strip-components=1"], check=True)
        self.folder = folder
        self.options = options
        self.port, self.management = free_port(), free_port()
        self.child: subprocess.Popen[bytes] | None = None
        self.start_s: list[float] = []

    @property
    def token_path(self) -> str:
        """Where tokens are given out."""
        return f"/realms/{REALM}/protocol/openid-connect/token"

    @property
    def sign_in_form(self) -> str:
        """A password sign-in by direct grant."""
        return urllib.parse.urlencode(
            {"grant_type": "password", "client_id": CLIENT, "client_secret": SECRET, "username": USER, "password": PASSWORD}
        )

    def start(self) -> None:
        """Start, and wait until a realm answers; how long it took is kept. Raises TimeoutError."""
        java = find_java(current())
        environment = {
            **os.environ,
            "KC_BOOTSTRAP_ADMIN_USERNAME": "admin",
            "KC_BOOTSTRAP_ADMIN_PASSWORD": "admin",
            "JAVA_OPTS_KC_HEAP": "-Xms256m -Xmx1g",
            "JAVA_HOME": str(java.resolve().parents[1]),
        }
        command = [
            str(self.folder / "bin" / "kc.sh"),
            "start-dev",
            "--http-host=127.0.0.1",
            f"--http-port={self.port}",
            f"--http-management-port={self.management}",
            "--health-enabled=true",
            *self.options,
        ]
        began = time.monotonic()
        with (self.folder / "bench.log").open("ab") as log:
            self.child = subprocess.Popen(command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        limit = START_S if self.start_s else FIRST_START_S
        while not self._answers("/realms/master"):
            if time.monotonic() - began > limit or self.child.poll() is not None:
                raise TimeoutError((self.folder / "bench.log").read_text()[-2000:])
            time.sleep(0.1)
        self.start_s.append(time.monotonic() - began)

    def stop(self) -> None:
        """End the server and what it started."""
        if self.child is None:
            return
        mine = self.processes()
        for process in mine:
            with suppress(psutil.NoSuchProcess):
                process.terminate()
        _, left = psutil.wait_procs(mine, timeout=20)
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.child.wait(10)
        self.child = None

    def processes(self) -> list[psutil.Process]:
        """The shell and the Java that it runs."""
        if self.child is None:
            return []
        shell = psutil.Process(self.child.pid)
        return [shell, *shell.children(recursive=True)]

    def memory_mb(self) -> float:
        """Resident memory of all processes."""
        return sum(process.memory_info().rss for process in self.processes()) / 1e6

    def set_up(self) -> None:
        """Make the realm, its client and its person."""
        admin = self._ask("POST", "/realms/master/protocol/openid-connect/token", form=_admin())["access_token"]
        realm: dict[str, Any] = {"realm": REALM, "enabled": True, "accessTokenLifespan": 3600}
        self._ask("POST", "/admin/realms", admin, body=realm)
        mapper = {
            "name": "own-audience",
            "protocol": "openid-connect",
            "protocolMapper": "oidc-audience-mapper",
            "config": {"included.client.audience": CLIENT, "access.token.claim": "true", "introspection.token.claim": "true"},
        }
        client = {
            "clientId": CLIENT,
            "secret": SECRET,
            "directAccessGrantsEnabled": True,
            "serviceAccountsEnabled": True,
            "publicClient": False,
            "protocolMappers": [mapper],
        }
        self._ask("POST", f"/admin/realms/{REALM}/clients", admin, body=client)
        credential = {"type": "password", "value": PASSWORD, "temporary": False}
        user = {
            "username": USER,
            "enabled": True,
            "email": "bench@example.org",
            "firstName": "B",
            "lastName": "U",
            "credentials": [credential],
        }
        self._ask("POST", f"/admin/realms/{REALM}/users", admin, body=user)

    def hash_in_use(self) -> dict[str, Any]:
        """The algorithm and parameters that the person's password is stored with."""
        admin = self._ask("POST", "/realms/master/protocol/openid-connect/token", form=_admin())["access_token"]
        (user,) = self._ask("GET", f"/admin/realms/{REALM}/users?username={USER}", admin)
        credentials = self._ask("GET", f"/admin/realms/{REALM}/users/{user['id']}/credentials", admin)
        found: dict[str, Any] = json.loads(next(each["credentialData"] for each in credentials if each["type"] == "password"))
        return found

    def introspection_form(self) -> str:
        """A token check with a token that is good for an hour."""
        token = self._ask("POST", self.token_path, form=self.sign_in_form)["access_token"]
        form = urllib.parse.urlencode({"client_id": CLIENT, "client_secret": SECRET, "token": token})
        if not self._ask("POST", f"{self.token_path}/introspect", form=form)["active"]:
            raise RuntimeError("the token does not count")
        return form

    def _answers(self, path: str) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _ask(self, method: str, path: str, token: str | None = None, *, form: str | None = None, body: Any = None) -> Any:
        data = form.encode() if form is not None else json.dumps(body).encode() if body is not None else None
        kind = "application/x-www-form-urlencoded" if form is not None else "application/json"
        headers = {"Content-Type": kind} | ({"Authorization": f"Bearer {token}"} if token else {})
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - http
            content = answer.read()
        return json.loads(content) if content else None


def _admin() -> str:
    return urllib.parse.urlencode({"grant_type": "password", "client_id": "admin-cli", "username": "admin", "password": "admin"})
