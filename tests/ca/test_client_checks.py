"""What the client believes of a certificate's status, told by ca's own doors; and everything that it does not believe."""

import asyncio
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from compose.local import ceremony
from compose.local.ceremony import Root
from compose.local.home import Home
from compose.local.pki import Pki
from contracts.policy import API
from hortus.client import Altered, HortusError, Unreachable, status
from services.ca import service, status_forms
from tests.ca.conftest import ADA, BOB, csr, issued, new_key, revoked, study
from tests.world import OURS, World, Worlds, owner, scientist

OWNER, SCIENTIST = owner(OURS, ADA), scientist(OURS, BOB)


@pytest.fixture
async def world(worlds: Worlds, settings: dict[str, Any]) -> World:
    made = await worlds.open("ca", **settings, origins=["https://hortus.hospital.example"])
    await made.hear(*study())
    return made


@pytest.fixture
def people(pki: Pki) -> x509.Certificate:
    return x509.load_pem_x509_certificate((pki.issuers_folder / "people.pem").read_bytes())


async def by_ocsp(world: World, leaf: x509.Certificate, issuer: x509.Certificate) -> status.Told:
    where = status.places(leaf).ocsp.removeprefix(f"https://hortus.hospital.example{API}")
    request, nonce = status.question(leaf, issuer)
    answer = await world.post(where, content=request, headers={"Content-Type": status.OCSP_REQUEST})
    assert answer.status_code == 200
    return status.answered(answer.content, leaf, issuer, nonce)


async def by_list(world: World, leaf: x509.Certificate, issuer: x509.Certificate) -> status.Told:
    answer = await world.get(status.places(leaf).crl.removeprefix(f"https://hortus.hospital.example{API}"))
    assert answer.status_code == 200
    return status.listed(answer.content, leaf, issuer)


async def test_a_certificate_is_good_until_it_is_revoked_by_both(world: World, people: x509.Certificate) -> None:
    leaf = await issued(world, SCIENTIST)
    for ask in (by_ocsp, by_list):
        told = await ask(world, leaf, people)
        assert (told.status, told.revoked_at, told.reason) == ("good", None, None)
    await revoked(world, OWNER, leaf)
    for ask in (by_ocsp, by_list):
        told = await ask(world, leaf, people)
        assert told.status == "revoked"
        assert told.revoked_at is not None
    assert (await by_ocsp(world, await issued(world, SCIENTIST), people)).status == "good"


async def test_one_that_was_never_issued_is_unknown(world: World, people: x509.Certificate) -> None:
    leaf = await issued(world, SCIENTIST)
    await world.sql("DELETE FROM certificates")
    assert (await by_ocsp(world, leaf, people)).status == "unknown"


def answer_to(request: bytes, now: Any, life: timedelta = timedelta(seconds=60)) -> bytes:
    asked = service.status.asked(request)
    signer = service.status.signer_of("people")
    return signer.sign_answer(status_forms.answer(asked, signer.certificate, None, now, now + life, known=True)).public_bytes(Encoding.DER)


async def test_an_answer_that_is_old_from_the_future_or_to_another_question_is_not_believed(world: World, people: x509.Certificate) -> None:
    leaf, other = await issued(world, SCIENTIST), await issued(world, SCIENTIST)
    now = await world.now()
    request, nonce = status.question(leaf, people)
    good = answer_to(request, now)
    assert status.answered(good, leaf, people, nonce, now).status == "good"
    for der, about, seen, at, why in (
        (good, leaf, nonce, now + timedelta(seconds=61), "out of date"),
        (good, leaf, nonce, now - timedelta(seconds=120), "future"),
        (good, leaf, b"x" * 16, now, "another question"),
        (good, other, nonce, now, "another certificate"),
        (answer_to(status.question(other, people)[0], now), leaf, nonce, now, "another certificate"),
        (good[:-1], leaf, nonce, now, "cannot be read"),
        (b"", leaf, nonce, now, "cannot be read"),
        (
            ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.UNAUTHORIZED).public_bytes(Encoding.DER),
            leaf,
            nonce,
            now,
            "no answer",
        ),
    ):
        with pytest.raises(Altered, match=why):
            status.answered(der, about, people, seen, at)


async def test_while_ca_cannot_know_who_lost_a_right_nothing_is_believed(world: World, people: x509.Certificate) -> None:
    leaf = await issued(world, SCIENTIST)
    await world.hears_until("-infinity")
    with pytest.raises(Unreachable, match="ask again"):
        await by_ocsp(world, leaf, people)


async def test_what_another_issuer_signed_is_not_believed(world: World, people: x509.Certificate) -> None:
    leaf, signer = await issued(world, SCIENTIST), service.status.signer_of("workloads")
    now = await world.now()
    request, nonce = status.question(leaf, people)
    forged = signer.sign_answer(
        status_forms.answer(service.status.asked(request), signer.certificate, None, now, now + timedelta(seconds=60), known=True)
    )
    with pytest.raises(Altered, match="not signed"):
        status.answered(forged.public_bytes(Encoding.DER), leaf, people, nonce, now)
    theirs = (await world.get("/crls/workloads")).content
    with pytest.raises(Altered, match="another issuer's"):
        status.listed(theirs, leaf, people)
    renamed = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(people.subject)
        .last_update(now)
        .next_update(now + timedelta(hours=1))
        .sign(new_key(), hashes.SHA256())
    )
    with pytest.raises(Altered, match="not signed"):
        status.listed(renamed.public_bytes(Encoding.DER), leaf, people)
    own = (await world.get("/crls/people")).content
    with pytest.raises(Altered, match="out of date"):
        status.listed(own, leaf, people, now + timedelta(hours=2))
    with pytest.raises(Altered, match="cannot be read"):
        status.listed(own[:-1], leaf, people)


