"""Invitations: who may, what is offered, how they are answered, and what ends them."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from contracts.events import Membership, ProjectState, UserStatus
from contracts.roles import NOBODY, Actor, Role
from services.projects.app import keep_time
from services.projects.service import invitations
from tests.projects.people import Study, found, user
from tests.world import OURS, World, Worlds, administrator, agent, person, reason, scientist, stranger


def soon(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


class Guest:
    """Somebody whom a study invites."""

    def __init__(self, study: Study, username: str = "bob00000") -> None:
        self.study = study
        self.world = study.world
        self.user_id = uuid7()
        self.username = username
        self.actor = person(self.user_id, username)

    async def arrives(self) -> "Guest":
        await self.world.hear(user(self.username, self.user_id))
        return self

    async def invited(self, by: Actor | None = None, **more: Any) -> dict[str, Any]:
        body = {"username": self.username, "role": "data_scientist", "purpose": "Study 7", **more}
        answer = await self.world.post(f"{self.study.path}/invitations", by or self.study.owner, json=body)
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made

    async def accepts(self, invitation: dict[str, Any]) -> Any:
        return await self.world.post(f"/project-invitations/{invitation['invitation_id']}/acceptance", self.actor)

    async def open(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = (await self.world.get("/project-invitations", self.actor)).json()["items"]
        return items


@pytest.fixture
async def study(world: World) -> Study:
    return await found(world)


@pytest.fixture
async def bob(study: Study) -> Guest:
    return await Guest(study).arrives()


async def memberships(world: World) -> list[tuple[UUID, str | None, int]]:
    return [(fact.user_id, fact.role, fact.version) for fact in await world.said() if isinstance(fact, Membership)]


# Who may


async def test_only_data_owners_invite_see_and_withdraw_invitations(world: World) -> None:
    path = f"/projects/{OURS}/invitations"
    body = {"username": "bob00000", "role": "data_scientist"}
    for actor, status in ((NOBODY, 401), (stranger(OURS), 404), (administrator(), 404), (agent(), 404), (scientist(OURS), 403)):
        assert (await world.post(path, actor, json=body)).status_code == status
        assert (await world.get(path, actor)).status_code == status
        assert (await world.delete(f"{path}/{uuid7()}", actor)).status_code == status
    for actor, status in ((NOBODY, 401), (agent(), 403)):
        assert (await world.get("/project-invitations", actor)).status_code == status
        assert (await world.post(f"/project-invitations/{uuid7()}/acceptance", actor)).status_code == status
        assert (await world.delete(f"/project-invitations/{uuid7()}", actor)).status_code == status


async def test_a_caller_whose_own_row_says_otherwise_invites_nobody(study: Study, bob: Guest) -> None:
    cyd = UUID((await study.add("cyd00000"))["user_id"])
    lied = study.as_owner(cyd)
    body = {"username": "bob00000", "role": "data_scientist"}
    assert (await study.world.post(f"{study.path}/invitations", lied, json=body)).status_code == 403
    assert (await study.world.get(f"{study.path}/invitations", lied)).status_code == 403
    invitation = await bob.invited()
    assert (await study.world.delete(f"{study.path}/invitations/{invitation['invitation_id']}", lied)).status_code == 403


# Inviting and answering


async def test_who_is_invited_becomes_a_member_by_accepting_and_not_before(study: Study, bob: Guest) -> None:
    world = study.world
    invitation = await bob.invited(ends_at=soon(3600))
    expected = {"project": "wdbc", "username": "bob00000", "role": "data_scientist", "invited_by": study.owner.username}
    assert expected.items() <= invitation.items()
    assert await world.said() == []
    assert (await world.get(study.path, study.as_scientist(bob.user_id))).status_code == 404
    assert await bob.open() == [invitation]
    assert (await world.get(f"{study.path}/invitations", study.owner)).json()["items"] == [invitation]
    await world.recorded()
    answer = await bob.accepts(invitation)
    assert answer.status_code == 200, answer.text
    member = answer.json()
    assert (member["role"], member["purpose"], member["version"]) == ("data_scientist", "Study 7", 1)
    assert datetime.fromisoformat(member["ends_at"]) == datetime.fromisoformat(invitation["ends_at"])
    assert answer.headers["hortus-facts"] == f"memberships:{study.project_id}%3A{bob.user_id}:1"
    assert await memberships(world) == [(bob.user_id, "data_scientist", 1)]
    (record,) = await world.recorded()
    assert (record["action"], record["project_id"]) == ("project_invitation.accept", str(study.project_id))
    assert record["resource"]["invitation_id"] == invitation["invitation_id"]
    assert (await world.get(study.path, study.as_scientist(bob.user_id))).status_code == 200
    assert await bob.open() == []
    assert (await bob.accepts(invitation)).status_code == 404


async def test_who_declines_is_no_member_and_can_be_invited_again(study: Study, bob: Guest) -> None:
    invitation = await bob.invited()
    assert (await study.world.delete(f"/project-invitations/{invitation['invitation_id']}", bob.actor)).status_code == 204
    assert (await bob.accepts(invitation)).status_code == 404
    assert await study.world.said() == []
    assert (await bob.accepts(await bob.invited())).status_code == 200


async def test_an_invitation_that_was_withdrawn_is_gone(study: Study, bob: Guest) -> None:
    invitation = await bob.invited()
    path = f"{study.path}/invitations/{invitation['invitation_id']}"
    assert (await study.world.delete(path, study.owner)).status_code == 204
    assert (await study.world.delete(path, study.owner)).status_code == 404
    assert (await bob.accepts(invitation)).status_code == 404
    assert await bob.open() == []


async def test_an_invitation_is_for_one_person_alone(study: Study, bob: Guest) -> None:
    invitation = await bob.invited()
    eve = await Guest(study, "eve00000").arrives()
    assert await eve.open() == []
    assert (await eve.accepts(invitation)).status_code == 404
    assert (await study.world.delete(f"/project-invitations/{invitation['invitation_id']}", eve.actor)).status_code == 404
    assert (await bob.accepts(invitation)).status_code == 200


async def test_an_invitation_of_another_project_is_not_withdrawn_here(study: Study, bob: Guest) -> None:
    other = await found(study.world, "other")
    invitation = await bob.invited()
    assert (await study.world.delete(f"{other.path}/invitations/{invitation['invitation_id']}", other.owner)).status_code == 404


async def test_who_invites_an_owner_has_shown_their_second_factor_a_moment_ago(study: Study, bob: Guest) -> None:
    stale = study.owner.model_copy(update={"factor_fresh": False})
    body = {"username": "bob00000", "role": "data_owner"}
    answer = await study.world.post(f"{study.path}/invitations", stale, json=body)
    assert (answer.status_code, reason(answer)) == (401, "factor-too-old")
    assert (await bob.accepts(await bob.invited(role="data_owner"))).json()["role"] == "data_owner"


@pytest.mark.parametrize(
    ("change", "status", "slug"),
    [
        ({"username": "nobody00"}, 422, "no-such-person"),
        ({"username": "blocked0"}, 422, "no-such-person"),
        ({"username": "cyd00000"}, 409, "already-a-member"),
        ({"ends_at": "2001-01-01T00:00:00Z"}, 422, "ends-before-it-begins"),
        ({"role": "administrator"}, 422, "unprocessable"),
        ({"expires_at": "2030-01-01T00:00:00Z"}, 422, "unprocessable"),
    ],
)
async def test_a_bad_invitation_is_refused_and_nothing_is_stored(
    study: Study, bob: Guest, change: dict[str, Any], status: int, slug: str
) -> None:
    await study.add("cyd00000")
    await study.world.hear(user("blocked0", status=UserStatus.BLOCKED))
    body = {"username": bob.username, "role": "data_scientist", **change}
    answer = await study.world.post(f"{study.path}/invitations", study.owner, json=body)
    assert (answer.status_code, reason(answer)) == (status, slug)
    assert await study.world.sql("SELECT 1 FROM invitations") == []


async def test_one_person_has_one_invitation_of_a_project(study: Study, bob: Guest) -> None:
    await bob.invited()
    body = {"username": bob.username, "role": "data_scientist"}
    answers = await asyncio.gather(*[study.world.post(f"{study.path}/invitations", study.owner, json=body) for _ in range(3)])
    assert {reason(answer) for answer in answers} == {"already-invited"}


async def test_a_repeated_invitation_with_its_key_is_made_once(study: Study, bob: Guest) -> None:
    body = {"username": bob.username, "role": "data_scientist"}
    first, again = [await study.world.post(f"{study.path}/invitations", study.owner, json=body, key="k1") for _ in range(2)]
    assert (first.json(), again.status_code) == (again.json(), 201)


async def test_a_role_that_begins_later_begins_then(study: Study, bob: Guest) -> None:
    answer = await bob.accepts(await bob.invited(starts_at=soon(3600), ends_at=soon(7200)))
    assert answer.status_code == 200
    assert (await study.world.get(study.path, study.as_scientist(bob.user_id))).status_code == 404


async def test_who_is_there_by_a_group_becomes_a_member_themselves(study: Study, bob: Guest) -> None:
    await study.world.post(f"{study.path}/group-roles", study.owner, json={"group": "staff", "role": "data_scientist"})
    await study.world.hear(user(bob.username, bob.user_id, groups=["staff"], version=2))
    member = (await bob.accepts(await bob.invited(role="data_owner"))).json()
    assert (member["role"], member["by_group"], member["version"]) == ("data_owner", None, 2)


# What changed meanwhile


async def test_who_came_in_by_a_group_meanwhile_does_not_go_out_by_accepting_what_begins_later(study: Study, bob: Guest) -> None:
    world = study.world
    invitation = await bob.invited(starts_at=(datetime.now(UTC) + timedelta(days=1)).isoformat())
    await world.post(f"{study.path}/group-roles", study.owner, json={"group": "staff", "role": "data_scientist"})
    await world.hear(user("bob00000", bob.user_id, groups=["staff"], version=2))
    answer = await bob.accepts(invitation)
    assert (answer.status_code, reason(answer)) == (409, "is-there-already")
    assert (await study.member(bob.user_id)).by_group == "staff"


async def test_an_inviter_who_is_no_owner_any_more_brings_nobody_in(study: Study, bob: Guest) -> None:
    world = study.world
    cyd = UUID((await study.add("cyd00000", Role.DATA_OWNER))["user_id"])
    invitation = await bob.invited(study.as_owner(cyd))
    await world.said()
    version = (await study.member(cyd)).version
    await world.patch(f"{study.path}/members/{cyd}", study.owner, json={"role": "data_scientist"}, version=version)
    answer = await bob.accepts(invitation)
    assert (answer.status_code, reason(answer)) == (409, "inviter-is-gone")
    await world.delete(f"{study.path}/members/{cyd}", study.owner)
    assert reason(await bob.accepts(invitation)) == "inviter-is-gone"
    assert [user_id for user_id, _, _ in await memberships(world)] == [cyd, cyd]


async def test_an_inviter_who_is_blocked_brings_nobody_in(study: Study, bob: Guest) -> None:
    cyd = UUID((await study.add("cyd00000", Role.DATA_OWNER))["user_id"])
    invitation = await bob.invited(study.as_owner(cyd))
    await study.world.hear(user("cyd00000", cyd, status=UserStatus.BLOCKED, version=2))
    assert reason(await bob.accepts(invitation)) == "inviter-is-gone"


async def test_an_inviter_whose_own_end_came_nearer_makes_no_owner_past_it(study: Study, bob: Guest) -> None:
    cyd = UUID((await study.add("cyd00000", Role.DATA_OWNER))["user_id"])
    invitation = await bob.invited(study.as_owner(cyd), role="data_owner")
    await study.world.patch(f"{study.path}/members/{cyd}", study.owner, json={"ends_at": soon(3600)}, version=1)
    assert reason(await bob.accepts(invitation)) == "longer-than-yours"


@pytest.mark.parametrize("state", [ProjectState.ARCHIVED, ProjectState.CLOSING])
async def test_a_project_that_takes_no_changes_takes_nobody_in(study: Study, bob: Guest, state: ProjectState) -> None:
    invitation = await bob.invited()
    await study.world.sql("UPDATE projects SET state = :state", state=state.value)
    answer = await bob.accepts(invitation)
    assert (answer.status_code, reason(answer)) == (409, "project-not-active")


async def test_who_was_blocked_meanwhile_does_not_come_in(study: Study, bob: Guest) -> None:
    invitation = await bob.invited()
    await study.world.hear(user(bob.username, bob.user_id, status=UserStatus.BLOCKED, version=2))
    assert reason(await bob.accepts(invitation)) == "no-such-person"


async def test_no_old_invitation_brings_back_whoever_was_removed(study: Study, bob: Guest) -> None:
    invitation = await bob.invited()
    body = {"username": bob.username, "role": "data_scientist"}
    assert (await study.world.post(f"{study.path}/members", study.owner, json=body)).status_code == 201
    await study.world.delete(f"{study.path}/members/{bob.user_id}", study.owner)
    assert (await bob.accepts(invitation)).status_code == 404


async def test_whose_account_is_closed_keeps_no_invitation(study: Study, bob: Guest) -> None:
    await bob.invited()
    await study.world.hear(user(bob.username, bob.user_id, status=UserStatus.DEACTIVATED, version=2))
    await study.world.hear(user(bob.username, bob.user_id, version=3))
    assert await bob.open() == []


async def test_an_acceptance_and_the_removal_of_the_inviter_meet_in_one_order(study: Study, bob: Guest, worlds: Worlds) -> None:
    replica = await worlds.open("projects", beside=study.world)
    cyd = UUID((await study.add("cyd00000", Role.DATA_OWNER))["user_id"])
    invitation = await bob.invited(study.as_owner(cyd))
    async with study.world.work(bob.actor) as uow:
        await invitations.accept(uow, UUID(invitation["invitation_id"]))
        removal = asyncio.create_task(replica.delete(f"{study.path}/members/{cyd}", study.owner))
        await study.world.somebody_waits()
    assert (await removal).status_code == 204
    assert (await study.member(bob.user_id)).role == "data_scientist"


# Time


async def test_an_invitation_ends_at_its_instant(worlds: Worlds, world: World) -> None:
    study = await found(world)
    bob = await Guest(study).arrives()
    invitation = await bob.invited()
    await world.sql("UPDATE invitations SET expires_at = clock_timestamp() + interval '1.5 seconds'")
    await world.recorded()
    async with world.running(keep_time), asyncio.timeout(15):
        while await world.sql("SELECT 1 FROM invitations"):
            await asyncio.sleep(0.02)
    (record,) = [each for each in await world.recorded() if each["action"] == "project_invitation.expire"]
    assert (record["actor"]["principal"], record["project_id"]) == ("service", str(study.project_id))
    assert record["resource"]["invitations"] == invitation["invitation_id"]
    feed = (await world.get(f"{study.path}/activity", study.owner)).json()["items"]
    assert (feed[0]["deed"], feed[0]["actor"], feed[0]["subject"]) == ("invitation.expired", None, "bob00000")
    assert (await bob.accepts(invitation)).status_code == 404


async def test_a_new_invitation_wakes_who_keeps_the_time(worlds: Worlds, world: World) -> None:
    quick = await worlds.open("projects", beside=world, invitation_s=60)
    study = await found(quick)
    bob = await Guest(study).arrives()
    async with world.running(keep_time), asyncio.timeout(15):
        await bob.invited(ends_at=soon(3))
        while await world.sql("SELECT 1 FROM invitations"):
            await asyncio.sleep(0.02)
    assert await bob.open() == []


async def test_an_invitation_whose_time_is_over_counts_no_more_before_anybody_said_so(study: Study, bob: Guest) -> None:
    invitation = await bob.invited()
    await study.world.sql("UPDATE invitations SET expires_at = clock_timestamp()")
    assert await bob.open() == []
    assert (await study.world.get(f"{study.path}/invitations", study.owner)).json()["items"] == []
    assert (await bob.accepts(invitation)).status_code == 404
    assert (await bob.accepts(await bob.invited())).status_code == 200


async def test_the_installation_can_demand_acceptance(worlds: Worlds) -> None:
    strict = await worlds.open("projects", direct_add=False)
    study = await found(strict)
    bob = await Guest(study).arrives()
    body = {"username": bob.username, "role": "data_scientist"}
    answer = await strict.post(f"{study.path}/members", study.owner, json=body)
    assert (answer.status_code, reason(answer)) == (403, "only-by-invitation")
    assert (await bob.accepts(await bob.invited())).status_code == 200
