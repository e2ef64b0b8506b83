"""A certificate at the gateway's certificate port: whom it speaks for, alone and beside a token, and everything that is refused there."""

import asyncio
import contextlib
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from uuid_utils.compat import uuid7

from chassis.guard import IDENTITY_HEADER, write_identity
from contracts.events import Certificate, CertificateKind, User, UserStatus
from contracts.roles import Actor, ClusterRole, Principal, Role
from tests.gateway.stage import DOMAIN, Certificates, Holder, Someone, Stage, problem, until

PROJECT, OTHER = uuid7(), uuid7()
DATASET = uuid7()
FILE = f"/projects/{PROJECT}/datasets/{DATASET}/files/a/b.bin"
READ = f"/projects/{PROJECT}"


def member(stage: Stage, role: Role = Role.DATA_OWNER, *roles: ClusterRole) -> Someone:
    """Somebody who has signed in and is in both projects."""
    someone = stage.signs_in(*roles)
    for project in (PROJECT, OTHER):
        stage.joins(someone, project, role)
    return someone


def certificate_of(stage: Stage, someone: Someone) -> Holder:
    return stage.holds(CertificateKind.PROJECT, project_id=PROJECT, user_id=someone.user_id)


def run_of(stage: Stage, someone: Someone) -> Holder:
    return stage.holds(CertificateKind.JOB, project_id=PROJECT, user_id=someone.user_id, run_id=uuid7())


def ended(stage: Stage, holder: Holder) -> None:
    """What ca says when a certificate counts no longer."""
    stage.tell(holder.fact.model_copy(update={"version": holder.fact.version + 1, "live": False}))


async def refused(client: httpx2.AsyncClient, path: str = READ, **more: Any) -> tuple[int, str]:
    answer = await client.get(path, **more)
    return answer.status_code, problem(answer)


async def shut_out(stage: Stage, holder: Holder | None, chain: Path | None = None) -> None:
    """No handshake, or no word after it (TLS 1.3 refuses a client's certificate when the client believes that all is well)."""
    context = ssl.create_default_context(cafile=str(stage.certificates.pki.root))
    if holder is not None:
        context.load_cert_chain(chain or holder.folder / "cert.pem", holder.folder / "key.pem")
    before = len(stage.seen)
    async with httpx2.AsyncClient(base_url=stage.machines, verify=context, timeout=10) as client:
        with pytest.raises(httpx2.TransportError):
            await client.get(f"/api/v1{READ}")
    assert len(stage.seen) == before
    assert await stage.records() == []


# Alone, and beside a token


async def test_with_a_token_of_the_same_person_the_certificates_project_is_the_only_one(stage: Stage) -> None:
    ada = member(stage, Role.DATA_OWNER, ClusterRole.ADMINISTRATOR)
    client = await stage.client(ada, certificate_of(stage, ada))
    assert (await client.get(READ)).status_code == 200
    actor = stage.actor()
    assert (actor.user_id, actor.session_id, actor.role) == (ada.user_id, ada.session_id, Role.DATA_OWNER)
    assert await refused(client, f"/projects/{OTHER}") == (404, "not-found")
    assert (await client.get("/projects")).status_code == 200
    assert stage.actor().projects == {PROJECT: Role.DATA_OWNER}
    assert await refused(client, "/users") == (403, "role-may-not")


async def test_a_certificate_beside_somebody_elses_token_is_refused_at_every_door(stage: Stage) -> None:
    ada, eve = member(stage), member(stage)
    client = await stage.client(eve, certificate_of(stage, ada))
    for path in (READ, f"/projects/{OTHER}", "/projects", "/users/me"):
        assert await refused(client, path) == (401, "credentials-differ")
    assert stage.seen == []


async def test_a_certificate_and_a_token_must_both_count(stage: Stage) -> None:
    ada = member(stage)
    holder = certificate_of(stage, ada)
    client = await stage.client(holder=holder)
    out_of_time = {"Authorization": f"Bearer {stage.sign(ada.user_id, ada.session_id, timedelta(seconds=-60))}"}
    assert await refused(client, headers=out_of_time) == (401, "invalid-credential")
    assert (await client.get(READ, headers=ada.headers)).status_code == 200
    stage.shows_factor(ada, version=2, ends=timedelta(seconds=-1))
    assert await refused(client, headers=ada.headers) == (401, "session-ended")
    assert (await client.get(READ)).status_code == 200
    stage.shows_factor(ada, version=3)
    ended(stage, holder)
    assert await refused(client, headers=ada.headers) == (401, "certificate-not-live")


