"""The gateway as it is run: its own process, on a real broker, killed, stopped, starved of facts and started again."""

import asyncio
import contextlib
import json
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import httpx2
import pytest
from aiokafka import TopicPartition
from cryptography.hazmat.primitives.asymmetric import ec
from uuid_utils.compat import uuid7

from chassis import bus, tls, tokens
from chassis.audit import canonical
from chassis.settings import ProcessSettings
from compose.local.kafka import Kafka
from compose.local.ports import free_port
from contracts.events import ACTIVITY, TOPICS, Activity, AuditRecord, Fact, Membership, Session, SigningKey, User, UserStatus
from contracts.policy import API
from contracts.roles import Role
from tests.gateway.stage import Certificates
from tests.gateway.test_forward import service

REPOSITORY = Path(__file__).parents[2]
PROJECT = uuid7()
WRITERS = {"auth": ("users", "sessions", "credentials", "signing-keys"), "projects": ("memberships",), "ca": ("certificates",)}


@pytest.fixture(scope="session")
def kafka(certificates: Certificates) -> Iterator[Kafka]:
    pki = certificates.pki
    for name in ("ca", "audit"):
        pki.issue_service_certificate(name, certificates.folder(name))
    made = Kafka(pki.home, pki)
    try:
        made.start()
        made.apply_catalogue(TOPICS, ("1", "2"))
        yield made
    finally:
        made.stop()


class Tellers:
    """What the relays of auth, projects and ca do: facts and positions in fenced transactions."""

    def __init__(self, kafka: Kafka, certificates: Certificates, folder: Path) -> None:
        self.settings = {
            name: ProcessSettings(service=name, tls_dir=certificates.folder(name), kafka=kafka.bootstrap, state_dir=folder)
            for name in (*WRITERS, "audit", "gateway")
        }
        self.waiting: dict[str, list[Fact]] = {name: [] for name in WRITERS}
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._write(name)) for name in WRITERS]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def tell(self, *facts: Fact) -> None:
        for fact in facts:
            self.waiting[fact.topic.owner].append(fact)

    async def _write(self, name: str) -> None:
        producer = bus.producer(self.settings[name], f"relay.{name}")
        await producer.start()
        try:
            while True:
                at = datetime.now(UTC)
                facts, self.waiting[name] = self.waiting[name], []
                await producer.begin_transaction()
                sent = []
                for fact in facts:
                    made = bus.headers(fact.type, str(uuid7()), f"/{name}", fact.key, at.isoformat())
                    sent.append(await producer.send(fact.topic.name, fact.model_dump_json().encode(), fact.key.encode(), headers=made))
                for topic in WRITERS[name]:
                    for number in range(TOPICS[topic].partitions):
                        made = bus.headers(bus.POSITION, str(uuid7()), f"/{name}", "position", at.isoformat())
                        sent.append(await producer.send(topic, bus.position_record(at), bus.POSITION_KEY, partition=number, headers=made))
                await asyncio.gather(*sent)
                await producer.commit_transaction()
                await asyncio.sleep(0.1)
        finally:
            await producer.stop()


class Process:
    """One ``python -m gateway``."""

    def __init__(self, kafka: Kafka, certificates: Certificates, folder: Path, upstream: int, instance: str = "1") -> None:
        self.ports = {name: free_port() for name in ("LISTEN", "PEOPLE_LISTEN", "CERTIFICATE_LISTEN")}
        self.certificates = certificates
        self.environment = {
            **os.environ,
            **{f"HORTUS_{name}": f"127.0.0.1:{port}" for name, port in self.ports.items()},
            "HORTUS_SERVICE": "gateway",
            "HORTUS_INSTANCE": instance,
            "HORTUS_TLS_DIR": str(certificates.folder("gateway")),
            "HORTUS_KAFKA": kafka.bootstrap,
            "HORTUS_STATE_DIR": str(folder),
            "HORTUS_UPSTREAMS": json.dumps({"projects": [f"https://localhost:{upstream}"]}),
            "HORTUS_CLIENT_ISSUERS": str(certificates.pki.client_issuers),
            "HORTUS_ROOT": str(certificates.pki.root),
        }
        self.log = folder / "log"
        self.child: subprocess.Popen[bytes] | None = None

    async def start(self) -> "Process":
        with self.log.open("ab") as log:
            self.child = subprocess.Popen([sys.executable, "-m", "gateway"], cwd=REPOSITORY, env=self.environment, stderr=log)
        async with asyncio.timeout(30):
            while (await self.readiness())[0] != 200:
                assert self.child.poll() is None, self.log.read_text()[-3000:]
                await asyncio.sleep(0.1)
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.child is not None and self.child.poll() is None:
            self.end(signal.SIGKILL)

    async def readiness(self) -> tuple[int, list[str]]:
        with contextlib.suppress(httpx2.TransportError):
            answer = await self.operators("/readyz")
            return answer.status_code, answer.json()["missing"]
        return 0, []

    async def operators(self, path: str, name: str = "runner") -> httpx2.Response:
        context = tls.client_context(self.certificates.folder(name))
        async with httpx2.AsyncClient(verify=context) as client:
            return await client.get(f"https://localhost:{self.ports['LISTEN']}{path}")

    def client(self, token: str) -> httpx2.AsyncClient:
        context = ssl.create_default_context(cafile=str(self.certificates.pki.root))
        base = f"https://localhost:{self.ports['PEOPLE_LISTEN']}{API}"
        return httpx2.AsyncClient(base_url=base, verify=context, headers={"Authorization": f"Bearer {token}"}, timeout=10)

    def end(self, number: signal.Signals) -> int:
        assert self.child is not None
        self.child.send_signal(number)
        return self.child.wait(15)


