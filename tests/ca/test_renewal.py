"""Issuers get new keys while ca runs: the new one signs, and the old one goes on answering for what it signed."""

import os
import time
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from compose.local import ceremony
from compose.local.ceremony import Root
from compose.local.home import Home
from compose.local.pki import Pki
from contracts.events import Certificate
from services.ca import service
from services.ca.service import care
from tests.ca.conftest import ADA, BOB, about, agent_fact, csr, issued, openssl, revoked, run, study, until
from tests.world import OURS, World, Worlds, owner, reason, scientist

OWNER, SCIENTIST = owner(OURS, ADA), scientist(OURS, BOB)
PASSPHRASE = b"correct horse"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pki:
    monkeypatch.setenv("HORTUS_ROOT_PASSPHRASE", PASSPHRASE.decode())
    monkeypatch.setattr(care, "LOOK_S", 0.1)
    return Pki.create(Home(tmp_path / "home"))


async def opened(worlds: Worlds, pki: Pki, **settings: Any) -> World:
    world = await worlds.open("ca", issuers_dir=pki.issuers_folder, **{"issuer_rest_s": 0, **settings})
    await world.hear(*study())
    return world


def renew(pki: Pki) -> None:
    ceremony.renew(pki.home, Root(pki.home, PASSPHRASE), ["people"])


def signs_now() -> str:
    return {str(issuer): signer.name for issuer, signer in service.office.office().issuers.current.items()}["people"]


async def serials(world: World, issuer: str) -> set[int]:
    return {entry.serial_number for entry in x509.load_der_x509_crl((await world.get(f"/crls/{issuer}")).content)}


async def status(world: World, leaf: x509.Certificate, issuer: x509.Certificate) -> str:
    answer = await world.post("/ocsp", content=about(leaf, issuer).public_bytes(Encoding.DER))
    return ocsp.load_der_ocsp_response(answer.content).certificate_status.name


async def test_after_a_renewal_the_old_and_the_new_key_each_answer_for_what_they_signed(worlds: Worlds, own: Pki, tmp_path: Path) -> None:
    world = await opened(worlds, own)
    old = [await issued(world, SCIENTIST) for _ in range(2)]
    renew(own)
    await until(lambda: signs_now() == "people-2")
    new = [await issued(world, SCIENTIST) for _ in range(2)]
    issuers = [x509.load_der_x509_certificate((await world.get(f"/issuers/{name}")).content) for name in ("people", "people-2")]
    assert [each.issuer for each in (old[0], new[0])] == [each.subject for each in issuers]
    await revoked(world, SCIENTIST, old[0])
    await revoked(world, SCIENTIST, new[0])
    assert (await serials(world, "people"), await serials(world, "people-2")) == ({old[0].serial_number}, {new[0].serial_number})
    for leaves, issuer, other in ((old, issuers[0], issuers[1]), (new, issuers[1], issuers[0])):
        assert [await status(world, leaf, issuer) for leaf in leaves] == ["REVOKED", "GOOD"]
        assert {await status(world, leaf, other) for leaf in leaves} == {"UNKNOWN"}
    place = new[1].extensions.get_extension_for_class(x509.CRLDistributionPoints).value[0].full_name
    assert place is not None
    assert place[0].value == "https://localhost:8443/api/v1/crls/people-2"
    for leaf in (old[1], new[1]):
        (tmp_path / "leaf.pem").write_bytes(leaf.public_bytes(Encoding.PEM))
        openssl("verify", "-x509_strict", "-partial_chain", "-CAfile", str(own.client_issuers), str(tmp_path / "leaf.pem"))


