"""The chunk format keeps what was put in, opens any part of it alone, and opens nothing that was touched."""

import base64
import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.datasets import vault
from services.datasets.vault import DataDamaged, MasterKey, Opener, Sealer

CHUNK = 64
NAME = b"file version one"
SIZES = st.one_of(st.sampled_from([0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 5 * CHUNK - 1]), st.integers(0, 8 * CHUNK))


def seal(key: bytes, data: bytes, name: bytes = NAME, chunk: int = CHUNK) -> bytes:
    sealer = Sealer(key, name, chunk)
    sealed = sealer.header
    count = vault.chunks_in(len(data), chunk)
    for number in range(count):
        sealed += sealer.seal(data[number * chunk : (number + 1) * chunk], last=number == count - 1)
    return sealed


def unseal(key: bytes, sealed: bytes, size: int, start: int = 0, length: int | None = None, name: bytes = NAME) -> bytes:
    opener = Opener(key, name, sealed[: vault.HEADER])
    plain = b""
    for piece in vault.pieces(size, start, size if length is None else length, opener.chunk_size):
        opened = opener.open(piece.number, sealed[piece.start : piece.end], last=piece.last)
        plain += opened[piece.skip : piece.skip + piece.take]
    return plain


@given(size=SIZES)
def test_what_goes_in_comes_out(size: int) -> None:
    key, data = vault.new_key(), os.urandom(size)
    sealed = seal(key, data)
    assert len(sealed) == vault.sealed_size(size, CHUNK)
    assert unseal(key, sealed, size) == data


@given(size=SIZES, first=st.integers(0, 600), length=st.integers(0, 600))
def test_a_range_is_the_same_slice(size: int, first: int, length: int) -> None:
    key, data = vault.new_key(), os.urandom(size)
    start = min(first, size)
    assert unseal(key, seal(key, data), size, start, length) == data[start : start + length]


@given(size=SIZES, where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_seen_wherever_it_is(size: int, where: float, bit: int) -> None:
    key = vault.new_key()
    sealed = bytearray(seal(key, os.urandom(size)))
    sealed[math.floor(where * len(sealed))] ^= 1 << bit
    with pytest.raises(DataDamaged):
        unseal(key, bytes(sealed), size)


@given(size=st.integers(1, 8 * CHUNK), cut=st.integers(1, 600))
def test_a_missing_end_is_seen_even_when_the_size_is_told_wrong(size: int, cut: int) -> None:
    key = vault.new_key()
    sealed = seal(key, os.urandom(size))
    shorter = max(size - cut, 0)
    with pytest.raises(DataDamaged):
        unseal(key, sealed[: vault.sealed_size(shorter, CHUNK)], shorter)


@given(first=st.integers(0, 4), second=st.integers(0, 4))
def test_chunks_in_another_order_are_seen(first: int, second: int) -> None:
    key = vault.new_key()
    sealed = seal(key, os.urandom(5 * CHUNK))
    step = CHUNK + vault.TAG
    chunks = [sealed[vault.HEADER + n * step : vault.HEADER + (n + 1) * step] for n in range(5)]
    chunks[first], chunks[second] = chunks[second], chunks[first]
    swapped = sealed[: vault.HEADER] + b"".join(chunks)
    if first == second:
        assert swapped == sealed
    else:
        with pytest.raises(DataDamaged):
            unseal(key, swapped, 5 * CHUNK)


def test_bytes_of_one_file_do_not_open_as_another_even_under_the_same_key() -> None:
    key = vault.new_key()
    with pytest.raises(DataDamaged):
        unseal(key, seal(key, b"scan", NAME), 4, name=b"another version!")


def test_equal_files_look_different_at_rest() -> None:
    key = vault.new_key()
    assert seal(key, bytes(CHUNK)) != seal(key, bytes(CHUNK))


def test_the_default_chunk_is_one_mebibyte() -> None:
    key, data = vault.new_key(), os.urandom(2 * vault.CHUNK + 5)
    sealed = seal(key, data, chunk=vault.CHUNK)
    assert len(sealed) == vault.HEADER + len(data) + 3 * vault.TAG
    assert unseal(key, sealed, len(data), vault.CHUNK - 3, 10) == data[vault.CHUNK - 3 :][:10]


def test_nothing_follows_the_last_chunk_and_no_chunk_but_the_last_is_short() -> None:
    sealer = Sealer(vault.new_key(), NAME, CHUNK)
    with pytest.raises(ValueError):
        sealer.seal(b"short", last=False)
    sealer.seal(b"short", last=True)
    with pytest.raises(ValueError):
        sealer.seal(b"more", last=True)


def test_a_file_has_no_more_chunks_than_a_nonce_can_count() -> None:
    sealer = Sealer(vault.new_key(), NAME, CHUNK)
    sealer._count = vault.MAX_CHUNKS
    with pytest.raises(vault.FileTooLarge):
        sealer.seal(b"", last=True)


@pytest.mark.parametrize("header", [b"", b"HORT", b"HORT\x02" + bytes(11), b"XXXX\x01\x14" + bytes(10), b"HORT\x01\xff" + bytes(10)])
def test_a_header_that_is_none_of_ours_is_damage(header: bytes) -> None:
    with pytest.raises(DataDamaged):
        Opener(vault.new_key(), NAME, header)


def test_a_wrapped_key_opens_only_in_its_own_context() -> None:
    master, key = MasterKey(vault.new_key()), vault.new_key()
    wrapped = master.wrap(key, b"dataset one")
    assert key not in wrapped
    assert master.unwrap(wrapped, b"dataset one") == key
    for context, bytes_ in ((b"dataset two", wrapped), (b"dataset one", wrapped[:-1] + b"\0"), (b"dataset one", b"")):
        with pytest.raises(DataDamaged):
            master.unwrap(bytes_, context)
    with pytest.raises(DataDamaged):
        MasterKey(vault.new_key()).unwrap(wrapped, b"dataset one")


def test_a_master_key_file_holds_32_bytes_or_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "master.key"
    file.write_bytes(base64.urlsafe_b64encode(bytes(range(32))).rstrip(b"=") + b"\n")
    assert MasterKey.load(file).unwrap(MasterKey(bytes(range(32))).wrap(b"k" * 32, b""), b"") == b"k" * 32
    file.write_bytes(base64.urlsafe_b64encode(b"too short"))
    with pytest.raises(ValueError, match=r"master\.key does not hold 32 bytes"):
        MasterKey.load(file)
