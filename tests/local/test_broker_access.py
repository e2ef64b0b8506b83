"""Who may do what at the broker, topic by topic, as a client that knows nothing of Hortus sees it.

Each principal asks once for everything: one request that writes to every topic of the catalogue, one that reads them all. What is
expected is written down here from the catalogue's own words, without the rules that the set-up makes of them.
"""

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import errors
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.admin import AlterConfigsRequest, CreateAclsRequest, CreateTopicsRequest, DeleteTopicsRequest, DescribeAclsRequest
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.group import JoinGroupRequest
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import InitProducerIdRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from compose.local.suite import Suite
from contracts.events import GATEWAY, TOPICS, Topic
from contracts.policy import Service
from tests.gateway.stage import issued
from tests.local.conftest import Certificates

PARTIES = (*map(str, Service), GATEWAY)
OTHERS = ("runner", "index", "nobody-in-particular")
ALLOWED = 0
GROUP, TRANSACTION, ANYTHING = 0, 1, 1
TOPIC_REFUSED = errors.TopicAuthorizationFailedError.errno
GROUP_REFUSED = errors.GroupAuthorizationFailedError.errno
CLUSTER_REFUSED = errors.ClusterAuthorizationFailedError.errno
TRANSACTION_REFUSED = errors.TransactionalIdAuthorizationFailed.errno


def named(topic: Topic) -> str:
    return f"{topic.name}-1" if topic.per_instance else topic.name


BY_NAME = {named(topic): topic for topic in TOPICS.values()}


def context_of(suite: Suite, folder: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(suite.root))
    if folder is not None:
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


class Stranger:
    """A client with nothing but a certificate, that sends what it is told to and says what the broker answered."""

    def __init__(self, client: AIOKafkaClient) -> None:
        self._client = client

    async def ask(self, request: Any) -> Any:
        return await self._client.send(1, request)

    async def writes(self) -> dict[str, int]:
        """What becomes of one record for every topic, by topic."""
        wanted = [(name, [(0, batch())]) for name in BY_NAME]
        answer = await self.ask(ProduceRequest(None, 1, 10_000, wanted))
        return {name: partitions[0][1] for name, partitions in answer.topics}

    async def reads(self) -> dict[str, int]:
        """What becomes of a look at the beginning of every topic, by topic."""
        answer = await self.ask(FetchRequest(0, 0, 1 << 20, 1, [(name, [(0, 0, 1 << 16)]) for name in BY_NAME]))
        return {name: partitions[0][1] for name, partitions in answer.topics}

    async def joins(self, group: str) -> int:
        """What the broker says to somebody who joins a group."""
        join = JoinGroupRequest(group, 10_000, 10_000, "", "", "consumer", [("range", b"\0\1\0\0\0\0\0\0\0\0")])
        return await self._settled(FindCoordinatorRequest(group, GROUP), join)

    async def begins(self, transactional_id: str) -> int:
        """What the broker says to somebody who takes a transactional id over."""
        return await self._settled(FindCoordinatorRequest(transactional_id, TRANSACTION), InitProducerIdRequest(transactional_id, 10_000))

    async def _settled(self, coordinator: Any, request: Any) -> int:
        deadline = time.monotonic() + 30
        while True:
            await self.ask(coordinator)  # the first one makes the broker's own topic
            code: int = (await self.ask(request)).error_code
            if not getattr(errors.for_code(code), "retriable", False):
                return code
            assert time.monotonic() < deadline, code
            await asyncio.sleep(0.05)


def batch() -> bytes:
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 4096)
    builder.append(0, int(time.time() * 1000), b"key", b"value", [])
    return bytes(builder.build())


@contextlib.asynccontextmanager
async def connected(suite: Suite, folder: Path | None) -> AsyncIterator[Stranger]:
    client = AIOKafkaClient(
        bootstrap_servers=suite.kafka.bootstrap, security_protocol="SSL", ssl_context=context_of(suite, folder), request_timeout_ms=15_000
    )
    try:
        await client.bootstrap()
        yield Stranger(client)
    finally:
        await client.close()


def allowed(answers: dict[str, int]) -> set[str]:
    """The topics that were let in; whatever was not is a refusal by the broker's rules and no other error."""
    assert set(answers) == set(BY_NAME)
    assert set(answers.values()) <= {ALLOWED, TOPIC_REFUSED}
    return {name for name, code in answers.items() if code == ALLOWED}


def test_every_topic_is_there_and_has_one_owner(suite: Suite) -> None:
    there = suite.kafka.admin().list_topics(timeout=10).topics
    assert set(BY_NAME) <= set(there)
    assert {str(topic.owner) for topic in TOPICS.values()} <= set(PARTIES)


@pytest.mark.parametrize("party", PARTIES)
async def test_each_party_writes_its_own_topics_and_reads_those_that_it_is_a_reader_of(
    suite: Suite, certificate: Certificates, party: str
) -> None:
    async with connected(suite, certificate.of(party)) as stranger:
        assert allowed(await stranger.writes()) == {name for name, topic in BY_NAME.items() if topic.owner == party}
        assert allowed(await stranger.reads()) == {name for name, topic in BY_NAME.items() if party in topic.readers}