async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")


@pytest.fixture
async def tellers(kafka: Kafka, certificates: Certificates, tmp_path: Path) -> AsyncIterator[Tellers]:
    async with Tellers(kafka, certificates, tmp_path) as made:
        yield made


def somebody(tellers: Tellers, key: dict[str, str], key_id: str) -> tuple[str, Membership]:
    user_id, session_id, now = uuid7(), uuid7(), datetime.now(UTC)
    member = Membership(
        version=1, project_id=PROJECT, user_id=user_id, username="ada", role=Role.DATA_OWNER, purpose="", starts_at=now, ends_at=None
    )
    tellers.tell(
        SigningKey(version=1, key_id=key_id, jwk={name: value for name, value in key.items() if name != "d"}, live=True),
        User(version=1, user_id=user_id, username="ada", status=UserStatus.ACTIVE, cluster_roles=frozenset()),
        Session(version=1, session_id=session_id, user_id=user_id, live=True, factor_at=now, expires_at=now + timedelta(hours=1)),
        member,
    )
    return tokens.issue(key, key_id, user_id, session_id, now, timedelta(minutes=5))[0], member


async def published(tellers: Tellers, source: str, count: int) -> dict[int, bytes]:
    """The records on a gateway's topic by number, as the audit service would read them, once there are ``count``."""
    client = bus.consumer(tellers.settings["audit"])
    found: dict[int, bytes] = {}
    await client.start()
    try:
        client.assign([TopicPartition(f"audit.{source}", 0)])
        await client.seek_to_beginning()
        async with asyncio.timeout(20):
            while len(found) < count:
                for records in (await client.getmany(timeout_ms=200)).values():
                    for record in records:
                        read = AuditRecord.model_validate_json(record.value)
                        assert canonical(read) == record.value
                        assert record.key.decode() == str(read.record_id)
                        headers = dict(record.headers)
                        assert headers["ce_type"] == b"audit.v1"
                        assert headers["ce_id"] == record.key
                        assert found.setdefault(read.number, record.value) == record.value
    finally:
        await client.stop()
    return found


async def test_a_process_serves_publishes_what_it_recorded_and_loses_nothing_to_kill_9(
    kafka: Kafka, certificates: Certificates, tellers: Tellers, tmp_path: Path
) -> None:
    key = tokens.private_jwk(ec.generate_private_key(ec.SECP256R1()))
    token, _ = somebody(tellers, key, "first")
    async with service(certificates, answers) as upstream, Process(kafka, certificates, tmp_path, upstream) as process:
        total = 0
        for number in (signal.SIGKILL, signal.SIGTERM):
            await process.start()
            async with process.client(token) as client:
                for _ in range(20):
                    assert (await client.get(f"/projects/{PROJECT}")).text == "ok"
            total += 20
            assert len(await published(tellers, "gateway-1", total)) == total
            ended = process.end(number)
        assert ended == 0
        assert sorted(await published(tellers, "gateway-1", total)) == list(range(1, total + 1))
        assert 'hortus_gateway_requests_total{service="projects",status="401"} 2.0' in await _metrics(process)


async def _metrics(process: Process) -> str:
    await process.start()
    async with process.client("x.y.z") as client:
        assert (await client.get("/projects")).status_code == 401
        assert (await client.get("/projects", headers={"Authorization": ""})).status_code == 401
    with pytest.raises(httpx2.TransportError):
        await process.operators("/livez", "projects")
    return (await process.operators("/metrics")).text


