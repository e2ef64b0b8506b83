"""A request's way through the gateway: who gets in, what the service is told, what is refused and with which words."""

import asyncio
import base64
import functools
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import httpx2
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from uuid_utils.compat import uuid7

from chassis import tokens
from chassis.audit import canonical
from contracts.events import AuditRecord, CertificateKind, Session, SigningKey, User, UserStatus
from contracts.policy import Action
from contracts.roles import ClusterRole, Principal, Role
from gateway import bodies, forward, inflight, plane
from gateway.authenticate import NOTHING_SHOWN, InvalidCredential, NotKnownYet
from gateway.spool import segments
from gateway.standing import NOBODY_STANDING
from tests.gateway.stage import Someone, Stage, problem, public, read, say, until

PROJECT = uuid7()
DATASET = uuid7()


async def test_a_member_gets_through_and_the_service_is_told_who_they_are(stage: Stage) -> None:
    ada = stage.signs_in()
    stage.joins(ada, PROJECT)
    answer = await (await stage.client(ada)).get(f"/projects/{PROJECT}?x=1")
    assert answer.status_code == 200
    assert answer.json()["path"] == f"/api/v1/projects/{PROJECT}"
    assert stage.seen[-1]["query"] == b"x=1"
    actor = stage.actor()
    assert (actor.principal, actor.user_id, actor.project_id, actor.role) == (Principal.PERSON, ada.user_id, PROJECT, Role.DATA_OWNER)
    assert actor.versions[f"memberships:{PROJECT}:{ada.user_id}"] == 1
    assert answer.headers["strict-transport-security"].startswith("max-age=")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_without_a_project_in_the_path_the_service_is_told_all_roles(stage: Stage) -> None:
    ada = stage.signs_in()
    stage.joins(ada, PROJECT)
    other = uuid7()
    stage.joins(ada, other, Role.DATA_SCIENTIST)
    client = await stage.client(ada)
    assert (await client.get("/projects")).status_code == 200
    assert stage.actor().projects == {PROJECT: Role.DATA_OWNER, other: Role.DATA_SCIENTIST}
    stage.joins(ada, other, None, version=2)
    assert (await client.get("/projects")).status_code == 200
    assert stage.actor().projects == {PROJECT: Role.DATA_OWNER}


async def test_headers_of_the_inside_sent_from_outside_are_stripped(stage: Stage) -> None:
    ada = stage.signs_in()
    stage.joins(ada, PROJECT, Role.DATA_SCIENTIST)
    forged = {
        "Hortus-Identity": "eyJwcmluY2lwYWwiOiJwZXJzb24ifQ",
        "hortus_identity": "x",
        "Hortus-Request": "x",
        "Hortus-Anything": "x",
        "Hortus-Content-SHA256": "00",
        "Cookie": "a=b",
        "X-Forwarded-For": "9.9.9.9",
        "Connection": "keep-alive, X-Secret",
        "X-Secret": "x",
        "X-Kept": "y",
        "traceparent": "x",
    }
    await (await stage.client(ada)).get(f"/projects/{PROJECT}", headers=forged)
    told = stage.seen[-1]["headers"]
    assert stage.actor().user_id == ada.user_id
    assert len(told["hortus-request"]) == 36
    assert told["traceparent"].startswith("00-" + told["hortus-request"].replace("-", ""))
    for name in ("hortus_identity", "hortus-anything", "cookie", "authorization", "x-forwarded-for", "x-secret"):
        assert name not in told
    assert told["hortus-content-sha256"] == "00"
    assert told["x-kept"] == "y"


async def test_an_unknown_path_ends_at_the_gateway(stage: Stage) -> None:
    client = await stage.client(stage.signs_in())
    for path in ("/nothing", "/projects/x/y/z", "/projects/not-a-uuid", "/projects/", "/../secret"):
        answer = await client.get(path)
        assert answer.status_code == 404
        assert problem(answer) == "unknown-path"
    assert stage.seen == []


async def test_a_known_path_with_another_method_is_405(stage: Stage) -> None:
    answer = await (await stage.client()).delete("/projects")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, POST"
    assert stage.seen == []