@pytest.mark.parametrize("party", OTHERS)
async def test_parties_without_a_part_in_the_catalogue_write_and_read_nothing(suite: Suite, certificate: Certificates, party: str) -> None:
    async with connected(suite, certificate.of(party)) as stranger:
        assert allowed(await stranger.writes()) == set()
        assert allowed(await stranger.reads()) == set()
        assert await stranger.joins(party) == GROUP_REFUSED
        assert await stranger.begins(f"relay.{party}") == TRANSACTION_REFUSED


async def test_the_topic_of_a_gateway_that_nobody_runs_is_not_made_by_writing_to_it(suite: Suite, certificate: Certificates) -> None:
    async with connected(suite, certificate.of(GATEWAY)) as stranger:
        answer = await stranger.ask(ProduceRequest(None, 1, 5_000, [("audit.gateway-99", [(0, batch())])]))
        assert answer.topics[0][1][0][1] == errors.UnknownTopicOrPartitionError.errno
    assert "audit.gateway-99" not in suite.kafka.admin().list_topics(timeout=10).topics


async def test_a_party_reads_in_groups_of_its_own_name_only(suite: Suite, certificate: Certificates) -> None:
    readers = {str(reader) for topic in TOPICS.values() for reader in topic.readers}
    for party in PARTIES:
        async with connected(suite, certificate.of(party)) as stranger:
            for group in (*PARTIES, *(f"{other}.more" for other in PARTIES)):
                own = party in readers and group.partition(".")[0] == party
                assert await stranger.joins(group) == (ALLOWED if own else GROUP_REFUSED), (party, group)
            assert await stranger.joins(f"{party}-more") == GROUP_REFUSED


async def test_a_party_takes_over_no_transactional_id_but_that_of_its_own_relay(suite: Suite, certificate: Certificates) -> None:
    """Whoever could begin with another's id would fence that one's relay, and with it what it has to say of authority."""
    owners: dict[str, str] = {}
    for topic in TOPICS.values():
        if topic.compacted:
            owners[f"relay.{topic.owner}" if topic.authority else f"relay.{topic.owner}.state"] = str(topic.owner)
    assert len(owners) > 3
    for party in PARTIES:
        async with connected(suite, certificate.of(party)) as stranger:
            for name, owner in owners.items():
                assert await stranger.begins(name) == (ALLOWED if owner == party else TRANSACTION_REFUSED), (party, name)
            assert await stranger.begins(f"relay.{party}.more") == TRANSACTION_REFUSED
            assert await stranger.begins("mine") == TRANSACTION_REFUSED


async def test_nobody_but_the_set_up_makes_topics_changes_them_or_gives_rights(suite: Suite, certificate: Certificates) -> None:
    rule = (2, "users", 3, "User:eve", "*", 2, 3)  # topic, literal; everything is allowed
    config = [(2, "users", [("retention.ms", "1")])]
    for party in (*PARTIES, *OTHERS):
        async with connected(suite, certificate.of(party)) as stranger:
            made = await stranger.ask(CreateTopicsRequest([(f"{party}.more", 1, 1, [], [])], 5_000, validate_only=False))
            assert made.topic_errors[0][1] == TOPIC_REFUSED, party
            gone = await stranger.ask(DeleteTopicsRequest(["users"], 5_000))
            assert gone.topic_error_codes[0][1] == TOPIC_REFUSED, party
            changed = await stranger.ask(AlterConfigsRequest(config))
            assert changed.resources[0][0] == TOPIC_REFUSED, party
            given = await stranger.ask(CreateAclsRequest(*rule))
            assert given.creation_responses[0][0] == CLUSTER_REFUSED, party
            seen = await stranger.ask(DescribeAclsRequest(ANYTHING, None, ANYTHING, None, None, ANYTHING, ANYTHING))
            assert seen.error_code == CLUSTER_REFUSED, party
    async with connected(suite, suite.home.tls_folder("admin")) as stranger:
        made = await stranger.ask(CreateTopicsRequest([("admins.more", 1, 1, [], [])], 5_000, validate_only=True))
        assert made.topic_errors[0][1] == ALLOWED


@pytest.fixture(params=["without a certificate", "people", "workloads", "by itself"])
def outsider(request: pytest.FixtureRequest, suite: Suite, tmp_path: Path) -> Iterator[Path | None]:
    """Certificates that name a service as their common name, and are not by the issuer of services."""
    if request.param == "without a certificate":
        yield None
        return
    uri = f"spiffe://{suite.pki.trust_domain}/service/auth"
    issuer = "people" if request.param == "by itself" else request.param
    issued(suite.pki, tmp_path, issuer, uri, name="auth")
    if request.param == "by itself":
        leaf = (tmp_path / "cert.pem").read_text().partition("-----END CERTIFICATE-----\n")
        (tmp_path / "cert.pem").write_text(leaf[0] + leaf[1])
    yield tmp_path


async def test_a_client_that_the_issuer_of_services_does_not_vouch_for_gets_no_connection(suite: Suite, outsider: Path | None) -> None:
    with pytest.raises(errors.KafkaConnectionError):
        async with connected(suite, outsider):
            pass
    reader, writer = await asyncio.open_connection("localhost", suite.kafka.port, ssl=context_of(suite, outsider))
    try:
        with pytest.raises(ssl.SSLError, match=r"(?i)certificate|unknown"):
            await asyncio.wait_for(reader.read(1), 10)
    finally:
        writer.close()
