"""The broker and the index show their next certificates while they run, and the runner sees to it in time."""

import socket
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

from confluent_kafka import Producer
from confluent_kafka.admin._config import ConfigResource, ConfigSource
from cryptography import x509
from elasticsearch import AsyncElasticsearch

from chassis import pairs, tls
from compose.local.pki import Pki
from compose.local.renewal import Due, Renewals, at_half, when_low
from compose.local.suite import Suite
from tests.local.conftest import Certificates
from tests.local.test_servers import eventually

PATIENCE = 90.0


def shown(port: int, folder: Path) -> int:
    """The serial of the certificate that a server shows on a new connection; the client's own lies in ``folder``."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=30) as plain,
        tls.client_context(folder).wrap_socket(plain, server_hostname="localhost") as channel,
    ):
        return x509.load_der_x509_certificate(channel.getpeercert(binary_form=True) or b"").serial_number


def serial(folder: Path) -> int:
    return pairs.leaf(folder).serial_number


class Writer:
    """A producer that keeps its connection, and says what became of a record."""

    def __init__(self, suite: Suite, folder: Path) -> None:
        self._producer = Producer({**suite.kafka.client_settings(folder), "log_level": 0, "connections.max.idle.ms": 0})

    def writes(self) -> bool:
        answers: list[object] = []
        self._producer.produce("projects", b"value", b"key", on_delivery=lambda error, _message: answers.append(error))
        self._producer.flush(60)
        return answers == [None]


def test_the_broker_shows_its_next_certificate_on_every_listener_and_goes_on(suite: Suite, certificate: Certificates) -> None:
    broker, own = suite.kafka, certificate.of("projects")
    ports = (broker.port, broker._controller_port)
    old = Writer(suite, own)
    assert old.writes()
    for _ in range(2):
        before = [shown(port, own) for port in ports]
        broker.renew()
        assert eventually(lambda: [shown(port, own) for port in ports] == [serial(broker.tls)] * 2, PATIENCE)
        assert serial(broker.tls) not in before
        assert old.writes()
        assert Writer(suite, own).writes()


def test_what_the_broker_keeps_of_its_key_store_is_right_also_where_its_home_is_moved(suite: Suite) -> None:
    suite.kafka.renew()
    asked = ConfigResource(ConfigResource.Type.BROKER, "1")
    admin = suite.kafka.admin()
    answer = admin.describe_configs([asked], request_timeout=30)[asked].result(30)
    kept = {entry.value for entry in answer.values() if entry.source == ConfigSource.DYNAMIC_BROKER_CONFIG.value}
    assert kept
    assert not any(str(suite.home.path) in str(value) for value in kept)


async def test_the_index_shows_its_next_certificate_and_its_clients_theirs(suite: Suite, certificate: Certificates) -> None:
    own = certificate.of("search")
    user = ("search", suite.home.secret("elasticsearch.password"))
    client = AsyncElasticsearch(suite.elasticsearch.url, basic_auth=user, ssl_context=tls.client_context(own))
    try:
        assert await client.ping()
        before = shown(suite.elasticsearch.port, own)
        suite.elasticsearch.renew()
        certificate.of("search")
        tls.show_anew(own)
        assert await client.ping()
        assert eventually(lambda: shown(suite.elasticsearch.port, own) == serial(suite.elasticsearch.tls) != before, PATIENCE)
        assert await client.ping()
    finally:
        await client.close()


def test_the_nodes_key_is_its_own_accounts_and_nobody_elses(suite: Suite) -> None:
    suite.elasticsearch.renew()
    for name in (pairs.KEY, pairs.CERTIFICATE):
        state = (suite.elasticsearch.tls / name).stat()
        assert (state.st_uid, state.st_mode & 0o077) == (suite.elasticsearch.account.uid, 0)


# When the runner acts


def looked(folder: Path, at: datetime, due: Due = at_half) -> list[str]:
    done: list[str] = []
    renewals = Renewals(done.append)
    renewals.watch("auth", folder, lambda: done.append("renewed"), due)
    renewals.look(at)
    return done


def test_a_certificate_is_renewed_at_half_of_its_life_and_not_before(pki: Pki, tmp_path: Path) -> None:
    pki.issue_service_certificate("auth", tmp_path, lifetime=timedelta(hours=1))
    life = pairs.life_of(pairs.leaf(tmp_path))
    assert looked(tmp_path, life.half - timedelta(seconds=1)) == []
    assert looked(tmp_path, life.half) == ["renewed"]
    assert looked(tmp_path, life.ends_at + timedelta(days=7)) == ["renewed"]


def test_a_service_has_its_time_with_ca_before_the_runner_steps_in(pki: Pki, tmp_path: Path) -> None:
    pki.issue_service_certificate("auth", tmp_path, lifetime=timedelta(hours=1))
    life = pairs.life_of(pairs.leaf(tmp_path))
    assert looked(tmp_path, life.half, due=when_low) == []
    assert looked(tmp_path, life.ends_at - timedelta(minutes=14), due=when_low) == ["renewed"]


def test_what_was_not_certified_yet_is_nobodys_failure(tmp_path: Path) -> None:
    assert looked(tmp_path, datetime.now(UTC)) == []


def test_a_failure_is_told_and_tried_again_after_a_pause_that_grows_and_others_are_looked_at(pki: Pki, tmp_path: Path) -> None:
    for name in ("kafka", "runner"):
        pki.issue_service_certificate("auth", tmp_path / name, lifetime=timedelta(hours=1))
    now = pairs.life_of(pairs.leaf(tmp_path / "runner")).half
    told: list[str] = []
    done: list[str] = []
    broken = threading.Event()
    broken.set()

    def renew() -> None:
        done.append("tried")
        if broken.is_set():
            raise OSError("no broker")

    renewals = Renewals(told.append)
    renewals.watch("kafka", tmp_path / "kafka", renew)
    renewals.watch("runner", tmp_path / "runner", lambda: done.append("runner"))
    tries = []
    for second in range(8):
        before = done.count("tried")
        renewals.look(now + timedelta(seconds=second))
        tries.append(done.count("tried") - before)
    assert tries == [1, 1, 0, 1, 0, 0, 0, 1]
    assert done.count("runner") == 8
    assert set(told) == {"the certificate of kafka was not renewed: OSError: no broker"}
    broken.clear()
    renewals.look(now + timedelta(seconds=60))
    broken.set()
    renewals.look(now + timedelta(seconds=61))
    renewals.look(now + timedelta(seconds=62))
    assert len(told) == 6


def test_the_thread_looks_by_itself_and_ends(pki: Pki, tmp_path: Path) -> None:
    pki.issue_service_certificate("auth", tmp_path, lifetime=timedelta(seconds=-1))
    renewed = threading.Event()
    renewals = Renewals(lambda _: None)
    renewals.watch("auth", tmp_path, renewed.set)
    renewals.start()
    assert renewed.wait(20)
    renewals.stop()
    renewals.stop()
    assert renewals._thread is None
