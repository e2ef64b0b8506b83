"""The page for people says what the policy does: read back from its Markdown, and compared with what is decided."""

import re
from uuid import UUID

import pytest

from chassis import matrix
from contracts.model import BEYOND, LINES
from contracts.policy import POLICY, Action, Service, Who, decide
from contracts.roles import NOBODY, Actor, Principal
from tests.world import administrator, agent, auditor, job, owner, person, scientist

PROJECT = UUID(int=1)
ASKS: dict[Who, Actor] = {
    Who.NOBODY: NOBODY,
    Who.SIGNED_IN: person(project_id=PROJECT),
    Who.DATA_SCIENTIST: scientist(PROJECT),
    Who.DATA_OWNER: owner(PROJECT),
    Who.ADMINISTRATOR: administrator(),
    Who.AUDITOR: auditor(),
    Who.AGENT: agent(),
    Who.JOB: job(UUID(int=2)),
    Who.SERVICE: Actor(principal=Principal.SERVICE, service="auth"),
}
PAGE = matrix.page()


def table() -> dict[str, list[str]]:
    """The cells of each action's row, without the action."""
    found = {}
    for line in PAGE.partition("## Conditions")[0].splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 2 + len(Who) + 4 and cells[0].startswith("`"):
            found[cells[0].strip("`")] = cells[1:]
    return found


def test_what_the_model_grants_stands_beside_what_is_granted_here() -> None:
    section = PAGE.partition("## Beside the model")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("| ")][1:]
    assert [cells[0] for cells in rows] == [line.what for line in LINES]
    for cells, line in zip(rows, LINES, strict=True):
        assert cells[5] == ", ".join(f"`{action.value}`" for action in line.actions)
        for mark, asks in zip(cells[3:5], (owner(PROJECT), scientist(PROJECT)), strict=True):
            assert (mark == matrix.NOT_YET) is bool(line.later)
            may = bool(line.actions) and not line.refused_by and all(decide(asks, action).allowed for action in line.actions)
            assert (mark in (matrix.YES, matrix.IF)) is may
        assert cells[6].endswith(line.later or line.stricter or ("." if line.refused_by else ""))
    assert all(f"- `{action.value}`: {reason}" in section for action, reason in BEYOND.items())


def test_every_action_has_a_row_in_words() -> None:
    rows = table()
    assert set(rows) == {action.value for action in Action}
    assert [action for action, cells in rows.items() if len(cells[0].split()) < 2] == []


@pytest.mark.parametrize("column", list(Who))
def test_a_column_says_what_is_decided_of_whoever_stands_in_it(column: Who) -> None:
    place = 1 + list(matrix.COLUMNS).index(column)
    said = {action: cells[place] != matrix.NO for action, cells in table().items()}
    assert said == {action.value: decide(ASKS[column], action).allowed for action in Action}


def test_where_conditions_decide_the_row_says_if_and_names_them() -> None:
    sentences = dict(re.findall(r'^(\d+)\. <a id="condition-\d+"></a>(.+?)\. \(', PAGE, re.MULTILINE))
    for action, cells in table().items():
        wanted = [condition.value for condition in POLICY[Action(action)].when]
        numbers = re.findall(r"\[(\d+)\]\(#condition-\1\)", cells[1 + len(Who)])
        assert [sentences[number].lower() for number in numbers] == [words.lower() for words in wanted]
        marks = set(cells[1 : 1 + len(Who)])
        assert marks <= {matrix.NO, matrix.IF if wanted else matrix.YES}


def test_every_service_and_every_column_is_explained() -> None:
    assert set(matrix.SERVICES) == set(Service)
    assert list(matrix.COLUMNS) == list(Who)
    for name, words in matrix.COLUMNS.values():
        assert f"- *{name}*: {words}" in PAGE


def test_what_carries_bytes_is_marked_as_recorded_twice() -> None:
    twice = {action for action, cells in table().items() if cells[-1] == "opened, closed"}
    assert twice == {action.value for action, rule in POLICY.items() if rule.carries_bytes}


def test_each_door_stands_on_the_page() -> None:
    assert all(f"| `{action.value}` | `{rule.method} /api/v1{rule.path}` |" in PAGE for action, rule in POLICY.items())
