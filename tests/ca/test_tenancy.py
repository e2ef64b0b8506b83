"""What a project's members are answered about certificates is the same whatever other projects hold."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from uuid_utils.compat import uuid7

from contracts.policy import Action
from contracts.roles import Role
from tests.ca.conftest import ADA, BOB, csr, membership, project, study, user
from tests.tenancy import Snapshot
from tests.world import OURS, THEIRS, World, Worlds, owner, scientist

DOORS = {Action.CERTIFICATE_LIST}
EVE = uuid7()
deeds = st.lists(st.sampled_from(["issue", "revoke", "leave"]), min_size=1, max_size=6)


@pytest.fixture
async def world(worlds: Worlds, settings: dict[str, Any]) -> World:
    made = await worlds.open("ca", **settings)
    theirs = (project(THEIRS, name="other"), user(EVE, username="eve00000"), membership(EVE, project_id=THEIRS, username="eve00000"))
    await made.hear(*study(), *theirs)
    return made


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(done=deeds)
async def test_answers_are_the_same_whatever_others_hold(world: World, done: list[str]) -> None:
    state: dict[str, Any] = world.runtime.extra
    here = f"/projects/{OURS}/certificates"
    asked = [(here, scientist(OURS, BOB)), (here, owner(OURS, ADA))]
    if "before" not in state:
        for actor in (scientist(OURS, BOB), owner(OURS, ADA), scientist(OURS, BOB)):
            assert (await world.post(here, actor, json={"csr": csr()})).status_code == 201
        state["before"] = await Snapshot.of(world, asked)
        assert state["before"].answered() == DOORS
        state["version"] = 1
    theirs = f"/projects/{THEIRS}/certificates"
    eve = scientist(THEIRS, EVE, "eve00000")
    for what in done:
        if what == "issue":
            assert (await world.post(theirs, eve, json={"csr": csr()})).status_code == 201
        elif what == "revoke":
            for item in (await world.get(theirs, eve)).json()["items"]:
                await world.delete(f"{theirs}/{item['certificate_id']}", eve)
        else:
            for role in (None, Role.DATA_SCIENTIST):
                state["version"] += 1
                await world.hear(membership(EVE, project_id=THEIRS, username="eve00000", role=role, version=state["version"]))
    assert await Snapshot.of(world, asked) == state["before"]