async def test_the_use_of_a_session_is_told_on_its_topic_once_in_a_while_and_the_last_one_when_the_gateway_stops(
    kafka: Kafka, certificates: Certificates, tellers: Tellers, tmp_path: Path
) -> None:
    key = tokens.private_jwk(ec.generate_private_key(ec.SECP256R1()))
    token, _ = somebody(tellers, key, "third")
    async with service(certificates, answers) as upstream, Process(kafka, certificates, tmp_path, upstream) as process:
        await process.start()
        async with process.client(token) as client:
            began = datetime.now(UTC)
            for _ in range(5):
                assert (await client.get(f"/projects/{PROJECT}")).status_code == 200
            (first,) = await uses(tellers, began, 1)
            assert (await client.get(f"/projects/{PROJECT}")).status_code == 200
        last = datetime.now(UTC)
        assert process.end(signal.SIGTERM) == 0
        first, second = await uses(tellers, began, 2)
        assert first.subject == second.subject == f"session:{tokens.verify(token, {'third': key}).session_id}"
        assert began <= first.at < second.at <= last


async def uses(tellers: Tellers, since: datetime, count: int) -> list[Activity]:
    """What auth hears on the topic ``activity`` of uses after an instant, once there are ``count``."""
    client = bus.consumer(tellers.settings["auth"])
    found: list[Activity] = []
    await client.start()
    try:
        client.assign([TopicPartition(ACTIVITY.name, number) for number in range(ACTIVITY.partitions)])
        await client.seek_to_beginning()
        async with asyncio.timeout(20):
            while len(found) < count:
                for records in (await client.getmany(timeout_ms=200)).values():
                    read = [bus.read(record) for record in records]
                    found += [fact for fact in read if isinstance(fact, Activity) and fact.at >= since]
    finally:
        await client.stop()
    return sorted(found, key=lambda fact: fact.version)


async def test_a_revocation_is_in_force_on_every_replica_within_a_second_and_nothing_is_allowed_while_kafka_is_away(
    kafka: Kafka, certificates: Certificates, tellers: Tellers, tmp_path: Path
) -> None:
    key = tokens.private_jwk(ec.generate_private_key(ec.SECP256R1()))
    token, member = somebody(tellers, key, "second")
    async with contextlib.AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(service(certificates, answers))
        replicas = []
        for instance in ("1", "2"):
            (tmp_path / instance).mkdir()
            replica = Process(kafka, certificates, tmp_path / instance, upstream, instance)
            replicas.append(await (await stack.enter_async_context(replica)).start())
        clients = [await stack.enter_async_context(replica.client(token)) for replica in replicas]
        loop = asyncio.get_running_loop()
        for client in clients:
            assert (await client.get(f"/projects/{PROJECT}")).status_code == 200
        tellers.tell(member.model_copy(update={"version": 2, "role": None}))
        began = loop.time()
        for client in clients:
            while (await client.get(f"/projects/{PROJECT}")).status_code != 404:
                assert loop.time() - began < 1.0
        tellers.tell(member.model_copy(update={"version": 3}))
        async with asyncio.timeout(15):
            for client in clients:
                after = {"Hortus-After": f"memberships:{PROJECT}%3A{member.user_id}:3"}
                while (status := (await client.get(f"/projects/{PROJECT}", headers=after)).status_code) == 503:
                    pass  # it did not come within the second that one request waits: whoever is told so asks again
                assert status == 200
        await _pause(kafka, replicas, clients)
        assert [replica.end(signal.SIGTERM) for replica in replicas] == [0, 0]


async def _pause(kafka: Kafka, replicas: list[Process], clients: list[Any]) -> None:
    """Stop the broker's process for a while: refuse within a second and a hold, and go on afterwards."""
    assert kafka.child is not None
    broker = kafka.child.pid
    assert broker is not None
    os.kill(broker, signal.SIGSTOP)
    try:
        await asyncio.sleep(1.1)
        refused = await asyncio.gather(*[client.get(f"/projects/{PROJECT}") for client in clients])
        assert [answer.status_code for answer in refused] == [503, 503]
        status, missing = await replicas[0].readiness()
        assert status == 503
        assert "no fresh position on memberships[0]" in missing
    finally:
        os.kill(broker, signal.SIGCONT)
    async with asyncio.timeout(15):
        while (await clients[0].get(f"/projects/{PROJECT}")).status_code != 200:
            await asyncio.sleep(0.1)
