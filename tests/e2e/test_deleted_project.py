"""A study is over: its project is filled, deleted while services sleep and die, and nothing but ids and a certificate is left of it."""

import hashlib
import json
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition

from compose.local.kafka import ADMIN
from contracts.events import CONFIRMS
from contracts.policy import Service
from hortus.client import Client, Refused, new_key
from tests.e2e.scene import Scene, until

pytestmark = pytest.mark.timeout(600)
# Search finds parts of words, too: no three letters of these stand in what other tests make.
MARKER = "Zebrafinken" + "".join(secrets.choice("jkqvwxz") for _ in range(8))
PROJECT = f"zebra{secrets.token_hex(4)}"
TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1;"


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def content(path: Path) -> bytes:
    """What is in a file; nothing where the index has removed it meanwhile."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def index_files_with(scene: Scene, text: str) -> list[str]:
    """The files of the index in which a text stands, also in small letters, as words do."""
    wanted = (text.encode(), text.lower().encode())
    found = files(scene.suite.elasticsearch.folder)
    return [path.name for path in found for read in [content(path)] if any(each in read for each in wanted)]


def write_into_large_files(scene: Scene) -> None:
    """Let the index write what it knows into one file for each kind, so that a project is little of it."""
    for asked in ("_forcemerge?max_num_segments=1", "_flush?force=true"):
        assert scene.suite.elasticsearch.request("POST", f"/hortus-*/{asked}", b"")[0] == 200


def refused(deed: Callable[[], object]) -> tuple[int, str]:
    with pytest.raises(Refused) as refusal:
        deed()
    return refusal.value.status, refusal.value.slug


def rows_with(scene: Scene, service: Service, *texts: str) -> str:
    """The tables of a service's database in which one of these texts stands, also as bytes, with the number of rows."""
    pattern = "|".join([*texts, *(text.encode().hex() for text in texts)])
    counts = [
        f"SELECT '{table}', count(*) FROM {table} t WHERE t::text ~ '{pattern}' HAVING count(*) > 0"
        for table in scene.suite.postgres.run_sql(TABLES, service).split()
    ]
    return scene.suite.postgres.run_sql(" UNION ALL ".join(counts) + ";", service).strip()


def newest(scene: Scene, *names: str) -> dict[str, dict[bytes, bytes]]:
    """What compaction leaves of topics: the newest record of each key; tombstones leave nothing."""
    reading = {"group.id": "test", "isolation.level": "read_committed", "enable.partition.eof": True}
    consumer = Consumer({**scene.suite.kafka.client_settings(scene.suite.home.tls_folder(ADMIN)), **reading})
    kept: dict[str, dict[bytes, bytes]] = {name: {} for name in names}
    try:
        topics = consumer.list_topics(timeout=20).topics
        places = [TopicPartition(name, partition, 0) for name in names for partition in topics[name].partitions]
        ends = {(place.topic, place.partition): consumer.get_watermark_offsets(place, timeout=20)[1] for place in places}
        consumer.assign(places)
        while ends:  # where positions are written all the time, no fetch is empty, so the end of the topic is never told
            record = consumer.poll(20)
            assert record is not None, f"{sorted(ends)} cannot be read"
            topic, place = str(record.topic()), (str(record.topic()), record.partition() or 0)
            error = record.error()
            if error is not None:
                assert error.code() == KafkaError._PARTITION_EOF, error
                ends.pop(place, None)
                continue
            key, value = record.key() or b"", record.value()
            kept[topic].pop(key, None)
            if value is not None:
                kept[topic][key] = value
            if place in ends and (record.offset() or 0) >= ends[place] - 1:
                del ends[place]
    finally:
        consumer.close()
    return kept


