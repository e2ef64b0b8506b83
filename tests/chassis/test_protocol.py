"""However commits, pauses, take-overs, losses and restarts fall: nothing is allowed a second after it was taken away, and all heals."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from chassis import relay
from chassis.projection import FRESH_S, Knowledge
from contracts.events import MEMBERSHIPS, USERS
from tests.chassis.protocol import (
    LEASE_S,
    BelievesTheFirst,
    BelievesWhatItReads,
    DatesBeforeDraining,
    DatesTooLate,
    Gateway,
    Replica,
    World,
    followed,
)

TOPIC = st.sampled_from([MEMBERSHIPS.name, USERS.name])
TWO = st.integers(0, 1)
MOMENTS = st.sampled_from(["reads the clock", "reads the outbox", "publishes", "forgets what it published"])
PAUSES = st.sampled_from([0.05, 0.3, 0.6, 0.9])
RELAY = st.integers(0, 5)
PLACE = st.sampled_from(followed())
LONG = st.sampled_from([1.1, 1.9, 5.0])
SKEWS = st.sampled_from([0.0, 0.0, 5.0, -5.0, 0.7, -0.7, -1.9])
MARGIN_S = 1e-6


def goes_away(world: World, *_: object) -> None:
    world.broker.up = False


def comes_back(world: World, *_: object) -> None:
    world.broker.up, world.broker.loses_answers = True, False


def loses_answers(world: World, *_: object) -> None:
    world.broker.loses_answers = True


def is_compacted(world: World, _: Gateway, place: tuple[str, int], __: float) -> None:
    world.broker.compact(place, world.broker.ends.get(place, 0))


def starts_cold(_: World, gateway: Gateway, *__: object) -> None:
    gateway.start()


def reads_anew(_: World, gateway: Gateway, *__: object) -> None:
    gateway.connect()


def has_another_clock(_: World, gateway: Gateway, __: tuple[str, int], skew: float) -> None:
    gateway.skew = skew


MISHAPS: dict[str, Callable[[World, Gateway, tuple[str, int], float], None]] = {
    each.__name__: each
    for each in (goes_away, comes_back, comes_back, loses_answers, is_compacted, starts_cold, reads_anew, has_another_clock)
}


class Protocol(RuleBasedStateMachine):
    """The schedule; ``kind``, ``fences`` and ``knowledge`` are the product's, or planted."""

    kind: type[Replica] = Replica
    fences = True
    knowledge: type[Knowledge] = Knowledge

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.kind, self.fences, self.knowledge)

    def teardown(self) -> None:
        """Whatever happened: when all is healthy again, each right that stands is allowed again, and no other."""
        self.everything_heals()
        self.world.close()

    @rule(topic=TOPIC, gives=st.booleans())
    def a_change_begins(self, topic: str, gives: bool) -> None:
        if len(self.world.begun) < 3:
            self.world.begin(topic, gives=gives)

    @precondition(lambda self: self.world.begun)
    @rule(which=st.integers(0, 2))
    def one_of_the_changes_commits(self, which: int) -> None:
        begun = self.world.begun
        self.world.commit(begun.pop(which % len(begun)))

    @rule(topic=TOPIC, gives=st.booleans())
    def a_change_commits_at_once(self, topic: str, gives: bool) -> None:
        self.world.begin(topic, gives=gives)
        self.world.commit(self.world.begun.pop())

    @rule(which=RELAY)
    def a_relay_does_one_thing_and_is_paused(self, which: int) -> None:
        self.world.relays[which].go_on()

    @rule(which=st.integers(0, 3), before=MOMENTS, gives=st.booleans(), seconds=PAUSES)
    def a_change_falls_into_a_pass(self, which: int, before: str, gives: bool, seconds: float) -> None:
        self.world.relays[which].go_on_until(before)
        self.a_change_commits_at_once(topic=(USERS.name, MEMBERSHIPS.name)[which // 2], gives=gives)
        self.world.clock.now += seconds

    @rule(which=RELAY, before=MOMENTS)
    def a_relay_is_overtaken_in_a_pass(self, which: int, before: str) -> None:
        self.world.relays[which].go_on_until(before)
        self.world.clock.now += LEASE_S + 0.1
        self.world.relays[which ^ 1].pass_through()

    @rule(before=MOMENTS, topic=TOPIC, gives=st.booleans())
    def a_change_commits_while_all_relays_stand_still(self, before: str, topic: str, gives: bool) -> None:
        for each in self.world.relays:
            each.go_on_until(before)
        self.a_change_commits_at_once(topic=topic, gives=gives)

    @rule(which=RELAY)
    def a_relay_finishes_its_pass(self, which: int) -> None:
        self.world.relays[which].pass_through()

    @rule(seconds=PAUSES)
    def all_relays_and_gateways_go_on(self, seconds: float) -> None:
        for gateway in self.world.gateways:
            gateway.ask()
        for each in self.world.relays:
            each.pass_through()
        for gateway in self.world.gateways:
            gateway.read()
        self.world.clock.now += seconds

    @rule(seconds=st.sampled_from([0.05, 0.3, 0.6, 1.1, 2.5]))
    def time_passes(self, seconds: float) -> None:
        self.world.clock.now += seconds

    @rule(which=TWO, stalled=st.one_of(st.none(), PLACE), most=st.sampled_from([1, 3, 1000]))
    def a_gateway_reads_on_and_one_partition_may_stand_still(self, which: int, stalled: Any, most: int) -> None:
        self.world.gateways[which].read(stalled, most)

    @rule(which=TWO, seconds=LONG, cold=st.booleans(), goes_on=st.booleans())
    def a_gateway_begins_by_a_clock_that_is_as_late_as_the_bus(self, which: int, seconds: float, cold: bool, goes_on: bool) -> None:
        gateway = self.world.gateways[which]
        self.world.clock.now += seconds
        gateway.skew = -seconds
        if cold:
            gateway.start()
        else:
            gateway.connect()
        gateway.read()
        if goes_on:
            for each in self.world.relays:
                each.pass_through()
            gateway.read()

    @rule()
    def all_clocks_are_set_back(self) -> None:
        self.world.set_clocks_back(5.0)

    @rule(which=TWO, what=st.sampled_from(list(MISHAPS)), place=PLACE, skew=SKEWS)
    def something_happens(self, which: int, what: str, place: tuple[str, int], skew: float) -> None:
        MISHAPS[what](self.world, self.world.gateways[which], place, skew)

    def everything_heals(self) -> None:
        self.world.settle()
        for gateway in self.world.gateways:
            assert gateway.lets_in() is self.world.stands(), gateway.projection.knowledge.missing(gateway.wall, gateway.mono)

    @invariant()
    def nobody_decides_by_what_was_changed_more_than_a_second_ago(self) -> None:
        for gateway in self.world.gateways:
            assert not self.world.overlooked(gateway, FRESH_S + self._blur(gateway)), "a change is not in force"

    @invariant()
    def the_newest_record_of_an_aggregate_or_position_is_never_an_older_one(self) -> None:
        """Who starts cold on a compacted topic goes by the newest record alone."""
        assert self.world.broker.went_back is None, f"it goes back: {self.world.broker.went_back}"

    def _blur(self, gateway: Gateway) -> float:
        """A clock that is behind by less than what makes a gateway unready may hide as much of a delay on the bus."""
        return -gateway.skew if -FRESH_S < gateway.skew < 0 else MARGIN_S


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A relay says aloud what it holds back; here that happens all the time."""
    monkeypatch.setattr(relay.log, "error", lambda *_, **__: None)


def explore(
    kind: type[Replica] = Replica,
    *,
    fences: bool = True,
    knowledge: type[Knowledge] = Knowledge,
    examples: int,
    planted: bool = False,
) -> None:
    machine = type("Scheduled", (Protocol,), {"kind": kind, "fences": fences, "knowledge": knowledge})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            derandomize=planted,
            database=None,
            phases=[Phase.generate] if planted else [Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_whatever_the_schedule_nothing_lost_is_allowed_after_a_second_and_all_heals() -> None:
    explore(examples=250)


@pytest.mark.parametrize("kind", [DatesTooLate, DatesBeforeDraining])
def test_a_relay_that_dates_what_it_has_not_published_is_found(kind: type[Replica]) -> None:
    with pytest.raises(AssertionError, match="a change is not in force"):
        explore(kind, examples=1500, planted=True)


def test_a_broker_that_does_not_fence_an_overtaken_relay_is_found() -> None:
    with pytest.raises(AssertionError, match="it goes back"):
        explore(fences=False, examples=1500, planted=True)


@pytest.mark.parametrize("knowledge", [BelievesTheFirst, BelievesWhatItReads])
def test_a_gateway_that_takes_an_old_position_for_a_new_one_is_found(knowledge: type[Knowledge]) -> None:
    with pytest.raises(AssertionError, match="a change is not in force"):
        explore(knowledge=knowledge, examples=1500, planted=True)


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


def removed_while_all_relays_stand_still(world: World, before: str, seconds: float) -> Gateway:
    """A removal commits, and the relays pause in a pass; the gateway whose clock is to be as late as they are."""
    for each in world.relays:
        each.go_on_until(before)
    world.begin(MEMBERSHIPS.name, gives=False)
    world.commit(world.begun.pop())
    world.clock.now += seconds
    gateway = world.gateways[0]
    gateway.skew = -seconds
    return gateway


def goes_on(world: World, gateway: Gateway, seconds: float = 0.2) -> None:
    world.clock.now += seconds
    for each in world.relays:
        each.pass_through()
    gateway.read()


@pytest.mark.parametrize("seconds", [1.1, 1.9, 5.0])
@pytest.mark.parametrize("begins", [Gateway.start, Gateway.connect])
@pytest.mark.parametrize("before", ["reads the clock", "publishes"])
def test_a_gateway_that_begins_by_a_clock_that_is_as_late_as_the_bus_lets_nobody_in(
    world: World, before: str, begins: Callable[[Gateway], None], seconds: float
) -> None:
    gateway = removed_while_all_relays_stand_still(world, before, seconds)
    begins(gateway)
    gateway.read()
    assert gateway.lets_in() is None
    assert gateway.projection.knowledge.missing(gateway.wall, gateway.mono)
    goes_on(world, gateway)
    assert gateway.lets_in() is None
    for _ in range(3):
        goes_on(world, gateway)
    assert gateway.lets_in() is None
    (reason,) = gateway.projection.knowledge.missing(gateway.wall, gateway.mono)
    assert re.fullmatch(r"this clock is \d\.\d s behind the databases' clock", reason)
    gateway.skew = 0.0
    gateway.read()
    assert gateway.lets_in() is False


def test_clocks_that_are_set_back_are_believed_with_the_next_positions(world: World) -> None:
    gateway = world.gateways[0]
    assert gateway.lets_in() is True
    world.set_clocks_back(5.0)
    for _ in range(2):
        goes_on(world, gateway)
    assert gateway.lets_in() is True
    assert gateway.projection.knowledge.missing(gateway.wall, gateway.mono) == []


def test_a_clock_that_is_set_back_alone_decides_nothing_until_it_is_right_again(world: World) -> None:
    gateway = world.gateways[0]
    gateway.skew = -5.0
    goes_on(world, gateway)
    assert gateway.lets_in() is None
    gateway.skew = 0.0
    assert gateway.lets_in() is True


def test_clocks_that_are_set_back_make_nothing_younger_that_is_late(world: World) -> None:
    gateway = removed_while_all_relays_stand_still(world, "publishes", 5.0)
    gateway.skew = 0.0
    world.set_clocks_back(5.0)
    assert gateway.lets_in() is None
    gateway.read()
    assert gateway.lets_in() is None
    for _ in range(2):
        goes_on(world, gateway)
    assert gateway.lets_in() is False
