"""What a projection knows, and when it may be decided on (pure)."""

import random
from collections.abc import Callable
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from chassis.projection import FRESH_S, Knowledge
from contracts.events import SHARES, Share, ShareState

ID = UUID(int=1)
PLACES = [("shares", 0), ("shares", 1)]


def share(version: int, state: ShareState = ShareState.ACCEPTED) -> Share:
    return Share(share_id=ID, version=version, dataset_id=ID, project_id=ID, target_project_id=UUID(int=2), state=state)


def positions(knowledge: Knowledge, at: float, mono: float, lead: float | None = None) -> None:
    """Each partition says what was so at ``at``, and it is read now; with ``lead``, two times, beyond an end that was just asked for.

    ``lead``: how far the databases' clock is ahead of the monotonic one.
    """
    offset = int(mono * 1000)
    if lead is not None:
        knowledge.asked(dict.fromkeys(PLACES, offset), at - lead)
    for topic, partition in PLACES:
        knowledge.position(topic, partition, offset, at, mono)
        if lead is not None:
            knowledge.position(topic, partition, offset + 1, at, mono)


def fresh_at(now: float) -> Knowledge:
    knowledge = Knowledge([SHARES])
    positions(knowledge, now, now, lead=0.0)
    knowledge.sweep(now, now)
    return knowledge


def test_nothing_is_fresh_before_every_partition_has_a_position() -> None:
    knowledge = Knowledge([SHARES])
    knowledge.asked(dict.fromkeys(PLACES, 0), 100.0)
    for offset in range(2):
        knowledge.position("shares", 0, offset, at=100.0, mono=100.0)
    assert knowledge.sweep(100.0, 100.0) == []
    assert not knowledge.fresh(100.0, 100.0)
    assert knowledge.missing(100.0, 100.0) == ["no fresh position on shares[1]"]


def test_a_position_counts_when_the_one_before_it_was_written_after_the_end_was_asked_for() -> None:
    knowledge = Knowledge([SHARES])
    knowledge.asked(dict.fromkeys(PLACES, 7), 100.0)
    for offset in (5, 6, 7):
        for topic, partition in PLACES:
            knowledge.position(topic, partition, offset, at=100.0, mono=100.0)
        knowledge.sweep(100.0, 100.0)
        assert not knowledge.fresh(100.0, 100.0)
        assert knowledge.missing(100.0, 100.0) == [f"no fresh position on shares[{number}]" for number in range(2)]
    for topic, partition in PLACES:
        knowledge.position(topic, partition, 8, at=100.0, mono=100.0)
    knowledge.sweep(100.0, 100.0)
    assert knowledge.fresh(100.0, 100.0)


def test_freshness_ends_one_second_after_the_oldest_position() -> None:
    knowledge = fresh_at(100.0)
    assert knowledge.fresh(100.0 + FRESH_S - 0.01, 100.0 + FRESH_S - 0.01)
    assert not knowledge.fresh(100.0 + FRESH_S, 100.0 + FRESH_S - 0.01)


def test_how_long_knowledge_stays_fresh_is_what_its_oldest_position_leaves() -> None:
    knowledge = fresh_at(100.0)
    assert knowledge.left(100.25, 100.25) == FRESH_S - 0.25
    knowledge.position("shares", 0, 200_000, at=100.5, mono=100.5)
    assert knowledge.left(100.5, 100.5) == FRESH_S - 0.5
    assert knowledge.left(101.5, 101.5) < 0
    assert Knowledge([SHARES]).left(100.0, 100.0) < 0


def test_one_stalled_partition_stops_decisions() -> None:
    knowledge = fresh_at(100.0)
    knowledge.position("shares", 0, 200_000, at=105.0, mono=105.0)
    assert not knowledge.fresh(105.0, 105.0)
    assert knowledge.missing(105.0, 105.0) == ["no fresh position on shares[1]"]


def test_a_clock_that_stands_still_does_not_keep_old_knowledge_fresh() -> None:
    assert not fresh_at(100.0).fresh(wall=100.0, mono=101.5)


def test_a_clock_five_seconds_behind_is_noticed_and_nothing_is_decided() -> None:
    knowledge = fresh_at(100.0)
    assert not knowledge.fresh(95.0, 100.0)
    assert knowledge.missing(95.0, 100.0) == ["this clock is 5.0 s behind the databases' clock"]


