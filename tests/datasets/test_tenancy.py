"""What a project's members are answered about datasets is the same whatever other projects hold."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from uuid_utils.compat import uuid7

from contracts.events import ProjectState
from contracts.policy import Action
from contracts.roles import Actor, Role
from tests.datasets.conftest import ADA, BOB, member, new_dataset, project, put, shared
from tests.tenancy import NOWHERE, Snapshot, doors_hide, like_nothing
from tests.world import OURS, THEIRS, World, owner, person, scientist

DOORS = {
    Action.DATASET_LIST,
    Action.DATASET_READ,
    Action.FILE_LIST,
    Action.FILE_DOWNLOAD,
    Action.SHARE_LIST,
    Action.SHARE_LIST_INCOMING,
}
ELSEWHERE = UUID("01900000-0000-7000-8000-00000000000e")
CHANGES: dict[Action, Any] = {
    Action.DATASET_CREATE: {"name": "mri"},
    Action.DATASET_CHANGE: {"description": "Ours now"},
    Action.FILE_UPLOAD: "Ours now",
    Action.SHARE_OFFER: {"target_project_id": str(ELSEWHERE)},
    Action.SHARE_WITHDRAW: None,
    Action.SHARE_ACCEPT: None,
}
"""What else members do, and the body that is sent."""
IN_BODIES = {(Action.SHARE_OFFER, "target_project_id")}
FILE = "a/1.dcm"
OWNER, SCIENTIST = owner(OURS, ADA), scientist(OURS, BOB)
names = st.sampled_from(["mri", "ct", "labels"])
deeds = st.lists(
    st.one_of(
        st.tuples(st.just("make"), names, st.just(b"")),
        st.tuples(st.just("put"), names, st.binary(max_size=200)),
        st.tuples(st.sampled_from(["share", "accept", "withdraw", "describe"]), names, st.just(b"")),
    ),
    min_size=1,
    max_size=8,
)
FIRST = [
    ("put", "mri", b"theirs"),
    ("share", "mri", b""),
    ("share", "ct", b""),
    ("accept", "ct", b""),
    ("share", "labels", b""),
    ("withdraw", "labels", b""),
]
"""A file, and a share in each of its states."""


async def filled(world: World) -> dict[str, UUID]:
    """Put something behind each door of our project; the datasets that are seen there, by name."""
    await world.hear(project(ELSEWHERE), member(ELSEWHERE, Role.DATA_OWNER, user_id=ADA))
    mri, ct = await new_dataset(world, "mri"), await new_dataset(world, "ct")
    for path in (FILE, "a/2.dcm", "b.dcm"):
        assert (await put(world, mri, path, path.encode() * 9)).status_code in (200, 201)
    lent = await new_dataset(world, "lent", ELSEWHERE)
    await put(world, lent, FILE, b"lent", ELSEWHERE)
    for target in (OURS, THEIRS):
        await shared(world, lent, ELSEWHERE, target)
    await shared(world, ct, OURS, ELSEWHERE)
    return {"mri": mri, "ct": ct, "lent": lent}


def asked(ours: Mapping[str, UUID]) -> list[tuple[str, Actor]]:
    """What is read in our project, and by whom."""
    here = f"/projects/{OURS}"
    paths = [f"{here}/datasets", f"{here}/incoming-shares", f"{here}/datasets/{ours['mri']}/files/nothing"]
    for dataset_id in ours.values():
        one = f"{here}/datasets/{dataset_id}"
        paths += [one, f"{one}/files", f"{one}/files/{FILE}", f"{one}/shares"]
    return [(path, actor) for path in paths for actor in (SCIENTIST, OWNER)]


async def fill(world: World, project_id: UUID, known: dict[str, UUID], done: list[tuple[str, str, bytes]]) -> None:
    """Let a project's people do something; ``known`` are its datasets by name."""
    for what, name, data in done:
        if name not in known:
            known[name] = await new_dataset(world, name, project_id)
        one = f"/projects/{project_id}/datasets/{known[name]}"
        if what == "put":
            await put(world, known[name], FILE, data, project_id)
        elif what == "share":
            await world.post(f"{one}/shares", owner(project_id), json={"target_project_id": str(ELSEWHERE)})
        elif what == "describe":
            version = (await world.get(one, owner(project_id))).json()["version"]
            await world.patch(one, owner(project_id), json={"description": name * 3}, version=version)
        elif what in ("accept", "withdraw"):
            for share in (await world.get(f"{one}/shares", owner(project_id))).json()["items"]:
                if what == "accept":
                    await world.post(f"/projects/{ELSEWHERE}/incoming-shares/{share['share_id']}/acceptance", owner(ELSEWHERE))
                else:
                    await world.delete(f"{one}/shares/{share['share_id']}", owner(project_id))


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ours_done=deeds, done=deeds)
async def test_answers_are_the_same_whatever_others_hold(
    world: World, ours_done: list[tuple[str, str, bytes]], done: list[tuple[str, str, bytes]]
) -> None:
    state: dict[str, Any] = world.runtime.extra
    if "ours" not in state:
        state["ours"] = await filled(world)
        assert (await Snapshot.of(world, asked(state["ours"]))).answered() == DOORS
        state["theirs"] = {}
        await fill(world, THEIRS, state["theirs"], FIRST)
    ours: dict[str, UUID] = state["ours"]
    await fill(world, OURS, ours, ours_done)
    before = await Snapshot.of(world, asked(ours))
    await fill(world, THEIRS, state["theirs"], done)
    shares = await world.sql(
        "SELECT project_id, dataset_id, share_id FROM shares WHERE project_id = :theirs ORDER BY share_id", theirs=THEIRS
    )
    theirs = [dict(row._mapping) for row in (*shares[:3], *shares[3:][-1:])]
    here: dict[str, UUID | str] = {"project_id": OURS, "dataset_id": ours["mri"], "path": FILE}
    await doors_hide(world, person(BOB, "bob00000"), [SCIENTIST, OWNER], dict.fromkeys(DOORS) | CHANGES, here, theirs)
    foreign = await world.sql("SELECT share_id FROM shares WHERE project_id <> :ours AND target_project_id <> :ours", ours=OURS)
    lent = f"/projects/{OURS}/datasets/{ours['lent']}/shares/{{}}"
    await like_nothing(world, OWNER, lent, [row.share_id for row in foreign], method="DELETE", status=403)
    assert await Snapshot.of(world, asked(ours)) == before


