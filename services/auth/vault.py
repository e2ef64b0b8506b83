"""What auth does with secrets: password hashes, sealing under the master key, one-time tokens and new signing keys."""

import asyncio
import base64
import binascii
import hashlib
import hmac
import json
import os
import secrets
import tempfile
from collections import Counter
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import pyotp
from argon2 import PasswordHasher, Type, extract_parameters
from argon2.exceptions import InvalidHashError, VerificationError
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from chassis import tokens
from chassis.errors import CannotDecide

MASTER_KEY_BYTES = 32
NONCE_BYTES = 12
FORMAT = b"\x01"
TOKEN_BYTES = 32
TOTP_SECRET_CHARACTERS = 32
MEMORY_KIB = 19 * 1024
PASSES = 2
LANES = 1
LEAST_KIB = 8 * LANES
SEED_BYTES = 32
DEVICE_S = 180 * 24 * 3600

T = TypeVar("T")


class BadMasterKey(Exception):
    """The master key's file cannot be used, or does not open what was sealed."""


def read_master_key(path: Path) -> bytes:
    """The 32 bytes in a file of base64url. Raises BadMasterKey."""
    try:
        text = path.read_text(encoding="ascii").strip()
        key = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (OSError, UnicodeDecodeError, binascii.Error, ValueError) as error:
        raise BadMasterKey(f"{path}: {type(error).__name__}") from error
    if len(key) != MASTER_KEY_BYTES:
        raise BadMasterKey(f"{path}: {len(key)} bytes instead of {MASTER_KEY_BYTES}")
    return key


class Vault:
    """Seals secrets with AES-256-GCM, each bound to the id that it belongs to, and hashes names with a key."""

    def __init__(self, master_key: bytes) -> None:
        self._aead = AESGCM(master_key)
        self._name_key = hmac.digest(master_key, b"hortus.auth.names", "sha256")
        self._refresh_key = hmac.digest(master_key, b"hortus.auth.refresh", "sha256")
        self._recovery_key = hmac.digest(master_key, b"hortus.auth.recovery-codes", "sha256")
        self._signing: dict[str, tokens.Ready] = {}

    def _seal(self, secret: bytes, bound_to: bytes) -> bytes:
        nonce = secrets.token_bytes(NONCE_BYTES)
        return FORMAT + nonce + self._aead.encrypt(nonce, secret, bound_to)

    def _open(self, sealed: bytes, bound_to: bytes) -> bytes:
        try:
            if sealed[:1] != FORMAT:
                raise BadMasterKey("unknown format of a sealed secret")
            return self._aead.decrypt(sealed[1 : 1 + NONCE_BYTES], sealed[1 + NONCE_BYTES :], bound_to)
        except InvalidTag as error:
            raise BadMasterKey("a sealed secret does not open with this master key") from error

    def seal_totp(self, secret: str, user_id: UUID) -> bytes:
        """A TOTP secret (base32), sealed for one account."""
        return self._seal(secret.encode(), b"totp:" + user_id.bytes)

    def open_totp(self, sealed: bytes, user_id: UUID) -> str:
        """The TOTP secret of an account. Raises BadMasterKey."""
        return self._open(sealed, b"totp:" + user_id.bytes).decode()

    def seal_name(self, name: str, ask_id: UUID) -> bytes:
        """A name that somebody typed, sealed: it may be a password typed into the wrong field."""
        return self._seal(name.encode(), b"name:" + ask_id.bytes)

    def open_name(self, sealed: bytes, ask_id: UUID) -> str:
        """A name that somebody typed. Raises BadMasterKey."""
        return self._open(sealed, b"name:" + ask_id.bytes).decode()

    def seal_letter(self, text: str, letter_id: UUID) -> bytes:
        """A letter that waits, sealed: it holds an address, and may hold a one-time link."""
        return self._seal(text.encode(), b"letter:" + letter_id.bytes)

    def open_letter(self, sealed: bytes, letter_id: UUID) -> str:
        """A letter that waits. Raises BadMasterKey."""
        return self._open(sealed, b"letter:" + letter_id.bytes).decode()

    def seal_id_token(self, token: str, session_id: UUID) -> bytes:
        """An identity provider's token, sealed for the session that it opened."""
        return self._seal(token.encode(), b"id-token:" + session_id.bytes)

    def open_id_token(self, sealed: bytes, session_id: UUID) -> str:
        """The identity provider's token of a session. Raises BadMasterKey."""
        return self._open(sealed, b"id-token:" + session_id.bytes).decode()

    def recovery_hash(self, code: str, user_id: UUID) -> bytes:
        """A keyed hash of a recovery code of an account."""
        return hmac.digest(self._recovery_key, user_id.bytes + code.encode(), "sha256")

    def new_signing_key(self, key_id: str) -> tuple[bytes, dict[str, str]]:
        """A fresh P-256 key: its private JWK sealed, and its public JWK."""
        key = ec.generate_private_key(ec.SECP256R1())
        sealed = self._seal(json.dumps(tokens.private_jwk(key)).encode(), b"signing-key:" + key_id.encode())
        return sealed, {**tokens.public_jwk(key.public_key()), "kid": key_id}

    def signing_key(self, key_id: str, sealed: bytes) -> tokens.Ready:
        """The private key that signs; it is kept open until another one is asked for. Raises BadMasterKey."""
        if key_id not in self._signing:
            self._signing = {key_id: tokens.ready(json.loads(self._open(sealed, b"signing-key:" + key_id.encode())))}
        return self._signing[key_id]

    def forget_signing_keys_but(self, key_ids: Collection[str]) -> None:
        """Forget private keys other than these."""
        self._signing = {key_id: key for key_id, key in self._signing.items() if key_id in key_ids}

    def carry(self, purpose: str, content: bytes) -> str:
        """Something that a browser keeps for us until it comes back: sealed, for one purpose, base64url."""
        return base64.urlsafe_b64encode(self._seal(content, b"carried:" + purpose.encode())).rstrip(b"=").decode()

    def carried(self, purpose: str, value: str) -> bytes | None:
        """What a browser kept; None when it was not sealed here for this purpose."""
        try:
            return self._open(base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)), b"carried:" + purpose.encode())
        except (BadMasterKey, ValueError):
            return None

    def blind(self, name: str) -> bytes:
        """A keyed hash of a name somebody typed, which may be a password typed into the wrong field."""
        return hmac.digest(self._name_key, name.encode(), "sha256")

    def refresh_token(self, session_id: UUID, generation: int, seed: bytes) -> str:
        """The refresh token of a session's generation: it follows from the session's seed and the master key, so none is stored."""
        mac = hmac.digest(self._refresh_key, session_id.bytes + generation.to_bytes(8, "big") + seed, "sha256")
        return f"refresh_{session_id.hex}.{generation}.{_text(mac)}"

    def is_refresh_token(self, token: str, session_id: UUID, generation: int, seed: bytes) -> bool:
        """Whether this is the refresh token of a session's generation."""
        return bool(seed) and hmac.compare_digest(token.encode(), self.refresh_token(session_id, generation, seed).encode())


