"""What ca answers about one certificate (OCSP); openssl asks and judges, by POST and by GET."""
# ruff: noqa: S303 - requests name their issuer by SHA-1 (RFC 6960 section 4.3)

import base64
import re
import secrets
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compose.local.pki import Pki
from contracts.events import UserStatus
from services.ca import domain, service, status_forms
from services.ca.status_forms import Malformed, NoAnswer, NotOurs
from tests.ca.conftest import ADA, AGENT, BOB, about, agent_fact, csr, issued, membership_ends, openssl, revoked, said, study, user
from tests.world import OURS, Databases, World, Worlds, owner, scientist

OWNER = owner(OURS, ADA)
SCIENTIST = scientist(OURS, BOB)
GOOD, REVOKED, UNKNOWN = ocsp.OCSPCertStatus.GOOD, ocsp.OCSPCertStatus.REVOKED, ocsp.OCSPCertStatus.UNKNOWN
SUCCESSFUL = ocsp.OCSPResponseStatus.SUCCESSFUL
MALFORMED = ocsp.OCSPResponseStatus.MALFORMED_REQUEST
UNAUTHORIZED = ocsp.OCSPResponseStatus.UNAUTHORIZED
BY = pytest.mark.parametrize("by", ["post", "path"])


@pytest.fixture
async def world(worlds: Worlds, settings: dict[str, Any]) -> World:
    made = await worlds.open("ca", **settings)
    await made.hear(*study())
    return made