class Study:
    """A project of the scene's owner with something of everything, and another one into which it lends."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.owner: Client = scene.owner.at(0)
        before = files(scene.suite.blobs)
        lawful: dict[str, Any] = {"legal_basis": MARKER, "ethics_approval_id": MARKER}
        self.project = self.owner.projects.create(PROJECT, MARKER, MARKER, **lawful)["project_id"]
        self.owner.members.add(self.project, scene.scientist.username, "data_scientist", purpose=MARKER)
        self.other = scene.study()
        self.dataset = self.owner.datasets.create(self.project, MARKER, MARKER)["dataset_id"]
        self.owner.datasets.put(self.project, self.dataset, [MARKER.encode()], f"{MARKER}/small.csv")
        self.owner.datasets.put(self.project, self.dataset, [MARKER.encode() * 20_000], "big.csv")
        self.blobs = files(scene.suite.blobs) - before
        share = self.owner.datasets.share(self.project, self.dataset, self.other)
        self.owner.datasets.accept(self.other, share["share_id"])
        scene.scientist.hears(scene.owner)
        program = f"print('{MARKER}')"
        self.job = scene.scientist.at(0).jobs.submit(self.project, MARKER, program, inputs=(self.dataset,))["job_id"]
        self.certificate = self.owner.certificates.create(self.project, new_key("me").csr)["certificate_id"]
        ends = (datetime.now(UTC) + timedelta(days=1)).isoformat()
        self.key = self.owner.keys.create(MARKER, ("dataset.*",), ends, self.project)["key_id"]


def test_a_deleted_project_leaves_a_certificate_and_nothing_else(doubled: Scene, record_property: Callable[[str, object], None]) -> None:
    suite, auditor = doubled.suite, doubled.auditor.at(0)
    study = Study(doubled)
    owner = study.owner
    until(lambda: len(list(owner.search(MARKER))) == 2, "the dataset and the job are found")
    assert len(study.blobs) == 1
    write_into_large_files(doubled)
    assert index_files_with(doubled, MARKER), "it stands in the files of the index"

    for name in ("jobs-1", "jobs-2"):
        suite.pause(name)
    assert refused(lambda: owner.erasures.ask(study.project, PROJECT.upper())) == (422, "name-not-repeated")
    assert owner.erasures.ask(study.project, PROJECT)["state"] == "closing"

    def shown() -> Any:
        return owner.projects.get(study.project)

    until(lambda: shown()["deletion"]["awaited"] == ["jobs"], "all but jobs have closed")
    assert (shown()["state"], sorted(shown()["deletion"]["closed"])) == ("closing", sorted({*CONFIRMS} - {"jobs"}))
    assert refused(lambda: owner.datasets.create(study.project, "more")) == (409, "project-is-closed")
    assert refused(lambda: owner.projects.change(study.project, purpose="more")) == (409, "project-not-active")
    assert refused(lambda: owner.certificates.create(study.project, new_key("me").csr)) == (409, "project-is-being-deleted")
    assert all(path.exists() for path in study.blobs), "nothing is purged before all have closed"
    for name in ("datasets-1", "datasets-2"):
        suite.kill(name)
    for name in ("jobs-1", "jobs-2"):
        suite.resume(name)
    # The index writes its files anew when its own lease of what was deleted has moved on: within 30 s.
    purging = ({"datasets"}, {"datasets", "search"})
    until(lambda: shown()["state"] == "purging" and set(shown()["deletion"]["awaited"]) in purging, "datasets is waited for", 120)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(suite.restart, ("datasets-1", "datasets-2")))

    erasure = owner.erasures.wait(study.project, seconds=120)
    document = json.loads(erasure["document"])
    removed = {name: part["removed"] for name, part in document["services"].items()}
    assert (document["asked_by"], document["project_id"]) == (doubled.owner.user_id, study.project)
    assert removed["datasets"] | {"runs": 0, "memberships": 0} == {
        "dataset_keys": 1,
        "files": 2,
        "bytes": len(MARKER) * 20_001,
        "datasets": 1,
        "shares": 1,
        "runs": 0,
        "memberships": 0,
    }
    assert (removed["jobs"]["jobs"], removed["auth"], removed["search"]) == (1, {"api_keys": 1}, {"documents": 2})
    assert removed["projects"]["memberships"] == 2
    assert document["services"]["ca"]["kept"] == {"serial_numbers": 1}
    assert document["services"]["projects"]["kept"] == {"owner_ids": 1, "member_ids": 2}
    assert hashlib.sha256(erasure["document"].encode()).hexdigest() == erasure["sha256"]

    def in_ledger() -> list[str]:
        found = auditor.audit.records(action="project.erase", project_id=study.project)
        return [str(record["resource"]["erasure_certificate_sha256"]) for record in found]

    until(in_ledger, "the deletion is in the ledger")
    assert in_ledger() == [erasure["sha256"]]
    assert auditor.erasures.get(study.project) == erasure
    assert refused(lambda: doubled.scientist.at(0).erasures.get(study.project)) == (404, "not-found")

    for person in (doubled.owner, doubled.scientist):
        assert refused(lambda: person.at(1).projects.get(study.project))[0] == 404  # noqa: B023 - called at once
        assert list(person.at(1).search(MARKER)) == []
    assert [key["key_id"] for key in owner.keys.list()] == []
    assert not any(path.exists() for path in study.blobs)
    for service in Service:
        until(lambda: rows_with(doubled, service, MARKER, PROJECT) == "", f"nothing of the project's words is left in {service}")  # noqa: B023
    status, found = suite.elasticsearch.request(
        "POST", "/hortus-*/_count", json.dumps({"query": {"term": {"project_id": study.project}}}).encode()
    )
    assert (status, json.loads(found)["count"]) == (200, 0)
    assert index_files_with(doubled, MARKER) == [], "it is in no file of the index"
    heard = ("projects", "memberships", "datasets", "shares", "jobs", "runs")

    def speaking(*topics: str) -> list[bytes]:
        told = [value for records in newest(doubled, *topics).values() for value in records.values()]
        return [value for value in told if MARKER.encode() in value or PROJECT.encode() in value]

    until(lambda: speaking(*heard) == [], "the newest records have no word of the project")
    ledgers = [*(f"audit.{writer}" for writer in Service), "audit.gateway-1", "audit.gateway-2"]
    assert len(newest(doubled, "audit.gateway-1")["audit.gateway-1"]) > 0
    assert speaking(*ledgers) == [], "the ledger, which keeps its records for ever, holds ids"
    last = json.loads(newest(doubled, "certificates")["certificates"][study.certificate.encode()])
    assert (last["live"], last["chain"]) == (False, "")
    assert owner.projects.create(PROJECT)["project_id"] != study.project
    record_property("erasure_certificate", erasure["document"])
    print(json.dumps(document, indent=1))
