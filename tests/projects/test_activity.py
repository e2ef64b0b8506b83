"""The feed of a project: what it tells, to whom, and what becomes of it."""

from typing import Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from contracts.events import UserStatus
from contracts.roles import NOBODY, Role
from services.projects import repository
from services.projects.service import projects
from tests.projects.people import Study, found, user
from tests.world import OURS, World, administrator, agent, person, stranger


async def feed(study: Study, **more: Any) -> list[dict[str, Any]]:
    """The feed as a member reads it, newest first."""
    answer = await study.world.get(f"{study.path}/activity", study.owner, params=more)
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


async def deeds(study: Study) -> list[tuple[str, str | None, dict[str, str]]]:
    return [(line["deed"], line["subject"], line["details"]) for line in reversed(await feed(study))]


async def test_members_read_the_feed_and_nobody_else(world: World) -> None:
    path = f"/projects/{OURS}/activity"
    for actor, status in ((NOBODY, 401), (stranger(OURS), 404), (administrator(), 404), (agent(), 404)):
        assert (await world.get(path, actor)).status_code == status
    study = await found(world)
    bob = UUID((await study.add("bob00000"))["user_id"])
    assert (await world.get(f"{study.path}/activity", study.as_scientist(bob))).status_code == 200
    assert (await world.get(f"{study.path}/activity", study.as_scientist(uuid7()))).status_code == 404


async def test_the_feed_tells_who_did_what_to_whom_and_when(world: World) -> None:
    study = await found(world)
    bob = UUID((await study.add("bob00000"))["user_id"])
    await world.patch(study.path, study.owner, json={"description": "Nuclei"}, version=1)
    await world.patch(f"{study.path}/members/{bob}", study.owner, json={"role": "data_owner"}, version=1)
    await world.patch(f"{study.path}/members/{bob}", study.owner, json={"role": "data_owner"}, version=2)
    await world.delete(f"{study.path}/members/me", study.as_owner(bob))
    lines = await feed(study)
    assert [(line["deed"], line["actor"], line["subject"], line["details"]) for line in reversed(lines)] == [
        ("project.created", "ada00000", None, {}),
        ("member.added", "ada00000", "bob00000", {"role": "data_scientist"}),
        ("project.changed", "ada00000", None, {}),
        ("member.changed", "ada00000", "bob00000", {"role": "data_owner"}),
        ("member.left", "bob00000", "bob00000", {"role": "none"}),
    ]
    assert {line["actor_id"] for line in lines} == {str(study.ada), str(bob)}
    assert [line["at"] for line in lines] == sorted((line["at"] for line in lines), reverse=True)


async def test_who_is_invited_is_told_to_owners_alone_until_they_accept(world: World) -> None:
    study = await found(world)
    bob = UUID((await study.add("bob00000"))["user_id"])
    eve = uuid7()
    await world.hear(user("eve00000", eve))
    guest = person(eve, "eve00000")
    made = {"username": "eve00000", "role": "data_scientist"}
    for end in ("withdrawn", "declined", "accepted"):
        invitation = (await world.post(f"{study.path}/invitations", study.owner, json=made)).json()["invitation_id"]
        if end == "withdrawn":
            await world.delete(f"{study.path}/invitations/{invitation}", study.owner)
        elif end == "declined":
            await world.delete(f"/project-invitations/{invitation}", guest)
        else:
            await world.post(f"/project-invitations/{invitation}/acceptance", guest)
    items = (await world.get(f"{study.path}/activity", study.as_scientist(bob))).json()["items"]
    assert [line["deed"] for line in items] == ["invitation.accepted", "member.added", "project.created"]
    told = [line["deed"] for line in await feed(study)]
    assert told[:6] == [
        "invitation.accepted",
        "invitation.made",
        "invitation.declined",
        "invitation.made",
        "invitation.withdrawn",
        "invitation.made",
    ]


async def test_the_feed_tells_of_groups_and_of_closed_accounts(world: World) -> None:
    study = await found(world)
    bob = uuid7()
    await world.hear(user("bob00000", bob, groups=["staff"]), user("eve00000", groups=["staff"]))
    given = await world.post(f"{study.path}/group-roles", study.owner, json={"group": "staff", "role": "data_scientist"})
    await world.hear(user("bob00000", bob, version=2))
    await world.hear(user("bob00000", bob, groups=["staff"], version=3))
    await world.delete(f"{study.path}/group-roles/{given.json()['group_role_id']}", study.owner)
    cyd = UUID((await study.add("cyd00000"))["user_id"])
    await world.hear(user("cyd00000", cyd, status=UserStatus.DEACTIVATED, version=2))
    assert (await deeds(study))[1:] == [
        ("group_role.given", None, {"group": "staff", "role": "data_scientist", "members": "2"}),
        ("member.followed_group", "bob00000", {"role": "none"}),
        ("member.followed_group", "bob00000", {"role": "data_scientist", "group": "staff"}),
        ("group_role.removed", None, {"group": "staff", "role": "data_scientist", "members": "2"}),
        ("member.added", "cyd00000", {"role": "data_scientist"}),
        ("member.account_closed", "cyd00000", {"role": "none"}),
    ]


async def test_the_feed_is_paged_from_the_newest_line_on(world: World) -> None:
    study = await found(world)
    for number in range(4):
        await study.add(f"user000{number}")
    seen: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = (await world.get(f"{study.path}/activity", study.owner, params={"limit": "2", **after})).json()
        seen += [line["activity_id"] for line in page["items"]]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert seen == sorted(set(seen), reverse=True)
    assert len(seen) == 5


async def test_what_was_refused_or_rolled_back_is_not_told(world: World) -> None:
    study = await found(world)
    await world.hear(user("bob00000"))
    await world.delete(f"{study.path}/members/{study.ada}", study.owner)
    with pytest.raises(RuntimeError):
        await broken_off(world, study)
    assert [deed for deed, _, _ in await deeds(study)] == ["project.created"]


async def broken_off(world: World, study: Study) -> None:
    """A deed whose transaction dies before its commit."""
    async with world.work(study.owner) as uow:
        await projects.add_member(uow, world.runtime.settings, study.project_id, "bob00000", Role.DATA_SCIENTIST, "", None, None)
        raise RuntimeError("the process dies here")


async def test_a_feed_tells_of_its_own_project_alone(world: World) -> None:
    study = await found(world)
    other = await found(world, "other")
    await other.add("bob00000")
    assert [deed for deed, _, _ in await deeds(study)] == ["project.created"]


async def test_a_project_that_is_forgotten_takes_its_feed_invitations_and_break_glass_with_it(world: World) -> None:
    study = await found(world)
    other = await found(world, "other")
    await world.hear(user("bob00000"))
    for each in (study, other):
        await world.post(f"{each.path}/invitations", each.owner, json={"username": "bob00000", "role": "data_scientist"})
    assert (await world.post("/break-glass", administrator(), json={"project": "wdbc", "reason": "Power cut"})).status_code == 201
    async with world.work() as uow:
        gone = await repository.deletion.forget(uow.session, study.project_id)
    assert (gone["invitations"], gone["activity"], gone["break_glass"]) == (1, 3, 1)
    assert len(await feed(other)) == 2
    async with world.work() as uow:
        assert not any((await repository.deletion.forget(uow.session, study.project_id)).values())