def new_seed() -> bytes:
    """What a session's refresh tokens follow from, beside the master key."""
    return secrets.token_bytes(SEED_BYTES)


def _text(digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def new_token(kind: str = "invitation") -> str:
    """A one-time token: 256 random bits, base64url, after what it is for."""
    return f"{kind}_{secrets.token_urlsafe(TOKEN_BYTES)}"  # a leading dash would be an option on a command line


def new_verifier() -> str:
    """A verifier of 256 random bits (RFC 7636 section 4.1)."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def token_hash(token: str) -> bytes:
    """How a one-time token is stored; it is random, so no salt is needed."""
    return hashlib.sha256(token.encode()).digest()


def random_bytes(count: int) -> bytes:
    """Random bytes, for a challenge or a code."""
    return secrets.token_bytes(count)


def new_totp_secret() -> str:
    """160 random bits in base32 (RFC 4226 section 4)."""
    return pyotp.random_base32(TOTP_SECRET_CHARACTERS)


class Passwords:
    """Argon2id at the cost OWASP names (19 MiB, 2 passes, 1 lane), in few threads and with a bounded queue.

    Of one source only a few wait at a time, so that one that asks without end leaves room for the others.
    """

    def __init__(self, threads: int = 2, waiting: int = 64, waiting_of_source: int = 8) -> None:
        self._hasher = PasswordHasher(time_cost=PASSES, memory_cost=MEMORY_KIB, parallelism=LANES, type=Type.ID)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="argon2")
        self._room = threads + waiting
        self._room_of_source = waiting_of_source
        self._of_source: Counter[str] = Counter()
        self._dummy = self._hasher.hash(secrets.token_urlsafe(16))

    def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def hash(self, password: str, source: str = "") -> str:
        """The hash to store, with its salt and parameters. Raises CannotDecide when too many wait, or too many of ``source``."""
        return await self.run(source, self._hasher.hash, password)

    async def check(self, password: str, stored: str | None, source: str = "") -> tuple[bool, bool]:
        """Whether the password is right, and if so, whether the stored hash has other parameters than those of now.

        Without a stored hash the answer is no, after the work of one of now, as with a cheaper one. Raises CannotDecide as ``hash``.
        """
        return await self.run(source, self._check, password, stored)

    def _check(self, password: str, stored: str | None) -> tuple[bool, bool]:
        against = stored or self._dummy
        try:
            right = self._hasher.verify(against, password) and bool(stored)
        except (VerificationError, InvalidHashError):
            right = False
        self._spend_rest(password, against)
        return right, right and self._hasher.check_needs_rehash(against)

    def _spend_rest(self, password: str, against: str) -> None:
        """What a hash with the parameters of now costs beyond ``against``: else whoever has an older one would be answered sooner than nobody."""
        try:
            parameters = extract_parameters(against)
            spent = parameters.time_cost * parameters.memory_cost
        except InvalidHashError:
            spent = 0
        memory = self._hasher.memory_cost - spent // self._hasher.time_cost
        if memory >= LEAST_KIB:
            PasswordHasher(time_cost=self._hasher.time_cost, memory_cost=memory, parallelism=LANES, type=Type.ID).hash(password)

    async def run(self, source: str, work: Callable[..., T], *arguments: object) -> T:
        """Slow work on a password, in the same threads and bounds as a hash. Raises CannotDecide as they do."""
        if self._room <= 0 or self._of_source[source] >= self._room_of_source:
            raise CannotDecide("Too many people sign in at this moment.", retry_after=1)
        self._room -= 1
        self._of_source[source] += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)
        finally:
            self._room += 1
            self._of_source -= Counter({source: 1})


def keep_token(path: Path, token: str) -> None:
    """Write a one-time token as the one line of a file that only its owner reads, whole or not at all."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(token + "\n")
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def kept_token(path: Path) -> str | None:
    """The token in a file, or None where there is no such file."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        return None


def forget_token(path: Path) -> None:
    """Remove the file of a token that is spent."""
    path.unlink(missing_ok=True)
