"""Issuers whose keys lie in a PKCS#11 token (SoftHSM2, a real one): made there, signing there, away and back again."""

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pkcs11
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from compose.local import ceremony
from compose.local.home import Home
from compose.local.pki import Pki
from services.ca import ceremony as ceremony_in_ca
from services.ca.app import settle_waiting
from services.ca.signer import IssuerUnusable, Signer, SignerAway
from services.ca.signer.token import Token
from tests.ca import softhsm
from tests.ca.conftest import ADA, BOB, about, agent_fact, appears, csr, issued, judged, membership, revoked, run, study, until
from tests.ca.softhsm import LABEL, MODULE, PIN, SoftToken
from tests.world import OURS, World, Worlds, owner, reason, scientist

HERE = f"/projects/{OURS}/certificates"
OWNER, SCIENTIST = owner(OURS, ADA), scientist(OURS, BOB)


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftToken]:
    with softhsm.token(tmp_path_factory.mktemp("token")) as made:
        yield made


@pytest.fixture(scope="module")
def token_pki(token: SoftToken, tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki.create(Home(tmp_path_factory.mktemp("token-pki")))


@pytest.fixture
async def world(worlds: Worlds, token: SoftToken, token_pki: Pki) -> World:
    settings: dict[str, Any] = {
        "issuers_dir": token_pki.issuers_folder,
        "pkcs11_module": MODULE,
        "pkcs11_token": LABEL,
        "pkcs11_pin_file": token.pin_file,
    }
    made = await worlds.open("ca", **settings)
    await made.hear(*study())
    return made


def signer(keys: Token, certificate: Path) -> Signer:
    """The key ``people`` of the token, with this certificate."""
    read = x509.load_pem_x509_certificate(certificate.read_bytes())
    return Signer("people", "people", read, "", keys.key("people", read), keys.slow)


def told(world: World) -> list[str]:
    return [each for warn in world.runtime.warnings for each in warn()]


async def ask(world: World) -> Any:
    return await world.post(HERE, SCIENTIST, json={"csr": csr()})


def test_the_set_up_makes_the_keys_in_the_token_and_writes_none_of_them_to_disk(token_pki: Pki) -> None:
    assert sorted(file.name for file in token_pki.issuers_folder.iterdir()) == ["passphrase", "people.pem", "root.pem", "workloads.pem"]


def test_a_key_in_the_token_cannot_be_read_out(token: SoftToken, token_pki: Pki) -> None:
    with pkcs11.lib(str(MODULE)).get_token(token_label=LABEL).open(user_pin=PIN) as session:
        key = session.get_key(object_class=pkcs11.ObjectClass.PRIVATE_KEY, label="hortus-people")
        assert (key[pkcs11.Attribute.SENSITIVE], key[pkcs11.Attribute.EXTRACTABLE]) == (True, False)
        with pytest.raises(pkcs11.PKCS11Error):
            key[pkcs11.Attribute.VALUE]


async def test_certificates_lists_and_answers_are_signed_by_the_token(world: World, token_pki: Pki, tmp_path: Path) -> None:
    answer = await ask(world)
    assert answer.status_code == 201, answer.text
    judged(answer.json()["chain"], token_pki.issuers_folder / "people.pem", tmp_path)
    leaf, issuer = x509.load_pem_x509_certificates(answer.json()["chain"].encode())
    await revoked(world, SCIENTIST, leaf)
    crl = x509.load_der_x509_crl((await world.get("/crls/people")).content)
    assert crl.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
    assert [entry.serial_number for entry in crl] == [leaf.serial_number]
    asked = about(leaf, issuer, hashes.SHA256()).public_bytes(Encoding.DER)
    told = ocsp.load_der_ocsp_response((await world.post("/ocsp", content=asked)).content)
    assert told.certificate_status is ocsp.OCSPCertStatus.REVOKED


async def test_a_session_that_was_lost_is_opened_again_and_nobody_notices(world: World) -> None:
    await issued(world, SCIENTIST)
    pkcs11.lib(str(MODULE)).finalize()
    await issued(world, SCIENTIST)


def test_the_library_goes_on_as_it_is_where_a_session_helps(token: SoftToken, token_pki: Pki) -> None:
    library, opened = pkcs11.lib(str(MODULE)), Token(MODULE, LABEL, token.pin_file, "hortus-")
    library.reinitialize()
    here = library.get_token(token_label=LABEL)
    with here.open(), here.open() as others:  # the handle of the first one would be given anew
        assert signer(opened, token_pki.issuers_folder / "people.pem").trouble() == ""
        assert len(list(others.get_objects({pkcs11.Attribute.CLASS: pkcs11.ObjectClass.PUBLIC_KEY}))) >= 2
    opened.close()


def test_a_module_that_blocks_while_it_ends_stops_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINALIZE_AT", str(tmp_path / "finalize"))
    (tmp_path / "pin").write_text(PIN)
    opened = Token(softhsm.blocking_module(tmp_path), LABEL, tmp_path / "pin", "hortus-")
    with ThreadPoolExecutor(1) as apart:
        asked = apart.submit(opened.signature, "people", bytes(32))
        while not (tmp_path / "finalize.in").exists() and not asked.done():
            time.sleep(0.01)
        (tmp_path / "finalize.go").touch()
        with pytest.raises(SignerAway, match="NoSuchToken"):
            asked.result(30)
    assert not (tmp_path / "finalize.alone").exists()


async def test_while_the_token_is_away_nothing_is_issued_readiness_says_why_and_it_heals(world: World, token: SoftToken) -> None:
    await issued(world, SCIENTIST)
    token.take_away()
    try:
        refused = await ask(world)
        assert (refused.status_code, reason(refused)) == (503, "signer-away")
        assert PIN not in refused.text
        await until(lambda: any("issuers: the token" in missing for missing in world.runtime.missing()))
        before = len(await world.sql("SELECT 1 FROM certificates"))
        assert (await ask(world)).status_code == 503
        assert len(await world.sql("SELECT 1 FROM certificates")) == before  # no intent for what is known to be in vain
    finally:
        token.bring_back()
    await until(lambda: world.runtime.missing() == [])
    await issued(world, SCIENTIST)


async def test_while_the_token_is_away_the_list_that_is_kept_is_handed_out_as_long_as_it_is_true(world: World, token: SoftToken) -> None:
    held = await issued(world, OWNER)
    await revoked(world, SCIENTIST, await issued(world, SCIENTIST))
    first = await world.get("/crls/people")
    await older(world, timedelta(minutes=59))
    token.take_away()
    try:
        still = await world.get("/crls/people")
        assert (still.status_code, still.headers["ETag"], still.content) == (200, '"1"', first.content)
        await revoked(world, OWNER, held)
        await refuses_lists(world)
    finally:
        token.bring_back()
    crl = await newer_list(world, 2)
    assert crl.get_revoked_certificate_by_serial_number(held.serial_number) is not None
    assert len(crl) == 2


async def test_while_the_token_is_away_no_list_is_handed_out_whose_time_is_over_and_none_is_begun(world: World, token: SoftToken) -> None:
    token.take_away()
    try:
        await refuses_lists(world)
    finally:
        token.bring_back()
    await newer_list(world, 1)
    await older(world, timedelta(minutes=60))
    token.take_away()
    try:
        await refuses_lists(world)
    finally:
        token.bring_back()
    await newer_list(world, 2)


async def older(world: World, age: timedelta) -> None:
    """The lists are older by so much; nothing else is."""
    await world.sql(
        "UPDATE revocation_lists SET this_update = this_update - CAST(:age AS interval), next_update = next_update - CAST(:age AS interval)",
        age=age,
    )


async def newer_list(world: World, number: int) -> x509.CertificateRevocationList:
    """The list with this number, when the token has found itself again."""
    async with asyncio.timeout(30):
        while (answer := await world.get("/crls/people")).headers.get("ETag") != f'"{number}"':
            await asyncio.sleep(0.05)
    return x509.load_der_x509_crl(answer.content)


async def refuses_lists(world: World) -> None:
    refused = await world.get("/crls/people")
    assert (refused.status_code, reason(refused)) == (503, "signer-away")


async def test_rights_end_while_the_token_is_away_and_a_run_and_an_agent_that_waited_get_their_certificates(
    world: World, token: SoftToken
) -> None:
    held = await issued(world, SCIENTIST)
    await world.said()
    token.take_away()
    try:
        await world.hear(run(request=csr()))
        assert await world.said() == []
        await world.hear(membership(BOB, version=2, role=None))
        assert [(fact.key, fact.live) for fact in await world.said()] == [(f"{held.serial_number:032x}", False)]  # type: ignore[attr-defined]
        await world.hear(membership(BOB, version=3))
        await world.hear(agent_fact(csr()))
        assert await world.said() == []
    finally:
        token.bring_back()
    await until(lambda: world.runtime.missing() == [])
    async with world.running(settle_waiting):
        for kind in ("job", "agent"):
            await appears(world, f"SELECT 1 FROM certificates WHERE kind = '{kind}' AND state = 'live'")


def test_a_wrong_pin_is_tried_once_and_again_when_its_file_changes(token: SoftToken, token_pki: Pki) -> None:
    opened = Token(MODULE, LABEL, token.pin_file, "hortus-")
    people = signer(opened, token_pki.issuers_folder / "people.pem")
    token.pin_file.write_text("wrong")
    try:
        assert "PinIncorrect" in people.trouble()
        assert "not tried again" in people.trouble()
    finally:
        token.pin_file.write_text(PIN)
    assert people.trouble() == ""
    opened.close()


class Meanwhile:
    """A token, and what a hand does to the file of its PIN after that was read."""

    def __init__(self, token: Any, deed: Callable[[], object]) -> None:
        self._token = token
        self._deed = deed

    def open(self, **more: Any) -> Any:
        self._deed()
        return self._token.open(**more)


@pytest.mark.parametrize("deed", ["corrected", "taken away"])
def test_a_wrong_pin_whose_file_changed_before_it_was_refused_is_told_and_the_next_one_tried(
    token: SoftToken, token_pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deed: str
) -> None:
    file = tmp_path / "pin"
    file.write_text("wrong")
    os.utime(file, (0, 0))
    opened = Token(MODULE, LABEL, file, "hortus-")
    people = signer(opened, token_pki.issuers_folder / "people.pem")
    with monkeypatch.context() as patch:
        here = Meanwhile(opened._token(), lambda: file.write_text(PIN) if deed == "corrected" else file.unlink())
        patch.setattr(opened, "_token", lambda: here)
        assert "PinIncorrect" in people.trouble()
    if deed == "taken away":
        file.write_text(PIN)
    assert people.trouble() == ""
    opened.close()


def test_a_key_that_is_not_the_certificates_is_told_and_no_other_is_taken(token: SoftToken, token_pki: Pki) -> None:
    opened = Token(MODULE, LABEL, token.pin_file, "hortus-")
    assert "is not the one in its certificate" in signer(opened, token_pki.issuers_folder / "workloads.pem").trouble()
    opened.close()


async def test_a_key_that_only_rests_is_no_trouble_and_somebody_is_told(
    worlds: Worlds, token: SoftToken, token_pki: Pki, tmp_path: Path
) -> None:
    """A certificate of an issuer came whose key the token does not have: it rests, and everybody is served by the one before."""
    for file in token_pki.issuers_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    settings: dict[str, Any] = {"issuers_dir": tmp_path, "pkcs11_module": MODULE, "pkcs11_token": LABEL, "pkcs11_pin_file": token.pin_file}
    world = await worlds.open("ca", **settings, issuer_rest_s=3600)
    await world.hear(*study())
    (tmp_path / "people-2.pem").write_bytes((tmp_path / "people.pem").read_bytes())
    await until(lambda: any("people-2" in each for each in told(world)))
    assert world.runtime.missing() == []
    await issued(world, SCIENTIST)
    (tmp_path / "people-2.pem").unlink()
    await until(lambda: told(world) == [])


def test_the_ceremony_makes_a_key_once_and_asks_for_its_certificate(token: SoftToken, token_pki: Pki) -> None:
    first, again = (x509.load_pem_x509_csr(ceremony.request(token_pki.home, "workloads-2")) for _ in range(2))
    assert first.is_signature_valid
    assert first.subject.rfc4514_string() == "CN=Hortus workloads 2,O=Hortus"
    assert first.public_key() == again.public_key()


@pytest.mark.parametrize("name", ["services", "people-0", "../people", "root", ""])
def test_the_ceremony_makes_keys_for_issuers_only(
    token: SoftToken, token_pki: Pki, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["ceremony", name])
    assert ceremony_in_ca.main() == 2
    assert capsys.readouterr().out == ""


def test_a_key_on_another_curve_is_not_taken(token: SoftToken) -> None:
    key, name, now = ec.generate_private_key(ec.SECP384R1()), x509.Name([]), datetime.now(UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(5)
    certificate = made.not_valid_before(now).not_valid_after(now + timedelta(days=1)).sign(key, hashes.SHA256())
    with pytest.raises(IssuerUnusable, match="P-256"):
        Token(MODULE, LABEL, token.pin_file, "hortus-").key("people", certificate)
