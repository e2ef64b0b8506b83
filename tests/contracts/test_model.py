"""The policy grants each role in a project what the model grants it, or less, and says why it is less."""

from dataclasses import replace
from uuid import UUID

import pytest

from contracts.model import BEYOND, LINES, Grant, Line
from contracts.policy import MEMBER, POLICY, Action, Condition, decide
from contracts.roles import Actor, Role
from tests.contracts.test_policy import by_certificate, by_key
from tests.world import owner, scientist

PROJECT = UUID(int=1)
SEE = Line("see jobs", Grant.YES, Grant.YES, (Action.JOB_LIST,))
UPLOAD = next(line for line in LINES if line.what == "upload a file")


def routes(person: Actor) -> tuple[Actor, ...]:
    """The same person in each way in which they can come."""
    return person, by_certificate(person), by_key(person)


def faults(line: Line) -> list[str]:
    """Where the policy does not grant what a line says, by whichever way somebody comes, and where a reason is missing or too much."""
    found = [] if bool(line.actions) != bool(line.later) else ["is neither here nor to come"]
    conditional = any(POLICY[action].when for action in line.actions)
    if (line.withheld and not line.stricter) or (line.stricter and not line.withheld and not conditional):
        found.append("has a reason too few or too many")
    for granted, person, role in ((line.owner, owner(PROJECT), Role.DATA_OWNER), (line.scientist, scientist(PROJECT), Role.DATA_SCIENTIST)):
        if role in line.withheld and granted is Grant.NO:
            found.append(f"withholds from {role} what is not granted")
        for action in line.actions:
            may = [decide(each, action).allowed and line.refused_by not in POLICY[action].when for each in routes(person)]
            unbound = granted is Grant.OWN and not POLICY[action].when
            if any(may) and (granted is Grant.NO or role in line.withheld or unbound):
                found.append(f"{action.value} is laxer for {role}")
            if not may[0] and granted is not Grant.NO and role not in line.withheld:
                found.append(f"{action.value} is refused to {role} without a word")
    return found


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.what)
def test_each_role_is_granted_what_is_written_by_every_route(line: Line) -> None:
    assert faults(line) == []


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (replace(UPLOAD, owner=Grant.NO), "file.upload is laxer for data_owner"),
        (replace(UPLOAD, withheld=(Role.DATA_OWNER,)), "file.upload is laxer for data_owner"),
        (replace(UPLOAD, withheld=()), "file.upload is refused to data_scientist without a word"),
        (replace(UPLOAD, stricter=""), "has a reason too few or too many"),
        (replace(UPLOAD, scientist=Grant.NO), "withholds from data_scientist what is not granted"),
        (replace(UPLOAD, later="wings"), "is neither here nor to come"),
        (replace(SEE, scientist=Grant.NO), "job.list is laxer for data_scientist"),
        (replace(SEE, scientist=Grant.OWN), "job.list is laxer for data_scientist"),
        (replace(SEE, stricter="because"), "has a reason too few or too many"),
        (replace(SEE, actions=()), "is neither here nor to come"),
        (Line("see", Grant.NO, Grant.NO, (Action.JOB_LIST,), refused_by=Condition.ORIGINS_ARE_OWN), "job.list is laxer for data_owner"),
    ],
)
def test_a_line_that_the_policy_does_not_keep_is_found(line: Line, fault: str) -> None:
    assert fault in faults(line)


def test_whatever_a_role_opens_has_a_line_or_a_reason() -> None:
    of_roles = {action for action, rule in POLICY.items() if rule.who & MEMBER}
    named = {action for line in LINES for action in line.actions}
    assert (of_roles - named, of_roles & set(BEYOND) & named) == (set(BEYOND), set())
    assert named - of_roles == {Action.SEARCH}


def test_no_line_stands_twice() -> None:
    assert len({line.what for line in LINES}) == len(LINES)
