"""The story that `make demo` tells, as a test: one suite, seven steps in their order; and somebody is blocked in it afterwards."""

import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import httpx2
import pytest

from compose.local.home import Home
from compose.local.suite import Suite
from contracts.policy import API
from examples.wdbc.demo import HERE, REVOKED_SECONDS, SETTLE_SECONDS, STEPS, Story, running, until
from examples.wdbc.people import Person
from examples.wdbc.watch import Probe, Upload, processes_with, runs_with
from hortus.client import Client

pytestmark = pytest.mark.timeout(600)
REFRESH = "__Host-hortus-refresh"
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


class Browser:
    """A second sign-in of somebody, renewed again and again as a browser would that keeps cookies."""

    def __init__(self, story: Story, person: Person) -> None:
        context = ssl.create_default_context(cafile=str(story.suite.root))
        self.http = httpx2.Client(base_url=story.suite.address + API, verify=context, timeout=10, trust_env=False)
        shown = {"username": person.username, "password": person._password, "code": person.code()}
        self._keep(self.http.post("/sessions", json=shown))

    def renew(self) -> str | None:
        """Renew the sign-in; why not, if it was refused."""
        answer = self.http.post("/sessions/refresh", headers={"Cookie": f"{REFRESH}={self.token}"})
        if answer.status_code != 200:
            return f"{answer.status_code} {answer.headers['hortus-reason']}"
        self._keep(answer)
        return None

    def _keep(self, answer: httpx2.Response) -> None:
        assert answer.is_success, answer.text
        (line,) = [line for line in answer.headers.get_list("set-cookie") if line.startswith(f"{REFRESH}=")]
        self.token = line.split(";")[0].partition("=")[2]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()


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
    eager: dict[str, Any] = {"attempts": 1, "timeout": 10.0}
    with ExitStack() as held:
        by_token, by_search, by_upload = (held.enter_context(person.client(**eager)) for _ in range(3))
        browser = held.enter_context(Browser(story, person))
        ends = (datetime.now(UTC) + timedelta(days=1)).isoformat()
        key = by_token.keys.create("program", scopes=("dataset.*", "search"), expires_at=ends)
        by_key = held.enter_context(
            Client(story.suite.address, story.suite.root, token=key["secret"], memory=by_token.wire.memory, **eager)
        )
        by_certificate = held.enter_context(person.certified(folder, **eager))
        deciding = held.enter_context(administrator.client())
        upload = Upload(lambda pieces: by_upload.datasets.put(mine, inbox, pieces, "trickle.csv"))
        probes = [
            Probe("access token", lambda: next(by_token.datasets.list(study), None) and None),
            Probe("refresh", browser.renew),
            Probe("API key", lambda: next(by_key.datasets.list(study), None) and None),
            Probe("certificate", lambda: next(by_certificate.datasets.list(study), None) and None),
            Probe("search", lambda: None if next(by_search.search("aspirates", project_id=study), None) else "no hit"),
            Probe("job's process", lambda: None if any(runs_with(pid, mark) for pid in programs) else "gone"),
        ]
        found = deciding.users.find(person.username)
        with running(probes, upload):
            assert [probe.name for probe in probes if not probe.lets_in()] == []
            assert upload.flows()
            blocked = time.monotonic()
            deciding.users.change(found["user_id"], status="blocked", version=found["version"])
            for probe in probes:
                probe.refuses(blocked, SETTLE_SECONDS)
            upload.cut(SETTLE_SECONDS)
            until(lambda: time.monotonic() > blocked + 2 * REVOKED_SECONDS, "two seconds pass", 10)
        surfaces = [*(probe.result(blocked) for probe in probes), upload.result(blocked)]
    times = {surface.name: round(surface.refused, 3) for surface in surfaces}
    record_property("refused_after_s", times)
    print("blocked: refused after", times)
    assert {surface.name: surface.refused for surface in surfaces if surface.refused > REVOKED_SECONDS} == {}
    assert {surface.name: surface.let_in for surface in surfaces if surface.let_in > REVOKED_SECONDS} == {}
    with story.owner.client() as client:
        assert client.jobs.wait(study, job["job_id"], seconds=30)["state"] in {"cancelled", "failed"}
