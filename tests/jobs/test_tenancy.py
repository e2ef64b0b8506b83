"""What a project's members are answered about jobs is the same whatever other projects hold."""

from collections.abc import Collection
from typing import Any
from uuid import UUID

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from uuid_utils.compat import uuid7

from contracts.events import ShareState
from contracts.policy import Action
from contracts.roles import Actor, Role
from tests.jobs.scene import Scene, dataset, member, project, share, user
from tests.tenancy import Snapshot, doors_hide, like_nothing
from tests.world import OURS, THEIRS, World, person, scientist

DOORS = {Action.JOB_LIST, Action.JOB_READ, Action.JOB_LOG}
CHANGES: dict[Action, Any] = {Action.JOB_SUBMIT: {"name": "train", "program": "print(1)", "inputs": []}, Action.JOB_CANCEL: None}
"""What else members do, and the body that is sent."""
IN_BODIES = {(Action.JOB_SUBMIT, "inputs")}
ELSEWHERE = UUID("01900000-0000-7000-8000-00000000000e")
deeds = st.lists(st.tuples(st.sampled_from(["submit", "cancel", "run"]), st.sampled_from(["train", "test"])), min_size=1, max_size=6)
FIRST = [("submit", "train"), ("run", ""), ("submit", "test"), ("cancel", ""), ("submit", "train")]
"""A job that ended, one that was cancelled, and one that waits."""


class Lab:
    """A project's scientist, the dataset that they work on, and their jobs."""

    def __init__(self, scene: Scene, actor: Actor, dataset_id: UUID) -> None:
        self.scene = scene
        self.actor = actor
        self.dataset_id = dataset_id
        self.jobs: list[UUID] = []

    async def do(self, what: str, name: str, may_run: Collection[UUID]) -> None:
        """Submit, cancel, or have an agent run what waits longest, if it is of the projects that may run."""
        world, path = self.scene.world, f"/projects/{self.actor.project_id}/jobs"
        if what == "cancel" and self.jobs:
            await world.post(f"{path}/{self.jobs[-1]}/cancellation", self.actor)
        elif what == "run":
            waiting = await world.sql("SELECT project_id FROM runs WHERE state = 'queued' ORDER BY run_id LIMIT 1")
            if waiting and waiting[0].project_id in may_run:
                lease = await self.scene.leased()
                await self.scene.tell(lease, "report", state="running")
                await self.scene.tell(lease, "log", offset=0, text=f"a line of {lease['project_id']}")
                await self.scene.tell(lease, "report", state="succeeded", exit_code=0)
        else:
            body = {"name": name, "program": "print(2)", "inputs": [str(self.dataset_id)]}
            answer = await world.post(path, self.actor, json=body)
            assert answer.status_code == 201, answer.text
            self.jobs.append(UUID(answer.json()["job_id"]))


class Others(Lab):
    """The lab of another project, and the datasets in it that are no inputs of ours."""

    inputs: list[UUID]

    @classmethod
    async def arrive(cls, scene: Scene) -> "Others":
        made = cls(scene, scientist(THEIRS, uuid7(), "eve00000"), uuid7())
        assert made.actor.user_id is not None
        made.inputs = [made.dataset_id, uuid7(), uuid7(), uuid7()]
        _, deleted, lent, withdrawn = made.inputs
        await scene.world.hear(
            user(made.actor.user_id).model_copy(update={"username": "eve00000"}),
            project(THEIRS),
            member(made.actor.user_id, Role.DATA_SCIENTIST, THEIRS),
            dataset(made.dataset_id, THEIRS),
            dataset(deleted, THEIRS, deleted=True),
            dataset(lent, THEIRS),
            share(lent, ShareState.ACCEPTED, 1).model_copy(update={"share_id": uuid7(), "target_project_id": ELSEWHERE}),
            dataset(withdrawn, THEIRS),
            share(withdrawn, ShareState.WITHDRAWN, 3).model_copy(update={"share_id": uuid7()}),
        )
        for what, name in FIRST:
            await made.do(what, name, {THEIRS})
        return made

    def jobs_to_name(self) -> list[UUID]:
        """One that ended, one that was cancelled, and the newest."""
        return [*self.jobs[:2], self.jobs[-1]]


async def filled(scene: Scene) -> list[str]:
    """Jobs in each state behind our project's doors; their ids."""
    ids = [(await scene.ended("a line of the log"))["job_id"], (await scene.running())[0]["job_id"]]
    cancelled = (await scene.submitted(name="never"))["job_id"]
    await scene.world.post(f"/projects/{OURS}/jobs/{cancelled}/cancellation", scene.scientist)
    return [*ids, cancelled]


def asked(scene: Scene, jobs: Collection[UUID | str], *lists: str) -> list[tuple[str, Actor]]:
    """What is read of jobs in our project, and by whom."""
    here = f"/projects/{OURS}/jobs"
    paths = [*lists, *[f"{here}/{job_id}" for job_id in jobs], *[f"{here}/{job_id}/log" for job_id in jobs]]
    return [(path, actor) for path in paths for actor in (scene.scientist, scene.owner)]


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ours_done=deeds, done=deeds)
async def test_answers_are_the_same_whatever_others_hold(
    world: World, scene: Scene, ours_done: list[tuple[str, str]], done: list[tuple[str, str]]
) -> None:
    state: dict[str, Any] = world.runtime.extra
    here = f"/projects/{OURS}/jobs"
    if "first" not in state:
        state["first"] = await filled(scene)
        assert (await Snapshot.of(world, asked(scene, state["first"], here))).answered() == DOORS
        state["ours"] = Lab(scene, scene.scientist, scene.dataset_id)
        state["theirs"] = await Others.arrive(scene)
    ours: Lab = state["ours"]
    theirs: Others = state["theirs"]
    for what, name in ours_done:
        await ours.do(what, name, {OURS, THEIRS})
    newest = ours.jobs[-1:]
    await Snapshot.of(world, asked(scene, newest))  # what was read once costs no more of the budget
    questions = asked(scene, [*state["first"], *newest], here)
    before = await Snapshot.of(world, questions)
    for what, name in done:
        await theirs.do(what, name, {THEIRS})
    stranger, members = person(scene.scientist_id, "bob00000"), [scene.scientist, scene.owner]
    named = [{"project_id": THEIRS, "job_id": job_id} for job_id in theirs.jobs_to_name()]
    await doors_hide(world, stranger, members, dict.fromkeys(DOORS) | CHANGES, {"project_id": OURS}, named)
    for inputs in (["{}"], [str(scene.dataset_id), "{}"]):
        body = {"name": "train", "program": "print(1)", "inputs": inputs}
        await like_nothing(world, scene.scientist, here, theirs.inputs, method="POST", json=body, status=422)
    assert await Snapshot.of(world, questions) == before