async def test_an_offer_is_answered_the_same_wherever_it_goes(world: World) -> None:
    """Also to projects that are archived, being deleted or gone: who offers learns of no project whether there is one."""
    states = {state: uuid7() for state in ProjectState}
    await world.hear(*[project(project_id, state) for state, project_id in states.items()])
    shares = f"/projects/{OURS}/datasets/{await new_dataset(world)}/shares"

    async def offered(target: UUID | str) -> list[tuple[int, str, str]]:
        """What the offer is answered, and again, and again after it is withdrawn, without the ids."""
        body = {"target_project_id": str(target)}
        first, again = [await world.post(shares, OWNER, json=body) for _ in range(2)]
        assert [first.status_code, again.status_code] == [201, 409], (target, first.text, again.text)
        withdrawn = await world.delete(f"{shares}/{first.json()['share_id']}", OWNER)
        anew = await world.post(shares, OWNER, json=body)
        assert [withdrawn.status_code, anew.status_code] == [204, 201], (target, anew.text)
        seen = []
        for answer in (first, again, withdrawn, anew):
            content, headers = answer.text, str(sorted(answer.headers.items()))
            for each in (first.json()["share_id"], anew.json()["share_id"], str(target)):
                content, headers = content.replace(each, "{}"), headers.replace(each, "{}")
            seen.append((answer.status_code, content, headers))
        return seen

    nowhere = await offered(NOWHERE)
    for target in (THEIRS, *states.values()):
        assert await offered(target) == nowhere


async def test_the_comparison_sees_a_difference(world: World) -> None:
    mri = await new_dataset(world)
    here: dict[str, UUID | str] = {"project_id": OURS, "dataset_id": mri, "path": FILE}
    with pytest.raises(AssertionError):
        await doors_hide(world, person(BOB), [OWNER], {Action.DATASET_READ: None}, here, [here])
