"""A TLS server that answers as a test tells it to: it speaks for the gateway so that the client's side can be tried.

It loses connections, answers late and lies on purpose; what Hortus itself answers is tested in ``tests/e2e``.
"""

import base64
import datetime as dt
import hashlib
import json
import ssl
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

USER = {
    "user_id": "u",
    "username": "ada",
    "email": "ada@example.org",
    "status": "active",
    "cluster_roles": [],
    "groups": ["staff"],
    "version": 1,
}
SESSION = {
    "session_id": "s1",
    "access_token": "the-t0ken",
    "expires_at": "2030-01-01T00:00:00Z",
    "session_expires_at": "2030-01-01T12:00:00Z",
    "user": USER,
}


@dataclass
class Asked:
    """A request as it arrived."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def cookies(self) -> dict[str, str]:
        pairs = (part.strip().partition("=") for part in self.headers.get("cookie", "").split(";"))
        return {name: value for name, _, value in pairs if name}


@dataclass
class Answer:
    """What goes back; ``lose`` closes the connection instead, ``cut`` after that many bytes of the body."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    cookies: list[str] = field(default_factory=list)
    lose: bool = False
    cut: int | None = None


def problem(status: int, slug: str, title: str, detail: str = "", **headers: str) -> Answer:
    body = {"type": f"urn:hortus:problem:{slug}", "title": title, "status": status, "detail": detail}
    given = {"Content-Type": "application/problem+json", "Hortus-Reason": slug, **headers}
    return Answer(status, json.dumps(body).encode(), {name.replace("_", "-"): value for name, value in given.items()})


Teller = Callable[[Asked], Answer]


