"""The story that `make demo` tells, as a test: one suite, seven steps in their order; and somebody is blocked in it afterwards."""

import time
from collections.abc import Callable, Iterator

import pytest

from compose.local.home import Home
from compose.local.suite import Suite
from contracts.surfaces import Surface
from examples.wdbc.demo import HERE, SETTLE_SECONDS, STEPS, Story, until
from examples.wdbc.people import Person
from examples.wdbc.probes import Held, probes_of, shut_out, watched_on, watching
from examples.wdbc.watch import REVOKED_SECONDS, processes_with

pytestmark = pytest.mark.timeout(600)
ENDLESS = HERE / "endless.py"


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    home = Home.temporary()
    suite = Suite(home)
    try:
        suite.start()
        yield Story(suite, tmp_path_factory.mktemp("people"))
    finally:
        suite.stop()
        home.erase()


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
    inbox = person.hortus("datasets", "create", "inbox", "-p", mine)["dataset_id"]
    folder = story.folder / "blocked-certificate"
    person.hortus("certificate", "create", "-p", study, "--folder", str(folder))
    mark = f"blocked-{study}"
    job = person.hortus("jobs", "run", str(ENDLESS), "-p", study, "--wall-seconds", "300", "-a", mark)
    until(lambda: processes_with(mark), "the endless job runs", 60)
    programs = processes_with(mark)
    held = person.holds(study, folder)
    held.word, held.programs, held.mark = "aspirates", programs, mark
    sending = Held(held.gateway, held.certificates, held.root, mine, inbox, token=held.token, uploads=True)
    probes = [*probes_of(held).values(), *probes_of(sending, [Surface.UPLOAD]).values()]
    assert len(probes) == 9
    with administrator.client() as deciding:
        found = deciding.users.find(person.username)
        with watching(probes):
            assert shut_out(probes) == []
            blocked = time.monotonic()
            deciding.users.change(found["user_id"], status="blocked", version=found["version"])
            watched_on(probes, blocked, 2 * REVOKED_SECONDS, SETTLE_SECONDS)
    held.close()
    sending.close()
    surfaces = [probe.result(blocked) for probe in probes]
    times = {surface.name: round(surface.refused, 3) for surface in surfaces}
    record_property("refused_after_s", times)
    print("blocked: refused after", times)
    assert {surface.name: surface.refused for surface in surfaces if surface.refused > REVOKED_SECONDS} == {}
    assert {surface.name: surface.let_in for surface in surfaces if surface.let_in > REVOKED_SECONDS} == {}
    with story.owner.client() as client:
        assert client.jobs.wait(study, job["job_id"], seconds=30)["state"] in {"cancelled", "failed"}
