"""The story that `make demo` tells, as a test: one suite, seven steps in their order; and somebody is blocked in it afterwards."""

import time
from collections.abc import Callable, Iterator

import pytest

from compose.local.home import Home
from compose.local.suite import Suite
from contracts.surfaces import Surface
from examples.wdbc.demo import SETTLE_SECONDS, STEPS, Story
from examples.wdbc.everything import ONE_JOB_AT_A_TIME, hold_everything
from examples.wdbc.people import Person
from examples.wdbc.verdicts import REVOKED_SECONDS
from examples.wdbc.watch import Probe, shut_out, watched_on, watching

pytestmark = pytest.mark.timeout(600)
UNHURRIED = 0.1  # seconds between questions: the demo and the bench ask more often, and want a machine that does nothing else


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    home = Home.temporary()
    suite = Suite(home, settings=ONE_JOB_AT_A_TIME)
    try:
        suite.start()
        yield Story(suite, tmp_path_factory.mktemp("people"))
    finally:
        suite.stop()
        home.erase()


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Probe, "interval", UNHURRIED)


@pytest.fixture(scope="module")
def told() -> list[str]:
    return []


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
def test_the_story_holds(story: Story, told: list[str], step: Callable[[Story], str]) -> None:
    before = [earlier.__name__ for earlier in STEPS[: STEPS.index(step)]]
    assert told == before, "the story broke off at an earlier step"
    assert step(story)
    told.append(step.__name__)


def test_blocking_a_person_ends_everything_of_theirs_within_a_second(
    story: Story, told: list[str], record_property: Callable[[str, object], None]
) -> None:
    assert told == [step.__name__ for step in STEPS], "the story broke off"
    study, owner, administrator = story.study["project_id"], story.owner, story.administrator
    person = Person(story.folder / "blocked", story.suite.address, story.suite.certificate_addresses[0], story.suite.root)
    person.join(HORTUS_INVITATION=administrator.hortus("users", "create", "blocked@institute.example")["invitation"])
    person.sign_in()
    owner.hortus("members", "add", person.username, "data_scientist", "-p", study)
    mine = person.hortus("projects", "create", "mine_alone")["project_id"]
    held = hold_everything(person, owner, story.machine(), study, story.data["dataset_id"], "aspirates", mine)
    probes = held.probes()
    assert {probe.name for probe in probes} == set(Surface)
    assert len(probes) == 12
    with administrator.client() as deciding:
        found = deciding.users.find(person.username)
        with watching(probes):
            assert shut_out(probes) == []
            deciding.users.change(found["user_id"], status="blocked", version=found["version"])
            blocked = time.monotonic()
            watched_on(probes, blocked, 2 * REVOKED_SECONDS, SETTLE_SECONDS)
    surfaces = [probe.result(blocked) for probe in probes]
    times = {surface.name: round(surface.refused, 3) for surface in surfaces}
    record_property("refused_after_s", times)
    print("blocked: refused after", times)
    assert {surface.name: surface.refused for surface in surfaces if surface.refused > REVOKED_SECONDS} == {}
    assert {surface.name: surface.let_in for surface in surfaces if surface.let_in > REVOKED_SECONDS} == {}
    with story.owner.client() as client:
        assert client.jobs.wait(study, held.job, seconds=30)["state"] in {"cancelled", "failed"}
