"""pkilint (RFC 5280 and RFC 6960) on everything that ca and the set-up sign; what it may find is listed here, with the reason."""
# ruff: noqa: S303 - requests name their issuer by SHA-1 (RFC 6960 section 4.3)

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from pkilint import loader, pkix
from pkilint.pkix import certificate, crl, extension, name
from pkilint.pkix import ocsp as linted_ocsp
from pkilint.validation import ValidationFindingSeverity

from compose.local import authorities, ceremony
from compose.local.ceremony import Root
from compose.local.home import Home
from compose.local.pki import Pki
from contracts.events import UserStatus
from contracts.roles import Actor, Principal
from services.ca import service
from tests.ca.conftest import ADA, BOB, about, agent_fact, csr, issued, new_key, run, study, user
from tests.world import OURS, World, Worlds, owner, scientist

# What is found although nothing is wrong, and why.
ALLOWED = {
    # A SPIFFE identity is a URI (RFC 3986) whose scheme the linter's reader of URLs does not know.
    ("pkix.invalid_uri_syntax", "spiffe://hortus.internal/"),
    # Services of one machine are reached at a name of one label, which no public authority would certify.
    ("pkix.invalid_domain_name_syntax", "localhost"),
}
DOORS = "https://hortus.example:8443"
ISSUERS = ("people", "workloads")
DECODERS = [pkix.create_attribute_decoder(name.ATTRIBUTE_TYPE_MAPPINGS), pkix.create_extension_decoder(extension.EXTENSION_MAPPINGS)]
CERTIFICATES = certificate.create_pkix_certificate_validator_container(
    certificate.create_decoding_validators(name.ATTRIBUTE_TYPE_MAPPINGS, extension.EXTENSION_MAPPINGS),
    [
        certificate.create_issuer_validator_container([]),
        certificate.create_validity_validator_container(),
        certificate.create_subject_validator_container([]),
        certificate.create_extensions_validator_container([]),
        certificate.create_spki_validator_container([]),
    ],
)
LISTS = crl.create_pkix_crl_validator_container(
    DECODERS,
    [crl.create_issuer_validator_container([]), crl.create_validity_validator_container([]), crl.create_extensions_validator_container([])],
)
ANSWERS = linted_ocsp.create_pkix_ocsp_response_validator_container([linted_ocsp.create_response_decoder(), *DECODERS], [])


@pytest.fixture
async def world(worlds: Worlds, settings: dict[str, Any]) -> World:
    made = await worlds.open("ca", **settings, origins=(DOORS,))
    await made.hear(*study())
    return made


def found(linter: Any, document: Any) -> set[str]:
    """What a linter finds in a document beyond what is allowed and what it merely tells (``INFO``)."""
    said = [each for result in linter.validate(document.root) for each in result.finding_descriptions]
    wrong = [(each.finding.code, each.message or "") for each in said if each.finding.severity is not ValidationFindingSeverity.INFO]
    return {f"{code}: {text}" for code, text in wrong if not any(code == known and f'"{name}' in text for known, name in ALLOWED)}


def in_certificate(made: x509.Certificate) -> set[str]:
    return found(CERTIFICATES, loader.load_der_certificate(made.public_bytes(Encoding.DER), "certificate"))


async def test_nothing_is_found_in_the_certificates_of_people_runs_and_agents(world: World) -> None:
    await issued(world, scientist(OURS, BOB))
    await world.hear(run(request=csr()), agent_fact(csr()))
    rows = await world.sql("SELECT kind, chain FROM certificates")
    assert {row.kind for row in rows} == {"project", "job", "agent"}
    assert {row.kind: in_certificate(x509.load_pem_x509_certificate(row.chain.encode())) for row in rows} == {
        "project": set(),
        "job": set(),
        "agent": set(),
    }


def test_nothing_is_found_in_the_authorities_and_in_a_services_certificate(pki: Pki, tmp_path: Path) -> None:
    pki.issue_service_certificate("gateway", tmp_path)
    files = [pki.root, pki.services_anchor, tmp_path / "cert.pem", *(pki.issuers_folder / f"{issuer}.pem" for issuer in ISSUERS)]
    assert {file.name: in_certificate(x509.load_pem_x509_certificate(file.read_bytes())) for file in files} == {
        file.name: set() for file in files
    }


