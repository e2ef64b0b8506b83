"""Keys and the chunk format: how bytes lie at rest.

A sealed file is a header of 16 bytes and then chunks, each ``chunk_size`` bytes of plain text (the last one less) and a tag
of 16 bytes, AES-256-GCM under the file version's own key. As in STREAM (Hoang, Reyhanitabar, Rogaway, Vizár 2015) a nonce
is 7 random bytes, the chunk's number in 4 bytes and a last flag, so a chunk decrypts alone and a missing end is seen. Header
and file version are authenticated with every chunk, so no chunk opens in another place or file.

Header: ``HORT`` | version 1 | log2 of the chunk size | nonce prefix (7) | three zero bytes.
"""

import base64
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from chassis.errors import Problem, TooLarge

MAGIC = b"HORT"
VERSION = 1
HEADER = 16
TAG = 16
PREFIX = 7
NONCE = 12
KEY = 32
CHUNK = 1024 * 1024
MAX_CHUNKS = 2**32
_SMALLEST = 4
_LARGEST = 24


class DataDamaged(Problem):
    """What lies in storage is not what was put there."""

    status: ClassVar[int] = 500
    title = "The stored bytes are damaged"


class FileTooLarge(TooLarge):
    """More chunks than a nonce can count."""

    title = "The file is larger than a file can be"


class MasterKey:
    """The key that wraps the keys of datasets. It lives in a file of its own."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def load(cls, path: Path) -> "MasterKey":
        """Read 32 random bytes as base64url. Raises ValueError for anything else."""
        encoded = path.read_bytes().strip()
        key = base64.urlsafe_b64decode(encoded + b"=" * (-len(encoded) % 4))
        if len(key) != KEY:
            raise ValueError(f"{path.name} does not hold {KEY} bytes")
        return cls(key)

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """A dataset's key, only to be opened with the same ``context``."""
        return wrap(self._key, key, context)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Open a dataset's key. Raises DataDamaged."""
        return unwrap(self._key, wrapped, context)


def new_key() -> bytes:
    """A fresh 256-bit key."""
    return AESGCM.generate_key(bit_length=256)


def wrap(with_key: bytes, key: bytes, context: bytes) -> bytes:
    """A key under another key: version, nonce (12), AES-256-GCM over the key with ``context`` authenticated; 61 bytes."""
    nonce = os.urandom(NONCE)
    return bytes([VERSION]) + nonce + AESGCM(with_key).encrypt(nonce, key, context)


def unwrap(with_key: bytes, wrapped: bytes, context: bytes) -> bytes:
    """Open what ``wrap`` made. Raises DataDamaged."""
    if wrapped[:1] != bytes([VERSION]):
        raise DataDamaged
    try:
        return AESGCM(with_key).decrypt(wrapped[1 : 1 + NONCE], wrapped[1 + NONCE :], context)
    except InvalidTag as error:
        raise DataDamaged from error


def chunks_in(size: int, chunk_size: int = CHUNK) -> int:
    """How many chunks a file of ``size`` bytes has; an empty one has one."""
    return max(1, -(-size // chunk_size))


def sealed_size(size: int, chunk_size: int = CHUNK) -> int:
    """How many bytes a file of ``size`` bytes takes at rest."""
    return HEADER + size + TAG * chunks_in(size, chunk_size)


class Sealer:
    """Seals one file version, chunk after chunk. ``name`` is the file version's id as bytes."""

    def __init__(self, key: bytes, name: bytes, chunk_size: int = CHUNK) -> None:
        self.chunk_size = chunk_size
        self.header = MAGIC + bytes([VERSION, _exponent(chunk_size)]) + os.urandom(PREFIX) + bytes(3)
        self._cipher = AESGCM(key)
        self._context = name + self.header
        self._count = 0
        self._ended = False

    def seal(self, plain: bytes | bytearray | memoryview, *, last: bool) -> bytearray:
        """The next chunk in a buffer of its own, ``len(plain) + 16`` bytes; all but the last are ``chunk_size`` long.

        The store keeps what it is given until it is written, so this buffer cannot be used again. Raises FileTooLarge.
        """
        if self._ended or len(plain) > self.chunk_size or (not last and len(plain) != self.chunk_size):
            raise ValueError("chunks are whole, and nothing follows the last one")
        if self._count >= MAX_CHUNKS:
            raise FileTooLarge
        sealed = bytearray(len(plain) + TAG)
        self._cipher.encrypt_into(_nonce(self.header, self._count, last=last), plain, self._context, sealed)
        self._count += 1
        self._ended = last
        return sealed


class Opener:
    """Opens the chunks of one file version in any order. Raises DataDamaged for a header that is none of ours."""

    def __init__(self, key: bytes, name: bytes, header: bytes | memoryview) -> None:
        self.header = bytes(header)
        plausible = len(self.header) == HEADER and self.header.startswith(MAGIC) and self.header[4] == VERSION
        if not plausible or not _SMALLEST <= self.header[5] <= _LARGEST:
            raise DataDamaged
        self.chunk_size: int = 1 << self.header[5]
        self._cipher = AESGCM(key)
        self._context = name + self.header
        self._buffer = bytearray(self.chunk_size)

    def open(self, number: int, sealed: bytes | memoryview, *, last: bool) -> memoryview:
        """The plain text of a chunk, valid until the next call. Raises DataDamaged."""
        length = len(sealed) - TAG
        if not 0 <= length <= self.chunk_size:
            raise DataDamaged
        plain = memoryview(self._buffer)[:length]
        try:
            self._cipher.decrypt_into(_nonce(self.header, number, last=last), sealed, self._context, plain)
        except InvalidTag as error:
            raise DataDamaged from error
        return plain


@dataclass(frozen=True)
class Piece:
    """A chunk that a range touches: where it lies at rest, and which part of its plain text belongs to the range."""

    number: int
    last: bool
    start: int
    end: int
    skip: int
    take: int


def pieces(size: int, start: int, length: int, chunk_size: int = CHUNK) -> Iterator[Piece]:
    """The chunks for ``length`` bytes from ``start`` of a file of ``size`` bytes; one even when ``length`` is 0."""
    final = chunks_in(size, chunk_size) - 1
    number = min(start // chunk_size, final)
    left = min(length, size - start)
    while True:
        begin = number * chunk_size
        plain = min(chunk_size, size - begin)
        skip = start - begin if begin < start else 0
        take = min(plain - skip, left)
        at = HEADER + number * (chunk_size + TAG)
        yield Piece(number, number == final, at, at + plain + TAG, skip, take)
        left -= take
        number += 1
        if left <= 0:
            return


def _exponent(chunk_size: int) -> int:
    exponent = chunk_size.bit_length() - 1
    if chunk_size != 1 << exponent or not _SMALLEST <= exponent <= _LARGEST:
        raise ValueError(chunk_size)
    return exponent


def _nonce(header: bytes, number: int, *, last: bool) -> bytes:
    return header[6 : 6 + PREFIX] + struct.pack(">I?", number, last)
