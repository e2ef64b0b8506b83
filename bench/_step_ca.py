"""step-ca as the peer of ``bench.ca``: built by ``go install``, started with its own database, asked by HTTPS, stopped again."""

import base64
import json
import os
import re
import shutil
import ssl
import subprocess
import time
import urllib.request
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import psutil
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from compose.local.authorities import ROOT, SERVICES, certify, distinguished
from compose.local.home import cache_folder
from compose.local.ports import free_port

VERSION = "v0.30.2"
MODULE = "github.com/smallstep/certificates/cmd/step-ca"
BUILD_S, START_S = 900.0, 60.0
PROVISIONER = "bench"
LIFETIME = timedelta(days=2)


class NotBuilt(Exception):
    """step-ca cannot be had here; the text shows what was tried."""


def build() -> Path:
    """The program, from the cache or built now. Raises NotBuilt with what was tried."""
    folder = cache_folder() / f"step-ca-{VERSION}"
    program = folder / "step-ca"
    command = ["go", "install", f"{MODULE}@{VERSION}"]
    if not program.is_file():
        print(f"building the peer: {' '.join(command)}", flush=True)
        if shutil.which("go") is None:
            raise NotBuilt(f"{' '.join(command)}: there is no go here")
        environment = {**os.environ, "GOBIN": str(folder), "CGO_ENABLED": "0"}
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=BUILD_S)
        except subprocess.TimeoutExpired as error:
            raise NotBuilt(f"{' '.join(command)}: not done after {BUILD_S:.0f} s") from error
        if done.returncode != 0:
            raise NotBuilt(f"{' '.join(command)}: {done.stderr[-500:]}")
    return program


def _part(number: int) -> str:
    return _b64(number.to_bytes(32, "big"))


def _b64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


class StepCa:
    """One server with a root, an intermediate on P-256 and a provisioner whose one-time tokens the bench makes."""

    def __init__(self, program: Path, folder: Path) -> None:
        folder.mkdir()
        self.program = program
        self.folder = folder
        self.port = free_port()
        self.root = folder / "root.pem"
        self.child: subprocess.Popen[bytes] | None = None
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._authorities()
        self._configure()

    def _authorities(self) -> None:
        root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        root, intermediate = distinguished("bench root"), distinguished("bench intermediate")
        self.root.write_bytes(certify(root, root_key.public_key(), root, root_key, LIFETIME, ROOT).public_bytes(Encoding.PEM))
        made = certify(intermediate, key.public_key(), root, root_key, LIFETIME, SERVICES)
        (self.folder / "intermediate.pem").write_bytes(made.public_bytes(Encoding.PEM))
        (self.folder / "intermediate.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    def _configure(self) -> None:
        numbers = self._key.public_key().public_numbers()
        jwk = {"kty": "EC", "crv": "P-256", "x": _part(numbers.x), "y": _part(numbers.y), "kid": "bench", "use": "sig", "alg": "ES256"}
        settings = {
            "root": str(self.root),
            "crt": str(self.folder / "intermediate.pem"),
            "key": str(self.folder / "intermediate.key"),
            "address": f"127.0.0.1:{self.port}",
            "dnsNames": ["localhost", "127.0.0.1"],
            "logger": {"format": "text"},
            "db": {"type": "badgerv2", "dataSource": str(self.folder / "db")},
            "authority": {"provisioners": [{"type": "JWK", "name": PROVISIONER, "key": jwk}]},
        }
        (self.folder / "ca.json").write_text(json.dumps(settings))

    def start(self) -> None:
        """Start, and wait until it answers. Raises TimeoutError."""
        with (self.folder / "bench.log").open("wb") as log:
            self.child = subprocess.Popen([self.program, str(self.folder / "ca.json")], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        context = ssl.create_default_context(cafile=str(self.root))
        limit = time.monotonic() + START_S
        while True:
            with suppress(OSError), urllib.request.urlopen(f"https://localhost:{self.port}/health", timeout=5, context=context):
                return
            if time.monotonic() > limit or self.child.poll() is not None:
                raise TimeoutError((self.folder / "bench.log").read_text()[-2000:])
            time.sleep(0.1)

    def stop(self) -> None:
        """Stop it."""
        if self.child is not None and self.child.poll() is None:
            self.child.terminate()
            try:
                self.child.wait(15)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()

    def token(self, name: str) -> str:
        """A one-time token for a certificate of that name (ES256 JWT)."""
        now = datetime.now(UTC)
        claims = {
            "aud": f"https://localhost:{self.port}/1.0/sign",
            "iss": PROVISIONER,
            "sub": name,
            "sans": [name],
            "jti": str(uuid4()),
            "nbf": int(now.timestamp()),
            "iat": int(now.timestamp()),
            "exp": int((now + timedelta(minutes=5)).timestamp()),
        }
        header = {"alg": "ES256", "kid": "bench", "typ": "JWT"}
        text = f"{_b64(json.dumps(header).encode())}.{_b64(json.dumps(claims).encode())}"
        r, s = decode_dss_signature(self._key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{text}.{_b64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"

    def processor(self) -> float:
        """Seconds of the processor that it has used."""
        return sum(self._process().cpu_times()[:2])

    def memory_mb(self) -> float:
        """Its resident memory."""
        return float(self._process().memory_info().rss) / 1e6

    def _process(self) -> psutil.Process:
        if self.child is None:
            raise RuntimeError("not started")
        return psutil.Process(self.child.pid)

    def durability(self) -> str:
        """How its store's log is opened: with O_DSYNC each write is on the disk before it returns."""
        for file in Path(f"/proc/{self._process().pid}/fd").iterdir():
            if file.readlink().suffix == ".vlog":
                flags = re.search(r"^flags:\s+([0-7]+)", (file.parents[1] / "fdinfo" / file.name).read_text(), re.MULTILINE)
                if flags is not None:
                    return "O_DSYNC" if int(flags[1], 8) & os.O_DSYNC else "no O_DSYNC"
        return "not known"