async def test_at_the_peoples_port_a_certificate_is_not_looked_at(stage: Stage) -> None:
    ada, eve = member(stage), member(stage)
    context = stage.context(certificate_of(stage, ada))
    async with httpx2.AsyncClient(base_url=f"{stage.people}/api/v1", verify=context) as client:
        assert await refused(client) == (401, "not-signed-in")
        assert (await client.get(READ, headers=eve.headers)).status_code == 200
        assert (stage.actor().user_id, stage.actor().certificate_id) == (eve.user_id, None)


@pytest.mark.parametrize("kind", [CertificateKind.AGENT, CertificateKind.JOB])
async def test_a_machines_certificate_goes_with_no_token(stage: Stage, kind: CertificateKind) -> None:
    ada = member(stage)
    holder = stage.holds(kind, agent_id=uuid7()) if kind is CertificateKind.AGENT else run_of(stage, ada)
    client = await stage.client(ada, holder)
    for path in ("/projects", READ, f"/runs/{holder.fact.run_id or uuid7()}/inputs/{DATASET}/files"):
        assert await refused(client, path) == (401, "credentials-differ")
    assert stage.seen == []


async def test_the_door_where_services_renew_is_reached_from_outside_by_nobody(stage: Stage) -> None:
    ada = member(stage, Role.DATA_OWNER, ClusterRole.ADMINISTRATOR)
    claims = {IDENTITY_HEADER: write_identity(Actor(principal=Principal.SERVICE, service="gateway"))}
    for client in (await stage.client(), await stage.client(ada), await stage.client(ada, certificate_of(stage, ada))):
        for path in ("/service-certificates", "/service-certificates/", "/service%2Dcertificates"):
            answer = await client.post(path, json={"csr": "x"}, headers=claims)
            assert answer.status_code == 404, path
    assert stage.seen == []


# What is refused though its issuer is the right one


async def test_a_certificate_opens_no_other_project(stage: Stage) -> None:
    ada = member(stage)
    client = await stage.client(holder=certificate_of(stage, ada))
    answer = await client.get(f"/projects/{OTHER}")
    unknown = await client.get(f"/projects/{uuid7()}")
    assert (answer.status_code, problem(answer)) == (404, "not-found")
    assert {**answer.json(), "instance": ""} == {**unknown.json(), "instance": ""}
    assert stage.seen == []


async def test_a_revoked_certificate_is_refused_and_another_of_the_same_person_is_not(stage: Stage) -> None:
    ada = member(stage)
    first, second = certificate_of(stage, ada), certificate_of(stage, ada)
    ended(stage, first)
    assert await refused(await stage.client(holder=first)) == (401, "certificate-not-live")
    assert (await (await stage.client(holder=second)).get(READ)).status_code == 200


@pytest.mark.parametrize("status", [UserStatus.BLOCKED, UserStatus.DEACTIVATED, UserStatus.INVITED])
async def test_the_certificate_of_a_person_who_is_not_active_is_refused_before_ca_has_said_so(stage: Stage, status: UserStatus) -> None:
    ada = member(stage)
    client = await stage.client(holder=certificate_of(stage, ada))
    assert (await client.get(READ)).status_code == 200
    stage.tell(User(version=2, user_id=ada.user_id, username="ada", status=status, cluster_roles=frozenset()))
    assert await refused(client) == (401, "account-not-active")


async def test_the_certificate_of_a_removed_member_is_refused_before_ca_has_said_so(stage: Stage) -> None:
    ada = member(stage)
    client = await stage.client(holder=certificate_of(stage, ada))
    stage.joins(ada, PROJECT, None, version=2)
    assert await refused(client) == (401, "membership-ended")
    assert await refused(client, "/projects") == (401, "membership-ended")
    stage.joins(ada, PROJECT, Role.DATA_OWNER, version=3, ends_at=datetime.now(UTC) - timedelta(seconds=1))
    assert await refused(client) == (401, "membership-ended")
    stage.joins(ada, PROJECT, Role.DATA_OWNER, version=4, starts_at=datetime.now(UTC) + timedelta(hours=1))
    assert await refused(client) == (401, "membership-ended")


