"""The lists of revoked certificates; openssl is the outside judge of what they say and of who signed them."""

import asyncio
import threading
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from compose.local.pki import Pki
from contracts.events import ProjectState, RunState, UserStatus
from contracts.roles import NOBODY
from services.ca import domain, service
from services.ca.models import RevocationList
from services.ca.service.office import Office
from services.ca.signer import Signer, SignerAway
from tests.ca.conftest import ADA, AGENT, BOB, agent_fact, csr, issued, membership, openssl, project, revoked, run, said, study, until, user
from tests.world import OURS, World, Worlds, owner, reason, scientist

OWNER = owner(OURS, ADA)
SCIENTIST = scientist(OURS, BOB)
NOW = datetime.fromisoformat("2026-06-01T12:00:00.25Z")
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)


@pytest.fixture
async def world(worlds: Worlds, settings: dict[str, Any]) -> World:
    made = await worlds.open("ca", **settings)
    await made.hear(*study())
    return made


async def read(world: World, issuer: str = "people") -> x509.CertificateRevocationList:
    answer = await world.get(f"/crls/{issuer}")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/pkix-crl"), answer.text
    return x509.load_der_x509_crl(answer.content)


def number(crl: x509.CertificateRevocationList) -> int:
    return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


def serials(crl: x509.CertificateRevocationList) -> set[int]:
    return {entry.serial_number for entry in crl}


async def half_an_hour_later(world: World) -> None:
    """The lists are as old as that; nothing else is."""
    await world.sql(
        "UPDATE revocation_lists SET this_update = this_update - CAST(:ago AS interval), next_update = next_update - CAST(:ago AS interval)",
        ago=HOUR / 2,
    )


def checked(leaf: x509.Certificate, crl: x509.CertificateRevocationList, issuer: Path, folder: Path, *more: str) -> tuple[bool, str]:
    """What openssl says of a certificate when it looks at the list."""
    (folder / "leaf.pem").write_bytes(leaf.public_bytes(Encoding.PEM))
    (folder / "list.pem").write_bytes(crl.public_bytes(Encoding.PEM))
    how = ["-crl_check", "-x509_strict", "-partial_chain", "-CAfile", str(issuer), "-CRLfile", str(folder / "list.pem")]
    return said("verify", *how, *more, str(folder / "leaf.pem"))


@dataclass(frozen=True)
class Replica:
    """One of several processes on a database: with an office of its own, and so with connections, kept lists and turns of its own."""

    world: World
    office: Office

    async def read(self) -> tuple[int, bytes]:
        """The number and content of the list that it hands out; in a task of its own, which the office stays in."""
        HERE.set(self.office)
        answer = await self.world.get("/crls/people")
        assert answer.status_code == 200, answer.text
        return int(answer.headers["ETag"].strip('"')), answer.content


HERE: ContextVar[Office] = ContextVar("office")


