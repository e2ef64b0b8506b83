"""The bench of revocation counts what it saw, repeats what says nothing, and does not call good what is not."""

import math
from collections import Counter
from typing import Any, cast

import pytest

from bench._trials import NEVER, Measured, Trial, broken, figures
from bench.revoke import plan, turn
from contracts.surfaces import Deed, Surface
from examples.wdbc.holdings import Garden
from examples.wdbc.verdicts import Answer, Asked, Flow, Verdict

GOOD: dict[str, Any] = {"stale_allows": 0, "p99_s": 0.4, "max_s": 0.9}
DEED = 10.0


def seen(*late: float, interval: float = 0.045) -> Asked:
    """Let in before the deed, refused at once and ever after, but for those who are let in so many seconds later."""
    answers = [Answer(DEED - 0.1, DEED - 0.05, Verdict.LET_IN)]
    answers += [
        Answer(DEED + number * interval, DEED + number * interval + 0.01, Verdict.REFUSED) for number in range(1, int(2.1 / interval))
    ]
    answers += [Answer(DEED + after - 0.01, DEED + after, Verdict.LET_IN) for after in late]
    return Asked("search", answers)


def trial(search: Asked, upload: Flow | None = None) -> Trial:
    flow = upload or Flow("open upload", 20, DEED - 1, DEED + 0.2, cut=True)
    return Trial(
        0,
        Deed.REMOVED,
        loaded=False,
        garden=cast("Garden", None),
        gateway=0,
        surfaces=[],
        acknowledged=DEED,
        sent=DEED - 0.02,
        seen={Surface.SEARCH: search, Surface.UPLOAD: flow},
    )


def test_each_surface_comes_as_often_as_the_others_and_not_always_beside_the_same() -> None:
    turns = [turn(number, 4) for number in range(200)]
    assert set(Counter(surface for surfaces in turns for surface in surfaces).values()) == {66, 67}
    assert len({tuple(surfaces) for surfaces in turns}) == len(Surface)


def test_the_deeds_come_equally_often_and_the_same_at_each_run() -> None:
    assert set(Counter(plan(201, 1)).values()) == {67}
    assert plan(201, 1) == plan(201, 1) != plan(201, 2)


def test_the_figures_are_of_the_last_time_that_somebody_is_let_in_and_not_of_the_first_refusal() -> None:
    row = figures([trial(seen(0.5)), trial(seen())])["search"]
    assert (row["n"], row["p50_s"], row["max_s"], row["sent_max_s"], row["stale"]) == (2, 0.055, 0.5, 0.52, 0)
    assert row["least_rate"] >= 20


def test_a_trial_that_says_nothing_does_not_count() -> None:
    measured = Measured()
    assert not measured.took(trial(seen(interval=0.06)))
    assert not measured.took(trial(seen(), Flow("open upload", 20, DEED - 1, DEED - 0.5, cut=True)))
    assert measured.took(trial(seen()))
    assert (len(measured.trials), len(measured.invalid)) == (1, 2)


def test_a_trial_that_saw_a_stale_allow_counts_however_it_was_asked() -> None:
    measured = Measured()
    assert measured.took(trial(seen(1.5, interval=0.06)))
    assert figures(measured.trials)["all"]["stale"] == 1


def test_a_trial_in_which_somebody_was_refused_too_late_counts_however_it_was_asked() -> None:
    slow = Asked("search", [Answer(DEED - 0.1, DEED - 0.05, Verdict.LET_IN), Answer(DEED + 0.9, DEED + 1.4, Verdict.REFUSED)])
    measured = Measured()
    assert measured.took(trial(slow))
    assert figures(measured.trials)["search"]["max_s"] == 1.4


def test_a_transfer_that_is_never_cut_counts_as_never() -> None:
    never = trial(seen(), Flow("open upload", 20, DEED - 1))
    assert math.isinf(never.outcomes[Surface.UPLOAD].lasted)
    assert never.flaws == []
    assert figures([never])["open upload"]["max_s"] == NEVER


@pytest.mark.parametrize(
    ("change", "load", "missing"),
    [({"stale_allows": 1}, 20.0, 0), ({"p99_s": 1.001}, 20.0, 0), ({"max_s": NEVER}, 20.0, 0), ({}, 4.9, 0), ({}, 20.0, 1)],
)
def test_what_is_not_as_promised_is_said(change: dict[str, Any], load: float, missing: int) -> None:
    assert broken(GOOD, 20.0) == []
    assert len(broken(GOOD | change, load, missing)) == 1
