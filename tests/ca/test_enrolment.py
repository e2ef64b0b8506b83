"""Running services have their certificates renewed at ca's own door: over real mutual TLS, by the process's own code, judged by openssl."""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from chassis import pairs, renewal, tls
from chassis.app import OperatorsOnly, direct_paths, https_server
from chassis.csr import read_csr
from chassis.guard import IDENTITY_HEADER, write_identity
from chassis.outbox import UnitOfWork
from compose.local import ceremony
from compose.local.home import Home
from compose.local.pki import Pki
from contracts.policy import API, Service
from contracts.roles import NOBODY, Actor, Principal
from services.ca import service
from services.ca.domain import enrolment
from tests.ca.conftest import csr, openssl, private_key
from tests.serving import ended
from tests.world import OURS, World, Worlds, agent, job, owner, person, reason

DOMAIN = "hortus.internal"
DOOR = f"{API}/service-certificates"
CA = tls.service_identity(DOMAIN, "ca")
LIFE = timedelta(hours=6)


@pytest.fixture
async def world(worlds: Worlds, settings: dict[str, Any], pki: Pki) -> World:
    return await worlds.open("ca", **settings, services_issuer_dir=pki.services_issuer_folder, service_life_s=round(LIFE.total_seconds()))


class House:
    """ca behind its real listener, and folders of services with certificates as the set-up makes them."""

    def __init__(self, pki: Pki, folder: Path, world: World) -> None:
        self.pki = pki
        self.folder = folder
        self.world = world
        self.address = ""

    def certified(
        self, name: str, issuer: Pki | None = None, lifetime: timedelta = timedelta(minutes=5), dns: Any = ("localhost",)
    ) -> Path:
        folder = self.folder / name
        (issuer or self.pki).issue_service_certificate(name, folder, lifetime=lifetime, dns=dns)
        return folder

    def client(self, folder: Path) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(base_url=self.address, verify=tls.client_context(folder), timeout=10)

    async def renews(self, folder: Path) -> x509.Certificate:
        await asyncio.to_thread(renewal.renew, folder, self.address, CA)
        return pairs.leaf(folder)


@contextlib.asynccontextmanager
async def opened(world: World, folder: Path) -> AsyncIterator[str]:
    """A listener of ca with the certificate in ``folder``; its address."""
    accepted = {tls.service_identity(DOMAIN, name) for name in (*Service, "gateway", "runner")}
    listening = world.runtime.settings.model_copy(update={"tls_dir": folder, "listen": "127.0.0.1:0"})
    server = https_server(OperatorsOnly(world.app, DOMAIN, direct_paths(Service.CA)), listening, tls.protocol(accepted))
    task = asyncio.create_task(server.serve())
    try:
        while not server.started:
            await asyncio.sleep(0.01)
        yield f"https://localhost:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        await ended(server, task)


@pytest.fixture
async def house(world: World, pki: Pki, tmp_path: Path) -> AsyncIterator[House]:
    made = House(pki, tmp_path, world)
    async with opened(world, made.certified("ca")) as address:
        made.address = address
        yield made


@pytest.mark.parametrize("name", [*Service, "gateway"])
async def test_every_service_and_the_gateway_gets_a_new_certificate_with_a_new_key(house: House, name: str) -> None:
    folder = house.certified(name)
    before, old_key = pairs.leaf(folder), (folder / tls.KEY).read_bytes()
    after = await house.renews(folder)
    assert after.serial_number != before.serial_number
    assert (folder / tls.KEY).read_bytes() != old_key
    assert pairs.fits((folder / tls.KEY).read_bytes(), (folder / tls.CERTIFICATE).read_bytes())
    assert timedelta(0) < after.not_valid_after_utc - (await house.world.now() + LIFE - timedelta(seconds=30)) < timedelta(minutes=1)
    tls.server_context(folder)
    tls.client_context(folder)


async def test_openssl_and_the_set_up_agree_on_what_stands_in_it(house: House) -> None:
    folder = house.certified("gateway", dns=("localhost", "hortus.hospital.example"))
    before, after = pairs.leaf(folder), await house.renews(folder)
    assert after.subject == before.subject
    assert after.issuer == before.issuer
    by_key = {x509.SubjectKeyIdentifier.oid}
    assert {(each.oid, each.critical, each.value) for each in after.extensions if each.oid not in by_key} == {
        (each.oid, each.critical, each.value) for each in before.extensions if each.oid not in by_key
    }
    chain, anchor = str(folder / tls.CERTIFICATE), str(folder / tls.TRUST)
    for purpose in ("sslclient", "sslserver"):
        openssl(
            "verify",
            "-x509_strict",
            "-partial_chain",
            "-purpose",
            purpose,
            "-verify_hostname",
            "hortus.hospital.example",
            "-CAfile",
            anchor,
            chain,
        )
    openssl("verify", "-x509_strict", "-CAfile", str(house.pki.root), "-untrusted", chain, chain)