async def test_nothing_is_found_in_a_services_renewed_certificate(
    worlds: Worlds, settings: dict[str, Any], pki: Pki, tmp_path: Path
) -> None:
    world = await worlds.open("ca", **settings, services_issuer_dir=pki.services_issuer_folder)
    pki.issue_service_certificate("gateway", tmp_path)
    before = x509.load_pem_x509_certificate((tmp_path / "cert.pem").read_bytes())
    caller = Actor(principal=Principal.SERVICE, service="gateway")
    async with world.work(caller, "service_certificate.create") as uow:
        made = await service.enrolment.renew(uow, before.public_bytes(Encoding.DER), csr())
    leaf = x509.load_pem_x509_certificate(made.chain.encode())
    assert leaf.serial_number != before.serial_number
    assert in_certificate(leaf) == set()


async def test_nothing_is_found_in_renewed_authorities_and_in_what_they_sign(
    worlds: Worlds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ceremony.PASSPHRASE, "first")
    own = Pki.create(Home(tmp_path / "home"))
    ceremony.renew_root(own.home, Root(own.home, b"first"), b"second")
    bridge = x509.load_pem_x509_certificate((own.services_issuer_folder / authorities.BRIDGES).read_bytes())
    assert bridge.subject == bridge.issuer
    folders = {"services": own.services_issuer_folder, "people": own.issuers_folder, "workloads": own.issuers_folder}
    made = {name: x509.load_pem_x509_certificate((folder / f"{name}-2.pem").read_bytes()) for name, folder in folders.items()}
    made |= {"root": authorities.roots(own.home)[0], "bridge": bridge}
    world = await worlds.open("ca", issuers_dir=own.issuers_folder, issuer_rest_s=0, origins=(DOORS,))
    await world.hear(*study())
    made["leaf"] = await issued(world, scientist(OURS, BOB))
    assert made["leaf"].issuer == made["people"].subject
    assert {name: in_certificate(each) for name, each in made.items()} == {name: set() for name in made}
    answer = await world.get("/crls/people-2")
    assert found(LISTS, loader.load_der_crl(answer.content, "list")) == set()


async def test_nothing_is_found_in_the_lists(world: World) -> None:
    for issuer in ISSUERS:
        assert found(LISTS, loader.load_der_crl((await world.get(f"/crls/{issuer}")).content, "list")) == set()
    await issued(world, scientist(OURS, BOB))
    await world.hear(
        agent_fact(csr()), user(BOB, version=2, username="bob00000", status=UserStatus.BLOCKED), agent_fact(None, version=2, live=False)
    )
    for issuer in ISSUERS:
        der = (await world.get(f"/crls/{issuer}")).content
        assert len(x509.load_der_x509_crl(der)) == 1
        assert found(LISTS, loader.load_der_crl(der, "list")) == set()


async def test_nothing_is_found_in_the_answers(world: World, pki: Pki) -> None:
    people = x509.load_pem_x509_certificate((pki.issuers_folder / "people.pem").read_bytes())
    good, bad = await issued(world, owner(OURS, ADA)), await issued(world, scientist(OURS, BOB))
    await world.hear(user(BOB, version=2, username="bob00000", status=UserStatus.BLOCKED))
    for leaf, status in ((good, "GOOD"), (bad, "REVOKED"), (1 << 100, "UNKNOWN")):
        for algorithm in (hashes.SHA1(), hashes.SHA256()):
            for nonce in (None, b"0123456789abcdef" * 2):
                answer = await world.post("/ocsp", content=about(leaf, people, algorithm, nonce).public_bytes(Encoding.DER))
                assert ocsp.load_der_ocsp_response(answer.content).certificate_status.name == status
                assert found(ANSWERS, loader.load_der_ocsp_response(answer.content, "answer")) == set()
    refused = await world.post("/ocsp", content=b"garbage")
    assert found(ANSWERS, loader.load_der_ocsp_response(refused.content, "refusal")) == set()


def test_the_linter_would_find_something() -> None:
    """It bites: a certificate that an authority must not sign so."""
    key = new_key()
    nobody = x509.Name([])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(nobody, nobody, key.public_key(), 1, now, now + timedelta(hours=1))
    assert in_certificate(made.sign(key, hashes.SHA256()))