async def test_a_certificate_without_addresses_says_so(worlds: Worlds, settings: dict[str, Any]) -> None:
    world = await worlds.open("ca", **settings, origins=[])
    await world.hear(*study())
    with pytest.raises(HortusError, match="does not say where"):
        status.places(await issued(world, SCIENTIST))


@pytest.fixture
def renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Pki, Path]:
    """Authorities whose root was renewed, and the root from before."""
    monkeypatch.setenv(ceremony.PASSPHRASE, "first")
    own = Pki.create(Home(tmp_path / "home"))
    old = tmp_path / "old-root.pem"
    old.write_bytes(own.root.read_bytes())
    ceremony.renew_root(own.home, Root(own.home, b"first"), b"second")
    return own, old


async def chain_for(world: World) -> list[x509.Certificate]:
    answer = await world.post(f"/projects/{OURS}/certificates", SCIENTIST, json={"csr": csr()})
    return x509.load_pem_x509_certificates(answer.json()["chain"].encode())


async def test_after_a_new_root_a_certificate_is_checked_by_whoever_has_the_old_one_and_by_whoever_has_both(
    worlds: Worlds, renewed: tuple[Pki, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    own, old = renewed
    world = await worlds.open("ca", issuers_dir=own.issuers_folder, issuer_rest_s=0, origins=["https://hortus.hospital.example"])
    await world.hear(*study())
    loop = asyncio.get_running_loop()

    def fetched(address: str, _trust: Path, request: bytes | None = None) -> bytes:
        path = address.removeprefix(f"https://hortus.hospital.example{API}")
        asking = world.get(path) if request is None else world.post(path, content=request, headers={"Content-Type": status.OCSP_REQUEST})
        return asyncio.run_coroutine_threadsafe(asking, loop).result(30).content

    monkeypatch.setattr(status, "_fetched", fetched)
    chain = await chain_for(world)
    for trust in (old, own.root):
        told = await asyncio.to_thread(status.ask, chain, trust)
        assert {by: each.status for by, each in told.items()} == {"OCSP": "good", "CRL": "good"}
    await revoked(world, OWNER, chain[0])
    assert {each.status for each in (await asyncio.to_thread(status.ask, chain, own.root)).values()} == {"revoked"}


async def test_a_chain_that_no_trusted_root_vouches_for_is_not_believed(worlds: Worlds, renewed: tuple[Pki, Path], tmp_path: Path) -> None:
    own, old = renewed
    world = await worlds.open("ca", issuers_dir=own.issuers_folder, issuer_rest_s=0)
    await world.hear(*study())
    leaf, issuer, bridge = await chain_for(world)
    strangers = Pki.create(Home(tmp_path / "strangers"))
    key = new_key()
    forged = (  # by the key of a certificate that is no authority's
        x509.CertificateBuilder(leaf.subject, leaf.subject, key.public_key(), 1, leaf.not_valid_before_utc, leaf.not_valid_after_utc).sign(
            key, hashes.SHA256()
        )
    )
    for chain, trust in (
        ([leaf, issuer], old),
        ([leaf, issuer, x509.load_pem_x509_certificate(strangers.root.read_bytes())], old),
        ([leaf, issuer, bridge], strangers.root),
        ([leaf], own.root),
        ([], own.root),
        ([issuer, bridge], strangers.root),
        ([forged, leaf, issuer, bridge], own.root),
        ([bridge, leaf, issuer], own.root),
    ):
        with pytest.raises(Altered, match="not by an issuer"):
            status.leaf_and_issuer(chain, trust)
    assert status.leaf_and_issuer([leaf, issuer, bridge], old) == (leaf, issuer)
    for nothing in (tmp_path / "nowhere.pem", own.home.secrets / "pki" / "passphrase"):
        with pytest.raises(HortusError, match="no roots"):
            status.leaf_and_issuer([leaf, issuer], nothing)


async def test_the_commands_for_openssl_say_the_same(world: World, pki: Pki, people: x509.Certificate, tmp_path: Path) -> None:
    """Those of curl bring what ca's doors say; here the test does."""
    leaf = await issued(world, SCIENTIST)
    chain = tmp_path / "my certificate.pem"
    chain.write_bytes(leaf.public_bytes(Encoding.PEM) + people.public_bytes(Encoding.PEM))
    split, ask, _, read, _, turn, verify = status.lines(leaf, chain, pki.root)

    async def told() -> tuple[str, str]:
        typed(ask, tmp_path)
        request = (tmp_path / "request.der").read_bytes()
        answer = await world.post("/ocsp", content=request, headers={"Content-Type": status.OCSP_REQUEST})
        (tmp_path / "answer.der").write_bytes(answer.content)
        (tmp_path / "list.der").write_bytes((await world.get("/crls/people")).content)
        typed(turn, tmp_path)
        return typed(read, tmp_path), typed(verify, tmp_path)

    typed(split, tmp_path)
    by_ocsp_command, by_list_command = await told()
    assert "Response verify OK" in by_ocsp_command
    assert f"{chain}: good" in by_ocsp_command
    assert f"{chain}: OK" in by_list_command
    await revoked(world, OWNER, leaf)
    by_ocsp_command, by_list_command = await told()
    assert f"{chain}: revoked" in by_ocsp_command
    assert "certificate revoked" in by_list_command


def typed(line: str, folder: Path) -> str:
    """What a line of a shell prints."""
    done = subprocess.run(["sh", "-c", line], cwd=folder, capture_output=True, text=True, check=False, timeout=30)
    return done.stdout + done.stderr