async def test_a_renewed_certificate_can_be_renewed_again_and_an_old_one_too_as_long_as_it_counts(house: House) -> None:
    folder, copy = house.certified("auth"), house.folder / "copy"
    pairs.write(copy, (folder / tls.KEY).read_bytes(), (folder / tls.CERTIFICATE).read_bytes())
    (copy / tls.TRUST).write_bytes((folder / tls.TRUST).read_bytes())
    serials = {(await house.renews(place)).serial_number for place in (folder, folder, copy)}
    assert len(serials) == 3


def warned(world: World) -> list[str]:
    return [warning for check in world.runtime.warnings for warning in check()]


async def test_somebody_is_told_while_two_living_certificates_follow_the_same_one(
    worlds: Worlds, settings: dict[str, Any], pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.enrolment, "COMPARE_S", 0.05)
    world = await worlds.open("ca", **settings, services_issuer_dir=pki.services_issuer_folder)
    house = House(pki, tmp_path, world)
    async with opened(world, house.certified("ca")) as house.address:
        own, stolen, other = house.certified("auth"), tmp_path / "stolen", house.certified("jobs")
        pairs.write(stolen, (own / tls.KEY).read_bytes(), (own / tls.CERTIFICATE).read_bytes())
        (stolen / tls.TRUST).write_bytes((own / tls.TRUST).read_bytes())
        serial = pairs.leaf(own).serial_number
        for folder in (own, own, other):
            await house.renews(folder)
        await asyncio.sleep(0.3)
        assert warned(world) == []
        await house.renews(stolen)
        async with asyncio.timeout(20):
            while not warned(world):
                await asyncio.sleep(0.02)
        assert warned(world) == [f"two living certificates of auth follow {serial:032x}: an answer was lost, or its key is in other hands"]
        await world.sql(
            "UPDATE service_certificates SET not_after = now() WHERE certificate_id = :own", own=f"{pairs.leaf(stolen).serial_number:032x}"
        )
        async with asyncio.timeout(20):
            while warned(world):
                await asyncio.sleep(0.02)


async def test_a_certificate_is_announced_stored_and_audited_and_its_key_is_nowhere(house: House) -> None:
    folder = house.certified("jobs")
    before, after = pairs.leaf(folder), await house.renews(folder)
    rows = await house.world.sql("SELECT * FROM service_certificates")
    assert [(row.service, row.state, row.certificate_id, row.follows) for row in rows] == [
        ("jobs", "live", f"{after.serial_number:032x}", f"{before.serial_number:032x}")
    ]
    assert rows[0].chain.encode() == (folder / tls.CERTIFICATE).read_bytes()
    intend, create = await house.world.recorded()
    assert (intend["action"], create["action"]) == ("certificate.intend", "service_certificate.create")
    assert intend["actor"] == create["actor"] == {"principal": "service", "service": "jobs"}
    assert create["resource"] == {"issued": rows[0].certificate_id, "service": "jobs", "follows": rows[0].follows}
    assert await house.world.said() == []
    secret: Any = load_pem_private_key((folder / tls.KEY).read_bytes(), None)
    assert f"{secret.private_numbers().private_value:x}" not in json.dumps([*map(str, rows), intend, create])


async def test_names_in_a_request_are_ignored(house: House) -> None:
    async with house.client(house.certified("search")) as client:
        answer = await client.post(DOOR, json={"csr": csr(name="gateway")})
    assert answer.status_code == 201
    leaf = x509.load_pem_x509_certificate(answer.json()["chain"].encode())
    assert tls.spiffe_of(leaf.public_bytes(Encoding.DER)) == tls.service_identity(DOMAIN, "search")
    assert "CN=search" in leaf.subject.rfc4514_string()


async def test_whoever_comes_speaks_for_itself_whatever_its_headers_say(house: House) -> None:
    for said in (Actor(principal=Principal.SERVICE, service="gateway"), owner(OURS), NOBODY):
        async with house.client(house.certified("audit")) as client:
            answer = await client.post(DOOR, json={"csr": csr()}, headers={IDENTITY_HEADER: write_identity(said)})
        assert (answer.status_code, answer.json()["service"]) == (201, "audit")