@pytest.mark.parametrize(
    "target",
    [
        b"/api/v1/projects/../users",
        b"/api/v1//projects",
        b"/api/v1/projects/%2e%2e/x",
        b"/api/v1/a%2Fb",
        b"/api/v1/a%00b",
        b"/api/v1/%ff",
        b"/api/v1/%5c",
        b"/api/v1/" + b"x" * 5000,
        b"/api/v1/projects?" + b"q" * 9000,
    ],
)
async def test_a_path_that_two_readers_could_read_differently_is_400(stage: Stage, target: bytes) -> None:
    reader, writer = await stage.raw()
    writer.write(b"GET " + target + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 400 "), answer[:200]
    assert b"application/problem+json" in answer
    assert stage.seen == []


async def test_a_head_that_is_too_large_is_431_and_no_http_is_400(stage: Stage) -> None:
    heads = {
        b"GET / HTTP/1.1\r\nx: " + b"y" * 40_000 + b"\r\n\r\n": b"431",
        b"GET / HTTP/1.1\r\nx: " + b"y" * 700_000: b"431",
        b"\x16\x03\x01\r\n\r\n": b"400",
        b"GET /\xff HTTP/1.1\r\n\r\n": b"400",
    }
    for sent, status in heads.items():
        reader, writer = await stage.raw()
        writer.write(sent)
        answer = await reader.read()
        writer.close()
        assert answer.startswith(b"HTTP/1.1 " + status), answer[:100]


async def test_two_lengths_or_an_odd_encoding_are_refused(stage: Stage) -> None:
    for framing in (
        b"content-length: 3\r\ntransfer-encoding: chunked",
        b"content-length: 3\r\ncontent-length: 4",
        b"transfer-encoding: gzip, chunked",
    ):
        reader, writer = await stage.raw()
        writer.write(b"POST /api/v1/sessions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n" + framing + b"\r\n\r\n0\r\n\r\n")
        answer = await reader.read()
        writer.close()
        assert answer.startswith(b"HTTP/1.1 400 "), answer[:100]
    assert stage.seen == []


async def test_nobody_is_asked_to_sign_in_before_anything_is_said_about_a_project(stage: Stage) -> None:
    client = await stage.client()
    stage.joins(stage.signs_in(), PROJECT)
    answers = [await client.get(f"/projects/{project}") for project in (PROJECT, uuid7())]
    assert [answer.status_code for answer in answers] == [401, 401]
    assert answers[0].json() == answers[1].json()
    assert problem(answers[0]) == "not-signed-in"
    assert answers[0].headers["www-authenticate"] == "Bearer"


async def test_a_stranger_cannot_tell_a_project_from_none(stage: Stage) -> None:
    stage.joins(stage.signs_in(), PROJECT)
    client = await stage.client(stage.signs_in())
    answers = [await client.get(f"/projects/{project}") for project in (PROJECT, uuid7())]
    assert [answer.status_code for answer in answers] == [404, 404]
    assert answers[0].json() == answers[1].json()
    assert [record["reason"] for record in await stage.records()] == ["not-a-member", "not-a-member"]


async def test_a_scientist_may_not_download_and_is_told_why(stage: Stage) -> None:
    eve = stage.signs_in()
    stage.joins(eve, PROJECT, Role.DATA_SCIENTIST)
    answer = await (await stage.client(eve)).get(f"/projects/{PROJECT}/datasets/{DATASET}/files/table.csv")
    assert answer.status_code == 403
    assert problem(answer) == "role-may-not"
    assert stage.seen == []


def _part(value: object) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


async def test_forged_expired_foreign_and_confused_tokens_are_401(stage: Stage) -> None:
    ada = stage.signs_in()
    foreign = tokens.private_jwk(ec.generate_private_key(ec.SECP256R1()))
    header, payload, signature = ada.token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    public: ec.EllipticCurvePublicKey = ec.derive_private_key(
        int.from_bytes(base64.urlsafe_b64decode(stage.key["d"] + "==")), ec.SECP256R1()
    ).public_key()
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    confused = f"{_part({'alg': 'HS256', 'kid': 'k1', 'typ': 'JWT'})}.{payload}"
    confused += "." + _part(hmac.new(der, confused.encode(), hashlib.sha256).digest())
    forged = {
        "expired": stage.sign(ada.user_id, ada.session_id, timedelta(seconds=-6)),
        "foreign": stage.sign(ada.user_id, ada.session_id, key=foreign),
        "unsigned": f"{_part({'alg': 'none', 'kid': 'k1'})}.{payload}.",
        "confused": confused,
        "changed": f"{header}.{_part({**claims, 'sub': str(uuid7())})}.{signature}",
        "cut": f"{header}.{payload}",
        "noise": "x" * 5000,
    }
    client = await stage.client()
    for name, token in forged.items():
        for path in ("/projects", f"/projects/{PROJECT}"):
            answer = await client.get(path, headers={"Authorization": f"Bearer {token}"})
            assert answer.status_code == 401, name
            assert problem(answer) == "invalid-credential"
    basic = await client.get("/projects", headers={"Authorization": "Basic YTpi"})
    assert basic.status_code == 401
    door_for_everybody = await client.post("/sessions", json={}, headers={"Authorization": f"Bearer {confused}"})
    assert door_for_everybody.status_code == 401
    assert stage.seen == []
    disk = b"".join(path.read_bytes() for path in stage.gateway.spool.folder.iterdir())
    assert not any(token.encode() in disk for token in forged.values())


async def test_a_withdrawn_signing_key_ends_its_tokens_although_they_were_seen_before(stage: Stage) -> None:
    client = await stage.client(stage.signs_in())
    assert (await client.get("/projects")).status_code == 200
    stage.tell(SigningKey(version=2, key_id="k1", jwk=public(stage.key), live=False))
    assert (await client.get("/projects")).status_code == 401


async def test_an_ended_session_or_a_blocked_person_is_401_at_once(stage: Stage) -> None:
    ada, eve = stage.signs_in(), stage.signs_in()
    first, second = await stage.client(ada), await stage.client(eve)
    assert {(await client.get("/projects")).status_code for client in (first, second)} == {200}
    now = datetime.now(UTC)
    stage.tell(
        Session(version=2, session_id=ada.session_id, user_id=ada.user_id, live=False, factor_at=now, expires_at=now + timedelta(hours=1))
    )
    stage.tell(User(version=2, user_id=eve.user_id, username="eve", status=UserStatus.BLOCKED, cluster_roles=frozenset()))
    refused = await first.get("/projects")
    assert (refused.status_code, problem(refused)) == (401, "session-ended")
    refused = await second.get("/projects")
    assert (refused.status_code, problem(refused)) == (401, "account-not-active")


async def changes_at(instant: datetime, client: httpx2.AsyncClient, path: str, before: int, after: int) -> None:
    """Ask until the answer has changed: whoever is answered before an instant gets the one, and whoever asks after it the other."""
    asked_at = datetime.now(UTC)
    while (status := (await client.get(path)).status_code) != after:
        assert (status, asked_at < instant) == (before, True)
        await asyncio.sleep(0.02)
        asked_at = datetime.now(UTC)
    assert datetime.now(UTC) >= instant


async def test_a_session_ends_at_its_instant(stage: Stage) -> None:
    ada = stage.signs_in()
    client = await stage.client(ada)
    assert (await client.get("/projects")).status_code == 200
    now = datetime.now(UTC)
    ends = now + timedelta(seconds=0.4)
    stage.tell(Session(version=2, session_id=ada.session_id, user_id=ada.user_id, live=True, factor_at=now, expires_at=ends))
    await changes_at(ends, client, "/projects", 200, 401)


async def test_a_membership_counts_from_its_beginning_to_its_end_only(stage: Stage) -> None:
    ada = stage.signs_in()
    client = await stage.client(ada)
    assert (await client.get(f"/projects/{PROJECT}")).status_code == 404
    starts = datetime.now(UTC) + timedelta(seconds=0.4)
    stage.joins(ada, PROJECT, starts_at=starts)
    await changes_at(starts, client, f"/projects/{PROJECT}", 404, 200)
    ends = datetime.now(UTC) + timedelta(seconds=0.4)
    stage.joins(ada, PROJECT, version=2, starts_at=starts, ends_at=ends)
    await changes_at(ends, client, f"/projects/{PROJECT}", 200, 404)


async def test_a_session_that_is_on_its_way_is_waited_for(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plane, "WAIT_S", 10.0)
    user_id, session_id = uuid7(), uuid7()
    client = await stage.client(Someone(user_id, session_id, stage.sign(user_id, session_id)))
    asking = asyncio.create_task(client.get("/projects"))
    await asyncio.sleep(0.2)
    now = datetime.now(UTC)
    stage.tell(Session(version=1, session_id=session_id, user_id=user_id, live=True, factor_at=now, expires_at=now + timedelta(hours=1)))
    await asyncio.sleep(0.2)
    stage.tell(User(version=1, user_id=user_id, username="late", status=UserStatus.ACTIVE, cluster_roles=frozenset()))
    assert (await asking).status_code == 200


async def test_a_session_that_nobody_heard_of_is_401_after_a_second(stage: Stage) -> None:
    user_id, session_id = uuid7(), uuid7()
    client = await stage.client(Someone(user_id, session_id, stage.sign(user_id, session_id)))
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert (await client.get("/projects")).status_code == 401
    assert 0.9 < loop.time() - began < 2


async def test_without_fresh_knowledge_nobody_gets_in_and_a_short_gap_is_waited_out(stage: Stage) -> None:
    ada = stage.signs_in()
    client = await stage.client(ada)
    stage.pulsing = False
    await until(lambda: not stage.gateway.projection.is_fresh())
    asking = asyncio.create_task(client.get("/projects"))
    done, _ = await asyncio.wait([asking], timeout=0.3)
    assert not done
    stage.pulsing = True
    assert (await asking).status_code == 200
    stage.pulsing = False
    await until(lambda: not stage.gateway.projection.is_fresh())
    refused = await client.get("/projects")
    assert (refused.status_code, problem(refused)) == (503, "cannot-decide")
    assert refused.headers["retry-after"] == "1"
    assert len(stage.seen) == 1


@contextmanager
def patience(stage: Stage) -> Iterator[None]:
    """Facts are waited for as long as a machine that stands still may take to tell them."""
    projection = stage.gateway.projection
    with pytest.MonkeyPatch.context() as patient:
        patient.setattr(projection, "reached", functools.partial(projection.reached, timeout=10.0))
        patient.setattr(plane, "WAIT_S", 10.0)
        yield


async def test_hortus_after_is_waited_for_and_passed_on(stage: Stage) -> None:
    ada = stage.signs_in()
    client = await stage.client(ada)
    after = {"Hortus-After": f"memberships:{PROJECT}%3A{ada.user_id}:1, datasets:{DATASET}:3"}
    with patience(stage):
        asking = asyncio.create_task(client.get(f"/projects/{PROJECT}", headers=after))
        await asyncio.sleep(0.2)
        assert not asking.done()
        stage.joins(ada, PROJECT)
        assert (await asking).status_code == 200
    assert stage.seen[-1]["headers"]["hortus-after"] == after["Hortus-After"]
    late = await client.get(f"/projects/{PROJECT}", headers={"Hortus-After": f"memberships:{PROJECT}%3A{ada.user_id}:2"})
    assert (late.status_code, late.headers["retry-after"]) == (503, "1")
    odd = await client.get(f"/projects/{PROJECT}", headers={"Hortus-After": "memberships"})
    assert odd.status_code == 400


async def test_one_caller_cannot_take_every_connection_from_the_others(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inflight, "MOST_AT_ONCE", 8)
    ada, ben = stage.signs_in(), stage.signs_in()
    for someone in (ada, ben):
        stage.joins(someone, PROJECT)
    go_on = asyncio.Event()

    async def later(_scope: object, _receive: object, send: object) -> None:
        await go_on.wait()
        await say(send, 200, b"{}")

    stage.answer = later
    client = await stage.client(ada)
    held = [asyncio.create_task(client.get(f"/projects/{PROJECT}")) for _ in range(8)]
    await until(lambda: len(stage.gateway.in_flight) == 8)
    answer = await client.get(f"/projects/{PROJECT}")
    assert (answer.status_code, problem(answer), answer.headers["retry-after"]) == (429, "too-many-at-once", "1")
    other = asyncio.create_task((await stage.client(ben)).get(f"/projects/{PROJECT}"))
    await until(lambda: len(stage.gateway.in_flight) == 9)
    go_on.set()
    assert [(await each).status_code for each in (*held, other)] == [200] * 9
    assert (await client.get(f"/projects/{PROJECT}")).status_code == 200


async def test_who_shows_nothing_is_bounded_by_address_and_cannot_drip_a_body(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inflight, "MOST_AT_ONCE", 2)
    ada = stage.signs_in()
    stage.joins(ada, PROJECT)
    address = stage.people.removeprefix("https://").partition(":")
    dripping = []
    for _ in range(2):
        reader, writer = await asyncio.open_connection(address[0], int(address[2]), ssl=stage.context(), server_hostname="localhost")
        writer.write(b"POST /api/v1/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{")
        dripping.append((reader, writer))
    await until(lambda: len(stage.gateway.in_flight) == 2)
    assert {flight.key for flight in stage.gateway.in_flight} == {"from 127.0.0.1"}
    sign_in = await stage.client()
    answer = await sign_in.post("/sessions", json={})
    assert (answer.status_code, problem(answer)) == (429, "too-many-at-once")
    assert (await (await stage.client(ada)).get(f"/projects/{PROJECT}")).status_code == 200
    now = asyncio.get_running_loop().time()
    for flight in stage.gateway.in_flight:
        assert 0 < flight.deadline - now <= bodies.BODY_S
        flight.deadline = now  # and when its time is over
    await until(lambda: len(stage.gateway.in_flight) == 0)
    for reader, writer in dripping:
        with pytest.raises(ConnectionError):
            await reader.read()
        writer.close()
    assert (await sign_in.post("/sessions", json={})).status_code == 200


async def test_an_answer_that_changed_authority_waits_for_it_or_becomes_202(stage: Stage) -> None:
    ada = stage.signs_in()
    stage.joins(ada, PROJECT)
    member = uuid7()
    facts = f"memberships:{PROJECT}%3A{member}:1, projects:{PROJECT}:9".encode()

    async def added(_scope: object, receive: object, send: object) -> None:
        await read(receive)
        await say(send, 201, b"{}", (b"hortus-facts", facts))

    stage.answer = added
    client = await stage.client(ada)
    with patience(stage):
        asking = asyncio.create_task(client.post(f"/projects/{PROJECT}/members", json={}))
        await asyncio.sleep(0.3)
        assert not asking.done()
        stage.joins(Someone(member, member, ""), PROJECT, Role.DATA_SCIENTIST)
        answer = await asking
    assert (answer.status_code, answer.headers["hortus-facts"]) == (201, facts.decode())
    facts = facts.replace(b":1,", b":2,")
    assert (await client.post(f"/projects/{PROJECT}/members", json={})).status_code == 202


async def test_a_project_certificate_is_that_person_in_that_project_alone(stage: Stage) -> None:
    ada = stage.signs_in(ClusterRole.ADMINISTRATOR)
    other = uuid7()
    stage.joins(ada, PROJECT)
    stage.joins(ada, other)
    holder = stage.holds(CertificateKind.PROJECT, project_id=PROJECT, user_id=ada.user_id)
    client = await stage.client(holder=holder)
    assert (await client.get(f"/projects/{PROJECT}")).status_code == 200
    actor = stage.actor()
    assert (actor.role, actor.certificate_id, actor.session_id) == (Role.DATA_OWNER, holder.certificate_id, None)
    assert (await client.get(f"/projects/{other}")).status_code == 404
    assert (await client.get("/projects")).status_code == 200
    assert stage.actor().projects == {PROJECT: Role.DATA_OWNER}
    assert (await client.get("/users")).status_code == 403
    for refused in (await client.get("/sessions"), await client.post(f"/projects/{PROJECT}/certificates", json={})):
        assert (refused.status_code, problem(refused)) == (403, "session-needed")
    assert (await client.get(f"/projects/{PROJECT}", headers=ada.headers)).status_code == 200
    assert stage.actor().session_id == ada.session_id
    assert (await client.get("/sessions", headers=ada.headers)).status_code == 200
    mixed = await client.get(f"/projects/{PROJECT}", headers=stage.signs_in().headers)
    assert (mixed.status_code, problem(mixed)) == (401, "credentials-differ")


async def test_a_certificate_counts_only_while_it_lives_and_its_person_is_a_member(stage: Stage) -> None:
    ada = stage.signs_in()
    stage.joins(ada, PROJECT)
    first = stage.holds(CertificateKind.PROJECT, project_id=PROJECT, user_id=ada.user_id)
    client = await stage.client(holder=first)
    assert (await client.get(f"/projects/{PROJECT}")).status_code == 200
    stage.tell(first.fact.model_copy(update={"version": 2, "live": False}))
    refused = await client.get(f"/projects/{PROJECT}")
    assert (refused.status_code, problem(refused)) == (401, "certificate-not-live")
    second = await stage.client(holder=stage.holds(CertificateKind.PROJECT, project_id=PROJECT, user_id=ada.user_id))
    assert (await second.get(f"/projects/{PROJECT}")).status_code == 200
    stage.joins(ada, PROJECT, None, version=2)
    refused = await second.get(f"/projects/{PROJECT}")
    assert (refused.status_code, problem(refused)) == (401, "membership-ended")


async def test_an_issued_certificate_is_waited_for_and_one_that_is_not_listed_is_401(stage: Stage) -> None:
    ada = stage.signs_in()
    stage.joins(ada, PROJECT)
    holder = stage.holds(CertificateKind.PROJECT, told=False, project_id=PROJECT, user_id=ada.user_id)
    client = await stage.client(holder=holder)
    with patience(stage):
        asking = asyncio.create_task(client.get(f"/projects/{PROJECT}"))
        await asyncio.sleep(0.3)
        assert not asking.done()
        stage.tell(holder.fact)
        assert (await asking).status_code == 200
    unlisted = stage.holds(CertificateKind.PROJECT, told=False, project_id=PROJECT, user_id=ada.user_id)
    assert (await (await stage.client(holder=unlisted)).get(f"/projects/{PROJECT}")).status_code == 401


async def test_agents_and_jobs_are_principals_of_their_own(stage: Stage) -> None:
    ada = stage.signs_in()
    stage.joins(ada, PROJECT, Role.DATA_SCIENTIST)
    run, agent = uuid7(), uuid7()
    job = await stage.client(holder=stage.holds(CertificateKind.JOB, project_id=PROJECT, user_id=ada.user_id, run_id=run))
    assert (await job.get(f"/runs/{run}/inputs/{DATASET}/files")).status_code == 200
    actor = stage.actor()
    assert (actor.principal, actor.run_id, actor.fencing_token, actor.project_id) == (Principal.JOB, run, 7, PROJECT)
    assert (await job.get(f"/projects/{PROJECT}")).status_code == 404
    assert (await job.get("/projects")).status_code == 403
    machine = await stage.client(holder=stage.holds(CertificateKind.AGENT, agent_id=agent))
    assert (await machine.get("/projects")).status_code == 403
    stage.joins(ada, PROJECT, None, version=2)
    assert (await job.get(f"/runs/{run}/inputs/{DATASET}/files")).status_code == 401


async def test_a_body_over_the_doors_limit_is_413_with_and_without_a_length(stage: Stage) -> None:
    client = await stage.client()

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b"x" * 10_000

    declared = await client.post("/sessions", content=b"x" * 300_000)
    assert (declared.status_code, problem(declared)) == (413, "too-large")
    assert stage.seen == []
    streamed = await client.post("/sessions", content=pieces())
    assert (streamed.status_code, problem(streamed)) == (413, "too-large")
    assert (await client.post("/sessions", content=b"x" * 200_000)).json()["size"] == 200_000


@pytest.mark.parametrize("link", ["setup", "password-reset", "factor-enrolment"])
async def test_the_links_of_letters_lead_browsers_to_the_page_that_takes_them(stage: Stage, link: str) -> None:
    client = await stage.client()
    answer = await client.get(f"{stage.people}/{link}")
    assert (answer.status_code, answer.headers["location"], answer.content) == (303, f"/api/v1/sign-in?link={link}", b"")
    assert (await client.post(f"{stage.people}/{link}")).status_code == 405
    assert [(record["action"], record["outcome"]) for record in await stage.records()] == [
        ("link.open", "allowed"),
        ("link.open", "refused"),
    ]


async def test_the_gateway_hands_out_the_root_and_says_what_is_ready(stage: Stage) -> None:
    client = await stage.client()
    answer = await client.get("/trust")
    assert answer.text == stage.certificates.pki.root.read_text()
    assert (await client.post("/trust")).status_code == 405


async def test_every_access_and_refusal_is_recorded_densely(stage: Stage) -> None:
    ada = stage.signs_in()
    stage.joins(ada, PROJECT)
    client = await stage.client(ada)
    await client.get(f"/projects/{PROJECT}")
    await client.get(f"/projects/{uuid7()}")
    await client.get("/nowhere")
    await client.post(f"/projects/{PROJECT}/members", content=b"12345")

    async def refuses(_scope: object, _receive: object, send: object) -> None:
        await say(send, 409, b"{}", (b"hortus-reason", b"last-owner-stays"))

    stage.answer = refuses
    await client.delete(f"/projects/{PROJECT}/members/{ada.user_id}")
    records = await stage.records()
    assert [record["number"] for record in records] == [1, 2, 3, 4, 5]
    assert [(record["action"], record["outcome"], record["reason"], record["status"]) for record in records] == [
        ("project.read", "allowed", "allowed", 200),
        ("project.read", "refused", "not-a-member", 404),
        ("unknown", "refused", "unknown-path", 404),
        ("member.add", "allowed", "allowed", 200),
        ("member.remove", "refused", "last-owner-stays", 409),
    ]
    assert records[3]["bytes_in"] == 5
    assert records[0]["actor"]["user_id"] == str(ada.user_id)
    assert {record["source"] for record in records} == {"gateway-1"}
    assert records[4]["resource"] == {"project_id": str(PROJECT), "user_id": str(ada.user_id)}
    assert records[0]["request_id"] == stage.seen[0]["headers"]["hortus-request"]


async def test_an_answer_to_head_has_no_body_and_requests_in_a_row_keep_their_order(stage: Stage) -> None:
    ada = stage.signs_in()
    stage.joins(ada, PROJECT)
    reader, writer = await stage.raw()
    head = f"HEAD /api/v1/projects HTTP/1.1\r\nhost: x\r\n\r\nGET /api/v1/projects/{PROJECT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ada.token}\r\n\r\n"
    writer.write((head + "GET /api/v1/trust HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").encode())
    answer = await reader.read()
    writer.close()
    heads = [part.split(b"\r\n")[0] for part in answer.split(b"HTTP/1.1 ")[1:]]
    assert heads == [b"405 Method Not Allowed", b"200 OK", b"200 OK"]
    assert answer.split(b"HTTP/1.1 ")[1].endswith(b"\r\n\r\n")
    assert answer.rstrip().endswith(b"-----END CERTIFICATE-----")


async def test_a_failure_inside_the_gateway_is_a_problem_and_a_record(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    ada = stage.signs_in()
    stage.joins(ada, PROJECT)
    client = await stage.client(ada)

    def breaks(*_: object) -> None:
        raise RuntimeError("a secret detail")

    monkeypatch.setattr(stage.gateway.authority, "standing", breaks)
    answer = await client.get(f"/projects/{PROJECT}")
    assert (answer.status_code, problem(answer)) == (500, "gateway-failed")
    assert "secret" not in answer.text
    assert [(record["outcome"], record["reason"]) for record in await stage.records()] == [("failed", "gateway-failed")]


@pytest.mark.parametrize("provider", ["x%22", "x%22%2C%22outcome%22%3A%22closed%22%2C%22x%22%3A%22", "%7B%22a%22%3A%22"])
async def test_a_crafted_path_forges_nothing_in_its_record(stage: Stage, provider: str) -> None:
    answer = await (await stage.client()).get(f"/oidc/{provider}/start")
    assert (answer.status_code, problem(answer)) == (404, "unknown-path")
    spool = stage.gateway.spool
    await spool.durable(spool.number)
    [line] = segments(spool.folder)[0][1].read_bytes().splitlines()
    record = AuditRecord.model_validate_json(line)
    assert canonical(record) == line
    assert (record.outcome, record.reason, record.resource) == ("refused", "unknown-path", {})
    assert stage.seen == []


async def test_a_body_that_drips_holds_no_connection_to_a_service(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "MAX_CONNECTIONS", 1)
    writers = []
    for _ in range(3):
        _, writer = await stage.raw()
        writer.write(b"POST /api/v1/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{")
        writers.append(writer)
    await until(lambda: len(stage.gateway.in_flight) == 3)
    client = await stage.client()
    for _ in range(3):
        assert (await client.post("/sessions", json={"a": 1})).json()["size"] == 7
    assert len(stage.seen) == 3
    for writer in writers:
        writer.close()
    await until(lambda: len(stage.gateway.in_flight) == 0)
    assert {record["reason"] for record in await stage.records()} == {"allowed", "client-left"}


@pytest.mark.parametrize("size", [0, 1, 9000, 200_000])
async def test_a_body_that_comes_in_pieces_arrives_whole(stage: Stage, size: int) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, size, 4096):
            yield bytes(min(4096, size - start))
            await asyncio.sleep(0.001)

    client = await stage.client()
    for content in (pieces(), bytes(size)):
        assert (await client.post("/sessions", content=content)).json()["size"] == size
    assert [record["bytes_in"] for record in await stage.records()] == [size, size]


async def test_large_bodies_on_their_way_are_bounded_and_small_ones_always_pass(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "ROOM", 100_000)
    held = stage.gateway.plane._bodies
    writers = []
    for _ in range(2):
        _, writer = await stage.raw()
        writer.write(b"POST /api/v1/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\n" + bytes(50_000))
        writers.append(writer)
    await until(lambda: held.held > 80_000)

    async def large() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield bytes(10_000)
            await asyncio.sleep(0.01)

    client = await stage.client()
    refused = await client.post("/sessions", content=large())
    assert (refused.status_code, problem(refused)) == (503, "no-room-for-body")
    assert (await client.post("/sessions", content=bytes(5000))).json()["size"] == 5000
    for writer in writers:
        writer.close()
    await until(lambda: held.held == 0)


async def test_who_takes_no_answers_holds_no_connection_to_a_service(stage: Stage) -> None:
    async def page(_scope: object, receive: object, send: object) -> None:
        await read(receive)
        await say(send, 200, bytes(200_000))

    stage.answer = page
    _, writer = await stage.raw()
    writer.write(b"GET /api/v1/sign-in HTTP/1.1\r\nHost: localhost\r\n\r\n" * 300)
    count = still = 0
    async with asyncio.timeout(20):
        while count == 0 or still < 50:  # looks, between which everybody has their turn, not a span of time
            await asyncio.sleep(0.01)
            still = still + 1 if count == len(stage.seen) else 0
            count = len(stage.seen)
    assert count < 300
    assert len(stage.gateway.in_flight) == 1
    assert not any(replica.busy for upstream in stage.gateway.forwarder._upstreams.values() for replica in upstream.replicas)
    writer.close()


@pytest.mark.parametrize(
    ("peer", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("somewhere", "somewhere"),
    ],
)
async def test_strangers_are_counted_by_address_or_by_network(
    stage: Stage, peer: str, network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client: Any = SimpleNamespace()
    flight = inflight.Flight(client, peer, NOTHING_SHOWN, Action.SESSION_CREATE, None, NOBODY_STANDING)
    assert flight.key == f"from {network}"
    monkeypatch.setattr(plane, "MOST_WAITING", 1)
    unknown = NotKnownYet("users", "nobody", InvalidCredential())
    waits = asyncio.create_task(stage.gateway.plane._arrival(cast("Any", SimpleNamespace(peer=network.replace("/64", "9"))), unknown, 0.2))
    await asyncio.sleep(0)
    with pytest.raises(inflight.TooManyAtOnce):
        await stage.gateway.plane._arrival(cast("Any", SimpleNamespace(peer=peer)), unknown, 0.2)
    assert not await waits
    assert stage.gateway.plane._waiting == {}