@pytest.fixture
async def replicas(worlds: Worlds, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> tuple[Replica, Replica]:
    """Two on one database; a process has one office, so whoever asks here says whose it is."""
    first = await worlds.open("ca", **settings)
    one = Replica(first, service.office.office())
    other = Replica(await worlds.open("ca", beside=first, **settings), service.office.office())
    assert one.office is not other.office
    monkeypatch.setattr(service.status, "office", HERE.get)
    await first.hear(*study())
    return one, other


async def stored(world: World) -> tuple[int, bytes]:
    [[number, der]] = await world.sql("SELECT number, der FROM revocation_lists WHERE number > 0")
    return number, der


async def test_openssl_accepts_a_good_certificate_and_refuses_a_revoked_one(world: World, pki: Pki, tmp_path: Path) -> None:
    people = pki.issuers_folder / "people.pem"
    good, bad = await issued(world, OWNER), await issued(world, SCIENTIST)
    before = await read(world)
    assert checked(good, before, people, tmp_path)[0]
    assert checked(bad, before, people, tmp_path)[0]
    await revoked(world, SCIENTIST, bad)
    after = await read(world)
    assert checked(good, after, people, tmp_path)[0]
    content, words = checked(bad, after, people, tmp_path)
    assert not content
    assert "certificate revoked" in words


async def test_openssl_finds_each_list_signed_by_its_issuer_alone(world: World, pki: Pki, tmp_path: Path) -> None:
    for issuer, other in (("people", "workloads"), ("workloads", "people")):
        file = tmp_path / "list.der"
        file.write_bytes((await world.get(f"/crls/{issuer}")).content)
        about = ["crl", "-inform", "DER", "-in", str(file), "-noout", "-verify", "-CAfile"]
        assert "verify OK" in said(*about, str(pki.issuers_folder / f"{issuer}.pem"))[1]
        assert "verify OK" not in said(*about, str(pki.issuers_folder / f"{other}.pem"))[1]


async def test_a_list_is_numbered_and_names_its_issuers_key_and_its_next_time(world: World, pki: Pki) -> None:
    issuer = x509.load_pem_x509_certificate((pki.issuers_folder / "people.pem").read_bytes())
    crl = await read(world)
    assert number(crl) == 1
    assert crl.issuer == issuer.subject
    assert crl.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
    key = crl.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    assert key == issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert crl.next_update_utc is not None
    assert crl.next_update_utc - crl.last_update_utc == MINUTE + HOUR
    assert MINUTE <= await world.now() - crl.last_update_utc < MINUTE + timedelta(seconds=5)


@pytest.mark.parametrize("behind", [1, 59])
async def test_openssl_believes_a_new_list_also_where_its_clock_is_behind(world: World, pki: Pki, tmp_path: Path, behind: int) -> None:
    good, bad = await issued(world, OWNER), await issued(world, SCIENTIST)
    await revoked(world, SCIENTIST, bad)
    crl = await read(world)
    [[made]] = await world.sql("SELECT this_update FROM revocation_lists WHERE number > 0")
    at = ["-attime", str(int(made.timestamp()) - behind)]
    people = pki.issuers_folder / "people.pem"
    content, words = checked(good, crl, people, tmp_path, *at)
    assert content, words
    content, words = checked(bad, crl, people, tmp_path, *at)
    assert not content
    assert "certificate revoked" in words
    assert "not yet valid" not in words


async def test_a_lists_life_is_a_setting(worlds: Worlds, settings: dict[str, Any]) -> None:
    crl = await read(await worlds.open("ca", **settings, crl_life_s=120))
    assert crl.next_update_utc is not None
    assert crl.next_update_utc - crl.last_update_utc == MINUTE + timedelta(minutes=2)


async def test_a_revocation_is_on_the_list_at_the_next_look(world: World) -> None:
    bad = await issued(world, SCIENTIST)
    before = await read(world)
    assert serials(before) == set()
    await revoked(world, SCIENTIST, bad)
    after = await read(world)
    assert serials(after) == {bad.serial_number}
    assert number(after) == number(before) + 1
    [entry] = after
    assert timedelta(0) <= await world.now() - entry.revocation_date_utc < timedelta(seconds=5)
    assert list(entry.extensions) == []  # who withdraws names no reason


@pytest.mark.parametrize(
    ("fact", "why"),
    [
        (membership(BOB, version=2, username="bob00000", role=None), x509.ReasonFlags.affiliation_changed),
        (user(BOB, version=2, username="bob00000", status=UserStatus.BLOCKED), x509.ReasonFlags.privilege_withdrawn),
        (project(version=2, state=ProjectState.CLOSING), x509.ReasonFlags.cessation_of_operation),
    ],
)
async def test_a_list_says_why_where_it_is_known(world: World, fact: Any, why: x509.ReasonFlags) -> None:
    bad = await issued(world, SCIENTIST)
    await world.hear(fact)
    entry = (await read(world)).get_revoked_certificate_by_serial_number(bad.serial_number)
    assert entry is not None
    assert entry.extensions.get_extension_for_class(x509.CRLReason).value.reason is why


async def test_the_certificates_of_runs_and_agents_are_on_the_list_of_workloads(world: World) -> None:
    await world.hear(run(request=csr()), agent_fact(csr()))
    assert serials(await read(world, "workloads")) == set()
    await world.hear(run(RunState.SUCCEEDED, version=3), agent_fact(None, version=2, live=False))
    ended = await world.sql("SELECT certificate_id FROM certificates WHERE state = 'revoked'")
    crl = await read(world, "workloads")
    assert serials(crl) == {int(row[0], 16) for row in ended}
    assert {entry.extensions.get_extension_for_class(x509.CRLReason).value.reason for entry in crl} == {
        x509.ReasonFlags.cessation_of_operation,
        x509.ReasonFlags.privilege_withdrawn,
    }
    assert len(crl) == 2
    assert serials(await read(world)) == set()


async def test_what_an_agent_had_before_a_renewal_is_listed_as_superseded(world: World) -> None:
    await world.hear(agent_fact(csr()), agent_fact(csr(), version=2))
    async with world.work(NOBODY, "certificate.expire") as uow:
        await service.ending.supersede(uow, timedelta(0))
    [entry] = await read(world, "workloads")
    assert entry.extensions.get_extension_for_class(x509.CRLReason).value.reason is x509.ReasonFlags.superseded


async def test_while_nothing_changes_the_same_bytes_are_answered_and_whoever_has_them_is_told(world: World) -> None:
    first = await world.get("/crls/people")
    again = await world.get("/crls/people")
    assert again.content == first.content
    assert first.headers["ETag"] == again.headers["ETag"] == '"1"'
    assert first.headers["Cache-Control"] == "no-cache"
    known = await world.get("/crls/people", headers={"If-None-Match": '"7", W/"1"'})
    assert (known.status_code, known.content, known.headers["ETag"]) == (304, b"", '"1"')
    await revoked(world, SCIENTIST, await issued(world, SCIENTIST))
    assert (await world.get("/crls/people", headers={"If-None-Match": '"1"'})).status_code == 200


async def test_a_list_that_is_half_over_is_made_anew(world: World) -> None:
    first = await read(world)
    await half_an_hour_later(world)
    second = await read(world)
    assert number(second) == number(first) + 1
    assert number(await read(world)) == number(second)


@pytest.mark.parametrize(("ended", "leaves"), [("2 minutes", True), ("30 seconds", False)])
async def test_a_revoked_certificate_leaves_after_a_list_that_says_to_be_made_past_its_end(world: World, ended: str, leaves: bool) -> None:
    bad = await issued(world, SCIENTIST)
    await revoked(world, SCIENTIST, bad)
    assert serials(await read(world)) == {bad.serial_number}
    await half_an_hour_later(world)
    await world.sql("UPDATE certificates SET not_after = now() - CAST(CAST(:ended AS text) AS interval)", ended=ended)
    assert serials(await read(world)) == {bad.serial_number}
    other = await issued(world, SCIENTIST)
    await revoked(world, SCIENTIST, other)
    assert serials(await read(world)) == ({other.serial_number} if leaves else {bad.serial_number, other.serial_number})


async def test_a_certificate_that_came_to_its_own_end_is_on_no_list(world: World) -> None:
    await issued(world, SCIENTIST)
    assert number(await read(world)) == 1
    await world.sql("UPDATE certificates SET not_after = now() - interval '1 second'")
    async with world.work() as uow:
        await service.ending.expire(uow)
    assert await world.sql("SELECT 1 FROM certificates WHERE state = 'live'") == []
    await half_an_hour_later(world)
    crl = await read(world)
    assert (number(crl), serials(crl)) == (2, set())


async def test_an_intent_is_on_no_list(world: World) -> None:
    await issued(world, SCIENTIST)
    intended = "state = 'intended', version = 0, chain = ''"
    await world.sql(f"UPDATE certificates SET {intended}")
    assert serials(await read(world)) == set()


async def test_a_revocation_that_was_begun_before_a_list_and_ended_after_it_is_on_the_next(world: World) -> None:
    bad, early = await issued(world, SCIENTIST), await issued(world, SCIENTIST)
    async with world.work(SCIENTIST) as uow:
        await service.ending.revoke(uow, OURS, f"{bad.serial_number:032x}")
        await asyncio.sleep(0.01)
        await revoked(world, SCIENTIST, early)
        assert serials(await read(world)) == {early.serial_number}
    assert serials(await read(world)) == {early.serial_number, bad.serial_number}


async def test_two_replicas_that_are_asked_at_once_make_one_list(replicas: tuple[Replica, Replica]) -> None:
    world = replicas[0].world
    for expected in (1, 2, 3):
        handed_out = set(await asyncio.gather(*[each.read() for each in replicas * 6]))
        assert handed_out == {await stored(world)}
        [(made, der)] = handed_out
        assert made == number(x509.load_der_x509_crl(der)) == expected
        await revoked(world, SCIENTIST, await issued(world, SCIENTIST))


async def test_whoever_comes_while_another_replica_makes_a_list_waits_and_hands_out_that_one(replicas: tuple[Replica, Replica]) -> None:
    one, other = replicas
    await asyncio.create_task(one.read())
    await revoked(one.world, SCIENTIST, await issued(one.world, SCIENTIST))
    HERE.set(one.office)
    async with one.world.work() as uow:
        made = await service.status.renew_list(uow, service.status.signer_of("people"))
        asked = asyncio.create_task(other.read())
        await one.world.somebody_waits()
        assert not asked.done()
    assert await asked == await stored(one.world) == made
    assert made[0] == 2


async def test_making_a_list_is_recorded_and_reading_it_is_not(world: World) -> None:
    await read(world)
    [made] = await world.recorded()
    assert (made["action"], made["resource"]) == ("crl.renew", {"issuer": "people", "number": "1"})
    await read(world)
    assert await world.recorded() == []


async def test_only_issuers_have_lists(world: World) -> None:
    for door in ("crls", "issuers"):
        answer = await world.get(f"/{door}/services")
        assert (answer.status_code, reason(answer)) == (404, "not-found")


async def test_a_certificate_names_where_its_issuer_its_status_and_its_list_are(world: World, pki: Pki) -> None:
    text = openssl("x509", "-noout", "-text", given=(await issued(world, SCIENTIST)).public_bytes(Encoding.PEM).decode())
    assert "OCSP - URI:https://localhost:8443/api/v1/ocsp\n" in text
    assert "CA Issuers - URI:https://localhost:8443/api/v1/issuers/people\n" in text
    assert (
        "X509v3 CRL Distribution Points: \n                Full Name:\n                  URI:https://localhost:8443/api/v1/crls/people\n"
        in text
    )
    answer = await world.get("/issuers/people")
    assert answer.headers["content-type"] == "application/pkix-cert"
    issuer = x509.load_pem_x509_certificate((pki.issuers_folder / "people.pem").read_bytes())
    assert answer.content == issuer.public_bytes(Encoding.DER)
    assert (await world.get("/issuers/people", headers={"If-None-Match": answer.headers["ETag"]})).status_code == 304


async def test_a_workloads_certificate_names_the_doors_of_its_own_issuer(worlds: Worlds, settings: dict[str, Any]) -> None:
    world = await worlds.open("ca", **settings, origins=("https://hortus.example", "https://localhost"))
    await world.hear(agent_fact(csr()))
    [row] = await world.sql("SELECT chain FROM certificates WHERE agent_id = :agent", agent=AGENT)
    leaf = x509.load_pem_x509_certificate(row[0].encode())
    places = leaf.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    assert [place.access_location.value for place in places] == [
        "https://hortus.example/api/v1/ocsp",
        "https://hortus.example/api/v1/issuers/workloads",
    ]
    [point] = leaf.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    assert point.full_name == [x509.UniformResourceIdentifier("https://hortus.example/api/v1/crls/workloads")]


async def test_where_no_address_is_known_certificates_name_none(worlds: Worlds, settings: dict[str, Any]) -> None:
    world = await worlds.open("ca", **settings, origins=())
    await world.hear(*study())
    found = {extension.oid for extension in (await issued(world, SCIENTIST)).extensions}
    assert not found & {x509.AuthorityInformationAccess.oid, x509.CRLDistributionPoints.oid}


def kept(entries: int = 0, next_update: datetime = NOW + HOUR) -> RevocationList:
    return RevocationList(issuer_key="a" * 40, number=7, this_update=NOW, next_update=next_update, since=NOW, entries=entries, der=b"x")


def test_a_list_is_current_until_half_its_time_is_over_or_somebody_is_revoked() -> None:
    assert domain.revocation.is_current(kept(), 0, NOW + timedelta(minutes=29))
    assert not domain.revocation.is_current(kept(), 0, NOW + timedelta(minutes=30))
    assert not domain.revocation.is_current(kept(), 1, NOW)
    assert domain.revocation.is_current(kept(entries=3), 3, NOW)
    assert not domain.revocation.is_current(kept(next_update=NOW), 0, NOW)  # as the migration leaves it


def test_a_list_holds_until_its_time_is_over_or_somebody_is_revoked() -> None:
    assert domain.revocation.holds(kept(entries=3), 3, NOW + timedelta(minutes=59))
    assert not domain.revocation.holds(kept(), 0, NOW + HOUR)
    assert not domain.revocation.holds(kept(), 1, NOW)
    assert not domain.revocation.holds(kept(next_update=NOW), 0, NOW)


def test_the_next_list_has_the_next_number_and_begins_where_the_last_one_stood() -> None:
    about = kept()
    domain.revocation.renumber(about, NOW, 4, NOW + HOUR, HOUR)
    whole = NOW.replace(microsecond=0)
    assert (about.number, about.entries, about.since) == (8, 4, NOW)
    assert (about.this_update, about.next_update) == (whole + HOUR, whole + 2 * HOUR)


async def test_no_list_is_handed_out_while_it_cannot_be_known_who_lost_a_right(world: World) -> None:
    await world.hears_until((await world.now() - timedelta(seconds=1)).isoformat())
    answer = await world.get("/crls/people")
    assert (answer.status_code, reason(answer), answer.headers["retry-after"]) == (503, "cannot-decide", "1")
    await world.hears_until("infinity")
    assert number(await read(world)) == 1


async def test_who_waited_in_vain_for_the_next_list_gets_none_that_lacks_what_was_revoked_meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = await issued(world, SCIENTIST)
    await read(world)
    await half_an_hour_later(world)
    begun, fails = threading.Event(), threading.Event()

    def away(*_: object) -> None:
        begun.set()
        fails.wait(30)
        raise SignerAway(retry_after=1)

    monkeypatch.setattr(Signer, "sign_list", away)
    asking = asyncio.create_task(world.get("/crls/people"))
    await until(begun.is_set)
    await revoked(world, SCIENTIST, bad)
    fails.set()
    answer = await asking
    assert (answer.status_code, reason(answer)) == (503, "signer-away")
