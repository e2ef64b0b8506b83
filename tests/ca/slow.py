"""What stands where a token is: it signs with keys of files, as slowly as it is told, and with none of them while it hangs."""

import threading
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature

from services.ca.service import status, turns
from services.ca.signer import opening
from services.ca.signer.files import KeyFiles
from services.ca.signer.token import HALF, TokenKey

LONG_S, SHORT_S = 60.0, 0.3


class Slow:
    """One signature at a time, each in ``each_s``; ``begun`` is how many it was asked for. Only while it hangs somebody's patience ends soon."""

    slow = True

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self._files = KeyFiles(folder)
        self._keys: dict[str, ec.EllipticCurvePrivateKey] = {}
        self._lock = threading.Lock()
        self.each_s = 0.0
        self.begun = 0
        self.goes = threading.Event()
        self.goes.set()
        self._patch = patch
        self._wait(LONG_S)
        patch.setattr(opening, "keys", lambda _settings: self)

    def hang(self) -> None:
        """Make no signature from now on; whoever waits for one is told soon."""
        self._wait(SHORT_S)
        self.goes.clear()

    def go_on(self) -> None:
        """Make what is asked for, however long the machine takes."""
        self._wait(LONG_S)
        self.goes.set()

    def _wait(self, patience_s: float) -> None:
        self._patch.setattr(turns, "SIGN_S", patience_s)
        self._patch.setattr(status, "LIST_S", patience_s)

    def key(self, name: str, certificate: x509.Certificate) -> TokenKey:
        self._keys[name] = self._files.key(name, certificate)
        return TokenKey(self, name, self._keys[name].public_key())  # type: ignore[arg-type]

    def signature(self, name: str, digest: bytes) -> bytes:
        self.begun += 1
        with self._lock:
            self.goes.wait()
            time.sleep(self.each_s)
            halves = decode_dss_signature(self._keys[name].sign(digest, ec.ECDSA(Prehashed(hashes.SHA256()))))
        return b"".join(half.to_bytes(HALF, "big") for half in halves)
