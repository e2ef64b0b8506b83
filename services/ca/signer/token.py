"""Keys of issuers in a PKCS#11 token (a hardware security module, or SoftHSM2): they are made there and never leave it.

The library is told nothing of threads (``C_Initialize`` without arguments), so one lock stands around every call. A session that was lost is
opened again with the next signature. Where that fails, the library begins anew, at most once a second: some see a token that came back, or came
after they were loaded, only then. A wrong PIN is not tried twice: tokens lock themselves after some tries.
"""

import ctypes
import hashlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pkcs11
import pkcs11.util.ec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, KeySerializationEncryption, PrivateFormat, load_der_public_key
from cryptography.utils import Buffer
from pkcs11.exceptions import NoSuchKey, PinIncorrect, PinLocked, PKCS11Error

from chassis.log import logger
from services.ca.signer import IssuerUnusable, SignerAway

log = logger(__name__)
HALF = 32
ANEW_S = 1.0
BAD_PIN = (PinIncorrect, PinLocked)
FAILURES = (RuntimeError, OSError)  # the library's own errors are among the former
_lock = threading.RLock()
_epochs: dict[Path, int] = {}


class _Functions(ctypes.Structure):
    """What a module can do (``CK_FUNCTION_LIST``), as far as it is called here."""

    _fields_ = (
        ("version", ctypes.c_ubyte * 2),
        ("C_Initialize", ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_void_p)),
        ("C_Finalize", ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_void_p)),
    )