async def test_what_is_no_request_by_its_own_key_gets_nothing(house: House) -> None:
    async with house.client(house.certified("auth")) as client:
        for wrong in ("x", private_key() + csr(), csr().replace("M", "N", 1), "x" * 9000):
            answer = await client.post(DOOR, json={"csr": wrong})
            assert answer.status_code == 422
        assert (await client.post(DOOR, json={"csr": csr(), "service": "gateway"})).status_code == 422
    assert await house.world.sql("SELECT * FROM service_certificates") == []


async def refused(house: House, context: ssl.SSLContext) -> None:
    async with httpx2.AsyncClient(base_url=house.address, verify=context, timeout=10) as client:
        with pytest.raises(httpx2.TransportError):
            await client.post(DOOR, json={"csr": csr()})


async def test_whoever_shows_no_living_certificate_of_a_service_gets_no_answer(house: House, tmp_path: Path) -> None:
    strangers = Pki.create(tmp_path / "another-suite")
    good = tls.client_context(house.certified("datasets"))
    nothing = ssl.create_default_context(cafile=str(house.pki.root))
    await refused(house, nothing)
    for folder in (
        house.certified("projects", lifetime=timedelta(seconds=-1)),
        house.certified("broker"),
        house.certified("index"),
        house.certified("admin"),
        house.certified("somebody"),
    ):
        await refused(house, tls.client_context(folder))
    foreign = house.certified("auth", strangers)
    good.load_cert_chain(foreign / tls.CERTIFICATE, foreign / tls.KEY)
    await refused(house, good)
    assert await house.world.sql("SELECT * FROM service_certificates") == []


async def test_the_runner_and_other_doors_are_as_they_were(house: House) -> None:
    async with house.client(house.certified("runner")) as runner:
        assert (await runner.post(DOOR, json={"csr": csr()})).status_code == 404
    async with house.client(house.certified("datasets")) as sibling:
        for path in (f"{API}/crls/people", "/metrics", f"{DOOR}/", f"{API}/projects/{OURS}/certificates"):
            answer = await sibling.get(path, headers={IDENTITY_HEADER: write_identity(owner(OURS))})
            assert answer.status_code == 404, path
    async with house.client(house.certified("gateway")) as gateway:
        assert (await gateway.get(f"{API}/crls/people")).status_code == 200


async def test_people_agents_and_jobs_may_not_even_if_they_came_this_far(house: House) -> None:
    for actor in (NOBODY, person(), agent(), job(OURS)):
        answer = await house.world.post("/service-certificates", actor, json={"csr": csr()})
        assert answer.status_code in (401, 403), actor
    claims = Actor(principal=Principal.SERVICE, service="auth")
    answer = await house.world.post("/service-certificates", claims, json={"csr": csr()})
    assert (answer.status_code, reason(answer)) == (401, "nothing-to-follow")


async def test_a_certificate_that_ended_on_an_open_connection_renews_nothing(house: House) -> None:
    leaf = pairs.leaf(house.certified("auth", lifetime=timedelta(hours=1)))
    ends = leaf.not_valid_after_utc
    assert enrolment.read_shown(leaf, "auth", ends - timedelta(seconds=1)).service == "auth"
    for now in (ends, ends + timedelta(days=7), ends - timedelta(hours=2)):
        with pytest.raises(enrolment.NothingToFollow):
            enrolment.read_shown(leaf, "auth", now)


async def test_no_certificate_outlives_its_issuer(pki: Pki) -> None:
    issuer = x509.load_pem_x509_certificate(pki.services_anchor.read_bytes())
    shown = enrolment.Shown("auth", "1", "", x509.SubjectAlternativeName([x509.DNSName("localhost")]))
    now = issuer.not_valid_after_utc - timedelta(hours=1)
    assert enrolment.intend(shown, read_csr(csr()), 1 << 127, now, LIFE, issuer).not_after == issuer.not_valid_after_utc


