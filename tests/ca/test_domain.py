"""The rules of ca, without a database; openssl is the outside judge of what is signed."""

import base64
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from chassis.csr import CsrRefused, read_csr
from compose.local.pki import Pki
from contracts.events import CertificateKind, ProjectState, RunState, UserStatus
from contracts.policy import LONGEST_RUN_S
from contracts.roles import Actor, Principal, Role
from services.ca import domain
from services.ca.domain.certificates import Terms, TooManyCertificates
from services.ca.domain.holders import Holder
from services.ca.models import Certificate, CertificateState, Ending, Intent, Issuer
from services.ca.settings import CaSettings
from services.ca.signer import IssuerUnusable, Signer, opening
from services.ca.signer.files import KeyFiles
from tests.ca.conftest import ADA, AGENT, BOB, RUN, csr, judged, membership, new_key, openssl, private_key, project, run, user
from tests.world import OURS

NOW = datetime(2026, 6, 1, 12, 0, 0, 250_000, tzinfo=UTC)
TERMS = Terms("hortus.internal", timedelta(hours=8), timedelta(hours=24), timedelta(days=30))
NUMBER = (1 << 127) + 5
MEMBER = Holder(CertificateKind.PROJECT, "mri-study__ada00000", project_id=OURS, user_id=ADA)
HOLDERS = {
    "project": (MEMBER, f"spiffe://hortus.internal/project/{OURS}/user/{ADA}"),
    "job": (
        domain.holders.run_holder(
            domain.parties.project_of(project()), domain.parties.member_of(membership(BOB)), domain.parties.run_of(run())
        ),
        f"spiffe://hortus.internal/project/{OURS}/user/{BOB}/job/{RUN}",
    ),
    "agent": (domain.holders.agent_holder(AGENT), f"spiffe://hortus.internal/agent/{AGENT}"),
}


def pem_block(der: bytes, label: str = "CERTIFICATE REQUEST") -> str:
    return f"-----BEGIN {label}-----\n{base64.encodebytes(der).decode()}-----END {label}-----\n"


def der_of(pem: str) -> bytes:
    return x509.load_pem_x509_csr(pem.encode()).public_bytes(Encoding.DER)


def signed(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey, strength: hashes.HashAlgorithm | None) -> str:
    made = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return made.sign(key, strength).public_bytes(Encoding.PEM).decode()  # type: ignore[arg-type]


def with_another_key() -> str:
    """A request that names a key which did not sign it: what proof of possession is for."""
    mine, theirs = new_key(), new_key()
    own, point = (key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint) for key in (mine, theirs))
    return pem_block(der_of(csr(mine)).replace(own, point))


def off_the_curve() -> str:
    key = new_key()
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return pem_block(der_of(csr(key)).replace(point, point[:-32] + bytes(32)))


def called_otherwise(last: int) -> str:
    """A request signed by ECDSA with SHA-256 (1.2.840.10045.4.3.2) that says it is another algorithm of that family."""
    own = bytes.fromhex("06082a8648ce3d040302")
    return pem_block(der_of(csr()).replace(own, own[:-1] + bytes([last])))