@pytest.mark.parametrize(
    "other",
    ["fingerprint", "project_id", "user_id", "kind"],
)
async def test_a_certificate_that_says_something_else_than_what_ca_said_of_its_serial_is_refused(stage: Stage, other: str) -> None:
    ada = member(stage)
    holder = stage.holds(CertificateKind.PROJECT, told=False, project_id=PROJECT, user_id=ada.user_id)
    said = {"fingerprint": "0" * 64, "project_id": OTHER, "user_id": uuid7(), "kind": CertificateKind.JOB}[other]
    stage.tell(holder.fact.model_copy(update={other: said}))
    assert await refused(await stage.client(holder=holder)) == (401, "certificate-not-live")


def issued(stage: Stage, issuer: str, uri: str, lifetime: timedelta = timedelta(hours=1), **about: Any) -> Holder:
    """A certificate by any issuer with any name in it, and, if ``about`` says so, told as one that counts."""
    folder = stage.folder / f"odd-{uuid7()}"
    made = stage.certificates.issue(folder, issuer, uri, lifetime)
    fact = Certificate(
        version=1,
        certificate_id=f"{made.serial_number:032x}",
        fingerprint=made.fingerprint(hashes.SHA256()).hex(),
        not_before=made.not_valid_before_utc,
        not_after=made.not_valid_after_utc,
        live=True,
        chain="",
        **{"kind": CertificateKind.PROJECT, **about},
    )
    if about:
        stage.tell(fact)
    return Holder(folder, fact.certificate_id, fact)


async def test_a_name_that_is_nobodys_is_refused(stage: Stage) -> None:
    ada = member(stage)
    person = f"project/{PROJECT}/user/{ada.user_id}"
    for uri in (
        f"spiffe://another.domain/{person}",
        f"spiffe://{DOMAIN}/service/gateway",
        f"spiffe://{DOMAIN}/{person}/",
        f"spiffe://{DOMAIN}/{person}/job/",
        f"spiffe://{DOMAIN}/{person}/agent/{uuid7()}",
        f"spiffe://{DOMAIN}/agent/*",
        f"spiffe://{DOMAIN}/{person.upper()}",
        "https://hortus.internal/",
    ):
        client = await stage.client(holder=issued(stage, "people", uri))
        assert await refused(client) == (401, "invalid-credential"), uri
        assert await refused(client, headers=ada.headers) == (401, "invalid-credential"), uri


async def test_an_issuer_that_signs_for_others_names_makes_nobody(stage: Stage) -> None:
    """``people`` has no word for agents and ``workloads`` none for people: ca's list decides, and neither is on it."""
    ada = member(stage)
    for issuer, uri in (("people", f"agent/{uuid7()}"), ("workloads", f"project/{PROJECT}/user/{ada.user_id}")):
        client = await stage.client(holder=issued(stage, issuer, f"spiffe://{DOMAIN}/{uri}"))
        assert await refused(client) == (401, "certificate-not-live")


# Time


async def test_a_certificate_that_has_run_out_gets_no_connection(stage: Stage) -> None:
    ada = member(stage)
    uri = f"spiffe://{DOMAIN}/project/{PROJECT}/user/{ada.user_id}"
    await shut_out(stage, issued(stage, "people", uri, timedelta(seconds=-1), project_id=PROJECT, user_id=ada.user_id))


async def test_on_an_open_connection_a_certificate_ends_at_its_instant_and_with_it_what_is_on_its_way(stage: Stage) -> None:
    ada = member(stage)
    uri = f"spiffe://{DOMAIN}/project/{PROJECT}/user/{ada.user_id}"
    holder = issued(stage, "people", uri, timedelta(seconds=3), project_id=PROJECT, user_id=ada.user_id)
    idle, busy = await stage.client(holder=holder), await stage.client(holder=holder)
    assert (await idle.get(READ)).status_code == 200
    stage.answer = endless
    with contextlib.suppress(httpx2.TransportError):
        async with busy.stream("GET", FILE) as answer:
            assert answer.status_code == 200
            async for _ in answer.aiter_raw():
                pass
        pytest.fail("the transfer ended as if it were whole")
    assert datetime.now(UTC) >= holder.fact.not_after
    assert await refused(idle) == (401, "certificate-not-live")


async def endless(_scope: Any, receive: Any, send: Any) -> None:
    """Sends until the gateway leaves."""
    leaves = asyncio.create_task(_left(receive))
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while not leaves.done():
        await send({"type": "http.response.body", "body": bytes(10_000), "more_body": True})
        await asyncio.sleep(0.01)
    await leaves


