"""What comes in and goes out as bytes: hashes and ranges."""

import re
from dataclasses import dataclass

from chassis.errors import Problem, Unprocessable


class InvalidHash(Unprocessable):
    """What should be a hash is none."""

    title = "Hortus-Content-SHA256 is not a SHA-256 in hexadecimal"


class HashDiffers(Unprocessable):
    """The bytes are not those that the sender hashed."""

    title = "The bytes that arrived have another SHA-256 than was announced; nothing was stored"


class UploadEndedEarly(Problem):
    """The connection ended before the body did."""

    status = 400
    title = "The upload ended early; nothing was stored"


class RangeNotSatisfiable(Problem):
    """The range begins after the end."""

    status = 416
    title = "The file has no such range"


def announced_hash(value: str | None) -> bytes | None:
    """The SHA-256 in ``Hortus-Content-SHA256``, 32 bytes. Raises InvalidHash."""
    if value is None:
        return None
    if not re.fullmatch(r"[0-9a-fA-F]{64}", value):
        raise InvalidHash
    return bytes.fromhex(value)


@dataclass(frozen=True)
class Span:
    """``length`` bytes from ``start`` of a file; ``partial`` when a range was asked for."""

    start: int
    length: int
    partial: bool


def byte_range(header: str | None, size: int) -> Span:
    """What a ``Range`` header asks for (RFC 9110 section 14.2): one range, or everything. Raises RangeNotSatisfiable."""
    match = re.fullmatch(r"\s*bytes\s*=\s*(\d{0,19})-(\d{0,19})\s*", header or "", re.ASCII)
    if match is None or match.groups() == ("", ""):
        return Span(0, size, partial=False)
    first, final = match.groups()
    if not first:
        length = min(int(final), size)
        if length == 0:
            raise RangeNotSatisfiable
        return Span(size - length, length, partial=True)
    start = int(first)
    if final and int(final) < start:
        return Span(0, size, partial=False)
    if start >= size:
        raise RangeNotSatisfiable
    end = min(int(final), size - 1) if final else size - 1
    return Span(start, end - start + 1, partial=True)