BAD = {
    "empty": ("", "one PEM block"),
    "prose": ("give me a certificate", "one PEM block"),
    "a private key": (private_key(), "private key never leaves"),
    "a request and its private key": (csr() + private_key(), "private key never leaves"),
    "two requests": (csr() + csr(), "one PEM block"),
    "text before the block": ("hello\n" + csr(), "one PEM block"),
    "another label": (pem_block(der_of(csr()), "CERTIFICATE"), "one PEM block"),
    "no DER": (pem_block(b"nothing of the kind"), "cannot be read"),
    "cut short": (pem_block(der_of(csr())[:-20]), "cannot be read"),
    "a NUL": (csr().replace("\n", "\n\0", 1), "one PEM block"),
    "too long": (pem_block(bytes(9000)), "at most 8192"),
    "RSA": (signed(rsa.generate_private_key(65537, 2048), hashes.SHA256()), "P-256"),
    "Ed25519": (signed(ed25519.Ed25519PrivateKey.generate(), None), "P-256"),
    "P-384": (signed(ec.generate_private_key(ec.SECP384R1()), hashes.SHA384()), "P-256"),
    "SHA-224": (signed(new_key(), hashes.SHA224()), "SHA-256 or stronger"),
    "signed otherwise than it says": (called_otherwise(3), "not signed by the key"),
    "an algorithm that nobody knows": (called_otherwise(9), "SHA-256 or stronger"),
    "a key that did not sign": (with_another_key(), "not signed by the key"),
    "a point off the curve": (off_the_curve(), "cannot be read"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_refused_with_a_sentence(case: str) -> None:
    pem, sentence = BAD[case]
    with pytest.raises(CsrRefused, match=sentence):
        read_csr(pem)


@given(st.text(max_size=300) | st.binary(max_size=300).map(pem_block))
def test_no_text_breaks_the_reader_of_requests(text: str) -> None:
    with pytest.raises(CsrRefused):
        read_csr(text)


def test_a_request_made_by_openssl_is_read(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(key))
    made = openssl("req", "-new", "-key", str(key), "-subj", "/CN=x")
    assert "Public-Key: (256 bit)" in openssl("req", "-noout", "-text", "-verify", given=made)
    assert len(read_csr(made).sha256) == 64


def test_the_same_request_has_the_same_hash_however_it_is_written() -> None:
    made = csr()
    assert read_csr(made).sha256 == read_csr("\n" + made.replace("\n", "\r\n")).sha256


@pytest.mark.parametrize(
    ("study", "username", "name"),
    [
        ("mri-study", "ada00000", "mri-study__ada00000"),
        ("Lung  cancer, 2026", "ada", "Lung-cancer-2026__ada"),
        ("a__b", "c", "a-b__c"),
        ("a", "b__c", "a__b-c"),
        ("__", "", "unnamed__unnamed"),
        ("Öffentlich", "émile", "Öffentlich__émile"),
    ],
)
def test_a_common_name_has_one_separator(study: str, username: str, name: str) -> None:
    assert domain.holders.common_name(study, OURS, username) == name


@given(st.text(max_size=300), st.text(max_size=300))
def test_a_common_name_always_fits(study: str, username: str) -> None:
    name = domain.holders.common_name(study, OURS, username)
    assert len(name.encode()) <= 64
    assert name.count("__") == 1
    x509.NameAttribute(x509.NameOID.COMMON_NAME, name)


def test_long_names_of_two_projects_stay_apart() -> None:
    one, other = (domain.holders.common_name("x" * 80, UUID(int=number), "ada00000") for number in (1, 2))
    assert one != other
    assert one.endswith("__ada00000")


def test_a_serial_has_all_its_digits() -> None:
    assert domain.profiles.serial((1 << 124) - 1) is None
    assert domain.profiles.serial(NUMBER) == NUMBER
    assert domain.profiles.certificate_id(NUMBER) == f"{NUMBER:x}"


def signer_for(pki: Pki, holder: Holder) -> Signer:
    issuer = Issuer.PEOPLE if holder.kind is CertificateKind.PROJECT else Issuer.WORKLOADS
    return opening.open_issuers(pki.issuers_folder, KeyFiles(pki.issuers_folder), 0).current[issuer]


def made(pki: Pki, holder: Holder, now: datetime, ends_at: datetime | None = None) -> Intent:
    signer = signer_for(pki, holder)
    issuer = domain.certificates.authority(signer.name, signer.key_id, signer.certificate, signer.pem, TERMS)
    request = read_csr(csr(name="administrator"))
    intent = domain.certificates.intend(holder, request, NUMBER, now, TERMS, issuer, ends_at)
    assert (intent.live, intent.version, intent.chain) == (False, 0, "")
    leaf = signer.sign(domain.certificates.build(intent, holder, request, issuer, TERMS))
    domain.certificates.issued(intent, leaf, issuer)
    return intent


def row(intent: Intent, state: CertificateState = CertificateState.LIVE) -> Certificate:
    """The certificate as the database gives it back."""
    columns = vars(intent) | {"kind": intent.kind.value, "state": state.value}
    del columns["live"]
    return Certificate(**columns)


@pytest.mark.parametrize("kind", HOLDERS)
def test_openssl_accepts_every_profile_and_reads_in_it_what_was_meant(kind: str, pki: Pki, tmp_path: Path) -> None:
    holder, uri = HOLDERS[kind]
    certificate = made(pki, holder, datetime.now(UTC))
    issuer = Issuer.PEOPLE if kind == "project" else Issuer.WORKLOADS
    text = judged(certificate.chain, pki.issuers_folder / f"{issuer}.pem", tmp_path)
    assert f"Subject: CN={holder.common_name},O=Hortus" in text
    assert f"Issuer: CN=Hortus {issuer},O=Hortus" in text
    assert f"X509v3 Subject Alternative Name: \n                URI:{uri}\n" in text
    assert "X509v3 Basic Constraints: critical\n                CA:FALSE" in text
    assert "X509v3 Key Usage: critical\n                Digital Signature\n" in text
    assert "X509v3 Extended Key Usage: \n                TLS Web Client Authentication\n" in text
    assert "X509v3 Subject Key Identifier" in text
    assert "X509v3 Authority Key Identifier" in text
    assert "ASN1 OID: prime256v1" in text
    assert "administrator" not in text
    serial = openssl("x509", "-noout", "-serial", given=certificate.chain).strip().removeprefix("serial=")
    assert serial.lower() == certificate.certificate_id
    fingerprint = openssl("x509", "-noout", "-fingerprint", "-sha256", given=certificate.chain).partition("=")[2]
    assert fingerprint.strip().replace(":", "").lower() == certificate.fingerprint


def test_a_chain_is_the_leaf_and_its_intermediate_without_the_root(pki: Pki) -> None:
    chain = x509.load_pem_x509_certificates(made(pki, MEMBER, NOW).chain.encode())
    assert [certificate.subject.rfc4514_string() for certificate in chain] == [
        "CN=mri-study__ada00000,O=Hortus",
        "CN=Hortus people,O=Hortus",
    ]


def as_set(folder: Path, **lives: Any) -> CaSettings:
    return CaSettings(
        service="ca",
        tls_dir=folder,
        kafka="localhost:1",
        state_dir=folder,
        database_url="postgresql://localhost",
        issuers_dir=folder,
        **lives,
    )


def test_a_run_that_lasts_as_long_as_one_may_has_an_hour_left_to_bring_its_output_in(tmp_path: Path) -> None:
    assert as_set(tmp_path).job_life_s >= LONGEST_RUN_S + 3600
    assert as_set(tmp_path, job_life_s=LONGEST_RUN_S + 3600).job_life_s == LONGEST_RUN_S + 3600


@pytest.mark.parametrize("life", [3600, LONGEST_RUN_S, LONGEST_RUN_S + 3599, 0, -1])
def test_a_life_of_job_certificates_that_a_run_can_outlast_is_refused_at_the_start(tmp_path: Path, life: int) -> None:
    with pytest.raises(ValidationError, match=r"HORTUS_JOB_LIFE_S has to be 86400 at least: .+"):
        as_set(tmp_path, job_life_s=life)


@pytest.mark.parametrize(("kind", "life"), [("project", timedelta(hours=8)), ("job", timedelta(hours=24)), ("agent", timedelta(days=30))])
def test_a_certificate_begins_a_minute_ago_and_lives_as_long_as_its_kind(kind: str, life: timedelta, pki: Pki) -> None:
    certificate = made(pki, HOLDERS[kind][0], NOW)
    whole = NOW.replace(microsecond=0)
    assert (certificate.not_before, certificate.not_after) == (whole - timedelta(seconds=60), whole + life)
    leaf = x509.load_pem_x509_certificate(certificate.chain.encode())
    assert (leaf.not_valid_before_utc, leaf.not_valid_after_utc) == (certificate.not_before, certificate.not_after)


def test_a_certificate_ends_no_later_than_the_membership(pki: Pki) -> None:
    ends = NOW + timedelta(minutes=10, microseconds=5)
    assert NOW + timedelta(minutes=9, seconds=58) < made(pki, MEMBER, NOW, ends).not_after <= ends


def test_a_runs_certificate_lives_as_long_as_its_kind_since_the_membership_can_be_prolonged(pki: Pki) -> None:
    ends = NOW + timedelta(minutes=10)
    certificate = made(pki, HOLDERS["job"][0], NOW, ends)
    assert certificate.not_after == NOW.replace(microsecond=0) + timedelta(hours=24)
    assert certificate.right_ends_at == ends


@pytest.mark.parametrize(
    ("right", "lapse"), [(None, (60, Ending.EXPIRED)), (60, (60, Ending.EXPIRED)), (59, (59, Ending.MEMBERSHIP_ENDED))]
)
def test_a_certificate_lapses_at_its_end_or_at_that_of_the_membership_behind_it(
    right: int | None, lapse: tuple[int, Ending], pki: Pki
) -> None:
    certificate = row(made(pki, MEMBER, NOW))
    certificate.not_after = NOW + timedelta(seconds=60)
    certificate.right_ends_at = None if right is None else NOW + timedelta(seconds=right)
    assert domain.certificates.lapses(certificate) == (NOW + timedelta(seconds=lapse[0]), lapse[1])


def test_a_certificate_ends_no_later_than_its_issuer(pki: Pki) -> None:
    issuer = signer_for(pki, MEMBER).certificate
    late = issuer.not_valid_after_utc - timedelta(hours=1)
    assert made(pki, MEMBER, late).not_after == issuer.not_valid_after_utc


def loss(**changes: object) -> Ending | None:
    about = {"status": UserStatus.ACTIVE, "state": ProjectState.ACTIVE, "role": Role.DATA_SCIENTIST, "starts": -60, "ends": None} | changes
    ends = None if about["ends"] is None else NOW + timedelta(seconds=float(str(about["ends"])))
    member = membership(role=about["role"], starts_at=NOW + timedelta(seconds=float(str(about["starts"]))), ends_at=ends)  # type: ignore[arg-type]
    person = user(status=about["status"])  # type: ignore[arg-type]
    study = project(state=about["state"])  # type: ignore[arg-type]
    return domain.holders.loss(domain.parties.person_of(person), domain.parties.member_of(member), domain.parties.project_of(study), NOW)


@pytest.mark.parametrize(
    ("changes", "ending"),
    [
        ({}, None),
        ({"ends": 1}, None),
        ({"state": ProjectState.ARCHIVED}, None),
        ({"ends": 0}, Ending.MEMBERSHIP_ENDED),
        ({"starts": 1}, Ending.MEMBERSHIP_ENDED),
        ({"role": None}, Ending.MEMBERSHIP_ENDED),
        ({"status": UserStatus.BLOCKED}, Ending.PERSON_NOT_ACTIVE),
        ({"status": UserStatus.INVITED}, Ending.PERSON_NOT_ACTIVE),
        ({"status": UserStatus.DEACTIVATED}, Ending.PERSON_NOT_ACTIVE),
        ({"state": ProjectState.CLOSING}, Ending.PROJECT_CLOSED),
        ({"state": ProjectState.DELETED}, Ending.PROJECT_CLOSED),
    ],
)
def test_only_a_current_member_of_an_open_project_who_is_active_holds_a_certificate(
    changes: dict[str, object], ending: Ending | None
) -> None:
    assert loss(**changes) == ending


@pytest.mark.parametrize("state", RunState)
def test_a_run_asks_for_a_certificate_only_while_it_is_leased_or_running(state: RunState) -> None:
    row = domain.parties.run_of(run(state, request="…"))
    assert row.active == (state in (RunState.LEASED, RunState.RUNNING))
    assert (row.csr is None) == (not row.active)


def test_revoking_says_so_once(pki: Pki) -> None:
    certificate = row(made(pki, MEMBER, NOW))
    fact = domain.certificates.revoke(certificate, Ending.WITHDRAWN, NOW)
    assert fact is not None
    assert (fact.live, fact.version, certificate.ending) == (False, 2, Ending.WITHDRAWN)
    assert (fact.chain, certificate.chain != "") == ("", True)
    assert domain.certificates.revoke(certificate, Ending.EXPIRED, NOW) is None
    assert (certificate.version, certificate.ending) == (2, Ending.WITHDRAWN)


def test_an_intent_cannot_be_revoked_since_it_never_counted(pki: Pki) -> None:
    intent = row(made(pki, MEMBER, NOW), CertificateState.INTENDED)
    assert domain.certificates.revoke(intent, Ending.WITHDRAWN, NOW) is None
    assert intent.state == CertificateState.INTENDED


def actor(role: Role, user_id: UUID) -> Actor:
    return Actor(principal=Principal.PERSON, user_id=user_id, project_id=OURS, role=role)


def test_a_scientist_sees_and_revokes_only_what_is_theirs(pki: Pki) -> None:
    adas = row(made(pki, MEMBER, NOW))
    assert domain.certificates.seen_by(actor(Role.DATA_SCIENTIST, BOB)) == BOB
    assert domain.certificates.seen_by(actor(Role.DATA_OWNER, BOB)) is None
    assert domain.certificates.is_own(adas, actor(Role.DATA_SCIENTIST, ADA))
    assert domain.certificates.is_own(adas, actor(Role.DATA_OWNER, BOB))
    assert not domain.certificates.is_own(adas, actor(Role.DATA_SCIENTIST, BOB))


def test_one_person_cannot_fill_the_list_of_live_certificates() -> None:
    domain.certificates.has_room(domain.certificates.MOST_LIVE - 1)
    with pytest.raises(TooManyCertificates):
        domain.certificates.has_room(domain.certificates.MOST_LIVE)


@pytest.mark.parametrize("damage", ["passphrase", "people.key", "people.pem", "swapped", "missing"])
def test_issuers_that_do_not_fit_together_are_not_opened(damage: str, pki: Pki, tmp_path: Path) -> None:
    for file in pki.issuers_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    if damage == "swapped":
        (tmp_path / "people.key").write_bytes((tmp_path / "workloads.key").read_bytes())
    elif damage == "missing":
        (tmp_path / "people.key").unlink()
    else:
        (tmp_path / damage).write_bytes(b"something else")
    with pytest.raises(IssuerUnusable) as refused:
        opening.open_issuers(tmp_path, KeyFiles(tmp_path), 0)
    assert (pki.issuers_folder / "passphrase").read_text() not in str(refused.value)
