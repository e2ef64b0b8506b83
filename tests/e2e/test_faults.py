"""At N = 2, under load, parts are killed, paused and restarted: nothing acknowledged is lost, nothing revoked is allowed."""

import os
import secrets
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from chassis import pairs
from compose.local.suite import Process
from contracts.policy import Service
from examples.wdbc.transfers import ACCEPTED, Upload
from examples.wdbc.watch import shut_out
from hortus.client import HortusError, Refused
from tests.e2e.load import Load
from tests.e2e.scene import ATTEMPTS, Scene, Seen, Watch, assert_undecided, in_force, sleeping, until, watched_on, watching, works

pytestmark = pytest.mark.timeout(400)

FRESH_SECONDS = 1.0
HOLD_SECONDS = 2.0
SCHEDULING_SECONDS = 1.0
BOTH = (0, 1)
ENDED = timedelta(seconds=-30)
ONCE = "its answer is shown only once"


@pytest.fixture(scope="module")
def load(doubled: Scene) -> Iterator[Load]:
    """People at work, from the first test of this module to its last."""
    made = Load(doubled)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def killed_and_gone(scene: Scene, name: str) -> None:
    scene.suite.kill(name)
    assert not scene.suite.parts[name].running


def started_again(scene: Scene, name: str) -> None:
    part = scene.suite.parts[name]
    assert isinstance(part, Process)
    part.launch()


@pytest.mark.parametrize("service", [str(service) for service in Service])
def test_when_a_replica_is_killed_the_other_goes_on(doubled: Scene, load: Load, service: str) -> None:
    # The one whose relay leads, where there is one: its lease has to pass to the other.
    victim = doubled.leader(service) or f"{service}-1"
    survivor = f"{service}-{3 - int(victim[-1])}"
    killed_and_gone(doubled, victim)
    killed = time.time()
    load.goes_on(service, killed)
    until(lambda: doubled.leader(service) in {"", survivor}, "the survivor leads")
    # Everybody else's work goes on as well: decisions need the positions of the leader that died.
    load.goes_on("projects", time.time())
    started_again(doubled, victim)


def test_when_a_gateway_is_killed_the_other_goes_on_and_no_record_is_missing(doubled: Scene, load: Load) -> None:
    killed_and_gone(doubled, "gateway-2")
    killed = time.time()
    for kind in ("projects", "datasets"):
        until(lambda: load.kinds[kind].since(killed, 0), f"{kind} go on at gateway 1")  # noqa: B023 - awaited here
    started_again(doubled, "gateway-2")
    until(lambda: doubled.ready("gateway-2"), "the gateway is ready again")
    load.goes_on("projects", time.time())


def test_all_that_was_killed_is_ready_again(doubled: Scene, load: Load) -> None:
    doubled.until_ready()
    for service in load.kinds:
        load.goes_on(service, time.time())


def test_nothing_that_was_acknowledged_is_lost(doubled: Scene, load: Load) -> None:
    assert all(load.kinds[str(service)].made for service in Service)
    until(lambda: not load.lost(), lambda: f"lost: {load.lost()}")


@contextmanager
def paused(scene: Scene, name: str) -> Iterator[None]:
    """Let a part hang, and go on in the end whatever happens."""
    scene.suite.pause(name)
    try:
        until(lambda: sleeping(scene.pid(name)), f"{name} stands still")
        yield
    finally:
        scene.suite.resume(name)


@contextmanager
def paused_beside(scene: Scene, name: str, deed: Callable[[], object]) -> Iterator[float]:
    """Let a part hang and do something while what is known is still fresh; again where the machine took longer. The moment it hung."""
    while True:
        with paused(scene, name):
            stopped = time.time()
            try:
                deed()
                done = True
            except Refused as refused:
                done = refused.slug == "answer-held-back"
                if not done and refused.slug != "cannot-decide":
                    raise
            if done:
                yield stopped
                return
        scene.until_ready()


