"""What a project's members are answered is the same whatever other projects hold."""

from typing import Any
from uuid import UUID

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from uuid_utils.compat import uuid7

from contracts.events import PurgeStep
from contracts.policy import Action
from contracts.roles import Actor, Role
from tests.projects.people import Study, found, user
from tests.projects.test_deletion import asked, by_all
from tests.tenancy import Snapshot, door, like_nothing
from tests.world import World, administrator, owner, person

DOORS = {
    Action.PROJECT_LIST,
    Action.PROJECT_READ,
    Action.MEMBER_LIST,
    Action.GROUP_ROLE_LIST,
    Action.ACTIVITY_LIST,
    Action.PROJECT_INVITATION_LIST,
    Action.PROJECT_INVITATION_LIST_OWN,
    Action.PROJECT_BREAK_GLASS_LIST,
    Action.ERASURE_LIST,
    Action.ERASURE_READ,
}
READS = ("", "/members", "/group-roles", "/activity", "/invitations", "/break-glass")
"""What is read below a project's path."""
deeds = st.lists(
    st.tuples(st.sampled_from(["add", "invite", "group", "describe", "break", "remove", "new", "close", "erase"]), st.integers(0, 4)),
    min_size=1,
    max_size=8,
)


async def erased(world: World, name: str, ada: UUID, *, wholly: bool = True) -> UUID:
    """Found a project and delete it, to the end or so that no service answers."""
    study = await asked(world, name, ada)
    if wholly:
        await world.hear(*by_all(study.project_id, PurgeStep.CLOSED), *by_all(study.project_id, PurgeStep.PURGED))
    return study.project_id


class Ours:
    """A project with something behind each of its doors, and who asks at them."""

    def __init__(self, study: Study, bob: UUID, erased: UUID) -> None:
        self.study = study
        self.bob = bob
        self.erased = erased

    @classmethod
    async def filled(cls, world: World) -> "Ours":
        study = await found(world, "ours")
        bob = UUID((await study.add("bob00000"))["user_id"])
        await study.add("cyd00000")
        await world.hear(user("dan00000"), user("fay00000", groups=["staff"]))
        for name in ("dan00000", "fay00000"):
            await world.post(f"{study.path}/invitations", study.owner, json={"username": name, "role": "data_scientist"})
        await world.post(f"{study.path}/group-roles", study.owner, json={"group": "staff", "role": "data_scientist"})
        await world.post("/break-glass", administrator(), json={"project": "ours", "reason": "Power cut"})
        third = await found(world, "third")
        await world.post(f"{third.path}/invitations", third.owner, json={"username": "bob00000", "role": "data_scientist"})
        return cls(study, bob, await erased(world, "gone", study.ada))

    def asked(self) -> list[tuple[str, Actor]]:
        path = self.study.path
        member, owner = self.study.as_scientist(self.bob), self.study.owner
        at_large = person(self.bob, "bob00000", projects={self.study.project_id: Role.DATA_SCIENTIST})
        owner_at_large = person(self.study.ada, projects={self.study.project_id: Role.DATA_OWNER})
        return [
            ("/projects", at_large),
            ("/projects", owner_at_large),
            ("/project-invitations", at_large),
            ("/erasure-certificates", owner),
            (f"/erasure-certificates/{self.erased}", owner),
            *[(path + inside, actor) for inside in READS for actor in (member, owner)],
        ]


async def fill(world: World, theirs: Study, done: list[tuple[str, int]]) -> list[UUID]:
    """Let others do something in their projects; the ids of the projects that came to be."""
    made = []
    names = ["cyd00000", "dan00000", "fay00000", "gus00000", "hal00000"]
    for what, number in done:
        name = names[number]
        if what == "add":
            await world.post(f"{theirs.path}/members", theirs.owner, json={"username": name, "role": "data_scientist"})
        elif what == "invite":
            await world.post(f"{theirs.path}/invitations", theirs.owner, json={"username": name, "role": "data_owner"})
        elif what == "group":
            await world.post(f"{theirs.path}/group-roles", theirs.owner, json={"group": "staff", "role": "data_scientist"})
        elif what == "describe":
            version = (await world.get(theirs.path, theirs.owner)).json()["version"]
            await world.patch(theirs.path, theirs.owner, json={"description": f"Text {number}"}, version=version)
        elif what == "break":
            await world.post("/break-glass", administrator(), json={"project": str(theirs.project_id), "reason": "x"})
        elif what == "remove":
            rows = await world.sql("SELECT user_id FROM memberships WHERE project_id = :p AND username = :n", p=theirs.project_id, n=name)
            for row in rows:
                await world.delete(f"{theirs.path}/members/{row.user_id}", theirs.owner)
        elif what in ("close", "erase"):
            made.append(await erased(world, f"x{uuid7().hex[-12:]}", theirs.ada, wholly=what == "erase"))
        else:
            answer = await world.post("/projects", person(theirs.ada), json={"name": f"x{uuid7().hex[-12:]}"})
            made.append(UUID(answer.json()["project_id"]))
    return made


