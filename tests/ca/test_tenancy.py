"""What a project's members are answered about certificates is the same whatever other projects hold."""

from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from uuid_utils.compat import uuid7

from contracts.policy import Action
from contracts.roles import Actor, Role
from tests.ca.conftest import ADA, BOB, csr, membership, project, study, user
from tests.tenancy import NOWHERE, Snapshot, doors_hide
from tests.world import OURS, THEIRS, World, Worlds, owner, person, scientist

DOORS = {Action.CERTIFICATE_LIST}
CHANGES: dict[Action, Any] = {Action.CERTIFICATE_CREATE: {"csr": csr()}, Action.CERTIFICATE_REVOKE: None}
"""What else members do, and the body that is sent."""
EVE = uuid7()
OWNER, MEMBER, OTHER = owner(OURS, ADA), scientist(OURS, BOB), scientist(THEIRS, EVE, "eve00000")
deeds = st.lists(st.sampled_from(["issue", "revoke", "leave"]), min_size=1, max_size=6)


@pytest.fixture
async def world(worlds: Worlds, settings: dict[str, Any]) -> World:
    made = await worlds.open("ca", **settings)
    theirs = (project(THEIRS, name="other"), user(EVE, username="eve00000"), membership(EVE, project_id=THEIRS, username="eve00000"))
    await made.hear(*study(), *theirs)
    return made


async def fill(world: World, member: Actor, done: list[str]) -> None:
    """Let a scientist have certificates issued and revoked, and leave their project and come back."""
    assert member.user_id is not None
    assert member.project_id is not None
    certificates = f"/projects/{member.project_id}/certificates"
    for what in done:
        if what == "issue":
            assert (await world.post(certificates, member, json={"csr": csr()})).status_code == 201
        elif what == "revoke":
            for item in (await world.get(certificates, member)).json()["items"]:
                await world.delete(f"{certificates}/{item['certificate_id']}", member)
        else:
            versions: dict[UUID, int] = world.runtime.extra.setdefault("versions", {})
            for role in (None, Role.DATA_SCIENTIST):
                versions[member.user_id] = versions.get(member.user_id, 1) + 1
                left = membership(
                    member.user_id,
                    project_id=member.project_id,
                    username=member.username or "",
                    role=role,
                    version=versions[member.user_id],
                )
                await world.hear(left)


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ours_done=deeds, done=deeds)
async def test_answers_are_the_same_whatever_others_hold(world: World, ours_done: list[str], done: list[str]) -> None:
    state: dict[str, Any] = world.runtime.extra
    here = f"/projects/{OURS}/certificates"
    asked = [(here, MEMBER), (here, OWNER)]
    if "filled" not in state:
        for actor in (MEMBER, OWNER, MEMBER):
            assert (await world.post(here, actor, json={"csr": csr()})).status_code == 201
        assert (await Snapshot.of(world, asked)).answered() == DOORS
        await fill(world, OTHER, ["issue", "revoke"])
        state["filled"] = True
    await fill(world, MEMBER, ours_done)
    before = await Snapshot.of(world, asked)
    await fill(world, OTHER, [*done, "issue"])
    rows = await world.sql("SELECT certificate_id FROM certificates WHERE project_id = :theirs ORDER BY created_at", theirs=THEIRS)
    theirs = [{"project_id": THEIRS, "certificate_id": row.certificate_id} for row in (rows[0], *rows[-2:])]
    doors = dict.fromkeys(DOORS) | CHANGES
    nowhere = UUID(NOWHERE).hex  # certificates are named so; projects, too
    await doors_hide(world, person(BOB, "bob00000"), [MEMBER, OWNER], doors, {"project_id": OURS}, theirs, nowhere)
    assert await Snapshot.of(world, asked) == before