def test_with_kafka_paused_a_revocation_lets_nobody_in_and_heals_by_itself(doubled: Scene, load: Load) -> None:
    project = doubled.study(scientist="data_scientist")
    watches = [
        Watch(f"gateway {gateway + 1}", doubled.scientist.eager(gateway), lambda client: client.projects.get(project)) for gateway in BOTH
    ]
    others = [
        Watch(f"owner at gateway {gateway + 1}", doubled.owner.eager(gateway), lambda client: client.projects.get(project))
        for gateway in BOTH
    ]
    removing = doubled.owner.eager(0)
    removing.users.me()  # its connection is there
    with watching(*watches, *others):
        # Said at once, while what is known is still fresh: the change is committed, and cannot be told to anybody.
        with paused_beside(doubled, "kafka", lambda: removing.members.remove(project, doubled.scientist.user_id)) as stopped:
            acknowledged = time.time()
            for watch in (*watches, *others):
                until(lambda: watch.statuses(stopped + FRESH_SECONDS) >= {503}, "it cannot be decided")  # noqa: B023 - awaited here
            blind = time.time()
            for watch in (*watches, *others):
                watch.gone_on_until(blind + HOLD_SECONDS)
            resumed = time.time()
        watched_on(watches, resumed)
        for watch in others:
            watch.allowed_within(resumed)
    for watch in (*watches, *others):
        during = [seen for seen in watch.seen if stopped + FRESH_SECONDS < seen.sent and seen.answered < resumed]
        assert during
        assert {seen.status for seen in during} == {503}
        assert [seen for seen in during if took(seen) > HOLD_SECONDS + SCHEDULING_SECONDS] == [], "a refusal comes within its bounds"
    for watch in watches:
        assert watch.allowed_after(acknowledged + FRESH_SECONDS) == []
        assert watch.stale(resumed) == []


def took(seen: Seen) -> float:
    return seen.answered - seen.sent


def test_a_relay_leader_that_was_paused_is_replaced_and_says_nothing_when_it_wakes(doubled: Scene, load: Load) -> None:
    project = doubled.study(scientist="data_scientist")
    # Asked of datasets, since the paused process would keep half of what is asked of projects waiting.
    watches = [
        Watch(f"gateway {gateway + 1}", doubled.scientist.eager(gateway), lambda client: list(client.datasets.list(project)))
        for gateway in BOTH
    ]
    removing = doubled.owner.fresh(0, timeout=3.0)
    old = doubled.leader("projects")
    with watching(*watches):
        with paused(doubled, old):
            until(lambda: doubled.leader("projects") not in {"", old}, "the other replica leads")
            for watch in watches:
                watch.allowed_within(time.time())
            removing.members.remove(project, doubled.scientist.user_id)
            removed = time.time()
            for watch in watches:
                watch.refused_within(removed)
        watched_on(watches, time.time())
        until(lambda: doubled.ready(old), "the one that was paused is ready again")
        assert doubled.leader("projects") not in {"", old}
    in_force(watches, removed)
    load.goes_on("projects", time.time())