@pytest.fixture(scope="module")
async def unchanged(databases: Databases, pki: Pki, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """A world for those who ask about what there is none of, which changes nothing."""
    worlds = Worlds(databases, tmp_path_factory.mktemp("unchanged"))
    try:
        made = await worlds.open("ca", issuers_dir=pki.issuers_folder)
        await made.hear(*study())
        yield made
    finally:
        await worlds.close()


@pytest.fixture
def people(pki: Pki) -> x509.Certificate:
    return x509.load_pem_x509_certificate((pki.issuers_folder / "people.pem").read_bytes())


async def ask(world: World, request: ocsp.OCSPRequest | bytes, by: str = "post") -> ocsp.OCSPResponse:
    """What is answered to a request, which is always 200."""
    der = request if isinstance(request, bytes) else request.public_bytes(Encoding.DER)
    answer: httpx2.Response
    if by == "post":
        answer = await world.post("/ocsp", content=der, headers={"Content-Type": "application/ocsp-request"})
    else:
        answer = await world.get(f"/ocsp/{quote(base64.b64encode(der), safe='')}")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/ocsp-response"), answer.text
    return ocsp.load_der_ocsp_response(answer.content)


class Judge:
    """openssl, which writes a request about a certificate and reads what was answered."""

    def __init__(self, folder: Path, issuer: Path, leaf: x509.Certificate) -> None:
        self.folder = folder
        self.about = ["-issuer", str(issuer), "-cert", str(folder / "leaf.pem")]
        self.issuer = issuer
        (folder / "leaf.pem").write_bytes(leaf.public_bytes(Encoding.PEM))

    def request(self, *how: str) -> bytes:
        file = self.folder / "request.der"
        openssl("ocsp", *self.about, *how, "-reqout", str(file))
        return file.read_bytes()

    def reads(self, answer: bytes, request: bytes) -> str:
        """What openssl says of an answer to a request, and then of the same answer about the certificate."""
        for name, content in (("request.der", request), ("answer.der", answer)):
            (self.folder / name).write_bytes(content)
        how = ["ocsp", "-no_nonce", "-respin", str(self.folder / "answer.der"), "-CAfile", str(self.issuer), "-partial_chain"]
        _, to_request = said(*how, "-issuer", str(self.issuer), "-reqin", str(self.folder / "request.der"))
        _, on_certificate = said(*how, *self.about)
        return to_request + on_certificate


@BY
@pytest.mark.parametrize("how", [["-nonce"], ["-no_nonce"]])
async def test_openssl_believes_what_is_answered(world: World, pki: Pki, tmp_path: Path, by: str, how: list[str]) -> None:
    leaf = await issued(world, SCIENTIST)
    judge = Judge(tmp_path, pki.issuers_folder / "people.pem", leaf)
    request = judge.request(*how)
    for status in ("good", "revoked"):
        words = judge.reads((await ask(world, request, by)).public_bytes(Encoding.DER), request)
        assert words.count("Response verify OK") == 2
        assert f"leaf.pem: {status}" in words
        assert not re.search("WARNING|[Ee]rror|Failure", words)
        await revoked(world, SCIENTIST, leaf)


async def test_a_membership_that_ended_takes_its_certificates_with_it_although_nobody_wrote_that_down_yet(
    world: World, people: x509.Certificate
) -> None:
    leaf = await issued(world, SCIENTIST)
    ends = await membership_ends(world)
    before = await ask(world, about(leaf, people)), (await world.get("/crls/people")).content
    async with world.work() as uow:
        await service.ending.expire(uow)
    after = await ask(world, about(leaf, people)), (await world.get("/crls/people")).content
    for told, crl in (before, after):
        assert (told.certificate_status, told.revocation_time_utc) == (REVOKED, ends.replace(microsecond=0))
        assert told.revocation_reason is x509.ReasonFlags.affiliation_changed
        assert [each.serial_number for each in x509.load_der_x509_crl(crl)] == [leaf.serial_number]
    assert before[1] == after[1]


async def test_another_issuers_answer_is_not_believed(world: World, pki: Pki, tmp_path: Path) -> None:
    await world.hear(agent_fact(csr()))
    [row] = await world.sql("SELECT chain FROM certificates WHERE agent_id = :agent", agent=AGENT)
    leaf = x509.load_pem_x509_certificate(row[0].encode())
    judge = Judge(tmp_path, pki.issuers_folder / "workloads.pem", leaf)
    request = judge.request("-no_nonce")
    answer = (await ask(world, request)).public_bytes(Encoding.DER)
    assert "leaf.pem: good" in judge.reads(answer, request)
    judge.issuer = pki.issuers_folder / "people.pem"
    judge.about[1] = str(judge.issuer)
    words = judge.reads(answer, request)
    assert words.count("Response Verify Failure") == 2
    assert "good" not in words


@BY
@pytest.mark.parametrize("algorithm", [hashes.SHA1(), hashes.SHA256()])
async def test_an_answer_speaks_of_now_for_a_minute(
    world: World, people: x509.Certificate, by: str, algorithm: hashes.HashAlgorithm
) -> None:
    leaf = await issued(world, SCIENTIST)
    request = about(leaf, people, algorithm)
    answer = await ask(world, request, by)
    assert answer.certificate_status is GOOD
    assert (answer.serial_number, answer.hash_algorithm.name) == (leaf.serial_number, algorithm.name)
    assert (answer.issuer_name_hash, answer.issuer_key_hash) == (request.issuer_name_hash, request.issuer_key_hash)
    assert timedelta(0) <= await world.now() - answer.this_update_utc < timedelta(seconds=5)
    assert answer.this_update_utc <= answer.produced_at_utc
    assert answer.next_update_utc is not None
    assert answer.next_update_utc - answer.this_update_utc == timedelta(seconds=60)
    assert answer.responder_key_hash == people.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert list(answer.extensions) == []


async def test_an_answers_life_is_a_setting(worlds: Worlds, settings: dict[str, Any], people: x509.Certificate) -> None:
    answer = await ask(await worlds.open("ca", **settings, ocsp_life_s=5), about(1 << 100, people))
    assert answer.next_update_utc is not None
    assert answer.next_update_utc - answer.this_update_utc == timedelta(seconds=5)


async def test_a_revocation_is_told_with_its_time_and_reason_at_the_next_question(world: World, people: x509.Certificate) -> None:
    leaf, other = await issued(world, SCIENTIST), await issued(world, OWNER)
    assert (await ask(world, about(leaf, people))).certificate_status is GOOD
    await world.hear(user(BOB, version=2, username="bob00000", status=UserStatus.BLOCKED))
    answer = await ask(world, about(leaf, people))
    assert (answer.certificate_status, answer.revocation_reason) == (REVOKED, x509.ReasonFlags.privilege_withdrawn)
    assert answer.revocation_time_utc is not None
    assert timedelta(0) <= await world.now() - answer.revocation_time_utc < timedelta(seconds=5)
    await revoked(world, OWNER, other)
    answer = await ask(world, about(other, people))
    assert (answer.certificate_status, answer.revocation_reason) == (REVOKED, None)


async def test_after_its_end_a_certificate_stays_what_it_was(world: World, people: x509.Certificate) -> None:
    good, bad = await issued(world, SCIENTIST), await issued(world, SCIENTIST)
    await revoked(world, SCIENTIST, bad)
    await world.sql("UPDATE certificates SET not_after = now() - interval '1 second'")
    for _ in range(2):
        assert (await ask(world, about(good, people))).certificate_status is GOOD
        assert (await ask(world, about(bad, people))).certificate_status is REVOKED
        async with world.work() as uow:
            await service.ending.expire(uow)


@pytest.mark.parametrize("serial", [0, 1, 5 << 100, (1 << 160) - 1])
async def test_a_serial_that_was_never_issued_is_unknown(unchanged: World, people: x509.Certificate, serial: int) -> None:
    answer = await ask(unchanged, about(serial, people))
    assert (answer.response_status, answer.certificate_status, answer.serial_number) == (SUCCESSFUL, UNKNOWN, serial)


async def test_an_intent_and_a_certificate_that_was_signed_and_not_stored_are_unknown(
    world: World, people: x509.Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed: list[x509.Certificate] = []

    def breaks(_intent: Any, leaf: x509.Certificate, _issuer: Any) -> None:
        signed.append(leaf)
        raise ZeroDivisionError

    monkeypatch.setattr(domain.certificates, "issued", breaks)
    with pytest.raises(ZeroDivisionError):
        await issued(world, SCIENTIST)
    assert [tuple(row) for row in await world.sql("SELECT certificate_id, state FROM certificates")] == [
        (f"{signed[0].serial_number:032x}", "intended")
    ]
    assert (await ask(world, about(signed[0], people))).certificate_status is UNKNOWN


async def test_an_issuer_knows_nothing_of_what_the_other_one_issued(world: World, pki: Pki) -> None:
    leaf = await issued(world, SCIENTIST)
    workloads = x509.load_pem_x509_certificate((pki.issuers_folder / "workloads.pem").read_bytes())
    assert (await ask(world, about(leaf, workloads))).certificate_status is UNKNOWN


@BY
@pytest.mark.parametrize("algorithm", [hashes.SHA1(), hashes.SHA256(), hashes.SHA384(), hashes.SHA512()])
async def test_about_another_issuer_nothing_is_said(unchanged: World, pki: Pki, by: str, algorithm: hashes.HashAlgorithm) -> None:
    root = x509.load_pem_x509_certificate(pki.root.read_bytes())
    assert (await ask(unchanged, about(5, root, algorithm), by)).response_status is UNAUTHORIZED


async def test_an_issuer_is_known_by_its_name_and_its_key_together(unchanged: World, people: x509.Certificate, pki: Pki) -> None:
    other = x509.load_pem_x509_certificate((pki.issuers_folder / "workloads.pem").read_bytes())
    mixed = ocsp.OCSPRequestBuilder().add_certificate_by_hash(
        about(1, people).issuer_name_hash, about(1, other).issuer_key_hash, 5, hashes.SHA1()
    )
    assert (await ask(unchanged, mixed.build())).response_status is UNAUTHORIZED


@pytest.mark.parametrize("length", [1, 16, 32, 33, 128])
async def test_a_nonce_comes_back(unchanged: World, people: x509.Certificate, length: int) -> None:
    nonce = secrets.token_bytes(length)
    answer = await ask(unchanged, about(1 << 100, people, nonce=nonce))
    assert answer.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce == nonce


@pytest.mark.parametrize("length", [0, 129, 1000])
async def test_a_nonce_that_is_empty_or_too_long_is_refused(unchanged: World, people: x509.Certificate, length: int) -> None:
    assert (await ask(unchanged, about(1 << 100, people, nonce=bytes(length)))).response_status is MALFORMED


async def test_an_old_answer_does_not_pass_for_one_to_a_new_nonce(world: World, pki: Pki, tmp_path: Path) -> None:
    leaf = await issued(world, SCIENTIST)
    judge = Judge(tmp_path, pki.issuers_folder / "people.pem", leaf)
    old, new = judge.request("-nonce"), judge.request("-nonce")
    assert old != new
    kept = (await ask(world, old)).public_bytes(Encoding.DER)
    await revoked(world, SCIENTIST, leaf)
    assert "Nonce Verify error" not in judge.reads(kept, old)
    assert "Nonce Verify error" in judge.reads(kept, new)
    # whoever repeats an old request gets what is true now, not what was signed then
    assert (await ask(world, old)).certificate_status is REVOKED


async def test_several_certificates_in_one_request_are_refused(world: World, pki: Pki, tmp_path: Path) -> None:
    leaf = await issued(world, SCIENTIST)
    request = Judge(tmp_path, pki.issuers_folder / "people.pem", leaf).request("-serial", "0x1234")
    assert (await ask(world, request)).response_status is MALFORMED


async def test_a_critical_extension_that_is_not_known_is_refused_and_another_is_not(unchanged: World, people: x509.Certificate) -> None:
    for critical, status in ((True, MALFORMED), (False, SUCCESSFUL)):
        strange = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
        request = about(1 << 100, people)
        made = ocsp.OCSPRequestBuilder().add_certificate_by_hash(
            request.issuer_name_hash, request.issuer_key_hash, request.serial_number, hashes.SHA1()
        )
        assert (await ask(unchanged, made.add_extension(strange, critical=critical).build())).response_status is status


@BY
@pytest.mark.parametrize("garbage", [b"\0", b"not a request", b"\x30\x00", b"\x30\x03\x02\x01\x05", bytes(300), b"\xff" * 50])
async def test_garbage_is_malformed(unchanged: World, garbage: bytes, by: str) -> None:
    assert (await ask(unchanged, garbage, by)).response_status is MALFORMED


async def test_an_empty_body_and_one_that_is_too_long_are_malformed(unchanged: World, people: x509.Certificate) -> None:
    assert (await ask(unchanged, b"")).response_status is MALFORMED
    assert (await ask(unchanged, about(1, people).public_bytes(Encoding.DER) + bytes(5000))).response_status is MALFORMED


@pytest.mark.parametrize("text", ["A", "AAA", "A===", "MEUw_-", "!", "%00", "%E2%98%83", "MEUw%0A", "a/b//c"])
async def test_what_is_no_base64_is_malformed(unchanged: World, text: str) -> None:
    answer = await unchanged.get(f"/ocsp/{text}")
    assert answer.status_code == 200
    assert ocsp.load_der_ocsp_response(answer.content).response_status is MALFORMED


async def test_a_request_in_the_path_may_have_every_letter_of_base64(unchanged: World, people: x509.Certificate) -> None:
    seen = set()
    for number in range(64):
        request = about((1 << 100) + number, people, nonce=bytes([0xFB, 0xEF, 0xBE, 0xFF, number]))
        seen |= set(base64.b64encode(request.public_bytes(Encoding.DER)).decode())
        assert (await ask(unchanged, request, "path")).serial_number == (1 << 100) + number
    assert {"/", "+"} <= seen


async def test_what_is_malformed_takes_no_connection_to_the_database(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(world.runtime.engine.sync_engine, "connect", breaks)
    assert (await ask(world, b"garbage")).response_status is MALFORMED


async def test_an_answer_is_recorded_by_the_gateway_alone(world: World, people: x509.Certificate) -> None:
    await ask(world, about(1 << 100, people))
    assert await world.recorded() == []
    assert await world.said() == []


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_no_bytes_break_the_responder(world: World, people: x509.Certificate, data: st.DataObject) -> None:
    """Anything at all, and requests with some bytes changed: whatever is no request has OCSP's own error for an answer."""
    whole = bytearray(about(1 << 100, people, nonce=b"0123456789abcdef").public_bytes(Encoding.DER))
    if data.draw(st.booleans()):
        for _ in range(data.draw(st.integers(1, 4))):
            whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
        der = bytes(whole[: data.draw(st.integers(len(whole) - 3, len(whole)))])
    else:
        der = data.draw(st.binary(max_size=200))
    answer = await ask(world, der, data.draw(st.sampled_from(["post", "path"])) if der else "post")
    if answer.response_status is SUCCESSFUL:
        assert answer.certificate_status is UNKNOWN
    else:
        assert answer.response_status in (MALFORMED, UNAUTHORIZED)


@given(st.binary(max_size=400))
def test_the_reader_of_requests_only_ever_says_that_it_does_not_answer(der: bytes) -> None:
    with pytest.raises(NoAnswer):
        status_forms.read(der, {})


def test_a_refusal_is_in_the_responders_own_words() -> None:
    for refused, status in ((Malformed(), MALFORMED), (NotOurs(), UNAUTHORIZED)):
        assert ocsp.load_der_ocsp_response(refused.der).response_status is status


@BY
async def test_nobody_is_told_that_a_certificate_is_good_while_it_cannot_be_known_who_lost_a_right(
    world: World, people: x509.Certificate, by: str
) -> None:
    good, bad = await issued(world, OWNER), await issued(world, SCIENTIST)
    await revoked(world, SCIENTIST, bad)
    await world.hears_until((await world.now() - timedelta(seconds=1)).isoformat())
    unsure = await ask(world, about(good, people), by)
    assert unsure.response_status is ocsp.OCSPResponseStatus.TRY_LATER
    # What was revoked stays so, whatever else has happened since.
    assert (await ask(world, about(bad, people), by)).certificate_status is REVOKED
    await world.hears_until("infinity")
    assert (await ask(world, about(good, people), by)).certificate_status is GOOD


async def test_one_partition_that_was_not_heard_is_enough_to_be_unsure(world: World, people: x509.Certificate) -> None:
    good = await issued(world, OWNER)
    await world.sql("UPDATE partitions_heard SET position_at = now() - interval '1 second' WHERE topic = 'users' AND partition = 1")
    assert (await ask(world, about(good, people))).response_status is ocsp.OCSPResponseStatus.TRY_LATER
    await world.sql("DELETE FROM partitions_heard WHERE topic = 'users' AND partition = 1")
    assert (await ask(world, about(good, people))).response_status is ocsp.OCSPResponseStatus.TRY_LATER
