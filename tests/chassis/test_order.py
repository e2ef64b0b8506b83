"""The relay's rule: version n+1 of an aggregate is never published before n."""

import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from chassis.relay import in_order


def row(number: int, key: str, version: int, head: int = 0) -> dict[str, Any]:
    return {"id": number, "topic": "t", "key": key, "version": version, "head": head}


def test_two_changes_that_committed_in_the_other_order_leave_in_the_order_of_their_versions() -> None:
    ready, held = in_order([row(1, "a", 2), row(2, "a", 1)])
    assert [r["version"] for r in ready] == [1, 2]
    assert held == []


def test_a_version_whose_predecessor_has_not_committed_is_held_back_and_others_are_not() -> None:
    ready, held = in_order([row(1, "a", 3, head=1), row(2, "b", 1)])
    assert [(r["key"], r["version"]) for r in ready] == [("b", 1)]
    assert [(r["key"], r["version"]) for r in held] == [("a", 3)]


def test_what_was_published_before_a_crash_is_published_again_and_forgotten() -> None:
    ready, held = in_order([row(1, "a", 1, head=2), row(2, "a", 3, head=2)])
    assert [r["version"] for r in ready] == [1, 3]
    assert held == []


@given(st.dictionaries(st.text(min_size=1, max_size=2), st.integers(1, 6), max_size=4), st.randoms(use_true_random=False))
def test_however_transactions_commit_every_reader_sees_one_two_three(aggregates: dict[str, int], chance: random.Random) -> None:
    waiting = [(key, version) for key, last in aggregates.items() for version in range(1, last + 1)]
    chance.shuffle(waiting)
    outbox: list[dict[str, Any]] = []
    heads: dict[str, int] = {}
    seen: dict[str, list[int]] = {}
    number = 0
    while waiting or outbox:
        for _ in range(chance.randint(0, 3)):
            if waiting:
                key, version = waiting.pop()
                outbox.append(row(number := number + 1, key, version))
        for pending in outbox:
            pending["head"] = heads.get(pending["key"], 0)
        ready, held = in_order(outbox)
        for published in ready:
            seen.setdefault(published["key"], []).append(published["version"])
            heads[published["key"]] = published["version"]
        assert len(ready) + len(held) == len(outbox)
        outbox = held
    assert seen == {key: list(range(1, last + 1)) for key, last in aggregates.items()}
