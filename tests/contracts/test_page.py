"""The page for people says what the policy does: read back from its Markdown, and compared with what is decided."""

import re
from uuid import UUID

import pytest

from chassis import matrix
from contracts.policy import NOT_YET, POLICY, Action, Service, Who, decide
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


ASKED_FOR: dict[str, tuple[str, ...]] = {
    "read project, members, datasets, jobs": ("project.read", "member.list", "dataset.read", "job.read"),
    "search": ("search",),
    "read topics, schemas": ("topic.change",),
    "read feature groups": ("feature.change",),
    "add a member, change a role": ("member.add", "member.change"),
    "remove a member": ("member.remove", "member.leave"),
    "edit project; delete project": ("project.change", "project.archive", "project.delete"),
    "edit the project's services": ("project.switch_service",),
    "create a top-level dataset": ("dataset.create",),
    "delete a top-level dataset": ("dataset.delete",),
    "set a dataset's permission": ("dataset.set_permission",),
    "write inside a dataset": ("file.upload", "run.output_stage"),
    "share, unshare, accept": ("share.offer", "share.withdraw", "share.accept"),
    "change share mode": ("share.change",),
    "reject a share": ("share.reject",),
    "publish, import": ("dataset.publish",),
    "delete or move files": ("file.delete",),
    "download by one-time token": ("file.download", "file.export"),
    "download by API key or token": ("file.download", "file.export"),
    "download a file of a shared-in dataset": ("file.download", "file.export"),
    "upload into a writable dataset": ("file.upload",),
    "feature group or storage connector": ("feature.change",),
    "feature view or training data": ("feature.change",),
    "tags and keywords": ("dataset.tag",),
    "job: create, run, stop": ("job.submit", "job.cancel"),
    "job: schedule": ("job.schedule",),
    "job: delete": ("job.delete",),
    "Jupyter, Airflow DAG, git, Python environment": ("notebook.run",),
    "Kafka topics": ("topic.change",),
    "serving": ("serving.change",),
    "project alerts, receivers, silences": ("alert.change",),
}
"""What people of data platforms with such roles can do, and the actions that are it here, or that are named as not possible yet."""


def test_whatever_people_may_ask_for_has_a_row_or_is_said_not_to_be_possible_yet() -> None:
    section = PAGE.partition("## Not possible yet")[2].partition("\n## ")[0]
    said = re.findall(r"^- .+\. \(`(.+)`\)$", section, re.MULTILINE)
    assert said == list(NOT_YET)
    asked = {name for names in ASKED_FOR.values() for name in names}
    assert asked <= {action.value for action in Action} | set(NOT_YET)
    assert set(NOT_YET) == asked - {action.value for action in Action}


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
