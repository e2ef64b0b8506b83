"""Kafka's topics and access rules follow from the catalogue and from nothing else."""

from compose.local.topics import Access, Operation, Pattern, Resource, access_rules, settings, topic_plans
from contracts.events import DAY_MS, TOPICS, Topic

AUTHORITY = Topic("rights", "projects", ("gateway", "jobs"), ("id",), partitions=3, authority=True)
TEXT = Topic("names", "projects", ("search",), ("id",), text=True)
SPOOL = Topic("audit.gateway", "gateway", ("audit",), ("id",), partitions=1, compacted=False, retention_ms=5, per_instance=True)
CATALOGUE = [AUTHORITY, TEXT, SPOOL]


def test_every_topic_is_planned_once_and_one_for_each_instance() -> None:
    plans = topic_plans(CATALOGUE, ["1", "2"])
    assert [(plan.name, plan.partitions) for plan in plans] == [("rights", 3), ("names", 2), ("audit.gateway-1", 1), ("audit.gateway-2", 1)]


def test_only_the_owner_writes() -> None:
    writers = {
        (rule.principal, rule.name)
        for rule in access_rules(CATALOGUE)
        if rule.operation is Operation.WRITE and rule.resource is Resource.TOPIC
    }
    assert writers == {("projects", "rights"), ("projects", "names"), ("gateway", "audit.gateway-")}


def test_only_the_named_readers_read() -> None:
    readers = {
        (rule.principal, rule.name)
        for rule in access_rules(CATALOGUE)
        if rule.operation is Operation.READ and rule.resource is Resource.TOPIC
    }
    assert readers == {("gateway", "rights"), ("jobs", "rights"), ("search", "names"), ("audit", "audit.gateway-")}


def test_whoever_reads_or_writes_may_see_that_the_topic_is_there() -> None:
    rules = access_rules(CATALOGUE)
    for rule in rules:
        if rule.resource is Resource.TOPIC and rule.operation is not Operation.DESCRIBE:
            assert Access(rule.principal, Operation.DESCRIBE, Resource.TOPIC, rule.name, rule.pattern) in rules


def test_a_topic_of_each_instance_is_allowed_by_its_beginning() -> None:
    rules = [rule for rule in access_rules(CATALOGUE) if rule.name.startswith("audit.gateway") and rule.resource is Resource.TOPIC]
    assert {(rule.principal, rule.pattern) for rule in rules} == {("gateway", Pattern.PREFIXED), ("audit", Pattern.PREFIXED)}


def test_a_group_belongs_to_the_service_of_its_name() -> None:
    groups = {(rule.principal, rule.name, rule.pattern) for rule in access_rules(CATALOGUE) if rule.resource is Resource.GROUP}
    expected = {(reader, reader, Pattern.LITERAL) for reader in ("gateway", "jobs", "search", "audit")}
    assert groups == expected | {(reader, f"{reader}.", Pattern.PREFIXED) for reader in ("gateway", "jobs", "search", "audit")}


def test_only_owners_of_compacted_topics_may_use_their_relays_transactions() -> None:
    rules = {(rule.principal, rule.operation, rule.name) for rule in access_rules(CATALOGUE) if rule.resource is Resource.TRANSACTIONAL_ID}
    lanes = ("relay.projects", "relay.projects.state")
    assert rules == {("projects", operation, lane) for operation in (Operation.WRITE, Operation.DESCRIBE) for lane in lanes}


def test_names_and_descriptions_are_compacted_away_in_bounded_time() -> None:
    assert settings(TEXT)["max.compaction.lag.ms"] == str(DAY_MS)
    assert "max.compaction.lag.ms" not in settings(AUTHORITY)


def test_past_positions_and_their_markers_go_soon() -> None:
    kept = settings(AUTHORITY)
    assert kept["cleanup.policy"] == "compact"
    assert int(kept["segment.ms"]) <= 60_000
    assert int(kept["delete.retention.ms"]) <= 600_000


def test_records_are_kept_for_their_time() -> None:
    assert settings(SPOOL) == {"cleanup.policy": "delete", "retention.ms": "5"}


def test_the_real_catalogue_gives_nobody_a_right_to_everything() -> None:
    rules = access_rules(TOPICS.values())
    assert all(rule.name not in {"", "*"} for rule in rules)
    prefixes = [rule.name for rule in rules if rule.pattern is Pattern.PREFIXED]
    assert all(prefix.endswith(("-", ".")) for prefix in prefixes)


def test_in_the_real_catalogue_nobody_but_the_audit_reads_records() -> None:
    readers = {
        rule.principal
        for rule in access_rules(TOPICS.values())
        if rule.operation is Operation.READ and rule.name.startswith("audit.") and rule.resource is Resource.TOPIC
    }
    assert readers == {"audit"}
