"""Which sessions and keys are in use: told coarsely, the newest use only, and never lost while Kafka is away."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError
from hypothesis import given
from hypothesis import strategies as st

from chassis import bus
from contracts.events import Activity
from gateway import activity
from gateway.activity import ActivityPublisher, Uses
from gateway.settings import GatewaySettings
from tests.gateway.stage import Certificates, Stage, read, say, until
from tests.gateway.test_transfers import FILE, PROJECT, Endless
from tests.world import Record

EVERY_S = 15.0


def test_a_subject_is_told_at_once_and_then_once_in_a_while_with_its_newest_use() -> None:
    uses = Uses(EVERY_S)
    uses.use("session:a", 100.0)
    assert uses.take(100.5) == {"session:a": 100.0}
    uses.use("session:a", 103.0)
    uses.use("session:a", 104.0)
    uses.use("key:b", 105.0)
    assert uses.take(106.0) == {"key:b": 105.0}
    assert uses.take(115.4) == {}
    assert uses.take(115.5) == {"session:a": 104.0}
    assert uses.take(300.0) == {}


def test_what_could_not_be_told_is_told_later_unless_there_is_something_newer() -> None:
    uses = Uses(EVERY_S)
    for subject in ("session:a", "session:b"):
        uses.use(subject, 100.0)
    taken = uses.take(100.0)
    uses.use("session:b", 103.0)
    uses.put_back(taken)
    assert uses.take(104.0) == {"session:a": 100.0, "session:b": 103.0}


def test_at_the_end_everything_is_told_although_it_was_told_just_now() -> None:
    uses = Uses(EVERY_S)
    uses.use("session:a", 100.0)
    uses.take(100.0)
    uses.use("session:a", 101.0)
    assert uses.take(101.0, rested=False) == {"session:a": 101.0}


def test_memory_is_bounded_while_nothing_can_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activity, "MOST", 100)
    uses = Uses(EVERY_S)
    for number in range(1000):
        uses.use(f"session:{number}", float(number))
    assert len(uses) == 100
    taken = uses.take(1000.0)
    assert set(taken) == {f"session:{number}" for number in range(900, 1000)}
    for number in range(100):
        uses.use(f"key:{number}", 1001.0)
    uses.put_back(taken)
    assert len(uses) == 100


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["use", "take", "fail"]), st.integers(0, 20)), max_size=60))
def test_whatever_happens_the_last_use_is_told_in_the_end_and_no_subject_too_often(steps: list[tuple[str, str, int]]) -> None:
    uses, now, last, told = Uses(EVERY_S), 0.0, dict[str, float](), dict[str, list[float]]()
    for subject, step, pause in steps:
        now += pause
        if step == "use":
            uses.use(subject, now)
            last[subject] = now
        elif step == "take":
            for each in uses.take(now):
                told.setdefault(each, []).append(now)
        else:
            uses.put_back(uses.take(now))
    final = uses.take(now + EVERY_S)
    for times in told.values():
        assert all(later - earlier >= EVERY_S for earlier, later in itertools.pairwise(times))
    for subject, used in last.items():
        assert final.get(subject, used) == used
        assert subject in final or told[subject][-1] >= used


class Broker:
    """Takes the place of the producer's broker: what it acknowledged, and whether it is there."""

    def __init__(self) -> None:
        self.there = True
        self.facts: list[Activity] = []
        self.started = 0

    def producer(self, _settings: object) -> Any:
        return self

    async def start(self) -> None:
        self.started += 1
        if not self.there:
            raise KafkaConnectionError("nobody listens")

    async def stop(self) -> None:
        pass

    async def send(self, topic: str, value: bytes, key: bytes, headers: bus.Headers) -> Any:
        future = asyncio.get_running_loop().create_future()
        if self.there:
            fact = bus.read(Record(topic, 0, 0, key, value, headers))
            assert isinstance(fact, Activity)
            self.facts.append(fact)
            future.set_result(None)
        else:
            future.set_exception(KafkaConnectionError("it went away"))
        return future


Make = Callable[..., ActivityPublisher]


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    made = Broker()
    monkeypatch.setattr(bus, "producer", made.producer)
    monkeypatch.setattr(activity, "LOOK_S", 0.02)
    return made