ROLE = {"username": "hal00000", "role": "data_scientist"}
CHANGES: list[tuple[str, str, Any]] = [
    ("PATCH", "", {"description": "Ours now"}),
    ("POST", "/archive", None),
    ("POST", "/restoration", {}),
    ("POST", "/deletion", {"name": "theirs"}),
    ("POST", "/members", ROLE),
    ("DELETE", "/members/me", None),
    ("POST", "/invitations", ROLE),
    ("POST", "/group-roles", {"group": "staff", "role": "data_scientist"}),
]
"""Changes of a project by its id."""
REVIEW = {"verdict": "justified", "words": "Needed."}
INSIDE: list[tuple[str, str, str, str, Any]] = [
    ("memberships", "user_id", "PATCH", "/members/{}", {"role": "data_scientist"}),
    ("memberships", "user_id", "DELETE", "/members/{}", None),
    ("invitations", "invitation_id", "DELETE", "/invitations/{}", None),
    ("group_roles", "group_role_id", "DELETE", "/group-roles/{}", None),
    ("break_glass", "break_glass_id", "POST", "/break-glass/{}/review", REVIEW),
]
"""Changes of what lies in a project: the table and its id, and how our owner would ask for it in ours."""
ANSWERS = [("POST", "/project-invitations/{}/acceptance"), ("DELETE", "/project-invitations/{}")]
"""Changes of an invitation by whoever is invited."""
CHANGED = {
    *[door(method, "/projects/{}" + path) for method, path, _ in CHANGES],
    *[door(method, "/projects/{}" + path) for _, _, method, path, _ in INSIDE],
    *[door(method, path) for method, path in ANSWERS],
}


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ours_done=deeds, done=deeds)
async def test_answers_are_the_same_whatever_others_hold(
    world: World, ours_done: list[tuple[str, int]], done: list[tuple[str, int]]
) -> None:
    state: dict[str, Any] = world.runtime.extra
    if "ours" not in state:
        state["ours"] = await Ours.filled(world)
        assert (await Snapshot.of(world, state["ours"].asked())).answered() == DOORS
        await world.hear(user("gus00000"), user("hal00000"))
        state["theirs"] = await found(world, "theirs")
    ours, theirs = state["ours"], state["theirs"]
    await fill(world, ours.study, ours_done)
    before = await Snapshot.of(world, ours.asked())
    elsewhere = [theirs.project_id, *await fill(world, theirs, done)]
    assert await Snapshot.of(world, ours.asked()) == before
    stranger = person(ours.bob, "bob00000")

    def was_an_owner(project_id: UUID) -> Actor:
        """Bob by an identity header that is a moment old: his own row decides, and there is none."""
        return owner(project_id, ours.bob, "bob00000")

    for actor in (stranger, was_an_owner):
        for path in READS:
            await like_nothing(world, actor, "/projects/{}" + path, elsewhere)
        for method, path, body in CHANGES:
            await like_nothing(world, actor, "/projects/{}" + path, elsewhere, method=method, json=body)
    await like_nothing(world, stranger, "/erasure-certificates/{}", elsewhere)
    for table, key, method, path, body in INSIDE:
        rows = await world.sql(
            f"SELECT {key} FROM {table} WHERE project_id = :theirs AND {key} NOT IN (SELECT {key} FROM {table} WHERE project_id = :ours)",
            theirs=theirs.project_id,
            ours=ours.study.project_id,
        )
        await like_nothing(world, ours.study.owner, ours.study.path + path, [row[0] for row in rows], method=method, json=body)
    rows = await world.sql("SELECT invitation_id FROM invitations WHERE user_id <> :bob", bob=ours.bob)
    for method, path in ANSWERS:
        await like_nothing(world, stranger, path, [row[0] for row in rows], method=method)
    assert await Snapshot.of(world, ours.asked()) == before


async def test_the_comparison_sees_a_difference(world: World) -> None:
    ours = await Ours.filled(world)
    before = await Snapshot.of(world, ours.asked())
    await ours.study.add("gus00000")
    assert await Snapshot.of(world, ours.asked()) != before
