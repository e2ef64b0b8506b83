"""The servers refuse whoever is not meant to come in."""

import asyncio
import shutil
import socket
import ssl
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from compose.local.fetch import elasticsearch_home
from compose.local.home import Home
from compose.local.pki import Pki
from compose.local.problems import SetupProblem
from compose.local.server import short_folder
from compose.local.servers import Elasticsearch, Kafka, Postgres
from compose.local.suite import Suite
from compose.local.topics import Access, Operation, Resource
from contracts.events import TOPICS
from tests.local.conftest import Certificates


def ask(url: str, sql: str) -> Any:
    async def run() -> Any:
        connection = await asyncpg.connect(url.replace("+asyncpg", ""))
        try:
            return await connection.fetchval(sql)
        finally:
            await connection.close()

    return asyncio.run(run())


@pytest.fixture(scope="session")
def auth(suite: Suite) -> tuple[str, str]:
    return suite.postgres.provision("auth")


@pytest.fixture(scope="session")
def projects(suite: Suite) -> tuple[str, str]:
    return suite.postgres.provision("projects")


def test_a_service_reads_and_writes_rows_and_changes_no_table(auth: tuple[str, str]) -> None:
    own, owner = auth
    ask(owner, "CREATE TABLE IF NOT EXISTS notes (word text)")
    assert ask(own, "INSERT INTO notes VALUES ('hello') RETURNING word") == "hello"
    for forbidden in (
        "CREATE TABLE mine (a int)",
        "DROP TABLE notes",
        "ALTER TABLE notes ADD b int",
        "TRUNCATE notes",
        "CREATE SCHEMA s",
        "CREATE TEMP TABLE t (a int)",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            ask(own, forbidden)


def test_no_role_connects_to_another_services_database(auth: tuple[str, str], projects: tuple[str, str]) -> None:
    for url in auth:
        for other in ("projects", "postgres", "template1"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                ask(url.replace("@/auth?", f"@/{other}?"), "SELECT 1")
    assert ask(projects[0], "SELECT current_database()") == "projects"


def test_a_wrong_password_is_refused(auth: tuple[str, str]) -> None:
    head, _, tail = auth[0].partition("@")
    with pytest.raises(asyncpg.InvalidPasswordError):
        ask(f"{head}x@{tail}", "SELECT 1")


def test_no_role_of_a_service_is_more_than_it_needs_to_be(suite: Suite, auth: tuple[str, str]) -> None:
    found = suite.postgres.run_sql(
        "SELECT count(*) FROM pg_roles WHERE rolname IN ('auth', 'auth_owner') AND (rolsuper OR rolcreaterole OR rolcreatedb OR rolbypassrls OR rolreplication)"
    )
    assert found == "0"


def test_provisioning_again_changes_nothing(suite: Suite, auth: tuple[str, str]) -> None:
    assert suite.postgres.provision("auth") == auth


def test_a_database_of_a_test_comes_and_goes(suite: Suite, auth: tuple[str, str]) -> None:
    own, _ = suite.postgres.create_database("auth_of_a_test", owner="auth_owner")
    assert ask(own, "SELECT current_database()") == "auth_of_a_test"
    suite.postgres.drop_database("auth_of_a_test")
    suite.postgres.drop_database("auth_of_a_test")
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        ask(own, "SELECT 1")


@pytest.mark.parametrize("name", ["a; DROP ROLE auth", "Auth", "", "a'b", "x" * 64])
def test_odd_names_of_databases_are_refused(suite: Suite, name: str) -> None:
    with pytest.raises(SetupProblem, match="is no name for a database"):
        suite.postgres.drop_database(name)
    with pytest.raises(SetupProblem, match="is no name for a database"):
        suite.postgres.create_database("fine", owner=name)


def test_sockets_lie_in_folders_of_their_accounts_own(suite: Suite) -> None:
    for server in (suite.postgres, suite.valkey):
        assert stat.S_IMODE(server.sockets.stat().st_mode) == 0o700
        assert len(str(server.sockets)) < 80


def test_a_socket_folder_of_a_runner_that_is_gone_is_removed() -> None:
    left, kept = short_folder("trial"), short_folder("trial")
    (left / ".runner").write_text("1 another-boot:1")
    again = short_folder("trial")
    assert (left.exists(), kept.exists()) == (False, True)
    for folder in (kept, again):
        shutil.rmtree(folder)


def test_it_is_postgresql_18_and_waits_for_the_disk_unless_told_not_to(suite: Suite) -> None:
    assert suite.postgres.run_sql("SHOW server_version").startswith("18.")
    assert suite.postgres.run_sql("SHOW fsync") == "off"
    assert Postgres(suite.home).fsync


def test_two_that_wait_for_each_other_are_parted_within_the_second_of_a_lost_right(suite: Suite) -> None:
    assert suite.postgres.run_sql("SHOW deadlock_timeout") == "50ms"


def produce(suite: Suite, tls: Path, topic: str) -> KafkaError | None:
    """Write one record with the certificate in ``tls``; the first problem that the client has with it, if any."""
    problems: list[KafkaError | None] = []
    settings: dict[str, Any] = {**suite.kafka.client_settings(tls), "log_level": 0}
    producer = Producer(settings, error_cb=problems.append)
    producer.produce(topic, b"value", b"key", on_delivery=lambda error, _message: problems.append(error))
    assert eventually(lambda: producer.poll(0.05) >= 0 and bool(problems))
    producer.purge()
    producer.flush(5)
    return problems[0]


def shake_hands(port: int, context: ssl.SSLContext) -> bytes:
    """What a server says first to a client with ``context``; with TLS 1.3 its refusal comes after the client's handshake."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as channel,
    ):
        channel.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return channel.recv(100)


def test_the_owner_of_a_topic_writes_to_it(suite: Suite, certificate: Certificates) -> None:
    assert produce(suite, certificate.of("projects"), "projects") is None


def test_another_services_certificate_may_not_write(suite: Suite, certificate: Certificates) -> None:
    error = produce(suite, certificate.of("search"), "projects")
    assert error is not None
    assert error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED


def test_a_reader_may_not_write(suite: Suite, certificate: Certificates) -> None:
    error = produce(suite, certificate.of("gateway"), "memberships")
    assert error is not None
    assert error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED


@pytest.mark.parametrize("server", ["kafka", "elasticsearch"])
def test_a_client_without_a_certificate_is_refused(suite: Suite, server: str) -> None:
    port = getattr(suite, server).port
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate.required|bad.certificate"):
        shake_hands(port, ssl.create_default_context(cafile=str(suite.pki.root)))


@pytest.mark.parametrize("server", ["kafka", "elasticsearch"])
def test_a_certificate_of_another_suite_is_refused(suite: Suite, pki: Pki, tmp_path: Path, server: str) -> None:
    pki.issue_service_certificate("projects", tmp_path)
    context = ssl.create_default_context(cafile=str(suite.pki.root))
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    with pytest.raises(ssl.SSLError, match=r"(?i)unknown|certificate"):
        shake_hands(getattr(suite, server).port, context)


@pytest.mark.parametrize("server", ["kafka", "elasticsearch"])
def test_a_plain_text_connection_is_closed(suite: Suite, server: str) -> None:
    with socket.create_connection(("127.0.0.1", getattr(suite, server).port), timeout=10) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = plain.recv(1000)
    assert not answer.startswith(b"HTTP/1.1 2")
    assert b"cluster" not in answer


def test_a_service_may_not_give_rights(suite: Suite, certificate: Certificates) -> None:
    mine = AdminClient({**suite.kafka.client_settings(certificate.of("projects")), "log_level": 0})
    for future in mine.delete_topics(["projects"], request_timeout=10).values():
        with pytest.raises(KafkaException):
            future.result(10)


def test_a_service_sees_only_its_own_topics(suite: Suite, certificate: Certificates) -> None:
    mine = AdminClient({**suite.kafka.client_settings(certificate.of("search")), "log_level": 0})
    expected = {topic.name for topic in TOPICS.values() if "search" in (topic.owner, *topic.readers)}
    assert set(mine.list_topics(timeout=10).topics) == expected


def test_a_rule_that_the_catalogue_does_not_give_is_taken_away(suite: Suite, certificate: Certificates) -> None:
    suite.kafka.allow([Access("search", Operation.WRITE, Resource.TOPIC, "projects")])
    tls = certificate.of("search")
    assert eventually(lambda: produce(suite, tls, "projects") is None)
    suite.kafka.apply_catalogue(TOPICS, ["1"])
    assert eventually(lambda: produce(suite, tls, "projects") is not None)


def test_a_topics_settings_are_brought_back(suite: Suite) -> None:
    before = kept(suite, "memberships")
    assert before["cleanup.policy"] == "compact"
    suite.kafka.apply_catalogue(TOPICS, ["1"])
    assert kept(suite, "memberships") == before


def kept(suite: Suite, topic: str) -> dict[str, str]:
    from confluent_kafka.admin._config import ConfigResource  # noqa: PLC0415 - the module re-exports it untyped

    asked = ConfigResource(ConfigResource.Type.TOPIC, topic)
    admin = suite.kafka.admin()
    answer = admin.describe_configs([asked], request_timeout=10)[asked].result(10)
    return {name: entry.value for name, entry in answer.items() if not entry.is_default}


def test_the_index_refuses_a_wrong_password(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite.home, "secret", lambda _name: "guessed")
    assert suite.elasticsearch.request("GET", "/_cluster/health")[0] == 401


def test_the_user_of_the_index_sees_only_the_suites_indexes(suite: Suite, certificate: Certificates) -> None:
    tls = certificate.of("search")
    assert suite.elasticsearch.request("PUT", "/hortus-trial", tls=tls)[0] == 200
    assert suite.elasticsearch.request("PUT", "/other", tls=tls)[0] == 403
    assert suite.elasticsearch.request("GET", "/_security/user", tls=tls)[0] == 403
    assert suite.elasticsearch.request("DELETE", "/hortus-trial", tls=tls)[0] == 200


def test_a_server_that_dies_is_started_again_at_the_same_address(suite: Suite) -> None:
    before = suite.valkey.url
    first = suite.valkey.child
    suite.kill("valkey")
    assert eventually(lambda: suite.valkey.child is not first and suite.valkey.running)
    assert suite.valkey.url == before
    assert eventually(suite.valkey._answers)


def test_what_was_committed_is_there_after_a_restart(suite: Suite, auth: tuple[str, str]) -> None:
    ask(auth[1], "CREATE TABLE IF NOT EXISTS kept (word text)")
    ask(auth[0], "INSERT INTO kept VALUES ('stays')")
    suite.restart("postgres")
    assert ask(auth[0], "SELECT word FROM kept LIMIT 1") == "stays"


def test_a_stale_lock_with_a_pid_that_is_taken_keeps_no_postgresql_from_starting(suite: Suite, home: Home) -> None:
    server = Postgres(home, fsync=False)
    try:
        server.start()
        lock = server.folder / "data" / "postmaster.pid"
        text = lock.read_text()
        server.kill()
        taken = str(suite.valkey.child.pid if suite.valkey.child else 0)
        lock.write_text(text.replace(text.split("\n", 1)[0], taken, 1))
        server.start()
        assert server.run_sql("SELECT 1") == "1"
    finally:
        server.stop()


def test_a_kafka_whose_first_start_was_cut_off_starts(home: Home, pki: Pki) -> None:
    server = Kafka(home, pki)
    (server.folder / "data").mkdir()
    (server.folder / "data" / "meta.properties").write_text("version=1\nclus")
    server.account.own(server.folder / "data", server.folder / "data" / "meta.properties")
    try:
        server.start()
        assert server.admin().list_topics(timeout=10).brokers
    finally:
        server.stop()


def test_half_a_key_store_of_the_index_is_removed(home: Home, pki: Pki) -> None:
    server = Elasticsearch(home, pki)
    configuration = server.folder / "config"
    configuration.mkdir()
    for name in ("elasticsearch.keystore", "elasticsearch.keystore.tmp"):
        (configuration / name).write_text("half")
    server._configure(configuration, elasticsearch_home())
    assert not list(configuration.glob("elasticsearch.keystore*"))


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