@pytest.fixture
async def publisher(broker: Broker, certificates: Certificates, tmp_path: Path) -> AsyncIterator[ActivityPublisher]:
    pki = certificates.pki
    settings = GatewaySettings(
        tls_dir=certificates.folder("gateway"),
        kafka="localhost:1",
        state_dir=tmp_path,
        upstreams={},
        client_issuers=pki.root,
        root=pki.root,
    )
    made = ActivityPublisher(settings, "gateway-1", EVERY_S)
    running = asyncio.create_task(made.run())
    yield made
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def test_a_use_is_a_fact_whose_version_is_its_time(publisher: ActivityPublisher, broker: Broker) -> None:
    for _ in range(3):
        publisher.used("session:1")
    await until(lambda: publisher.untold == 0)
    (fact,) = broker.facts
    assert (fact.subject, fact.version) == ("session:1", int(fact.at.timestamp() * 1000))


async def test_more_uses_than_fit_into_one_batch_are_all_told(publisher: ActivityPublisher, broker: Broker) -> None:
    subjects = {f"key:{number}" for number in range(3 * activity.BATCH + 1)}
    for subject in subjects:
        publisher.used(subject)
    await until(lambda: publisher.untold == 0)
    assert {fact.subject for fact in broker.facts} == subjects
    assert len(broker.facts) == len(subjects)


async def test_while_kafka_is_away_uses_are_kept_and_told_when_it_is_back(publisher: ActivityPublisher, broker: Broker) -> None:
    await until(lambda: broker.started == 1)
    broker.there = False
    publisher.used("session:1")
    await until(lambda: broker.started >= 3)
    publisher.used("session:2")
    await publisher.flush(0.1)
    assert publisher.untold == 2
    broker.there = True
    await until(lambda: publisher.untold == 0)
    assert sorted(fact.subject for fact in broker.facts) == ["session:1", "session:2"]


async def test_leaving_tells_also_what_was_told_just_now(publisher: ActivityPublisher, broker: Broker) -> None:
    publisher.used("session:1")
    await until(lambda: publisher.untold == 0)
    publisher.used("session:1")
    await publisher.flush(5)
    assert [fact.subject for fact in broker.facts] == ["session:1", "session:1"]
    assert broker.facts[0].version <= broker.facts[1].version


def used(stage: Stage) -> set[str]:
    return set(stage.gateway.activity._uses.take(0.0, rested=False))


async def test_what_gets_in_is_a_use_and_what_is_refused_or_renews_the_token_is_none(stage: Stage) -> None:
    ada = stage.signs_in()
    stage.joins(ada, PROJECT)
    session, key = f"session:{ada.session_id}", stage.makes_key(ada)
    client, machine = await stage.client(ada), await stage.client(key)
    await client.get(f"/projects/{PROJECT}")
    assert used(stage) == {session}
    await machine.get(f"/projects/{PROJECT}")
    assert used(stage) == {f"key:{key.fact.key_id}"}
    await client.get("/users")
    await machine.get("/users/me")
    await client.get("/nowhere")
    await client.post("/sessions/refresh")
    await client.post("/sessions", json={}, headers={"Origin": "https://evil.example"})
    await (await stage.client()).post("/sessions", json={})
    stage.tell(key.fact.model_copy(update={"version": 2, "live": False}))
    await machine.get(f"/projects/{PROJECT}")
    assert used(stage) == set()


async def test_a_long_transfer_is_in_use_while_its_bytes_move(stage: Stage) -> None:
    ada = stage.signs_in()
    stage.joins(ada, PROJECT)
    session = f"session:{ada.session_id}"
    endless = Endless()
    stage.answer = endless.sends
    async with (await stage.client(ada)).stream("GET", FILE) as answer:
        received = answer.aiter_raw()
        await anext(received)
        used(stage)
        async with asyncio.timeout(5):
            while session not in used(stage):
                await anext(received)


async def test_a_request_that_only_waits_is_no_use(stage: Stage) -> None:
    ada = stage.signs_in()
    go_on = asyncio.Event()

    async def waits(_scope: Any, receive: Any, send: Any) -> None:
        await read(receive)
        await go_on.wait()
        await say(send, 200, b"{}")

    stage.answer = waits
    asking = asyncio.create_task((await stage.client(ada)).get("/projects"))
    await until(lambda: len(stage.gateway.in_flight) == 1)
    used(stage)
    for second in range(3):
        stage.gateway.in_flight.sweep(asyncio.get_running_loop().time() + second)
    assert used(stage) == set()
    go_on.set()
    assert (await asking).status_code == 200
