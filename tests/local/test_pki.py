"""The set-up's certificates hold before another implementation's eyes, and its secrets stay where they belong."""

import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from compose.local.home import Home
from compose.local.pki import Pki


def leaf(folder: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificates((folder / "cert.pem").read_bytes())[0]


def openssl(*arguments: str | Path) -> bool:
    return subprocess.run(["openssl", "verify", *arguments], capture_output=True, check=False).returncode == 0


def test_a_service_verifies_against_the_intermediate_alone(pki: Pki, tmp_path: Path) -> None:
    pki.issue_service_certificate("auth", tmp_path)
    assert openssl("-partial_chain", "-x509_strict", "-CAfile", tmp_path / "services.pem", tmp_path / "cert.pem")
    assert openssl("-partial_chain", "-purpose", "sslclient", "-CAfile", tmp_path / "services.pem", tmp_path / "cert.pem")
    assert openssl(
        "-partial_chain",
        "-purpose",
        "sslserver",
        "-verify_hostname",
        "localhost",
        "-CAfile",
        tmp_path / "services.pem",
        tmp_path / "cert.pem",
    )


def test_a_browser_that_trusts_the_root_accepts_the_chain_that_is_sent(pki: Pki, tmp_path: Path) -> None:
    pki.issue_service_certificate("gateway", tmp_path)
    assert openssl("-x509_strict", "-CAfile", pki.root, "-untrusted", tmp_path / "cert.pem", tmp_path / "cert.pem")


def test_other_issuers_do_not_vouch_for_services(pki: Pki, tmp_path: Path) -> None:
    pki.issue_service_certificate("auth", tmp_path)
    assert not openssl("-partial_chain", "-CAfile", pki.client_issuers, tmp_path / "cert.pem")


@pytest.mark.parametrize("name", ["people", "workloads"])
def test_the_other_intermediates_come_from_the_same_root(pki: Pki, name: str) -> None:
    assert openssl("-x509_strict", "-CAfile", pki.root, pki.issuers_folder / f"{name}.pem")


def test_an_intermediate_can_issue_no_further_authority(pki: Pki) -> None:
    for path in (pki.services_anchor, pki.issuers_folder / "people.pem", pki.issuers_folder / "workloads.pem"):
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0


def test_the_issuers_of_clients_also_sign_what_is_said_of_their_certificates(pki: Pki) -> None:
    files = {path.stem: path for path in (pki.root, pki.services_anchor, *pki.issuers_folder.glob("[pw]*.pem"))}
    usages = {
        name: x509.load_pem_x509_certificate(path.read_bytes()).extensions.get_extension_for_class(x509.KeyUsage).value
        for name, path in files.items()
    }
    assert all(usage.key_cert_sign and usage.crl_sign for usage in usages.values())
    assert {name for name, usage in usages.items() if usage.digital_signature} == {"people", "workloads"}


def test_a_service_certificate_says_who_it_is_for_and_for_how_long(pki: Pki, tmp_path: Path) -> None:
    pki.issue_service_certificate("projects", tmp_path)
    certificate = leaf(tmp_path)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://hortus.internal/service/projects"]
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    now = datetime.now(UTC)
    assert timedelta(seconds=59) <= now - certificate.not_valid_before_utc <= timedelta(seconds=75)
    assert timedelta(hours=71) < certificate.not_valid_after_utc - now <= timedelta(hours=72)


def test_every_issue_is_a_new_key_and_serial(pki: Pki, tmp_path: Path) -> None:
    pki.issue_service_certificate("auth", tmp_path / "1")
    pki.issue_service_certificate("auth", tmp_path / "2")
    first, second = leaf(tmp_path / "1"), leaf(tmp_path / "2")
    assert first.serial_number != second.serial_number
    assert first.serial_number.bit_length() > 100
    assert (tmp_path / "1" / "key.pem").read_bytes() != (tmp_path / "2" / "key.pem").read_bytes()


def test_private_keys_are_for_their_owner_alone(pki: Pki, home: Home, tmp_path: Path) -> None:
    pki.issue_service_certificate("auth", tmp_path)
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE(home.secrets.stat().st_mode) == 0o700
    for path in home.secrets.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


def test_authorities_keys_are_encrypted(pki: Pki, home: Home) -> None:
    keys = list(home.secrets.rglob("*.key"))
    assert sorted(key.name for key in keys) == ["people.key", "root.key", "services.key", "workloads.key"]
    for key in keys:
        with pytest.raises(TypeError, match="encrypted"):
            serialization.load_pem_private_key(key.read_bytes(), None)


def test_the_ca_service_can_open_its_issuers_and_not_the_root(pki: Pki, home: Home) -> None:
    passphrase = (pki.issuers_folder / "passphrase").read_bytes()
    for name in ("people", "workloads"):
        serialization.load_pem_private_key((pki.issuers_folder / f"{name}.key").read_bytes(), passphrase)
    with pytest.raises(ValueError, match=r"(?i)password|decrypt"):
        serialization.load_pem_private_key((home.secrets / "pki" / "root.key").read_bytes(), passphrase)


def test_the_roots_passphrase_is_told_once_and_stored_nowhere(home: Home) -> None:
    told: list[str] = []
    Pki.create(home, announce=told.append)
    Pki.create(home, announce=told.append)
    assert len(told) == 1
    serialization.load_pem_private_key((home.secrets / "pki" / "root.key").read_bytes(), told[0].encode())
    assert all(told[0].encode() not in path.read_bytes() for path in home.path.rglob("*") if path.is_file())


def test_a_given_passphrase_opens_the_root_and_is_not_told(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HORTUS_ROOT_PASSPHRASE", "correct horse")
    told: list[str] = []
    Pki.create(home, announce=told.append)
    assert told == []
    serialization.load_pem_private_key((home.secrets / "pki" / "root.key").read_bytes(), b"correct horse")


def test_a_second_start_keeps_the_authorities(home: Home) -> None:
    root = Pki.create(home).root.read_bytes()
    assert Pki.create(home).root.read_bytes() == root


def test_a_set_up_cut_off_half_way_is_begun_anew(home: Home) -> None:
    whole = Pki.create(home)
    (home.secrets / "pki" / "complete").unlink()
    whole.services_anchor.unlink()
    again = Pki.create(home)
    again.issue_service_certificate("auth", home.tls_folder("auth-1"))
    assert openssl("-partial_chain", "-CAfile", again.services_anchor, home.tls_folder("auth-1") / "cert.pem")