async def test_the_key_that_signed_the_one_before_signs_the_next_one(
    worlds: Worlds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Services trust the keys of their issuer that were there when they started; a new one signs for those that start after it came."""
    monkeypatch.setenv(ceremony.PASSPHRASE, "correct horse")
    home = Home(tmp_path / "home")
    old = Pki.create(home)
    ceremony.renew(home, ceremony.Root(home, b"correct horse"), ["services"])
    new = Pki.create(home)
    world = await worlds.open("ca", issuers_dir=old.issuers_folder, services_issuer_dir=old.services_issuer_folder)
    made = House(new, tmp_path, world)
    before, after = made.certified("auth", old), made.certified("jobs", new)
    assert pairs.leaf(before).issuer != pairs.leaf(after).issuer
    async with opened(world, made.certified("ca", old)) as address:
        made.address = address
        for folder in (before, after):
            issuer = pairs.leaf(folder).issuer
            assert (await made.renews(folder)).issuer == issuer
    (home.secrets / "pki" / "services.pem").unlink()
    left = await worlds.open("ca", beside=world, issuers_dir=old.issuers_folder, services_issuer_dir=old.services_issuer_folder)
    made = House(new, tmp_path, left)
    async with opened(left, tmp_path / "ca") as address:
        made.address = address
        with pytest.raises(renewal.NotRenewed, match="503"):
            await made.renews(before)
        await made.renews(after)


async def test_after_a_new_root_a_renewed_certificate_is_trusted_by_those_who_know_only_the_old_one(
    worlds: Worlds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ceremony.PASSPHRASE, "first")
    own = Pki.create(Home(tmp_path / "home"))
    old = tmp_path / "old-root.pem"
    old.write_bytes(own.root.read_bytes())
    ceremony.renew_root(own.home, ceremony.Root(own.home, b"first"), b"second")
    world = await worlds.open("ca", issuers_dir=own.issuers_folder, services_issuer_dir=own.services_issuer_folder)
    house = House(Pki(own.home, DOMAIN), tmp_path, world)
    async with opened(world, house.certified("ca")) as house.address:
        folder = house.certified("gateway")
        await house.renews(folder)
    chain = str(folder / tls.CERTIFICATE)
    for trust in (old, own.root):
        openssl("verify", "-x509_strict", "-CAfile", str(trust), "-untrusted", chain, chain)


async def test_one_that_was_signed_and_not_stored_is_not_handed_out(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = house.certified("auth")
    before = pairs.leaf(folder)

    async def breaks(_uow: UnitOfWork) -> None:
        raise OSError("the machine stops here")

    monkeypatch.setattr(UnitOfWork, "commit", breaks)
    async with house.client(folder) as client:
        assert (await client.post(DOOR, json={"csr": csr()})).status_code == 500
    monkeypatch.undo()
    assert pairs.leaf(folder) == before
    assert await house.world.sql("SELECT * FROM service_certificates WHERE state = 'live'") == []
    assert (await house.renews(folder)).serial_number != before.serial_number


async def test_a_ca_without_the_issuer_of_services_says_that_it_cannot(
    worlds: Worlds, settings: dict[str, Any], pki: Pki, tmp_path: Path
) -> None:
    made = House(pki, tmp_path, await worlds.open("ca", **settings))
    async with opened(made.world, made.certified("ca")) as address:
        made.address = address
        with pytest.raises(renewal.NotRenewed, match="503"):
            await made.renews(made.certified("auth"))


async def test_a_service_takes_no_certificate_from_anybody_but_ca(house: House, world: World) -> None:
    folder = house.certified("auth")
    before = (folder / tls.CERTIFICATE).read_bytes()
    async with opened(world, house.certified("datasets")) as address:
        with pytest.raises(renewal.NotRenewed, match="not ca"):
            await asyncio.to_thread(renewal.renew, folder, address, CA)
    assert (folder / tls.CERTIFICATE).read_bytes() == before


@pytest.mark.parametrize("lie", ["another's name", "another's key", "another issuer", "an end in the past"])
async def test_a_service_looks_at_what_it_is_given(house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lie: str) -> None:
    folder = house.certified("auth")
    before = (folder / tls.CERTIFICATE).read_bytes(), (folder / tls.KEY).read_bytes()
    false = {
        "another's name": lambda: house.certified("jobs"),
        "another's key": lambda: house.certified("auth-elsewhere"),
        "another issuer": lambda: house.certified("auth-by-others", Pki.create(tmp_path / "others")),
        "an end in the past": lambda: house.certified("auth-late", lifetime=timedelta(seconds=-1)),
    }[lie]()
    chain = (false / tls.CERTIFICATE).read_bytes()
    monkeypatch.setattr(renewal, "_ask", lambda *_: chain)
    if lie != "another's name":
        monkeypatch.setattr(renewal, "_names", lambda _: [])
    with pytest.raises(renewal.UNRENEWED):
        await house.renews(folder)
    assert ((folder / tls.CERTIFICATE).read_bytes(), (folder / tls.KEY).read_bytes()) == before
