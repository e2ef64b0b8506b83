"""Everything that may outlast a decision belongs to a surface that is asked after each deed, by the same probes everywhere."""

import re
from collections.abc import Iterable
from dataclasses import replace

import pytest

from contracts import surfaces
from contracts.events import FACTS, TOPICS, Topic
from contracts.policy import POLICY, Action, Rule, Service, Who, who
from contracts.surfaces import NOBODYS, NOTHING_LASTS, REACHES, Surface
from tests.architecture.test_rooms import ROOT

PROBES = ROOT / "examples" / "wdbc" / "probes.py"


def lasting(action: Action) -> bool:
    """Whether a row's right may outlast the decision at the gateway, so that it has to belong to a surface.

    It begins something that is there afterwards, it moves bytes for as long as they flow, somebody acts for a person who is not there, nobody's
    membership is looked at, or the answer comes from a copy of what others own.
    """
    rule = POLICY[action]
    return (
        rule.method in {"POST", "PUT"}
        or rule.carries_bytes
        or rule.max_body is None
        or rule.cacheable
        or bool(rule.who & {Who.AGENT, Who.JOB, Who.NOBODY})
        or rule.service is Service.SEARCH
    )


def unreached() -> list[Action]:
    """Rows whose right may last and that neither belong to a surface nor are said to give nothing that lasts."""
    known = {action for reach in surfaces.REACHES.values() for action in reach.actions} | set(NOTHING_LASTS)
    return [action for action in POLICY if lasting(action) and action not in known]


def unheard(topics: Iterable[Topic] = tuple(TOPICS.values())) -> list[str]:
    """Topics by which a person may hold something (authority, or facts that name a person or an agent) and that no surface lives by."""
    known = {topic.name for reach in surfaces.REACHES.values() for topic in reach.topics} | set(NOBODYS)
    about = {fact.topic.name for fact in FACTS.values() if fact.model_fields.keys() & {"user_id", "submitted_by", "agent_id"}}
    return [topic.name for topic in topics if topic.name not in known and (topic.authority or topic.name in about)]


def test_each_row_whose_right_may_last_belongs_to_a_surface_or_has_a_reason() -> None:
    assert unreached() == []


def test_each_topic_by_which_a_person_holds_something_belongs_to_a_surface_or_has_a_reason() -> None:
    assert unheard() == []


def test_each_surface_says_what_it_must_not_do_and_lives_by_a_row() -> None:
    assert set(REACHES) == set(Surface)
    assert all(reach.ends.endswith(".") and reach.actions for reach in REACHES.values())


def test_a_row_belongs_to_one_surface_and_not_to_those_without_one() -> None:
    rows = [action for reach in REACHES.values() for action in reach.actions]
    assert len(rows) == len(set(rows))
    assert set(rows) & set(NOTHING_LASTS) == set()
    assert all(lasting(action) for action in NOTHING_LASTS), "it needs no reason"


def test_a_topic_that_gives_a_person_nothing_lives_behind_no_surface() -> None:
    lived_by = {topic.name for reach in REACHES.values() for topic in reach.topics}
    assert lived_by & set(NOBODYS) == set()
    assert set(NOBODYS) <= set(TOPICS)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (Rule(Service.DATASETS, "GET", "/export-links/{link}", who(Who.NOBODY)), "whoever has the link"),
        (Rule(Service.DATASETS, "GET", "/p/{project_id}/stream", who(Who.DATA_OWNER), carries_bytes=True), "bytes flow on"),
        (Rule(Service.JOBS, "POST", "/p/{project_id}/notebooks", who(Who.DATA_OWNER, Who.DATA_SCIENTIST)), "a notebook goes on running"),
        (Rule(Service.JOBS, "PUT", "/p/{project_id}/terminals", who(Who.DATA_OWNER), session=True), "a terminal stays open"),
        (Rule(Service.JOBS, "PATCH", "/p/{project_id}/notebooks", who(Who.DATA_OWNER), max_body=None), "a body without an end"),
        (Rule(Service.JOBS, "GET", "/runs/{run_id}/topic", who(Who.JOB)), "a job acts for somebody"),
        (Rule(Service.SEARCH, "GET", "/suggestions", who(Who.SIGNED_IN)), "a copy answers"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_new_row_that_lasts_and_does_not_join_is_found(monkeypatch: pytest.MonkeyPatch, row: Rule, why: str) -> None:
    monkeypatch.setitem(POLICY, Action.PROJECT_LIST, row)
    assert unreached() == [Action.PROJECT_LIST], why


def test_a_new_authority_topic_that_does_not_join_is_found() -> None:
    exports = Topic("export-links", Service.DATASETS, ("gateway",), ("link_id",), authority=True)
    assert unheard([*TOPICS.values(), exports]) == ["export-links"]


def test_a_new_fact_about_a_person_that_does_not_join_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {surface: replace(reach, topics=tuple(t for t in reach.topics if t.name != "runs")) for surface, reach in REACHES.items()}
    monkeypatch.setattr(surfaces, "REACHES", kept)
    assert unheard() == ["runs"]


def test_each_surface_has_one_probe_and_everybody_who_asks_uses_the_list_of_probes() -> None:
    probed = re.findall(r"^    Surface\.([A-Z_]+): ", PROBES.read_text(), re.MULTILINE)
    assert sorted(probed) == sorted(surface.name for surface in Surface)
    for asking in ("examples/wdbc/demo.py", "bench/_asker.py", "tests/e2e/test_story.py", "tests/e2e/test_revocation.py"):
        text = (ROOT / asking).read_text()
        assert re.search(r"examples\.wdbc\.(probes|everything)", text), f"{asking} does not ask by the probes"
        assert not re.search(r"\bProbe\(", text), f"{asking} has probes of its own"
