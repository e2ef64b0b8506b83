"""Keys that sign slowly, and one that hangs beside healthy ones: everybody is served, only later, and nobody by a key of another holder is kept waiting."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from compose.local import ceremony
from compose.local.home import Home
from compose.local.pki import Pki
from tests.ca.conftest import ADA, BOB, about, csr, issued, membership, run, study, until
from tests.ca.slow import Slow
from tests.world import OURS, World, Worlds, owner, reason, scientist

OWNER, SCIENTIST = owner(OURS, ADA), scientist(OURS, BOB)
SUCCESSFUL, TRY_LATER = ocsp.OCSPResponseStatus.SUCCESSFUL, ocsp.OCSPResponseStatus.TRY_LATER


@pytest.fixture(scope="module")
def renewed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two keys of people."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HORTUS_ROOT_PASSPHRASE", "correct horse")
        made = Pki.create(Home(tmp_path_factory.mktemp("renewed")))
        ceremony.renew(made.home, ceremony.Root(made.home, b"correct horse"), ["people"])
    return made.issuers_folder


@pytest.fixture
def slow(renewed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    made = Slow(renewed, monkeypatch)
    yield made
    made.goes.set()


async def opened(worlds: Worlds, renewed: Path, folder: Path, *in_files: str) -> World:
    """A world whose keys with these names lie in files, and the others where the slow ones are."""
    for file in renewed.iterdir():
        if file.suffix != ".key" or file.stem in in_files:
            (folder / file.name).write_bytes(file.read_bytes())
    world = await worlds.open("ca", issuers_dir=folder, issuer_rest_s=0)
    await world.hear(*study())
    return world


async def ask(world: World, number: int = 0) -> tuple[int, str]:
    answer = await world.post(f"/projects/{OURS}/certificates", (OWNER, SCIENTIST)[number % 2], json={"csr": csr()})
    return answer.status_code, reason(answer) if answer.status_code >= 400 else ""


async def ask_ocsp(world: World, issuer: str, leaf: x509.Certificate | int = 5) -> ocsp.OCSPResponseStatus | int:
    certificate = x509.load_pem_x509_certificate((world.runtime.settings.issuers_dir / f"{issuer}.pem").read_bytes())
    answer = await world.post("/ocsp", content=about(leaf, certificate).public_bytes(Encoding.DER))
    return ocsp.load_der_ocsp_response(answer.content).response_status if answer.status_code == 200 else answer.status_code


async def hangs(world: World, slow: Slow, issuer: str) -> None:
    """Let the slow keys hang, and somebody find that out."""
    slow.hang()
    assert await ask_ocsp(world, issuer) == 503


async def test_many_who_ask_a_slow_key_all_get_their_certificates(worlds: Worlds, slow: Slow, renewed: Path, tmp_path: Path) -> None:
    world = await opened(worlds, renewed, tmp_path)
    slow.each_s = 0.02
    answers = await asyncio.gather(*(ask(world, number) for number in range(64)))
    assert Counter(answers) == {(201, ""): 64}
    assert world.runtime.missing() == []


async def test_strangers_who_ask_for_answers_keep_nobody_from_a_certificate(
    worlds: Worlds, slow: Slow, renewed: Path, tmp_path: Path
) -> None:
    world = await opened(worlds, renewed, tmp_path)
    slow.each_s = 0.02
    assert await ask(world) == (201, "")
    slow.goes.clear()
    strangers = [asyncio.create_task(ask_ocsp(world, "people-2")) for _ in range(100)]
    await asyncio.wait(strangers, return_when=asyncio.FIRST_COMPLETED)
    slow.goes.set()
    assert await ask(world) == (201, "")
    assert world.runtime.missing() == []
    told = Counter(await asyncio.gather(*strangers))
    assert set(told) == {SUCCESSFUL, TRY_LATER}


@pytest.mark.parametrize("meanwhile", ["a right is lost", "nothing is heard any more"])
async def test_what_was_good_when_it_was_asked_is_not_said_to_be_after_the_wait_for_a_signature(
    worlds: Worlds, slow: Slow, renewed: Path, tmp_path: Path, meanwhile: str
) -> None:
    world = await opened(worlds, renewed, tmp_path)
    leaf = await issued(world, SCIENTIST)
    assert await ask_ocsp(world, "people-2", leaf) is SUCCESSFUL
    slow.goes.clear()
    begun = slow.begun
    asking = asyncio.create_task(ask_ocsp(world, "people-2", leaf))
    await until(lambda: slow.begun > begun)
    if meanwhile == "a right is lost":
        await world.hear(membership(BOB, version=2, role=None))
    else:
        await world.hears_until((await world.now() - timedelta(seconds=1)).isoformat())
    slow.goes.set()
    assert await asking is TRY_LATER


async def test_an_old_key_that_hangs_keeps_nobody_from_a_certificate(worlds: Worlds, slow: Slow, renewed: Path, tmp_path: Path) -> None:
    world = await opened(worlds, renewed, tmp_path, "people-2", "workloads")
    slow.hang()
    begun = slow.begun
    for _ in range(6):
        assert (await world.get("/crls/people")).status_code == 503
        assert await ask(world) == (201, "")
    assert slow.begun - begun <= 1  # none, where the look after the keys was there first
    assert world.runtime.missing() == []


async def test_keys_in_files_answer_while_the_token_hangs(worlds: Worlds, slow: Slow, renewed: Path, tmp_path: Path) -> None:
    world = await opened(worlds, renewed, tmp_path, "people")
    await hangs(world, slow, "people-2")
    assert world.runtime.missing() == ["issuers: a key does not answer"]
    assert await ask_ocsp(world, "people") is SUCCESSFUL
    assert (await world.get("/crls/people")).status_code == 200
    assert (await world.get("/crls/people-2")).status_code == 503


async def test_who_needs_a_healthy_key_gets_a_certificate_while_the_other_issuers_hangs(
    worlds: Worlds, slow: Slow, renewed: Path, tmp_path: Path
) -> None:
    world = await opened(worlds, renewed, tmp_path, "people", "people-2")
    await hangs(world, slow, "workloads")
    await issued(world, OWNER)
    await world.hear(run(request=csr()))
    assert await world.sql("SELECT 1 FROM certificates WHERE kind = 'job'") == []
