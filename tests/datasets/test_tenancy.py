"""What a project's members are answered about datasets is the same whatever other projects hold."""

from typing import Any
from uuid import UUID

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.policy import Action
from contracts.roles import Actor, Role
from tests.datasets.conftest import ADA, BOB, member, new_dataset, project, put, shared
from tests.tenancy import Snapshot, like_nothing
from tests.world import OURS, THEIRS, World, owner, scientist

DOORS = {
    Action.DATASET_LIST,
    Action.DATASET_READ,
    Action.FILE_LIST,
    Action.FILE_DOWNLOAD,
    Action.SHARE_LIST,
    Action.SHARE_LIST_INCOMING,
}
ELSEWHERE = UUID("01900000-0000-7000-8000-00000000000e")
names = st.sampled_from(["mri", "ct", "labels", "results"])
deeds = st.lists(
    st.one_of(
        st.tuples(st.just("make"), names, st.just(b"")),
        st.tuples(st.just("put"), names, st.binary(max_size=200)),
        st.tuples(st.just("share"), names, st.just(b"")),
        st.tuples(st.just("describe"), names, st.just(b"")),
    ),
    min_size=1,
    max_size=8,
)


async def filled(world: World) -> list[tuple[str, Actor]]:
    """Put something behind each door of our project; what is asked there, and by whom."""
    await world.hear(project(ELSEWHERE), member(ELSEWHERE, Role.DATA_OWNER, user_id=ADA))
    mri, ct = await new_dataset(world, "mri"), await new_dataset(world, "ct")
    for path in ("a/1.dcm", "a/2.dcm", "b.dcm"):
        assert (await put(world, mri, path, path.encode() * 9)).status_code in (200, 201)
    lent = await new_dataset(world, "lent", ELSEWHERE)
    await put(world, lent, "x", b"lent", ELSEWHERE)
    await shared(world, lent, ELSEWHERE, OURS)
    await shared(world, ct, OURS, ELSEWHERE)
    here = f"/projects/{OURS}"
    paths = [f"{here}/datasets", f"{here}/incoming-shares"]
    for dataset_id in (mri, ct, lent):
        one = f"{here}/datasets/{dataset_id}"
        paths += [one, f"{one}/files", f"{one}/files/a/1.dcm", f"{one}/files/x", f"{one}/files/nothing", f"{one}/shares"]
    return [(path, actor) for path in paths for actor in (scientist(OURS, BOB), owner(OURS))]


async def fill(world: World, known: dict[str, UUID], done: list[tuple[str, str, bytes]]) -> None:
    """Let others do something in their project; ``known`` are their datasets by name."""
    for what, name, data in done:
        if name not in known:
            known[name] = await new_dataset(world, name, THEIRS)
        one = f"/projects/{THEIRS}/datasets/{known[name]}"
        if what == "put":
            await put(world, known[name], "a/1.dcm", data, THEIRS)
        elif what == "share":
            await world.post(f"{one}/shares", owner(THEIRS), json={"target_project_id": str(ELSEWHERE)})
        elif what == "describe":
            version = (await world.get(one, owner(THEIRS))).json()["version"]
            await world.patch(one, owner(THEIRS), json={"description": name * 3}, version=version)


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(done=deeds)
async def test_answers_are_the_same_whatever_others_hold(world: World, done: list[tuple[str, str, bytes]]) -> None:
    state: dict[str, Any] = world.runtime.extra
    if "asked" not in state:
        state["asked"] = await filled(world)
        state["before"] = await Snapshot.of(world, state["asked"])
        assert state["before"].answered() == DOORS
        state["theirs"] = {}
    await fill(world, state["theirs"], done)
    assert await Snapshot.of(world, state["asked"]) == state["before"]
    for door in ("", "/files", "/files/a/1.dcm", "/shares"):
        for actor in (scientist(OURS, BOB), owner(OURS)):
            if door != "/files/a/1.dcm" or actor.role == "data_owner":
                await like_nothing(world, actor, f"/projects/{OURS}/datasets/{{}}{door}", state["theirs"].values())