class Server(ThreadingHTTPServer):
    """Says nothing of clients that went away, which they do on purpose here."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class Turning:
    """How Hortus turns refresh tokens over: each counts once, and the one before the newest is answered with the newest again for 10 s.

    An older one is taken for a thief's: the session ends, and ``reused`` says so. ``turned`` counts the renewals that made a new token.
    """

    GRACE_S = 10.0

    def __init__(self, door: "Door") -> None:
        self.turned = 0
        self.reused = False
        self.opened = 0
        self.token_s = 300.0
        self.device = ""
        self._tokens: list[str] = []
        self._turned_at = 0.0
        self._lock = threading.Lock()
        door.on("POST", "/sessions", self.open)
        door.on("POST", "/sessions/refresh", self.refresh)

    @property
    def access(self) -> str:
        """The access token that counts."""
        return f"access-{self.opened}-{self.turned}"

    def open(self, asked: Asked) -> Answer:
        self.device = asked.cookies.get("__Host-hortus-device", "")
        self.opened += 1
        return self._new(201)

    def refresh(self, asked: Asked) -> Answer:
        with self._lock:
            shown = asked.cookies.get("__Host-hortus-refresh", "")
            if self.reused or shown not in self._tokens:
                return problem(401, "session-ended", "The session has ended")
            if shown == self._tokens[-1]:
                self.turned += 1
                self._turned_at = time.monotonic()
                return self._new(200)
            if shown == self._tokens[-2] and time.monotonic() - self._turned_at < self.GRACE_S:
                return self._answer(200)
            self.reused = True
            return problem(401, "refresh-token-reused", "The refresh token was used before, so the session was ended")

    def guarded(self, asked: Asked) -> Answer:
        """A door for whoever shows the access token that counts; an earlier one is as good as expired."""
        if asked.headers.get("authorization") == f"Bearer {self.access}":
            return Answer(body={"username": "ada", "user_id": "u"})
        return problem(401, "invalid-credential", "The credential is not valid")

    def _new(self, status: int) -> Answer:
        self._tokens.append(f"refresh-{self.opened}-{self.turned}")
        return self._answer(status)

    def _answer(self, status: int) -> Answer:
        ends = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=self.token_s)
        body = {
            "session_id": f"session-{self.opened}",
            "access_token": self.access,
            "expires_at": ends.isoformat(),
            "session_expires_at": "2030-01-01T12:00:00Z",
            "user": USER,
        }
        flags = "Path=/; Secure; HttpOnly; SameSite=Strict"
        return Answer(
            status, body, cookies=[f"__Host-hortus-refresh={self._tokens[-1]}; {flags}", f"__Host-hortus-device=d{self.opened}; {flags}"]
        )


class Door:
    """The server: ``on`` says what a method and path answer (a list is used up one by one), ``asked`` what came.

    ``otherwise`` answers what nothing was said about.
    """

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root.pem"
        self.asked: list[Asked] = []
        self.otherwise: Teller = lambda asked: problem(404, "no-such-door", f"No answer was prepared for {asked.method} {asked.path}")
        self._answers: dict[tuple[str, str], list[Answer | Teller]] = {}
        door = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base's name)
                pass

            def do_GET(self) -> None:
                door.answer(self)

            do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815 (the names of the base class)

        self._server = Server(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(make_certificates(folder))
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.address = f"https://localhost:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def on(self, method: str, path: str, *answers: Answer | Teller | Any) -> None:
        made = [answer if isinstance(answer, Answer) or callable(answer) else Answer(body=answer) for answer in answers]
        self._answers[(method, path)] = list(made)

    def paths(self) -> list[str]:
        return [f"{asked.method} {asked.path}" for asked in self.asked]

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        headers = {name.lower(): value for name, value in handler.headers.items()}
        asked = Asked(handler.command, unquote(parts.path.removeprefix("/api/v1")), query, headers, _body(handler))
        self.asked.append(asked)
        waiting = self._answers.get((asked.method, asked.path))
        if not waiting:
            told: Answer | Teller = self.otherwise
        else:
            told = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        answer = told if isinstance(told, Answer) else told(asked)
        if answer.lose:
            handler.close_connection = True
            handler.connection.close()
            return
        body = answer.body if isinstance(answer.body, bytes) else b"" if answer.body is None else json.dumps(answer.body).encode()
        handler.send_response(answer.status)
        sent = {"Content-Type": "application/json", "Content-Length": str(len(body)), **answer.headers}
        for name, value in sent.items():
            handler.send_header(name, value)
        for cookie in answer.cookies:
            handler.send_header("Set-Cookie", cookie)
        handler.end_headers()
        handler.wfile.write(body if answer.cut is None else body[: answer.cut])
        if answer.cut is not None:
            handler.close_connection = True

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


def _body(handler: BaseHTTPRequestHandler) -> bytes:
    if handler.headers.get("Transfer-Encoding") == "chunked":
        body = b""
        while size := int(handler.rfile.readline(), 16):
            body += handler.rfile.read(size)
            handler.rfile.readline()
        handler.rfile.readline()
        return body
    return handler.rfile.read(int(handler.headers.get("Content-Length", 0)))


def make_certificates(folder: Path) -> Path:
    """A root (root.pem) and a server's leaf with its key in one file, for localhost."""
    now = dt.datetime.now(dt.UTC)
    root_key = ec.generate_private_key(ec.SECP256R1())
    root_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test root")])
    root = _signed(root_name, root_name, root_key.public_key(), root_key, now, ca=True)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    leaf = _signed(name, root_name, key.public_key(), root_key, now, ca=False)
    (folder / "root.pem").write_bytes(root.public_bytes(serialization.Encoding.PEM))
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "server.pem").write_bytes(leaf.public_bytes(serialization.Encoding.PEM) + pem)
    return folder / "server.pem"


def _signed(
    name: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    key: ec.EllipticCurvePrivateKey,
    now: dt.datetime,
    *,
    ca: bool,
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )
    if ca:
        usage = x509.KeyUsage(
            digital_signature=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        builder = builder.add_extension(usage, critical=True)
    else:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    return builder.sign(key, hashes.SHA256())


def ledger(source: str, count: int) -> list[dict[str, Any]]:
    """Records of one source as the audit door shows them, with right hashes."""
    link = bytes(32)
    records = []
    for number in range(1, count + 1):
        record = {
            "record_id": f"00000000-0000-7000-8000-{number:012d}",
            "source": source,
            "number": number,
            "at": "2030-01-01T00:00:00Z",
            "request_id": "r",
            "actor": {"username": "ada"},
            "action": "project.create",
            "resource": {"project_id": "p"},
            "outcome": "allowed",
            "reason": "allowed",
            "project_id": None,
            "status": 201,
        }
        canonical = json.dumps(record, sort_keys=True, separators=(",", ":")).encode()
        records.append(with_hashes(record, canonical, link))
        link = bytes.fromhex(records[-1]["chain_hash"])
    return records


def with_hashes(record: dict[str, Any], canonical: bytes, before: bytes) -> dict[str, Any]:
    leaf = hashlib.sha256(b"\x00" + canonical).digest()
    return {
        **record,
        "canonical": base64.b64encode(canonical).decode(),
        "leaf_hash": leaf.hex(),
        "chain_hash": hashlib.sha256(before + leaf).hexdigest(),
    }
