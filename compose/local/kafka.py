"""Kafka (KRaft, one node) from Maven Central's jars: mutual TLS on every listener, and nothing allowed without a rule."""

import base64
import secrets
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclBinding, AclBindingFilter, AclOperation, AclPermissionType
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource, ConfigSource
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType
from confluent_kafka.cimpl import NewPartitions, NewTopic

from chassis import pairs
from compose.local.fetch import kafka_jars, reachable
from compose.local.home import Home, keep
from compose.local.java import find_java
from compose.local.pki import Pki
from compose.local.ports import free_port
from compose.local.problems import SetupProblem
from compose.local.process import Child, base_environment
from compose.local.server import Server
from compose.local.topics import Access, Pattern, Resource, TopicPlan, access_rules, topic_plans
from contracts.events import Topic

BROKER, ADMIN = "broker", "admin"
NODE = "1"
LISTENERS = ("ssl", "controller")
KEY_STORE = "tls/broker.pem"
SECONDS = 30.0
RESOURCES = {
    Resource.TOPIC: ResourceType.TOPIC,
    Resource.GROUP: ResourceType.GROUP,
    Resource.TRANSACTIONAL_ID: ResourceType.TRANSACTIONAL_ID,
}
PATTERNS = {Pattern.LITERAL: ResourcePatternType.LITERAL, Pattern.PREFIXED: ResourcePatternType.PREFIXED}
LOGGING = """status = warn
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601} %p %m (%c)%n
rootLogger.level = warn
rootLogger.appenderRef.console.ref = console
logger.server.name = kafka.server
logger.server.level = info
logger.server.additivity = true
"""