async def _left(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


# Issuers that are not the right ones


async def test_nobody_connects_without_a_certificate(stage: Stage) -> None:
    await shut_out(stage, None)


async def test_a_services_certificate_is_none_at_the_certificate_port(stage: Stage) -> None:
    for service in ("gateway", "projects", "ca"):
        await shut_out(stage, Holder(stage.certificates.folder(service), "", None))  # type: ignore[arg-type]


async def test_a_certificate_that_vouches_for_itself_is_none(stage: Stage) -> None:
    ada = member(stage)
    await shut_out(stage, forged(stage, f"spiffe://{DOMAIN}/project/{PROJECT}/user/{ada.user_id}", None))


async def test_an_issuer_of_the_same_name_with_another_key_is_another_issuer(stage: Stage, tmp_path: Path) -> None:
    ada = member(stage)
    uri = f"spiffe://{DOMAIN}/project/{PROJECT}/user/{ada.user_id}"
    await shut_out(stage, forged(stage, uri, "Hortus people"))
    other = Certificates(tmp_path / "another-suite")
    folder = tmp_path / "another-holder"
    other.issue(folder, "people", uri)
    await shut_out(stage, Holder(folder, "", None))  # type: ignore[arg-type]


async def test_an_intermediate_that_did_not_sign_the_leaf_helps_nobody(stage: Stage, tmp_path: Path) -> None:
    """What is sent beside the leaf changes nothing, neither for a forged one nor for a good one: the port has its own two issuers."""
    ada = member(stage)
    uri = f"spiffe://{DOMAIN}/project/{PROJECT}/user/{ada.user_id}"
    fake, good = forged(stage, uri, "Hortus people"), certificate_of(stage, ada)
    own = stage.certificates.pki.issuers_folder
    for issuer in ("people", "workloads"):
        chain = tmp_path / f"{issuer}.pem"
        chain.write_bytes((fake.folder / "leaf.pem").read_bytes() + (own / f"{issuer}.pem").read_bytes())
        await shut_out(stage, fake, chain)
    leaf = (good.folder / "cert.pem").read_text().partition("-----BEGIN CERTIFICATE-----\n")[2].partition("-----END")[0]
    wrong = tmp_path / "wrong.pem"
    wrong.write_text(f"-----BEGIN CERTIFICATE-----\n{leaf}-----END CERTIFICATE-----\n{(own / 'workloads.pem').read_text()}")
    context = stage.context()
    context.load_cert_chain(wrong, good.folder / "key.pem")
    async with httpx2.AsyncClient(base_url=f"{stage.machines}/api/v1", verify=context) as client:
        assert (await client.get(READ)).status_code == 200


def forged(stage: Stage, uri: str, issuer: str | None) -> Holder:
    """A certificate that nobody here has signed: by itself, or by an issuer that calls itself like one of ours. Alone in ``leaf.pem``."""
    folder = stage.folder / f"forged-{uuid7()}"
    folder.mkdir()
    key, issuer_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    organization = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Hortus")
    own, above = (x509.Name([organization, x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("somebody", issuer or "somebody"))
    now = datetime.now(UTC)

    def made(subject: x509.Name, public: ec.EllipticCurvePublicKey, signs: ec.EllipticCurvePrivateKey, *, authority: bool) -> bytes:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(above)
            .public_key(public)
            .serial_number(uuid7().int)
            .not_valid_before(now - timedelta(seconds=60))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
            .sign(signs, hashes.SHA256())
            .public_bytes(Encoding.PEM)
        )

    leaf = made(own, key.public_key(), issuer_key if issuer else key, authority=False)
    (folder / "leaf.pem").write_bytes(leaf)
    chain = leaf + made(above, issuer_key.public_key(), issuer_key, authority=True) if issuer else leaf
    (folder / "cert.pem").write_bytes(chain)
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return Holder(folder, "", None)  # type: ignore[arg-type]


# Agents and jobs


async def test_an_agents_certificate_opens_no_door_of_people_and_none_of_jobs(stage: Stage) -> None:
    machine = await stage.client(holder=stage.holds(CertificateKind.AGENT, agent_id=uuid7()))
    assert await refused(machine) == (404, "not-found")
    for path in ("/projects", "/users", "/users/me", "/audit/records", f"/runs/{uuid7()}/inputs/{DATASET}/files"):
        assert await refused(machine, path) == (403, "wrong-principal"), path
    for path in (f"{READ}/certificates", f"{READ}/members", f"{READ}/datasets"):
        answer = await machine.post(path, json={})
        assert (answer.status_code, problem(answer)) == (404, "not-found"), path
    assert stage.seen == []


async def test_a_withdrawn_agents_certificate_is_refused(stage: Stage) -> None:
    holder = stage.holds(CertificateKind.AGENT, agent_id=uuid7())
    machine = await stage.client(holder=holder)
    assert await refused(machine, "/projects") == (403, "wrong-principal")
    ended(stage, holder)
    assert await refused(machine, "/projects") == (401, "certificate-not-live")


async def test_a_jobs_certificate_counts_until_the_instant_its_membership_ends_and_again_when_that_is_prolonged(stage: Stage) -> None:
    """The certificate itself names a later end, and nobody waits for ca to say that it is over."""
    ada = member(stage, Role.DATA_SCIENTIST)
    ends = datetime.now(UTC) + timedelta(seconds=2)
    stage.joins(ada, PROJECT, Role.DATA_SCIENTIST, version=2, ends_at=ends)
    holder = run_of(stage, ada)
    files = f"/runs/{holder.fact.run_id}/inputs/{DATASET}/files"
    job = await stage.client(holder=holder)
    answers, stage.answer = stage.answer, endless
    with contextlib.suppress(httpx2.TransportError):
        async with job.stream("GET", f"{files}/a") as answer:
            assert answer.status_code == 200
            async for _ in answer.aiter_raw():
                pass
        pytest.fail("the transfer ended as if it were whole")
    assert ends <= datetime.now(UTC) < holder.fact.not_after
    assert await refused(job, files) == (401, "membership-ended")
    stage.answer = answers
    stage.joins(ada, PROJECT, Role.DATA_SCIENTIST, version=3, ends_at=ends + timedelta(hours=1))
    assert (await job.get(files)).status_code == 200


async def test_a_jobs_certificate_dies_with_the_job_and_with_it_what_it_reads_and_writes(stage: Stage) -> None:
    """When a run has ended ca revokes its certificate (tests/ca/test_handlers.py); here is what becomes of whoever still shows it."""
    ada = member(stage, Role.DATA_SCIENTIST)
    holder = run_of(stage, ada)
    run = holder.fact.run_id
    job = await stage.client(holder=holder)
    assert (await job.get(f"/runs/{run}/inputs/{DATASET}/files")).status_code == 200
    assert (stage.actor().principal, stage.actor().run_id) == (Principal.JOB, run)
    stage.answer = endless
    begun = asyncio.Event()

    async def reads() -> None:
        async with job.stream("GET", f"/runs/{run}/inputs/{DATASET}/files/a") as answer:
            async for _ in answer.aiter_raw():
                begun.set()

    reading = asyncio.create_task(reads())
    await begun.wait()
    taken = asyncio.Event()

    async def takes(_scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        taken.set()
        while message["type"] != "http.disconnect":
            message = await receive()

    async def pieces() -> Any:
        while True:
            yield bytes(10_000)
            await asyncio.sleep(0.01)

    stage.answer = takes
    writer = await stage.client(holder=holder)
    writing = asyncio.create_task(writer.put(f"/runs/{run}/outputs/result", content=pieces()))
    await taken.wait()
    ended(stage, holder)
    for cut in (reading, writing):
        with pytest.raises(httpx2.TransportError):
            await asyncio.wait_for(cut, 5)
    await until(lambda: len(stage.gateway.in_flight) == 0)
    assert [record["reason"] for record in await stage.records() if record["outcome"] == "failed"] == ["cut", "cut"]
    assert await refused(job, f"/runs/{run}/inputs/{DATASET}/files") == (401, "certificate-not-live")


async def test_an_earlier_leases_certificate_is_refused_while_the_later_ones_counts(stage: Stage) -> None:
    ada, run = member(stage), uuid7()
    first, second = (stage.holds(CertificateKind.JOB, project_id=PROJECT, user_id=ada.user_id, run_id=run) for _ in range(2))
    ended(stage, first)
    path = f"/runs/{run}/inputs/{DATASET}/files"
    assert await refused(await stage.client(holder=first), path) == (401, "certificate-not-live")
    assert (await (await stage.client(holder=second)).get(path)).status_code == 200
