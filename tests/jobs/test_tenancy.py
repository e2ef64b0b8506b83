"""What a project's members are answered about jobs is the same whatever other projects hold."""

from typing import Any
from uuid import UUID

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from uuid_utils.compat import uuid7

from contracts.policy import Action
from contracts.roles import Actor, Role
from tests.jobs.scene import Scene, dataset, member, project, user
from tests.tenancy import Snapshot, like_nothing
from tests.world import OURS, THEIRS, World, scientist

DOORS = {Action.JOB_LIST, Action.JOB_READ, Action.JOB_LOG}
deeds = st.lists(st.tuples(st.sampled_from(["submit", "cancel", "run"]), st.sampled_from(["train", "test"])), min_size=1, max_size=6)


class Theirs:
    """Another project, its scientist, and its jobs."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.actor = scientist(THEIRS, uuid7(), "eve00000")
        self.dataset_id = uuid7()
        self.jobs: list[UUID] = []

    async def arrive(self) -> None:
        assert self.actor.user_id is not None
        await self.world.hear(
            user(self.actor.user_id).model_copy(update={"username": "eve00000"}),
            project(THEIRS),
            member(self.actor.user_id, Role.DATA_SCIENTIST, THEIRS),
            dataset(self.dataset_id, THEIRS),
        )

    async def do(self, scene: Scene, what: str, name: str) -> None:
        path = f"/projects/{THEIRS}/jobs"
        if what == "cancel" and self.jobs:
            await self.world.post(f"{path}/{self.jobs[-1]}/cancellation", self.actor)
        elif what == "run":
            answer = await scene.take()
            if answer.status_code == 200:
                await scene.tell(answer.json(), "report", state="running")
                await scene.tell(answer.json(), "log", offset=0, text="theirs")
                await scene.tell(answer.json(), "report", state="succeeded", exit_code=0)
        else:
            body = {"name": name, "program": "print(2)", "inputs": [str(self.dataset_id)]}
            answer = await self.world.post(path, self.actor, json=body)
            assert answer.status_code == 201, answer.text
            self.jobs.append(UUID(answer.json()["job_id"]))


async def filled(scene: Scene) -> list[tuple[str, Actor]]:
    """Jobs in each state behind our project's doors; what is asked there, and by whom."""
    ids = [(await scene.ended("a line of the log"))["job_id"], (await scene.running())[0]["job_id"]]
    cancelled = (await scene.submitted(name="never"))["job_id"]
    await scene.world.post(f"/projects/{OURS}/jobs/{cancelled}/cancellation", scene.scientist)
    here = f"/projects/{OURS}/jobs"
    paths = [here, *[f"{here}/{job_id}" for job_id in (*ids, cancelled)], *[f"{here}/{job_id}/log" for job_id in (*ids, cancelled)]]
    return [(path, actor) for path in paths for actor in (scene.scientist, scene.owner)]


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(done=deeds)
async def test_answers_are_the_same_whatever_others_hold(world: World, scene: Scene, done: list[tuple[str, str]]) -> None:
    state: dict[str, Any] = world.runtime.extra
    if "asked" not in state:
        state["asked"] = await filled(scene)
        await Snapshot.of(world, state["asked"])  # what was read once costs no more of the budget
        state["before"] = await Snapshot.of(world, state["asked"])
        assert state["before"].answered() == DOORS
        state["theirs"] = Theirs(world)
        await state["theirs"].arrive()
    theirs: Theirs = state["theirs"]
    for what, name in done:
        await theirs.do(scene, what, name)
    assert await Snapshot.of(world, state["asked"]) == state["before"]
    for door in ("", "/log"):
        await like_nothing(world, scene.scientist, f"/projects/{OURS}/jobs/{{}}{door}", theirs.jobs)