class Kafka(Server):
    """A broker of one home; ``bootstrap`` stays the same while the object lives."""

    name = "kafka"

    def __init__(self, home: Home | Path, pki: Pki) -> None:
        """Nothing starts yet; ``pki`` issues the certificates of the broker and of the set-up's administrator."""
        super().__init__(home)
        self.pki = pki
        self.port = free_port()
        self._controller_port = free_port()

    @property
    def bootstrap(self) -> str:
        """The address that clients start from."""
        return f"localhost:{self.port}"

    def start(self) -> None:
        """Format the data folder where it is new, start the broker and wait until it answers an administrator."""
        folder = self.folder
        keep(self.tls / pairs.CERTIFICATE, self._certify())
        self.pki.issue_service_certificate(ADMIN, self.home.tls_folder(ADMIN))
        identity = folder / "cluster-id"
        if not identity.exists():
            keep(identity, b"A" + base64.urlsafe_b64encode(secrets.token_bytes(16))[1:22])
        keep(folder / "server.properties", "".join(f"{key}={value}\n" for key, value in self._properties(self.tls).items()).encode())
        keep(folder / "log4j2.properties", LOGGING.encode())
        self.account.own(identity, folder / "server.properties", folder / "log4j2.properties")
        if not (folder / "made").exists():
            self._format(identity.read_text())
        self.child = self._java(self.name, "kafka.Kafka")
        self.child.start()
        admin = self.admin()
        self.child.wait_until(lambda: _answers(admin), self.start_seconds)

    @property
    def tls(self) -> Path:
        """The folder with the broker's key store, and beside it the certificate that it shows."""
        return self.folder / "tls"

    def renew(self) -> None:
        """Give the running broker another certificate, for all its listeners and its own connections. Raises SetupProblem.

        To say anew where the key store lies makes the broker read it. What is said is kept with the cluster; the place is named by its way
        from the broker's own folder, so that it is right also where the home has been moved.
        """
        chain = self._certify()
        entries = [
            ConfigEntry(f"listener.name.{listener}.ssl.keystore.location", KEY_STORE, incremental_operation=AlterConfigOpType.SET)
            for listener in LISTENERS
        ]
        change = ConfigResource(ConfigResource.Type.BROKER, NODE, incremental_configs=entries)
        admin = self.admin()
        _settle(admin.incremental_alter_configs([change], request_timeout=SECONDS))
        keep(self.tls / pairs.CERTIFICATE, chain)

    def _certify(self) -> bytes:
        """Write a new key store; the chain in it."""
        tls = self.tls
        tls.mkdir(exist_ok=True, mode=0o700)
        key, chain = self.pki.certify_service(BROKER)
        keep(tls / "services.pem", self.pki.services_anchor.read_bytes())
        keep(self.folder / KEY_STORE, key + chain)
        self.account.own(tls, *tls.iterdir())
        return chain

    def client_settings(self, tls: Path) -> dict[str, str]:
        """Settings of a confluent_kafka client that shows the certificate in ``tls``."""
        pair = pairs.place(tls)
        return {
            "bootstrap.servers": self.bootstrap,
            "security.protocol": "SSL",
            "ssl.ca.location": str(self.pki.root),
            "ssl.certificate.location": str(pair / pairs.CERTIFICATE),
            "ssl.key.location": str(pair / pairs.KEY),
        }

    def admin(self) -> AdminClient:
        """A client with the administrator's certificate, for set-up and tests alone."""
        quiet: dict[str, str | int | float | bool] = {"log_level": 0, "socket.timeout.ms": 30_000, "reconnect.backoff.max.ms": 200}
        return AdminClient({**self.client_settings(self.home.tls_folder(ADMIN)), **quiet})

    def apply_catalogue(self, catalogue: Mapping[str, Topic], gateway_instances: Sequence[str] = ("1",)) -> None:
        """Make the broker's topics and access rules those of the catalogue. Safe to repeat.

        Missing topics are made, settings and partitions of those that exist are brought up to date, and rules that the
        catalogue does not give are taken away. A topic is never deleted.
        """
        admin = self.admin()
        self._apply_topics(admin, topic_plans(catalogue.values(), gateway_instances))
        self._apply_rules(admin, {_binding(rule) for rule in access_rules(catalogue.values())})

    def allow(self, rules: Iterable[Access]) -> None:
        """Add access rules to those that there are, for tests."""
        admin = self.admin()  # held until its answers are there
        _settle(admin.create_acls([_binding(rule) for rule in rules], request_timeout=SECONDS))

    def _format(self, identity: str) -> None:
        # a format that was cut off has been served to nobody yet
        shutil.rmtree(self.folder / "data", ignore_errors=True)
        formatting = self._java("kafka-format", "kafka.tools.StorageTool", "format", "-t", identity, "-c")
        formatting.start()
        try:
            formatting.wait_for_end(self.start_seconds)
        finally:
            formatting.stop()
        keep(self.folder / "made", b"")

    def _apply_topics(self, admin: AdminClient, plans: list[TopicPlan]) -> None:
        there = admin.list_topics(timeout=SECONDS).topics
        missing = [plan for plan in plans if plan.name not in there]
        if missing:
            made = [
                NewTopic(plan.name, num_partitions=plan.partitions, replication_factor=1, config=dict(plan.settings)) for plan in missing
            ]
            _settle(admin.create_topics(made, operation_timeout=SECONDS, request_timeout=SECONDS), KafkaError.TOPIC_ALREADY_EXISTS)
        kept = [plan for plan in plans if plan.name in there]
        wider = [NewPartitions(plan.name, plan.partitions) for plan in kept if plan.partitions > len(there[plan.name].partitions)]
        if wider:
            _settle(admin.create_partitions(wider, request_timeout=SECONDS))
        if kept:
            self._apply_settings(admin, kept)

    def _apply_settings(self, admin: AdminClient, plans: list[TopicPlan]) -> None:
        named = {plan.name: plan for plan in plans}
        answers = admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, name) for name in named], request_timeout=SECONDS)
        changes = []
        for resource, answer in answers.items():
            current = {
                name: entry.value
                for name, entry in answer.result(SECONDS).items()
                if entry.source == ConfigSource.DYNAMIC_TOPIC_CONFIG.value
            }
            wanted = named[resource.name].settings
            entries = [
                ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
                for name, value in wanted.items()
                if current.get(name) != value
            ]
            entries += [ConfigEntry(name, None, incremental_operation=AlterConfigOpType.DELETE) for name in current if name not in wanted]
            if entries:
                changes.append(ConfigResource(ConfigResource.Type.TOPIC, resource.name, incremental_configs=entries))
        if changes:
            _settle(admin.incremental_alter_configs(changes, request_timeout=SECONDS))

    def _apply_rules(self, admin: AdminClient, wanted: set[AclBinding]) -> None:
        # the client takes None for "any", which its types do not say
        anything: Any = None
        everything = AclBindingFilter(
            ResourceType.ANY, anything, ResourcePatternType.ANY, anything, anything, AclOperation.ANY, AclPermissionType.ANY
        )
        there = set(admin.describe_acls(everything, request_timeout=SECONDS).result(SECONDS))
        if wanted - there:
            _settle(admin.create_acls(list(wanted - there), request_timeout=SECONDS))
        if there - wanted:
            _settle(admin.delete_acls([_filter(binding) for binding in there - wanted], request_timeout=SECONDS))
        if self.child is not None:
            self.child.wait_until(lambda: set(admin.describe_acls(everything, request_timeout=SECONDS).result(SECONDS)) == wanted, SECONDS)

    def _java(self, name: str, entry: str, *arguments: str) -> Child:
        jars = reachable(kafka_jars(), "kafka-jars", self.account)
        command = [
            str(find_java(self.account)),
            *(
                "-Xms96m",
                "-Xmx384m",
                "-Xss512k",
                "-XX:+UseSerialGC",
                "-XX:-UsePerfData",
                "-XX:TieredStopAtLevel=1",
                "-XX:MaxMetaspaceSize=128m",
            ),
            *(f"-Dlog4j2.configurationFile=file:{self.folder}/log4j2.properties", f"-Djava.io.tmpdir={self.folder}"),
            *("-cp", f"{jars}/*", entry, *arguments, str(self.folder / "server.properties")),
        ]
        return Child(self.home, name, command, base_environment(), account=self.account, folder=self.folder)

    def _properties(self, tls: Path) -> dict[str, str]:
        return {
            "process.roles": "broker,controller",
            "node.id": NODE,
            "controller.quorum.voters": f"{NODE}@localhost:{self._controller_port}",
            "listeners": f"SSL://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{self._controller_port}",
            "advertised.listeners": f"SSL://localhost:{self.port}",
            "listener.security.protocol.map": "SSL:SSL,CONTROLLER:SSL",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "SSL",
            "log.dirs": str(self.folder / "data"),
            "ssl.client.auth": "required",
            "ssl.enabled.protocols": "TLSv1.3",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": KEY_STORE,
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(tls / "services.pem"),
            "ssl.principal.mapping.rules": "RULE:^CN=([^,]+).*$/$1/,DEFAULT",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": f"User:{BROKER};User:{ADMIN}",
            "allow.everyone.if.no.acl.found": "false",
            "auto.create.topics.enable": "false",
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "4",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            "log.cleaner.dedupe.buffer.size": "2097152",
            "log.cleaner.io.max.bytes.per.second": "1048576",  # compaction must not hold up facts
            "broker.session.timeout.ms": "3000",  # one that was killed is let in again only when its session is over
            "broker.heartbeat.interval.ms": "300",
            "num.network.threads": "2",
            "num.io.threads": "4",
        }


def _binding(rule: Access) -> AclBinding:
    return AclBinding(
        RESOURCES[rule.resource],
        rule.name,
        PATTERNS[rule.pattern],
        f"User:{rule.principal}",
        "*",
        AclOperation[rule.operation.name],
        AclPermissionType.ALLOW,
    )


def _filter(binding: AclBinding) -> AclBindingFilter:
    return AclBindingFilter(
        binding.restype,
        binding.name,
        binding.resource_pattern_type,
        binding.principal,
        binding.host,
        binding.operation,
        binding.permission_type,
    )


def _settle(futures: Mapping[Any, Any], *harmless: int) -> None:
    for subject, future in futures.items():
        try:
            future.result(SECONDS)
        except KafkaException as error:
            if error.args[0].code() not in harmless:
                raise SetupProblem(f"Kafka refused a set-up step for {subject}: {error.args[0].str()}; its log says more.") from error


def _answers(admin: AdminClient) -> bool:
    try:
        return bool(admin.list_topics(timeout=0.5).brokers)
    except KafkaException:
        return False
