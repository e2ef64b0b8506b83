"""The root's work: renewing issuers and the root itself; openssl is the outside judge of who is trusted by whom."""

import io
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from compose.local import authorities, ceremony
from compose.local.ceremony import Root
from compose.local.home import Home
from compose.local.pki import Pki
from compose.local.problems import SetupProblem

PASSPHRASE = "correct horse"


@pytest.fixture(autouse=True)
def passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ceremony.PASSPHRASE, PASSPHRASE)


def leaf(pki: Pki, folder: Path) -> str:
    """A service's certificate with its chain, by whoever issues them now."""
    Pki(pki.home, pki.trust_domain).issue_service_certificate("auth", folder)
    return str(folder / "cert.pem")


def verified(trust: Path, chain: str, *more: str) -> bool:
    command = ["openssl", "verify", "-x509_strict", *more, "-CAfile", str(trust), "-untrusted", chain, chain]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def kept(pki: Pki, folder: Path) -> tuple[Path, Path]:
    """The root and the services' anchor as somebody has them who never looks again."""
    folder.mkdir()
    for file in (pki.root, pki.services_anchor):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder / pki.root.name, folder / pki.services_anchor.name


def test_renewed_issuers_have_new_keys_and_the_old_ones_stay_trusted(
    pki: Pki, home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = leaf(pki, tmp_path / "before")
    root, anchor = kept(pki, tmp_path / "kept")
    assert ceremony.command(home, ["renew"]) == 0
    assert "services-2, people-2, workloads-2" in capsys.readouterr().out
    after = leaf(pki, tmp_path / "after")
    assert all(verified(pki.services_anchor, chain, "-partial_chain") for chain in (before, after))
    assert all(verified(root, chain) for chain in (before, after))
    assert not verified(anchor, after, "-partial_chain")
    bundle = x509.load_pem_x509_certificates(pki.client_issuers.read_bytes())
    assert [each.subject.rfc4514_string().partition(",")[0] for each in bundle] == [
        "CN=Hortus people",
        "CN=Hortus people 2",
        "CN=Hortus workloads",
        "CN=Hortus workloads 2",
    ]
    assert (
        len(
            {each.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo) for each in bundle}
        )
        == 4
    )


def test_one_issuer_is_renewed_alone(pki: Pki, home: Home) -> None:
    ceremony.command(home, ["renew", "people"])
    assert {issuer: authorities.names(home, issuer) for issuer in authorities.ISSUERS} == {
        "services": ["services"],
        "people": ["people", "people-2"],
        "workloads": ["workloads"],
    }


def test_after_ten_renewals_the_last_one_is_the_newest(pki: Pki, home: Home, tmp_path: Path) -> None:
    for _ in range(10):
        ceremony.command(home, ["renew", "services"])
    assert authorities.names(home, "services")[-1] == "services-11"
    chain = x509.load_pem_x509_certificates(Path(leaf(pki, tmp_path / "leaf")).read_bytes())
    assert chain[1].subject.rfc4514_string() == "CN=Hortus services 11,O=Hortus"


