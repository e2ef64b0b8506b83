"""The servers refuse whoever is not meant to come in."""

import asyncio
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

from compose.local.pki import Pki
from compose.local.postgres import Postgres
from compose.local.problems import SetupProblem
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


def test_it_is_postgresql_18_and_waits_for_the_disk_unless_told_not_to(suite: Suite) -> None:
    assert suite.postgres.run_sql("SHOW server_version").startswith("18.")
    assert suite.postgres.run_sql("SHOW fsync") == "off"
    assert Postgres(suite.home).fsync


def produce(suite: Suite, tls: Path | None, topic: str) -> KafkaError | None:
    settings: dict[str, Any] = suite.kafka.client_settings(tls or Path("/nowhere")) | {"message.timeout.ms": 4000, "log_level": 0}
    if tls is None:
        del settings["ssl.certificate.location"], settings["ssl.key.location"]
    seen: list[KafkaError | None] = []
    problems: list[KafkaError] = []
    producer = Producer(settings, error_cb=problems.append)
    producer.produce(topic, b"value", b"key", on_delivery=lambda error, _message: seen.append(error))
    producer.flush(10)
    return seen[0] if seen else problems[0] if problems else None


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


def test_a_client_without_a_certificate_gets_nowhere(suite: Suite) -> None:
    error = produce(suite, None, "projects")
    assert error is not None
    assert error.code() in {KafkaError._MSG_TIMED_OUT, KafkaError._SSL, KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT}
    settings = suite.kafka.client_settings(Path("/nowhere"))
    del settings["ssl.certificate.location"], settings["ssl.key.location"]
    with pytest.raises(KafkaException):
        AdminClient({**settings, "log_level": 0}).list_topics(timeout=3)


def test_a_certificate_of_another_suite_gets_nowhere(suite: Suite, pki: Pki, tmp_path: Path) -> None:
    pki.issue_service_certificate("projects", tmp_path / "foreign")
    error = produce(suite, tmp_path / "foreign", "projects")
    assert error is not None


def test_a_plain_text_connection_to_the_broker_gets_nowhere(suite: Suite) -> None:
    with pytest.raises(KafkaException):
        AdminClient({"bootstrap.servers": suite.kafka.bootstrap, "log_level": 0}).list_topics(timeout=3)


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


def test_the_index_refuses_a_client_without_a_certificate(suite: Suite) -> None:
    context = ssl.create_default_context(cafile=str(suite.pki.root))

    async def knock() -> bytes:
        reader, writer = await asyncio.open_connection("localhost", suite.elasticsearch.port, ssl=context, server_hostname="localhost")
        try:
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await writer.drain()
            return await reader.read(100)
        finally:
            writer.close()

    # with TLS 1.3 the client's handshake ends before the server has looked at it: the refusal is the first thing read
    with pytest.raises((ssl.SSLError, ConnectionError)):
        asyncio.run(knock())


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


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
