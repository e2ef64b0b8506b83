"""A key and its certificate change together: whoever reads them at any moment, and after any crash, finds two that fit."""

import os
import shutil
import ssl
import stat
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from chassis import pairs, tls
from compose.local.pki import Pki


@pytest.fixture(scope="module")
def pki(new_home: Callable[[str], Path]) -> Pki:
    return Pki.create(new_home("pairs"))


@pytest.fixture
def folder(pki: Pki, tmp_path: Path) -> Path:
    made = tmp_path / "tls"
    pki.issue_service_certificate("auth", made)
    return made


def usable(folder: Path) -> bool:
    """Whether the folder's pair fits, by both ways of reading it."""
    for place in (folder, pairs.place(folder)):
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(place / pairs.CERTIFICATE, place / pairs.KEY)
    return pairs.fits((folder / pairs.KEY).read_bytes(), (folder / pairs.CERTIFICATE).read_bytes())


def another(pki: Pki) -> tuple[bytes, bytes]:
    return pki.certify_service("auth", lifetime=timedelta(hours=1))


def test_a_pair_takes_the_place_of_the_one_before(folder: Path, pki: Pki) -> None:
    key, chain = another(pki)
    pairs.write(folder, key, chain)
    assert (folder / pairs.KEY).read_bytes() == key
    assert (folder / pairs.CERTIFICATE).read_bytes() == chain
    assert usable(folder)


def test_the_key_is_for_its_owner_alone(folder: Path) -> None:
    assert stat.S_IMODE((folder / pairs.KEY).stat().st_mode) == 0o600
    assert stat.S_IMODE(pairs.place(folder).stat().st_mode) == 0o700


def test_a_key_that_is_not_the_certificates_is_never_written(folder: Path, pki: Pki) -> None:
    before = (folder / pairs.CERTIFICATE).read_bytes()
    with pytest.raises(ValueError, match="not that of the certificate"):
        pairs.write(folder, another(pki)[0], another(pki)[1])
    assert (folder / pairs.CERTIFICATE).read_bytes() == before
    assert usable(folder)


def test_the_pair_before_stays_for_its_readers_and_older_ones_go(folder: Path, pki: Pki) -> None:
    for _ in range(4):
        before = pairs.place(folder)
        pairs.write(folder, *another(pki))
        assert usable(folder)
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(before / pairs.CERTIFICATE, before / pairs.KEY)
    assert len(list(folder.glob(f"{pairs.PREFIX}*"))) == 2


def test_plain_files_become_a_pair(pki: Pki, tmp_path: Path) -> None:
    for name, content in zip((pairs.KEY, pairs.CERTIFICATE), another(pki), strict=True):
        (tmp_path / name).write_bytes(content)
    assert usable(tmp_path)
    pairs.write(tmp_path, *another(pki))
    assert usable(tmp_path)
    assert (tmp_path / pairs.KEY).is_symlink()


class _Stops(BaseException):
    """The machine stops here."""


def test_a_crash_between_any_two_steps_leaves_the_old_pair_or_the_new_one(
    pki: Pki, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call that changes the disk is one after which the machine may stop; each in turn is the last one that is made."""
    old, new = (folder / pairs.CERTIFICATE).read_bytes(), another(pki)
    steps = ((os, "open"), (os, "fchmod"), (os, "fsync"), (Path, "symlink_to"), (Path, "replace"), (Path, "unlink"), (shutil, "rmtree"))
    seen: set[bytes] = set()
    for allowed in range(1, 60):
        copy = tmp_path / f"copy-{allowed}"
        shutil.copytree(folder, copy, symlinks=True)
        left = [allowed]

        with monkeypatch.context() as patched:
            for where, name in steps:
                patched.setattr(where, name, counted(getattr(where, name), left))
            try:
                pairs.write(copy, *new)
                whole = True
            except _Stops:
                whole = False
        assert usable(copy), allowed
        found = (copy / pairs.CERTIFICATE).read_bytes()
        assert found in (old, new[1])
        seen.add(found)
        pairs.write(copy, *another(pki))
        assert usable(copy)
        assert len(list(copy.glob(f"{pairs.PREFIX}*"))) <= 2
        if whole:
            break
    assert whole
    assert seen == {old, new[1]}


def counted(call: Callable[..., object], left: list[int]) -> Callable[..., object]:
    def counting(*arguments: object, **named: object) -> object:
        if left[0] == 0:
            raise _Stops
        left[0] -= 1
        return call(*arguments, **named)

    return counting


def test_readers_and_several_writers_at_once_see_pairs_that_fit(folder: Path, pki: Pki) -> None:
    made = [another(pki) for _ in range(6)]

    def write_often(key: bytes, chain: bytes) -> None:
        for _ in range(5):
            pairs.write(folder, key, chain)

    writers = [threading.Thread(target=write_often, args=pair) for pair in made]
    for writer in writers:
        writer.start()
    looks = 0
    while any(writer.is_alive() for writer in writers) or not looks:
        place = pairs.place(folder)
        try:
            key, chain = (place / pairs.KEY).read_bytes(), (place / pairs.CERTIFICATE).read_bytes()
        except FileNotFoundError:
            continue  # two others were written meanwhile
        assert pairs.fits(key, chain)
        looks += 1
    for writer in writers:
        writer.join()
    assert usable(folder)
    assert (folder / tls.TRUST).exists()


def test_half_of_a_life_does_not_count_what_was_backdated(folder: Path, pki: Pki) -> None:
    pairs.write(folder, *pki.certify_service("auth", lifetime=timedelta(seconds=20)))
    life = pairs.life_of(pairs.leaf(folder))
    assert timedelta(seconds=19) < life.ends_at - life.issued_at <= timedelta(seconds=21)
    assert life.half - life.issued_at == (life.ends_at - life.issued_at) / 2
    assert not life.is_low(life.half)
    assert life.is_low(life.ends_at - timedelta(seconds=4))