def listens(port: int) -> bool:
    """Whether something takes connections at a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("name", ["datasets-1", "gateway-2"])
def test_a_process_that_is_told_to_stop_finishes_what_it_has_begun(doubled: Scene, load: Load, name: str) -> None:
    doubled.until_ready()
    project = doubled.study()
    dataset = doubled.owner.at(0).datasets.create(project, "arriving")["dataset_id"]
    until(lambda: works(lambda: doubled.owner.at(1).datasets.get(project, dataset)), "the dataset is there")
    port = doubled.suite._ports[name]
    process = doubled.suite.parts[name]
    assert isinstance(process, Process)
    arrived: set[str] = set()
    held: set[str] = set()  # it was not shown whether they arrived
    cut = 0

    def upload(path: str, place: int) -> Upload:
        return Upload(
            doubled.suite.addresses[place], doubled.suite.root, doubled.owner.token, f"/projects/{project}/datasets/{dataset}/files/{path}"
        )

    for attempt in range(ATTEMPTS):
        uploads = {path: upload(path, number % 2) for number, path in enumerate(f"{attempt}-{number}.csv" for number in range(6))}
        try:
            for started in uploads.values():
                started.start()
            assert shut_out(uploads.values()) == []
            os.kill(doubled.pid(name), signal.SIGTERM)
            until(lambda: not listens(port), f"{name} takes nothing new")
        finally:
            for started in uploads.values():
                started.stopping.set()  # all at once: what a process has begun it finishes within 5 s
            for started in uploads.values():
                started.stop()
        # While it drains, others serve what is new.
        load.goes_on_at(0, "datasets", time.time())
        until(lambda: not process.running, "the process ends")
        assert process.child.exit_code == 0
        started_again(doubled, name)
        until(lambda: doubled.ready(name), "it is ready again")
        arrived |= {path for path, started in uploads.items() if started.why == ACCEPTED}
        if uploads.keys() <= arrived:
            break
        cut += len(uploads.keys() - arrived)
        held |= {path for path, started in uploads.items() if started.why == "answered 503"}
        assert_undecided(doubled, "file.upload", project, doubled.owner, cut)
    assert uploads.keys() <= arrived
    there = {file["path"] for file in doubled.owner.at(0).datasets.files(project, dataset)}
    assert arrived <= there <= arrived | held


def test_without_elasticsearch_search_says_so_and_it_finds_what_was_made_until_it_starts_after_its_certificate_ended(
    doubled: Scene, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = doubled.suite.elasticsearch
    word = f"phloem{secrets.token_hex(4)}"
    client = doubled.owner.eager(0)

    def answer() -> tuple[int, bool]:
        try:
            return 200, word in {hit["name"] for hit in client.search(word)}
        except HortusError as error:
            return getattr(error, "status", 0), False

    doubled.suite.kill("elasticsearch")
    until(lambda: answer()[0] == 503, "search says that it cannot search")
    doubled.owner.at(0).datasets.create(load.project, word)
    load.goes_on("datasets", time.time())
    monkeypatch.setattr(doubled.suite._renewals, "look", lambda _now: None)  # the runner would not wait for the start
    with monkeypatch.context() as patched:
        patched.setattr(doubled.suite.pki, "certify_service", partial(doubled.suite.pki.certify_service, lifetime=ENDED))
        index.renew()
    assert pairs.life_of(pairs.leaf(index.tls)).ends_at < datetime.now(UTC)
    statuses = set()
    # A server that starts needs what the machine has.
    with load.resting(), ThreadPoolExecutor(1) as pool:
        again = pool.submit(index.start)
        while not again.done():
            statuses.add(answer()[0])
            wait([again], 0.2)
        again.result()
    assert statuses <= {200, 503}
    assert pairs.life_of(pairs.leaf(index.tls)).ends_at > datetime.now(UTC)
    until(lambda: answer() == (200, True), "what was made meanwhile is found")
    load.goes_on("search", time.time())


def test_postgresql_crashes_and_comes_back_and_so_do_the_services(doubled: Scene, load: Load) -> None:
    doubled.suite.kill("postgres")
    crashed = time.time()
    watch = Watch("gateway 1", doubled.owner.eager(0), lambda client: client.projects.get(load.project))
    watch.start()
    try:
        until(lambda: watch.statuses(crashed + FRESH_SECONDS) >= {503}, "it cannot be decided")
        assert watch.statuses(crashed + FRESH_SECONDS) == {503}
        doubled.suite.postgres.start()
        back = time.time()
        watch.allowed_within(back)
    finally:
        watch.stop()
    doubled.until_ready()
    for service in load.kinds:
        load.goes_on(service, back)


def test_after_all_of_this_nothing_acknowledged_is_lost_and_the_ledger_has_no_gap(doubled: Scene, load: Load) -> None:
    load.stop()
    until(lambda: not load.lost(), lambda: f"lost: {load.lost()}")
    auditor = doubled.auditor.at(0)
    numbered = {str(service): int(doubled.suite.postgres.run_sql("SELECT last FROM audit_counter;", service)) for service in Service}

    def behind() -> dict[str, tuple[int, int]]:
        chains = {chain["source"]: chain["last"] for chain in auditor.audit.chains()}
        return {source: (last, chains.get(source, 0)) for source, last in numbered.items() if chains.get(source, 0) < last}

    until(lambda: not behind(), lambda: f"the ledger has what was numbered: {behind()}")
    checks = auditor.audit.verify()
    assert {check.source: check.findings for check in checks if not check.holds} == {}
    assert {"gateway-1", "gateway-2", *(source for source, last in numbered.items() if last)} <= {check.source for check in checks}
    assert [chain["gaps"] for chain in auditor.audit.chains() if chain["gaps"]] == []
    created = {
        record["resource"].get("project_id")
        for record in auditor.audit.records(source="projects", actor=doubled.owner.user_id, action="project.create")
    }
    assert set(load.kinds["projects"].made) <= created, "every acknowledged creation is in the ledger"


def test_nobody_who_may_was_refused_while_parts_failed(load: Load) -> None:
    """What could not be done at a moment was said to be so; a repeated deed met its own first attempt, and no conflict."""
    refusals = {
        kind: [said for said in told.failed if said.startswith("Refused 4") and ONCE not in said] for kind, told in load.kinds.items()
    }
    assert {kind: said[:3] for kind, said in refusals.items() if said} == {}