async def test_whoever_trusts_only_an_old_root_trusts_what_is_issued_below_the_newest(worlds: Worlds, own: Pki, tmp_path: Path) -> None:
    old = tmp_path / "old-root.pem"
    old.write_bytes(own.root.read_bytes())
    world = await opened(worlds, own)
    passphrases = [PASSPHRASE, b"second", b"third"]
    for before, after in pairwise(passphrases):
        ceremony.renew_root(own.home, Root(own.home, before), after)
    await until(lambda: signs_now() == "people-3")
    await world.hear(agent_fact(csr()), run(request=csr()))
    answer = await world.post(f"/projects/{OURS}/certificates", SCIENTIST, json={"csr": csr()})
    chains = [answer.json()["chain"], *(fact.chain for fact in await world.said() if isinstance(fact, Certificate))]
    assert len({x509.load_pem_x509_certificate(chain.encode()).serial_number for chain in chains}) == 3
    for chain in chains:
        (tmp_path / "chain.pem").write_text(chain)
        for trust in (old, own.root):
            openssl("verify", "-x509_strict", "-CAfile", str(trust), "-untrusted", str(tmp_path / "chain.pem"), str(tmp_path / "chain.pem"))


async def test_a_new_issuer_rests_until_those_who_check_have_read_it(worlds: Worlds, own: Pki) -> None:
    world = await opened(worlds, own, issuer_rest_s=600)
    renew(own)
    await until(lambda: "people-2" in service.office.office().issuers.signers)
    assert (signs_now(), (await issued(world, SCIENTIST)).issuer) == ("people", (await _issuer(world, "people")).subject)
    long_ago = time.time() - 601
    os.utime(own.issuers_folder / "people-2.pem", (long_ago, long_ago))
    await until(lambda: signs_now() == "people-2")


async def _issuer(world: World, name: str) -> x509.Certificate:
    return x509.load_der_x509_certificate((await world.get(f"/issuers/{name}")).content)


@pytest.mark.parametrize("damage", ["another root", "another key", "no certificate"])
async def test_an_issuer_that_does_not_fit_is_not_taken_up_and_somebody_is_told(
    worlds: Worlds, own: Pki, tmp_path: Path, damage: str
) -> None:
    world = await opened(worlds, own)
    other = Pki.create(Home(tmp_path / "other"))
    if damage == "another root":
        (own.issuers_folder / "people-2.key").write_bytes((other.issuers_folder / "people.key").read_bytes())
        (own.issuers_folder / "people-2.pem").write_bytes((other.issuers_folder / "people.pem").read_bytes())
    elif damage == "another key":
        (own.issuers_folder / "people-2.key").write_bytes((own.issuers_folder / "workloads.key").read_bytes())
        (own.issuers_folder / "people-2.pem").write_bytes((own.issuers_folder / "people.pem").read_bytes())
    else:
        (own.issuers_folder / "people-2.pem").write_bytes(b"nothing")
    office = service.office.office()
    await until(lambda: office.unusable != "")
    assert signs_now() == "people"
    await issued(world, SCIENTIST)
    [warning] = [each for check in world.runtime.warnings for each in check()]
    assert "people-2" in warning
    (own.issuers_folder / "people-2.pem").unlink()
    await until(lambda: office.unusable == "")


async def test_an_issuer_that_ends_soon_is_told_of(worlds: Worlds, own: Pki) -> None:
    world = await opened(worlds, own, issuer_warning_days=365 * 6)
    warnings = [each for check in world.runtime.warnings for each in check()]
    assert len(warnings) == 2
    assert all(each.endswith("renew it") for each in warnings)
    await until(lambda: b'hortus_issuer_end_seconds{issuer="people"}' in _metrics())
    assert world.runtime.missing() == []


def _metrics() -> bytes:

    return prometheus_client.generate_latest()


async def test_a_name_that_no_issuer_has_is_not_found(worlds: Worlds, own: Pki) -> None:
    world = await opened(worlds, own)
    for path in ("/crls/people-2", "/issuers/people-2", "/crls/root"):
        answer = await world.get(path)
        assert (answer.status_code, reason(answer)) == (404, "not-found")


async def test_a_certificate_ends_no_later_than_the_key_that_signed_it(worlds: Worlds, own: Pki) -> None:
    world = await opened(worlds, own, project_life_s=3600 * 24 * 365 * 20)
    leaf, issuer = await issued(world, SCIENTIST), await _issuer(world, "people")
    assert issuer.not_valid_after_utc - leaf.not_valid_after_utc < timedelta(seconds=1)
