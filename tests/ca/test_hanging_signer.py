"""An issuer's key that neither signs nor fails: whoever asks is told soon, and rights end meanwhile."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature

from compose.local.pki import Pki
from services.ca import status_forms
from services.ca.app import settle_waiting
from services.ca.service import office, status
from services.ca.signer import opening
from services.ca.signer.files import KeyFiles
from services.ca.signer.token import HALF, TokenKey
from tests.ca.conftest import ADA, BOB, appears, csr, issued, membership, revoked, run, study
from tests.world import OURS, World, Worlds, owner, reason, scientist

OWNER, SCIENTIST = owner(OURS, ADA), scientist(OURS, BOB)


class Slow:
    """Stands where the token is: signs with the set-up's keys, and with none of them while it hangs."""

    slow = True

    def __init__(self, folder: Path) -> None:
        self._files = KeyFiles(folder)
        self._keys: dict[str, ec.EllipticCurvePrivateKey] = {}
        self.goes = threading.Event()
        self.goes.set()

    def key(self, name: str, certificate: x509.Certificate) -> TokenKey:
        self._keys[name] = self._files.key(name, certificate)
        return TokenKey(self, name, self._keys[name].public_key())  # type: ignore[arg-type]

    def signature(self, name: str, digest: bytes) -> bytes:
        self.goes.wait()
        halves = decode_dss_signature(self._keys[name].sign(digest, ec.ECDSA(Prehashed(hashes.SHA256()))))
        return b"".join(half.to_bytes(HALF, "big") for half in halves)


@pytest.fixture
def slow(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    made = Slow(pki.issuers_folder)
    monkeypatch.setattr(opening, "keys", lambda _settings: made)
    monkeypatch.setattr(office, "SIGN_S", 0.2)
    yield made
    made.goes.set()


@pytest.fixture
async def world(worlds: Worlds, slow: Slow, pki: Pki, tmp_path: Path) -> World:
    for file in pki.issuers_folder.glob("*.pem"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    made = await worlds.open("ca", issuers_dir=tmp_path)
    await made.hear(*study())
    return made


async def test_whoever_asks_while_a_key_hangs_is_told_so_and_rights_end_meanwhile(world: World, slow: Slow) -> None:
    held = await issued(world, SCIENTIST)
    await world.said()
    slow.goes.clear()
    answer = await world.post(f"/projects/{OURS}/certificates", OWNER, json={"csr": csr()})
    assert (answer.status_code, reason(answer)) == (503, "signer-away")
    await world.hear(run(request=csr()))
    assert await world.said() == []
    await world.hear(membership(BOB, version=2, role=None))
    assert [(fact.key, fact.live) for fact in await world.said()] == [(f"{held.serial_number:032x}", False)]  # type: ignore[attr-defined]
    assert world.runtime.missing() == ["issuers: a key does not answer"]


async def test_when_it_goes_on_everybody_is_served(world: World, slow: Slow) -> None:
    slow.goes.clear()
    await world.hear(run(request=csr()))
    slow.goes.set()
    async with world.running(settle_waiting):
        await appears(world, "SELECT 1 FROM certificates WHERE kind = 'job' AND state = 'live'")
    await issued(world, OWNER)


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Each try to make a list of revoked certificates."""
    made, make = [], status_forms.revocation_list

    def noted(*about: Any) -> Any:
        made.append(about)
        return make(*about)

    monkeypatch.setattr(status_forms, "revocation_list", noted)
    return made


async def signs_again(world: World, slow: Slow) -> None:
    slow.goes.set()
    async with asyncio.timeout(30):
        while world.runtime.missing():
            await asyncio.sleep(0.02)


async def test_those_who_ask_for_a_list_that_a_key_does_not_sign_keep_nobody_from_losing_a_right(
    world: World, slow: Slow, tries: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "LIST_S", 60.0)
    held = await issued(world, SCIENTIST)
    await revoked(world, SCIENTIST, await issued(world, SCIENTIST))
    await world.said()
    slow.goes.clear()
    asking = [asyncio.create_task(world.get("/crls/people")) for _ in range(2 * world.runtime.settings.connections)]
    async with asyncio.timeout(30):
        while not tries:
            await asyncio.sleep(0.01)
    await world.hear(membership(BOB, version=2, role=None))
    assert [(fact.key, fact.live) for fact in await world.said()] == [(f"{held.serial_number:032x}", False)]  # type: ignore[attr-defined]
    assert not any(each.done() for each in asking)
    await signs_again(world, slow)
    await asyncio.gather(*asking)
    crl = x509.load_der_x509_crl((await world.get("/crls/people")).content)
    assert crl.get_revoked_certificate_by_serial_number(held.serial_number) is not None


async def test_a_list_that_a_key_did_not_sign_is_not_tried_again_by_those_who_waited_for_it(
    world: World, slow: Slow, tries: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "LIST_S", 0.3)
    slow.goes.clear()
    answers = await asyncio.gather(*[world.get("/crls/people") for _ in range(12)])
    assert {(answer.status_code, reason(answer)) for answer in answers} == {(503, "signer-away")}
    assert len(tries) == 1
    await signs_again(world, slow)
    assert (await world.get("/crls/people")).headers["ETag"] == '"1"'
