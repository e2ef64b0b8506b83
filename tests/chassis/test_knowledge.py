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
    assert knowledge.missing(100.0, 7.0) == ["this clock is 5.0 s behind the databases' clock"]


def test_a_clock_that_is_behind_by_less_than_is_refused_makes_no_position_younger() -> None:
    behind = 0.7
    knowledge = Knowledge([SHARES])
    for topic, partition in PLACES:
        knowledge.position(topic, partition, at=100.0, wall=100.0 - behind, mono=7.0)
    assert knowledge.fresh(100.9 - behind, 7.9)
    # A second later positions come that are a second old: by this clock alone they would be fresh for another 0.7 s.
    for topic, partition in PLACES:
        knowledge.position(topic, partition, at=100.5, wall=101.5 - behind, mono=8.5)
    assert not knowledge.fresh(101.53 - behind, 8.53)


def test_a_databases_clock_that_was_set_back_is_believed_after_a_while_and_at_once_by_who_reads_anew() -> None:
    knowledge = fresh_at(100.0)

    def positions(behind: float, mono: float) -> None:
        for topic, partition in PLACES:
            knowledge.position(topic, partition, at=mono - behind, wall=mono - behind, mono=mono)

    positions(1.5, 101.0)
    assert not knowledge.fresh(99.5, 101.0)
    for second in range(102, 260):
        positions(1.5, float(second))
    assert knowledge.fresh(257.5, 259.0)
    positions(4.0, 260.0)
    assert not knowledge.fresh(256.0, 260.0)
    knowledge.begin_anew()
    positions(4.0, 260.1)
    assert knowledge.sweep(256.1, 260.1) == []
    assert knowledge.fresh(256.1, 260.1)


def test_a_clock_five_seconds_ahead_decides_nothing() -> None:
    knowledge = Knowledge([SHARES])
    for topic, partition in PLACES:
        knowledge.position(topic, partition, at=100.0, wall=105.0, mono=7.0)
    assert not knowledge.fresh(105.0, 7.0)
    assert knowledge.missing(105.0, 7.0) == [
        f"positions on shares[{number}] come 5.0 s late, or this clock is ahead" for number in range(2)
    ]


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


def test_what_was_erased_is_not_known_and_the_facts_before_it_bring_it_back_only_until_it_is_met_again() -> None:
    knowledge = Knowledge([SHARES])
    for _ in range(2):
        knowledge.apply(share(1))
        knowledge.apply(share(2, ShareState.WITHDRAWN))
        erased = knowledge.erase("shares", str(ID))
        assert (erased.version if erased else None) == 2
        assert knowledge.facts["shares"] == {}
        assert knowledge.erase("shares", str(ID)) is None


def test_nothing_is_fresh_while_all_is_read_anew_and_what_was_not_met_again_is_forgotten() -> None:
    knowledge = fresh_at(100.0)
    other = share(1).model_copy(update={"share_id": UUID(int=3)})
    knowledge.apply(share(1))
    knowledge.apply(other)
    assert knowledge.fresh(100.0, 100.0)
    knowledge.begin_anew()
    assert not knowledge.fresh(100.0, 100.0)
    knowledge.apply(share(1))
    for topic, partition in PLACES:
        assert knowledge.sweep(100.1, 100.1) == []
        knowledge.position(topic, partition, at=100.1, wall=100.1, mono=100.1)
    assert not knowledge.fresh(100.1, 100.1)
    assert knowledge.sweep(100.1, 100.1) == [other]
    assert knowledge.fresh(100.1, 100.1)
    assert list(knowledge.facts["shares"]) == [str(ID)]


@given(st.lists(st.sampled_from([1, 2, 3, 4, 5]), min_size=1), st.randoms(use_true_random=False))
def test_reordered_and_repeated_facts_end_in_the_newest_state(versions: list[int], chance: random.Random) -> None:
    knowledge = Knowledge([SHARES])
    chance.shuffle(versions)
    for version in versions:
        knowledge.apply(share(version, ShareState.WITHDRAWN if version == max(versions) else ShareState.ACCEPTED))
    known = knowledge.facts["shares"][str(ID)]
    assert isinstance(known, Share)
    assert (known.version, known.state) == (max(versions), ShareState.WITHDRAWN)
