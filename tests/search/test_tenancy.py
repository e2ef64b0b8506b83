"""What is found, how much, in which order and with which score is the same whatever other projects hold."""

from typing import Any
from uuid import UUID

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.policy import Action
from tests.search.conftest import dataset, find, job, member, share, shares_are
from tests.world import OURS, THEIRS, World

DOORS = {Action.SEARCH}
ELSEWHERE = UUID("01900000-0000-7000-8000-00000000000e")
WORDS = ["brain", "stem", "slices", "segment", "tumour", "of", "train"]
QUERIES = ["brain", "brain stem", "slices", "rain", "stems of brains", "tumour", "zebra"]
texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map(" ".join)
documents = st.lists(st.tuples(st.sampled_from(["dataset", "job", "deleted", "shared elsewhere"]), texts, texts), min_size=1, max_size=8)


async def all_answers(world: World) -> list[Any]:
    """Every answer, page by page, with its totals, scores, marks and cursors."""
    answers = []
    for query in QUERIES:
        for more in ({}, {"kind": "jobs"}, {"project_id": str(OURS)}, {"project_id": str(THEIRS)}):
            after: dict[str, str] = {}
            while True:
                page = await find(world, query, member(OURS), limit=2, **more, **after)
                answers.append(page)
                if page["next"] is None:
                    break
                after = {"after": page["next"]}
    return answers


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(theirs=documents)
async def test_answers_are_the_same_whatever_others_hold(world: World, theirs: list[tuple[str, str, str]]) -> None:
    state: dict[str, Any] = world.runtime.extra
    if "before" not in state:
        ours = [dataset("brain stem", description="slices of brain"), dataset("brain"), dataset("tumour"), job("segment brain")]
        await world.hear(*ours)
        state["before"] = await all_answers(world)
        assert sum(page["total"] > 0 for page in state["before"]) > len(QUERIES)
    for kind, name, text in theirs:
        if kind == "job":
            await world.hear(job(name, THEIRS))
        else:
            made = dataset(name, THEIRS, description=text, deleted=kind == "deleted")
            await world.hear(made)
            if kind == "shared elsewhere":
                shares_are(world, share(made, ELSEWHERE))
    assert await all_answers(world) == state["before"]