def test_a_clock_that_may_be_behind_by_a_second_decides_nothing() -> None:
    knowledge = Knowledge([SHARES])
    knowledge.asked(dict.fromkeys(PLACES, 0), 100.0)
    for offset, at in enumerate((100.1, 100.3)):
        for topic, partition in PLACES:
            knowledge.position(topic, partition, offset, at, mono=at)
    knowledge.sweep(100.3, 100.3)
    # The databases' clock may have shown 100.3 already when the end was asked for.
    assert knowledge.fresh(100.3 - 0.69, 100.3)
    assert not knowledge.fresh(100.3 - 0.71, 100.3)


def test_a_clock_that_is_behind_by_less_than_is_refused_makes_no_position_younger() -> None:
    behind = 0.7
    knowledge = fresh_at(100.0)
    assert knowledge.fresh(100.9 - behind, 100.9)
    # A second later positions come that are a second old: by this clock alone they would be fresh for another 0.7 s.
    positions(knowledge, at=100.5, mono=101.5)
    assert not knowledge.fresh(101.53 - behind, 101.53)
    # Nor by reading all anew, however late the bus is then.
    knowledge.begin_anew()
    positions(knowledge, at=101.0, mono=102.1, lead=0.0)
    knowledge.sweep(102.1 - behind, 102.1)
    assert not knowledge.fresh(102.1 - behind, 102.1)


def test_a_databases_clock_that_was_set_back_or_ahead_is_believed_with_the_next_positions() -> None:
    knowledge = fresh_at(100.0)
    for moment, lead in ((101.0, -5.0), (102.0, -9.0), (103.0, 1.0), (104.0, 0.0)):
        assert not knowledge.fresh(moment + lead, moment)
        positions(knowledge, at=moment + lead, mono=moment, lead=lead)
        assert knowledge.fresh(moment + lead, moment)
        assert knowledge.missing(moment + lead, moment) == []


def test_a_clock_five_seconds_ahead_decides_nothing() -> None:
    knowledge = fresh_at(100.0)
    assert not knowledge.fresh(105.0, 100.0)
    assert knowledge.missing(105.0, 100.0) == ["this clock is 5.0 s ahead of the databases' clock"]


def test_an_unreadable_fact_stops_decisions_until_its_aggregate_is_read_again_or_erased() -> None:
    knowledge = fresh_at(100.0)
    knowledge.apply(share(1))
    mend: list[Callable[[], object]] = [lambda: knowledge.apply(share(3)), lambda: knowledge.erase("shares", str(ID))]
    for mended in mend:
        knowledge.broken["shares", str(ID)] = "shares[0]@7"
        assert not knowledge.fresh(100.0, 100.0)
        assert knowledge.missing(100.0, 100.0) == ["an authority fact cannot be read: shares[0]@7"]
        knowledge.apply(share(2).model_copy(update={"share_id": UUID(int=3)}))
        knowledge.apply(share(1))  # what is known already says nothing of what cannot be read
        assert not knowledge.fresh(100.0, 100.0)
        mended()
        assert knowledge.fresh(100.0, 100.0)
        knowledge.facts["shares"].pop(str(ID), None)
        knowledge.apply(share(1))


def test_an_unreadable_fact_that_is_not_there_any_more_when_all_is_read_anew_stops_nothing() -> None:
    knowledge = fresh_at(100.0)
    knowledge.broken["shares", str(ID)] = "shares[0]@7"
    knowledge.begin_anew()
    positions(knowledge, at=100.1, mono=100.1, lead=0.0)
    knowledge.sweep(100.1, 100.1)
    assert knowledge.fresh(100.1, 100.1)


def test_an_unreadable_position_is_forgotten_with_the_next_one() -> None:
    knowledge = fresh_at(100.0)
    knowledge.broken["shares", "position"] = "shares[0]@7"
    assert not knowledge.fresh(100.0, 100.0)
    positions(knowledge, at=100.1, mono=100.1)
    assert knowledge.fresh(100.1, 100.1)


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
    assert knowledge.sweep(100.1, 100.1) == []
    positions(knowledge, at=100.1, mono=100.1, lead=0.0)
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
