"""What a projection knows, and when it may be decided on (pure)."""

import random
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from chassis.projection import FRESH_S, Knowledge
from contracts.events import SHARES, Share, ShareState

ID = UUID(int=1)
PLACES = [("shares", 0), ("shares", 1)]


def share(version: int, state: ShareState = ShareState.ACCEPTED) -> Share:
    return Share(share_id=ID, version=version, dataset_id=ID, project_id=ID, target_project_id=UUID(int=2), state=state)


def fresh_at(now: float) -> Knowledge:
    knowledge = Knowledge([SHARES])
    for topic, partition in PLACES:
        knowledge.position(topic, partition, at=now, wall=now, mono=now)
    return knowledge


def test_nothing_is_fresh_before_every_partition_has_a_position() -> None:
    knowledge = Knowledge([SHARES])
    knowledge.position("shares", 0, at=100.0, wall=100.0, mono=100.0)
    assert not knowledge.fresh(100.0, 100.0)
    assert knowledge.missing(100.0, 100.0) == ["no fresh position on shares[1]"]


def test_freshness_ends_one_second_after_the_oldest_position() -> None:
    knowledge = fresh_at(100.0)
    assert knowledge.fresh(100.0 + FRESH_S - 0.01, 100.0 + FRESH_S - 0.01)
    assert not knowledge.fresh(100.0 + FRESH_S, 100.0 + FRESH_S - 0.01)


def test_one_stalled_partition_stops_decisions() -> None:
    knowledge = fresh_at(100.0)
    knowledge.position("shares", 0, at=105.0, wall=105.0, mono=105.0)
    assert not knowledge.fresh(105.0, 105.0)
    assert knowledge.missing(105.0, 105.0) == ["no fresh position on shares[1]"]


def test_a_clock_that_stands_still_does_not_keep_old_knowledge_fresh() -> None:
    assert not fresh_at(100.0).fresh(wall=100.0, mono=101.5)


def test_a_clock_five_seconds_behind_is_noticed_and_nothing_is_decided() -> None:
    knowledge = Knowledge([SHARES])
    for topic, partition in PLACES:
        knowledge.position(topic, partition, at=105.0, wall=100.0, mono=7.0)
    assert not knowledge.fresh(100.0, 7.0)
    assert "clock" in knowledge.missing(100.0, 7.0)[0]


def test_a_clock_five_seconds_ahead_decides_nothing() -> None:
    knowledge = Knowledge([SHARES])
    for topic, partition in PLACES:
        knowledge.position(topic, partition, at=100.0, wall=105.0, mono=7.0)
    assert not knowledge.fresh(105.0, 7.0)


def test_an_unreadable_fact_stops_decisions_however_fresh_the_rest_is() -> None:
    knowledge = fresh_at(100.0)
    knowledge.broken = "shares[0]@7"
    assert not knowledge.fresh(100.0, 100.0)
    assert "shares[0]@7" in knowledge.missing(100.0, 100.0)[0]


def test_reached_asks_only_for_topics_that_are_followed() -> None:
    knowledge = Knowledge([SHARES])
    knowledge.apply(share(2))
    assert knowledge.reached({("shares", str(ID)): 2, ("datasets", "x"): 9})
    assert not knowledge.reached({("shares", str(ID)): 3})


@given(st.lists(st.sampled_from([1, 2, 3, 4, 5]), min_size=1), st.randoms(use_true_random=False))
def test_reordered_and_repeated_facts_end_in_the_newest_state(versions: list[int], chance: random.Random) -> None:
    knowledge = Knowledge([SHARES])
    chance.shuffle(versions)
    for version in versions:
        knowledge.apply(share(version, ShareState.WITHDRAWN if version == max(versions) else ShareState.ACCEPTED))
    known = knowledge.facts["shares"][str(ID)]
    assert isinstance(known, Share)
    assert (known.version, known.state) == (max(versions), ShareState.WITHDRAWN)
