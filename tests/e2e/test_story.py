"""The story that `make demo` tells, as a test: one suite, seven steps in their order."""

from collections.abc import Callable, Iterator

import pytest

from compose.local.home import Home
from compose.local.suite import Suite
from examples.wdbc.demo import STEPS, Story

pytestmark = pytest.mark.timeout(600)


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
