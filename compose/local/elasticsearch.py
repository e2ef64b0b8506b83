"""Elasticsearch 8.19: mutual TLS and one user that sees only the suite's indexes."""

import base64
import hashlib
import http.client
import secrets
import shutil
import ssl
from pathlib import Path

from chassis import pairs
from compose.local.fetch import elasticsearch_home, reachable
from compose.local.home import Home, keep
from compose.local.java import find_java
from compose.local.pki import Pki
from compose.local.ports import free_port
from compose.local.process import Child, base_environment
from compose.local.server import Server

INDEX = "index"
USER = "search"
ROLE = "hortus_search"
INDEXES = "hortus-*"
PASSWORD = "elasticsearch.password"  # noqa: S105 - the name of a file
HEAP = "384m"
ROUNDS = 10_000  # one of the counts that Elasticsearch knows; the password has 256 random bits
ROLES = f"""{ROLE}:
  cluster: [monitor]
  indices:
    - names: ["{INDEXES}"]
      privileges: [all]
"""


class Elasticsearch(Server):
    """A node of one home; ``url`` stays the same while the object lives."""

    name = "elasticsearch"
    start_seconds = 300.0

    def __init__(self, home: Home | Path, pki: Pki) -> None:
        """Nothing starts yet; ``pki`` issues the node's certificate."""
        super().__init__(home)
        self.pki = pki
        self.port = free_port()
        self._transport_port = free_port()

    @property
    def url(self) -> str:
        """The address for the search service, which also shows its certificate."""
        return f"https://localhost:{self.port}"

    @property
    def password_file(self) -> Path:
        """The file with the password of the user `search`."""
        return self.home.secret_file(PASSWORD)

    def start(self) -> None:
        """Write the configuration, start the node and wait until it answers for its health."""
        tree = reachable(elasticsearch_home(), "elasticsearch", self.account)
        java = find_java(self.account)
        configuration = self.folder / "config"
        self._configure(configuration, tree)
        arguments: list[str | Path] = [
            *(java, "-Xms4m", "-Xmx48m", "-XX:+UseSerialGC", "-XX:-UsePerfData", "-XX:TieredStopAtLevel=1", "-Xshare:auto"),
            f"-Djava.io.tmpdir={self.folder / 'tmp'}",
            *("-Dcli.name=server", "-Dcli.script=./bin/elasticsearch", "-Dcli.libs=lib/tools/server-cli"),
            *(f"-Des.path.home={tree}", f"-Des.path.conf={configuration}", "-Des.distribution.type=tar"),
            *("-cp", f"{tree}/lib/*:{tree}/lib/cli-launcher/*", "org.elasticsearch.launcher.CliToolLauncher"),
        ]
        environment = base_environment(ES_TMPDIR=str(self.folder / "tmp"), ES_JAVA_HOME=str(java.parent.parent))
        self.child = Child(self.home, self.name, arguments, environment, account=self.account, folder=tree)
        self.child.start()
        self.child.wait_until(self._answers, self.start_seconds)

    @property
    def tls(self) -> Path:
        """The folder with the node's certificate."""
        return self.folder / "config" / "tls"

    def renew(self) -> None:
        """Put another certificate where the node finds it: it looks at these files every second, and shows what it can read."""
        key, chain = self.pki.certify_service(INDEX)
        staged = self.tls / ".new"
        staged.mkdir(exist_ok=True, mode=0o700)
        files = {pairs.KEY: key, pairs.CERTIFICATE: chain, "services.pem": self.pki.services_anchor.read_bytes()}
        for name, content in files.items():
            keep(staged / name, content)
        self.account.own(staged, *staged.iterdir())
        for name in files:
            (staged / name).replace(self.tls / name)  # readable from its first moment on: the node looks at a change once

    def request(self, method: str, path: str, body: bytes | None = None, tls: Path | None = None) -> tuple[int, bytes]:
        """Send one request as the user `search` and return (status, body).

        ``tls`` is the folder of the certificate to show; without it the node shows its own.
        """
        own = tls or self.tls
        context = ssl.create_default_context(cafile=str(own / "services.pem"))
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(own / "cert.pem", own / "key.pem")
        connection = http.client.HTTPSConnection("localhost", self.port, timeout=20, context=context)
        pair = f"{USER}:{self.home.secret(PASSWORD)}"
        headers = {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}", "Content-Type": "application/json"}
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def _configure(self, configuration: Path, tree: Path) -> None:
        folders = [configuration, configuration / "tls", *(self.folder / name for name in ("data", "logs", "tmp"))]
        for folder in folders:
            folder.mkdir(exist_ok=True, mode=0o700)
        for left in configuration.glob("elasticsearch.keystore*"):
            left.unlink()  # the node makes it anew, and refuses to start with the half of one that a crash left
        self.renew()
        shutil.copyfile(tree / "config" / "log4j2.properties", configuration / "log4j2.properties")
        salt = secrets.token_bytes(32)
        digest = hashlib.pbkdf2_hmac("sha512", self.home.secret(PASSWORD).encode(), salt, ROUNDS, 32)
        hashed = f"{{PBKDF2}}{ROUNDS}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"
        files = {
            "elasticsearch.yml": "".join(f"{key}: {value}\n" for key, value in self._settings().items()),
            "jvm.options": f"-Xms{HEAP}\n-Xmx{HEAP}\n-XX:+UseSerialGC\n-XX:TieredStopAtLevel=1\n-XX:-UsePerfData\n-Xlog:disable\n-Djava.io.tmpdir={self.folder / 'tmp'}\n",
            "users": f"{USER}:{hashed}\n",
            "users_roles": f"{ROLE}:{USER}\n",
            "roles.yml": ROLES,
        }
        for name, text in files.items():
            keep(configuration / name, text.encode())
        self.account.own(*folders, *configuration.iterdir())

    def _settings(self) -> dict[str, str]:
        return {
            "cluster.name": "hortus",
            "node.name": "hortus-1",
            "path.data": str(self.folder / "data"),
            "path.logs": str(self.folder / "logs"),
            "network.host": "127.0.0.1",
            "http.port": str(self.port),
            "transport.port": str(self._transport_port),
            "discovery.type": "single-node",
            "action.auto_create_index": "false",
            "resource.reload.interval.high": "1s",  # how often it looks at its certificate
            "cluster.routing.allocation.disk.threshold_enabled": "false",
            "xpack.security.enabled": "true",
            "xpack.security.autoconfiguration.enabled": "false",
            "xpack.security.authc.password_hashing.algorithm": "pbkdf2",
            "xpack.security.http.ssl.enabled": "true",
            "xpack.security.http.ssl.key": "tls/key.pem",
            "xpack.security.http.ssl.certificate": "tls/cert.pem",
            "xpack.security.http.ssl.certificate_authorities": "[tls/services.pem]",
            "xpack.security.http.ssl.client_authentication": "required",
            "xpack.security.http.ssl.supported_protocols": "[TLSv1.3]",
        }

    def _answers(self) -> bool:
        try:
            status, _ = self.request("GET", "/_cluster/health?wait_for_status=yellow&timeout=1s")
        except (OSError, http.client.HTTPException):
            return False
        return status == 200