class TokenKey(ec.EllipticCurvePrivateKey):
    """A key in a token, as the library that builds certificates wants keys: it can sign with SHA-256, and say what its public half is."""

    def __init__(self, token: "Token", name: str, public: ec.EllipticCurvePublicKey) -> None:
        self._token = token
        self._name = name
        self._public = public

    @property
    def curve(self) -> ec.EllipticCurve:
        """P-256."""
        return self._public.curve

    @property
    def key_size(self) -> int:
        """256."""
        return self._public.key_size

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public half."""
        return self._public

    def sign(self, data: Buffer, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """An ECDSA signature, DER. Raises SignerAway."""
        if not isinstance(signature_algorithm.algorithm, hashes.SHA256):
            raise TypeError("Issuers sign with SHA-256.")
        made = self._token.signature(self._name, hashlib.sha256(data).digest())
        return encode_dss_signature(int.from_bytes(made[:HALF], "big"), int.from_bytes(made[HALF:], "big"))

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> bytes:
        """Issuers sign, and do nothing else."""
        raise NotImplementedError

    def private_numbers(self) -> ec.EllipticCurvePrivateNumbers:
        """The key never leaves the token."""
        raise NotImplementedError

    def private_bytes(self, encoding: Encoding, format: PrivateFormat, encryption_algorithm: KeySerializationEncryption) -> bytes:  # noqa: A002 - the library's name
        """The key never leaves the token."""
        raise NotImplementedError

    def __copy__(self) -> "TokenKey":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "TokenKey":
        return self


class Token:
    """The token ``label`` behind a PKCS#11 module; its keys are called ``<prefix><name>``."""

    slow = True

    def __init__(self, module: Path, label: str, pin_file: Path, prefix: str) -> None:
        self.module = module
        self.label = label
        self.pin_file = pin_file
        self.prefix = prefix
        self._session: Any = None
        self._found: dict[str, Any] = {}
        self._epoch = 0
        self._anew_at = -ANEW_S
        self._pin_of = 0
        self._refused_pin: tuple[int, str] | None = None

    def key(self, name: str, certificate: x509.Certificate) -> ec.EllipticCurvePrivateKey:
        """The key ``name``; it is looked for when it signs, since the token may be away at this moment."""
        public = certificate.public_key()
        if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
            raise IssuerUnusable(f"The key of the issuer {name} is not on P-256.")
        return TokenKey(self, name, public)

    def made(self, name: str) -> TokenKey:
        """The key ``name``, made in the token where it is not there yet; it stays there. Raises SignerAway, or IssuerUnusable for one of another kind."""
        with _lock:
            self.close()
            try:
                encoded = self._done(lambda: self._made(name))
            except FAILURES as error:
                self._gone(error)
        public = load_der_public_key(encoded)
        if not isinstance(public, ec.EllipticCurvePublicKey):
            raise IssuerUnusable(f"The key {self.prefix}{name} in the token {self.label} is of another kind.")
        return TokenKey(self, name, public)

    def _made(self, name: str) -> bytes:
        with self._token().open(rw=True, user_pin=self._pin()) as session:
            made: bytes = pkcs11.util.ec.encode_ec_public_key(self._public_half(session, self.prefix + name))
        return made

    def _public_half(self, session: Any, label: str) -> Any:
        found = list(session.get_objects({pkcs11.Attribute.CLASS: pkcs11.ObjectClass.PUBLIC_KEY, pkcs11.Attribute.LABEL: label}))
        if found:
            return found[0]
        curve = {pkcs11.Attribute.EC_PARAMS: pkcs11.util.ec.encode_named_curve_parameters("secp256r1")}
        kept = {
            pkcs11.Attribute.SENSITIVE: True,
            pkcs11.Attribute.EXTRACTABLE: False,
            pkcs11.Attribute.PRIVATE: True,
            pkcs11.Attribute.SIGN: True,
        }
        parameters = session.create_domain_parameters(pkcs11.KeyType.EC, curve, local=True)
        public, _ = parameters.generate_keypair(store=True, label=label, private_template=kept)
        return public

    def signature(self, name: str, digest: bytes) -> bytes:
        """The ECDSA signature of a digest by a key, r ‖ s. Raises SignerAway."""
        with _lock:
            try:
                return self._done(lambda: self._signed(name, digest))
            except FAILURES as error:
                self._gone(error)

    def close(self) -> None:
        """Give the session up."""
        with _lock:
            session, self._session = self._session, None
            self._found = {}
            if session is not None:
                try:
                    session.close()
                except PKCS11Error:
                    log.debug("the session was gone")

    def _done(self, do: Callable[[], bytes]) -> bytes:
        """What is done in a session: where it was lost in another one, and where that is in vain, too, after the library began anew."""
        if self._session is not None:
            try:
                return do()
            except PKCS11Error as error:
                log.warning("the token's session is opened again", error=type(error).__name__)
                self.close()
        try:
            return do()
        except (*BAD_PIN, NoSuchKey):
            raise
        except PKCS11Error as error:
            if time.monotonic() < self._anew_at + ANEW_S:
                raise
            log.warning("the token's library begins anew", error=type(error).__name__)
        self.close()
        self._begin_anew()
        return do()

    def _signed(self, name: str, digest: bytes) -> bytes:
        session = self._open()
        if name not in self._found:
            self._found[name] = session.get_key(object_class=pkcs11.ObjectClass.PRIVATE_KEY, label=self.prefix + name)
        made: bytes = self._found[name].sign(digest, mechanism=pkcs11.Mechanism.ECDSA)
        return made

    def _open(self) -> Any:
        if self._session is not None and self._epoch != _epochs.get(self.module, 0):
            self._session, self._found = None, {}
        if self._session is None:
            self._session = self._token().open(user_pin=self._pin())
            self._epoch = _epochs.get(self.module, 0)
        return self._session

    def _token(self) -> Any:
        return pkcs11.lib(str(self.module)).get_token(token_label=self.label)

    def _begin_anew(self) -> None:
        """End the library and begin it again, which ends all sessions. Not by ``reinitialize``: while a module ends there, the whole process stands still."""
        _epochs[self.module] = _epochs.get(self.module, 0) + 1
        self._anew_at = time.monotonic()
        functions = ctypes.POINTER(_Functions)()
        ctypes.CDLL(str(self.module)).C_GetFunctionList(ctypes.byref(functions))
        functions.contents.C_Finalize(None)
        functions.contents.C_Initialize(None)

    def _pin(self) -> str:
        """What its file holds; when that was written is remembered, before it is read: what comes later is another PIN."""
        self._pin_of = self.pin_file.stat().st_mtime_ns
        pin = self.pin_file.read_text().strip()
        if self._refused_pin is not None and self._refused_pin[0] == self._pin_of:
            raise SignerAway(
                f"the token {self.label} refused the PIN ({self._refused_pin[1]}); it is not tried again until its file changes",
                retry_after=1,
            )
        return pin

    def _gone(self, error: RuntimeError | OSError) -> NoReturn:
        self.close()
        if isinstance(error, BAD_PIN):
            self._refused_pin = (self._pin_of, type(error).__name__)
        raise SignerAway(f"the token {self.label} does not sign: {type(error).__name__}", retry_after=1) from error
