"""What is found, how much, in which order and with which score is the same whatever other projects hold."""

from typing import Any
from uuid import UUID

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.policy import Action
from tests.search.conftest import ask, dataset, job, member, refresh, share, shares_are
from tests.world import OURS, THEIRS, World

DOORS = {Action.SEARCH}
ELSEWHERE = UUID("01900000-0000-7000-8000-00000000000e")
WORDS = ["brain", "stem", "slices", "segment", "tumour", "of", "train"]
QUERIES = ["brain", "brain stem", "slices", "rain", "stems of brains", "tumour", "zebra"]
texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map(" ".join)
documents = st.lists(st.tuples(st.sampled_from(["dataset", "job", "deleted", "shared elsewhere"]), texts, texts), min_size=1, max_size=8)


async def fill(world: World, project_id: UUID, documents: list[tuple[str, str, str]]) -> None:
    """Put these into a project."""
    for kind, name, text in documents:
        if kind == "job":
            await world.hear(job(name, project_id))
        else:
            made = dataset(name, project_id, description=text, deleted=kind == "deleted")
            await world.hear(made)
            if kind == "shared elsewhere":
                shares_are(world, share(made, ELSEWHERE))


async def all_answers(world: World) -> list[Any]:
    """Every answer, page by page, with its totals, scores, marks and cursors."""
    await refresh(world)
    answers = []
    for query in QUERIES:
        for more in ({}, {"kind": "jobs"}, {"project_id": str(OURS)}, {"project_id": str(THEIRS)}):
            after: dict[str, str] = {}
            while True:
                page = await ask(world, query, member(OURS), limit=4, **more, **after)
                answers.append(page)
                if page["next"] is None:
                    break
                after = {"after": page["next"]}
    return answers


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ours=documents, theirs=documents)
async def test_answers_are_the_same_whatever_others_hold(
    world: World, ours: list[tuple[str, str, str]], theirs: list[tuple[str, str, str]]
) -> None:
    state: dict[str, Any] = world.runtime.extra
    if "filled" not in state:
        first = [dataset("brain stem", description="slices of brain"), dataset("brain"), dataset("tumour"), job("segment brain")]
        await world.hear(*first)
        assert sum(page["total"] > 0 for page in await all_answers(world)) > len(QUERIES)
        state["filled"] = True
    await fill(world, OURS, ours)
    before = await all_answers(world)
    await fill(world, THEIRS, theirs)
    assert await all_answers(world) == before