def test_a_new_root_is_trusted_by_those_who_know_only_the_old_one(
    pki: Pki, home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = leaf(pki, tmp_path / "before")
    root, _ = kept(pki, tmp_path / "kept")
    assert ceremony.command(home, ["renew-root"]) == 0
    after = leaf(pki, tmp_path / "after")
    assert all(verified(trust, chain) for trust in (root, pki.root) for chain in (before, after))
    old, new = reversed(x509.load_pem_x509_certificates(pki.root.read_bytes()))
    (tmp_path / "new.pem").write_bytes(authorities.pem(new))
    assert verified(tmp_path / "new.pem", after)
    assert not verified(tmp_path / "new.pem", before)
    assert old.subject == new.subject
    said = capsys.readouterr().out
    told = said.partition("kept nowhere: ")[2].split()[0]
    assert Root(home, told.encode()).certificate == new
    assert all(told.encode() not in file.read_bytes() for file in home.path.rglob("*") if file.is_file())
    with pytest.raises(SetupProblem, match="does not open"):
        Root(home, PASSPHRASE.encode())


def renewed_root(home: Home, old: bytes, new: bytes) -> list[str]:
    return ceremony.renew_root(home, Root(home, old), new)


def test_after_several_new_roots_each_of_them_is_enough_and_no_key_is_lost(pki: Pki, home: Home, tmp_path: Path) -> None:
    passphrases = [PASSPHRASE.encode(), b"second", b"third"]
    known = [kept(pki, tmp_path / "first")[0]]
    for old, new in pairwise(passphrases):
        renewed_root(home, old, new)
        known.append(tmp_path / f"{new.decode()}.pem")
        known[-1].write_bytes(authorities.pem(authorities.roots(home)[0]))
    service = leaf(pki, tmp_path / "leaf")
    for chain in (service, *(str(pki.issuers_folder / f"{issuer}-3.pem") for issuer in ("people", "workloads"))):
        assert [verified(trust, chain) for trust in known] == [True, True, True]
    newer = [str(pki.issuers_folder / f"people-{number}.pem") for number in (2, 3)]
    assert [[verified(trust, chain) for chain in newer] for trust in known[1:]] == [[True, True], [False, True]]
    keys = [home.secrets / "pki" / name for name in ("root.key", "root-2.key", "root-3.key")]
    for file, passphrase in zip(keys, passphrases, strict=True):
        serialization.load_pem_private_key(file.read_bytes(), passphrase)
    assert len(authorities.every_root(home)) == 3


class _Stops(BaseException):
    """The machine stops here."""


def stopping(call: Callable[..., None], left: list[int]) -> Callable[..., None]:
    def counting(*arguments: Any, **named: Any) -> None:
        if left[0] == 0:
            raise _Stops
        left[0] -= 1
        call(*arguments, **named)

    return counting


def opens(home: Home, passphrase: bytes) -> bool:
    try:
        Root(home, passphrase)
    except SetupProblem:
        return False
    return True


def test_a_new_root_that_was_cut_off_between_any_two_steps_is_begun_anew_or_gone_on_with(tmp_path: Path) -> None:
    old, new, latest = PASSPHRASE.encode(), b"new", b"latest"
    whole, begun_anew, gone_on_with = False, 0, 0
    for allowed in range(40):
        pki = Pki.create(tmp_path / f"home-{allowed}")
        home = pki.home
        root, _ = kept(pki, tmp_path / f"kept-{allowed}")
        left = [allowed]
        with pytest.MonkeyPatch.context() as patched:
            for module in (ceremony, authorities):
                patched.setattr(module, "keep", stopping(module.keep, left))
            try:
                renewed_root(home, old, new)
                whole = True
            except _Stops:
                pass
        assert opens(home, old) != opens(home, new), allowed
        Pki.create(home)  # a start goes well, and what it makes is trusted
        assert verified(root, leaf(pki, tmp_path / f"between-{allowed}")), allowed
        if opens(home, old):
            begun_anew += 1
            renewed_root(home, old, latest)
        else:
            gone_on_with += 1
            ceremony.renew(home, Root(home, new))
        after = leaf(pki, tmp_path / f"after-{allowed}")
        for chain in (after, *(str(pki.issuers_folder / f"{authorities.names(home, each)[-1]}.pem") for each in ("people", "workloads"))):
            assert all(verified(trust, chain) for trust in (root, pki.root)), allowed
        assert len(authorities.bridges(home)) == 1
        serialization.load_pem_private_key((home.secrets / "pki" / "root.key").read_bytes(), old)
        if whole:
            break
    assert whole
    assert min(begun_anew, gone_on_with) >= 3


def test_the_key_of_a_new_root_lies_beside_the_one_that_was_taken_away(
    pki: Pki, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stick = tmp_path / "stick"
    stick.mkdir()
    (home.secrets / "pki" / "root.key").rename(stick / "first.key")
    monkeypatch.setenv(ceremony.ROOT_KEY, str(stick / "first.key"))
    renewed_root(home, PASSPHRASE.encode(), b"second")
    for named in ("first.key", "first-2.key"):
        monkeypatch.setenv(ceremony.ROOT_KEY, str(stick / named))
        assert Root(home, b"second").certificate == authorities.roots(home)[0]
    assert list((home.secrets / "pki").glob("root*.key")) == []


@pytest.mark.parametrize("arguments", [["renew"], ["renew-root"], ["sign", "people-2"]])
def test_without_the_roots_passphrase_nothing_is_made(pki: Pki, home: Home, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    before = ceremony.listed(home)
    monkeypatch.setenv(ceremony.PASSPHRASE, "wrong")
    with pytest.raises(SetupProblem, match="does not open"):
        ceremony.command(home, arguments)
    monkeypatch.delenv(ceremony.PASSPHRASE)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(SetupProblem, match="run it in a terminal"):
        ceremony.command(home, arguments)
    assert ceremony.listed(home) == before


def test_a_root_that_was_taken_away_is_asked_for_and_found_where_it_is(
    pki: Pki, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home.secrets / "pki" / "root.key").rename(tmp_path / "stick.key")
    with pytest.raises(SetupProblem, match="bring it back"):
        ceremony.command(home, ["renew"])
    Pki.create(home)  # a start does without
    monkeypatch.setenv(ceremony.ROOT_KEY, str(tmp_path / "stick.key"))
    assert ceremony.command(home, ["renew"]) == 0
    assert not (home.secrets / "pki" / "root.key").exists()


def stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_in_steps_the_key_stays_here_and_the_root_there(
    pki: Pki, home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ceremony.command(home, ["request", "people-2"])
    request = capsys.readouterr().out
    assert "PRIVATE KEY" not in request
    stdin(monkeypatch, request.encode())
    ceremony.command(home, ["sign", "people-2"])
    certificate = capsys.readouterr().out
    stdin(monkeypatch, certificate.encode())
    ceremony.command(home, ["install", "people-2"])
    assert authorities.names(home, "people") == ["people", "people-2"]
    with pytest.raises(SetupProblem, match="ask for people-3"):
        ceremony.command(home, ["request", "people-2"])


def test_only_what_fits_is_installed(pki: Pki, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = Pki.create(Home(tmp_path / "foreign"))
    own, trust = pki.issuers_folder / "people.pem", pki.client_issuers.read_bytes()
    cases = [
        (b"nothing", "no certificate"),
        ((foreign.issuers_folder / "people.pem").read_bytes(), "No root of this home"),
        (own.read_bytes(), "not that of people-2"),
    ]
    for content, sentence in cases:
        stdin(monkeypatch, content)
        with pytest.raises(SetupProblem, match=sentence):
            ceremony.command(home, ["install", "people-2"])
    key, root = ec.generate_private_key(ec.SECP256R1()), Root(home, PASSPHRASE.encode())
    ceremony.request(home, "people-2")
    other = authorities.certify(
        authorities.distinguished("Hortus people 2"),
        key.public_key(),
        root.certificate.subject,
        root.key,
        authorities.INTERMEDIATE_LIFETIME,
        "people",
    )
    stdin(monkeypatch, authorities.pem(other))
    with pytest.raises(SetupProblem, match="not that of the key"):
        ceremony.command(home, ["install", "people-2"])
    assert pki.client_issuers.read_bytes() == trust


def test_a_request_that_its_key_did_not_sign_is_not_signed(pki: Pki, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    request = x509.load_pem_x509_csr(ceremony.request(home, "people-2"))
    der = bytearray(request.public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    broken = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM)
    other = (
        x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(ec.generate_private_key(ec.SECP384R1()), hashes.SHA256())
    )
    for content in (broken, other.public_bytes(serialization.Encoding.PEM), b"x"):
        stdin(monkeypatch, content)
        with pytest.raises(SetupProblem, match="request for people-2"):
            ceremony.command(home, ["sign", "people-2"])


@pytest.mark.parametrize("arguments", [["renew", "root"], ["request", "people-0"], ["request", "../people"], ["sign"], ["nonsense"]])
def test_what_is_no_command_or_no_issuer_is_told(pki: Pki, home: Home, arguments: list[str]) -> None:
    with pytest.raises(SetupProblem, match=r"usage|is no issuer"):
        ceremony.command(home, arguments)


def test_what_ends_soon_or_has_ended_is_shown_and_no_longer_trusted(pki: Pki, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    assert authorities.ending_soon(home) == []
    ceremony.command(home, ["renew", "people"])

    class Later(datetime):
        @classmethod
        def now(cls, _tz: object = None) -> "datetime":  # type: ignore[override]
            return datetime.now(UTC) + authorities.INTERMEDIATE_LIFETIME - authorities.SOON

    monkeypatch.setattr(authorities, "datetime", Later)
    assert [line.split()[0] for line in authorities.ending_soon(home)] == ["services", "people-2", "workloads"]
    assert all("make pki DO=renew" in line for line in authorities.ending_soon(home))
    monkeypatch.setattr(authorities, "SOON", -authorities.SOON)

    class After(Later):
        @classmethod
        def now(cls, _tz: object = None) -> "datetime":  # type: ignore[override]
            return datetime.now(UTC) + authorities.INTERMEDIATE_LIFETIME

    monkeypatch.setattr(authorities, "datetime", After)
    assert authorities.certificates(home, "people") == []
