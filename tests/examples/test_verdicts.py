"""What was seen is judged honestly: when it was over, what must not be, and when it says nothing."""

import math

import pytest

from examples.wdbc.verdicts import Answer, Asked, Flow, Verdict

DEED = 100.0
STEP = 0.045
IN, OUT, UNSURE = Verdict.LET_IN, Verdict.REFUSED, Verdict.CANNOT_DECIDE


def asked(*answers: tuple[float, Verdict], until: float = 2.1) -> Asked:
    """Let in before the deed, then these (seconds after it), then refused twenty times a second and more."""
    before = [(-STEP * number, IN) for number in range(5, 0, -1)]
    last = max((at for at, _ in answers), default=0.0)
    after = [(last + STEP * number, OUT) for number in range(1, int((until - last) / STEP))]
    seen = [Answer(DEED + at - 0.005, DEED + at, verdict, verdict.value) for at, verdict in (*before, *answers, *after)]
    return Asked("access token", seen)


def test_it_is_over_with_the_first_refusal_when_nobody_is_let_in_any_more() -> None:
    outcome = asked((0.1, IN), (0.2, OUT)).outcome(DEED)
    assert (round(outcome.let_in, 3), round(outcome.refused, 3), round(outcome.lasted, 3)) == (0.1, 0.2, 0.2)
    assert outcome.stale == 0


def test_it_is_not_over_while_somebody_is_let_in_after_the_first_refusal() -> None:
    outcome = asked((0.1, OUT), (0.9, IN)).outcome(DEED)
    assert round(outcome.lasted, 3) == 0.9


def test_who_is_let_in_by_a_question_of_more_than_a_second_later_is_a_stale_allow() -> None:
    late = asked((0.1, OUT), (1.02, IN))
    assert late.outcome(DEED).stale == 1
    assert late.breaks(DEED)
    assert asked((1.004, IN)).outcome(DEED).stale == 0, "that question was sent within the second"


def test_not_to_decide_is_neither_an_allow_nor_a_refusal() -> None:
    outcome = asked((0.1, UNSURE), (1.5, UNSURE)).outcome(DEED)
    assert (outcome.undecided, outcome.stale) == (2, 0)
    assert outcome.refused > 1.5


def test_what_is_never_refused_breaks_the_promise() -> None:
    never = asked(until=0.0)
    assert math.isinf(never.outcome(DEED).lasted)
    assert never.breaks(DEED)


def test_what_was_asked_often_enough_and_let_in_until_the_deed_counts() -> None:
    seen = asked((0.1, IN))
    assert seen.outcome(DEED).rate >= 20
    assert seen.flaw(DEED, DEED) == ""
    assert not seen.breaks(DEED)


@pytest.mark.parametrize("verdict", [OUT, UNSURE])
def test_who_was_not_let_in_by_the_last_answer_before_the_deed_says_nothing(verdict: Verdict) -> None:
    seen = asked((-0.01, verdict))
    assert seen.flaw(DEED, DEED).startswith("let nobody in when the deed fell")
    assert seen.flaw(DEED - 0.02, DEED) == "", "before that, they were"


def test_who_was_not_asked_before_the_deed_says_nothing() -> None:
    assert "let nobody in" in Asked("search").flaw(DEED, DEED)
    assert "had not answered for 1.2 s" in asked((1.2, OUT)).flaw(DEED + 1.19 - STEP, DEED)


def test_who_is_asked_too_seldom_in_the_second_second_says_nothing() -> None:
    seldom = asked((0.1, OUT), until=1.8)
    assert 0 < seldom.outcome(DEED).rate < 20
    assert seldom.flaw(DEED, DEED) == f"was asked {seldom.outcome(DEED).rate} times in the second second"


def test_a_transfer_that_flowed_and_was_cut_counts() -> None:
    cut = Flow("open upload", 20, DEED - 3, DEED + 0.2, cut=True, why="answered 403")
    assert (round(cut.outcome(DEED).lasted, 3), cut.outcome(DEED).stale) == (0.2, 0)
    assert cut.flaw(DEED, DEED) == ""
    assert not cut.breaks(DEED)


def test_a_transfer_that_is_cut_before_the_deed_is_acknowledged_was_cut_at_once() -> None:
    assert Flow("open upload", 20, DEED - 3, DEED + 0.2, cut=True).outcome(DEED + 0.3).lasted == 0.0


@pytest.mark.parametrize("ended", [0.0, DEED + 1.1])
def test_a_transfer_that_is_never_cut_or_late_breaks_the_promise(ended: float) -> None:
    late = Flow("open download", 20, DEED - 3, ended, cut=ended > 0)
    assert late.breaks(DEED)
    assert late.outcome(DEED).stale == 1


@pytest.mark.parametrize(
    ("flow", "flaw"),
    [
        (Flow("open upload", 3), "did not flow when the deed fell"),
        (Flow("open upload", 20, DEED + 0.1, DEED + 0.3, cut=True), "did not flow when the deed fell"),
        (Flow("open upload", 20, DEED - 3, DEED - 1, cut=True, why="cut"), "ended before the deed (cut)"),
        (Flow("open download", 20, DEED - 3, DEED + 1, why="it came to its end"), "ended by itself (it came to its end)"),
    ],
)
def test_a_transfer_that_did_not_flow_at_the_deed_or_was_not_cut_says_nothing(flow: Flow, flaw: str) -> None:
    assert flow.flaw(DEED, DEED) == flaw


def test_a_transfer_that_came_to_its_own_end_was_not_cut() -> None:
    whole = Flow("open download", 20, DEED - 3, DEED + 0.5, why="it came to its end")
    assert math.isinf(whole.outcome(DEED).lasted)
    assert not whole.breaks(DEED), "the trial is performed again"
