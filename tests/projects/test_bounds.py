"""Nobody raises themselves: rules on rows, and whole sequences of deeds at the doors."""

import asyncio
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from uuid_utils.compat import uuid7

from contracts.roles import Actor, Role
from services.projects import domain
from services.projects.domain.bounds import LongerThanYours, OwnersByGroupMakeNone, RaisesYourself
from services.projects.models import GroupRole
from tests.projects.people import Study, found, user
from tests.projects.test_domain import ADA, BOB, HOUR, NOW, PROJECT, member
from tests.world import World, person, reason

NEVER = datetime.max.replace(tzinfo=UTC)
ENDS = [None, timedelta(hours=1), timedelta(hours=2), timedelta(hours=3)]
RANK = {None: 0, "data_scientist": 1, "data_owner": 2}


def given_to(group: str, role: Role, ends_at: datetime | None = None) -> GroupRole:
    return GroupRole(
        group_role_id=uuid7(), project_id=PROJECT, group_name=group, role=role.value, purpose="", ends_at=ends_at, created_at=NOW
    )


# The rules


@pytest.mark.parametrize(
    ("before", "role", "ends", "allowed"),
    [
        (member(ADA, Role.DATA_OWNER), Role.DATA_OWNER, None, True),
        (member(ADA, Role.DATA_OWNER), Role.DATA_SCIENTIST, None, True),
        (member(ADA, Role.DATA_OWNER), Role.DATA_OWNER, HOUR, True),
        (member(ADA, Role.DATA_OWNER, ends=HOUR), Role.DATA_OWNER, HOUR / 2, True),
        (member(ADA, Role.DATA_OWNER, ends=HOUR), Role.DATA_OWNER, 2 * HOUR, False),
        (member(ADA, Role.DATA_OWNER, ends=HOUR), Role.DATA_OWNER, None, False),
        (member(ADA, Role.DATA_OWNER, ends=HOUR), Role.DATA_SCIENTIST, None, False),
        (member(ADA, Role.DATA_SCIENTIST), Role.DATA_OWNER, None, False),
    ],
)
def test_ones_own_membership_only_becomes_less(before: Any, role: Role, ends: timedelta | None, allowed: bool) -> None:
    check = partial(domain.bounds.demand_no_more, before, role, None if ends is None else NOW + ends)
    if allowed:
        check()
    else:
        with pytest.raises(RaisesYourself):
            check()


def test_nobody_adds_themselves() -> None:
    domain.bounds.demand_somebody_else(ADA, BOB)
    with pytest.raises(RaisesYourself):
        domain.bounds.demand_somebody_else(ADA, ADA)


def test_a_group_that_the_giver_is_in_never_owns_and_never_outlasts_them() -> None:
    dated = member(ADA, Role.DATA_OWNER, ends=HOUR)
    check = domain.bounds.demand_no_more_by_group
    check(dated, ["staff"], "staff", Role.DATA_SCIENTIST, NOW + HOUR)
    check(dated, ["others"], "staff", Role.DATA_OWNER, None)
    for role, ends in ((Role.DATA_OWNER, NOW + HOUR), (Role.DATA_SCIENTIST, NOW + 2 * HOUR), (Role.DATA_SCIENTIST, None)):
        with pytest.raises(RaisesYourself):
            check(dated, ["staff"], "staff", role, ends)


def test_who_gives_their_own_role_up_does_not_become_an_owner_by_a_group() -> None:
    check = domain.bounds.demand_leaving_lessens
    check(member(BOB), None)
    check(member(BOB), given_to("staff", Role.DATA_SCIENTIST))
    check(member(BOB, Role.DATA_OWNER), given_to("leads", Role.DATA_OWNER))
    with pytest.raises(RaisesYourself):
        check(member(BOB), given_to("leads", Role.DATA_OWNER))


@pytest.mark.parametrize(
    ("giver_ends", "role", "ends", "before", "allowed"),
    [
        (None, Role.DATA_OWNER, None, None, True),
        (HOUR, Role.DATA_OWNER, HOUR, None, True),
        (HOUR, Role.DATA_SCIENTIST, None, None, True),
        (HOUR, Role.DATA_OWNER, None, None, False),
        (HOUR, Role.DATA_OWNER, 2 * HOUR, None, False),
        (HOUR, Role.DATA_OWNER, 2 * HOUR, member(BOB), False),
        (HOUR, Role.DATA_OWNER, 2 * HOUR, member(BOB, Role.DATA_OWNER, ends=HOUR), False),
        (HOUR, Role.DATA_OWNER, 2 * HOUR, member(BOB, Role.DATA_OWNER, ends=3 * HOUR), True),
        (HOUR, Role.DATA_OWNER, None, member(BOB, Role.DATA_OWNER), True),
    ],
)
def test_an_owner_whose_time_ends_makes_owners_until_then(
    giver_ends: timedelta | None, role: Role, ends: timedelta | None, before: Any, allowed: bool
) -> None:
    giver = member(ADA, Role.DATA_OWNER, ends=giver_ends)
    check = partial(domain.bounds.demand_within_own_time, giver, role, None if ends is None else NOW + ends, before)
    if allowed:
        check()
    else:
        with pytest.raises(LongerThanYours):
            check()


def test_an_owner_by_a_group_makes_no_owners_and_makes_less_of_them() -> None:
    giver = member(ADA, Role.DATA_OWNER)
    giver.by_group = "leads"
    check = partial(domain.bounds.demand_within_own_time, giver)
    for ends, before in ((None, None), (NOW + HOUR, None), (None, member(BOB)), (None, member(BOB, Role.DATA_OWNER, ends=HOUR))):
        with pytest.raises(OwnersByGroupMakeNone):
            check(Role.DATA_OWNER, ends, before)
    check(Role.DATA_SCIENTIST, None, None)
    check(Role.DATA_SCIENTIST, None, member(BOB, Role.DATA_OWNER))
    check(Role.DATA_OWNER, NOW + HOUR, member(BOB, Role.DATA_OWNER))


# At the doors


async def dated_owner(study: Study, ends: str) -> UUID:
    """Bob, Data Owner until then; Ada remains the lasting one."""
    return UUID((await study.add("bob00000", Role.DATA_OWNER, ends_at=ends))["user_id"])


def stale(actor: Actor) -> Actor:
    """The same person, who showed their second factor long ago."""
    return actor.model_copy(update={"factor_fresh": False})


def later(hours: float) -> str:
    return (datetime.now(UTC) + timedelta(hours=hours)).isoformat()


async def test_an_owner_whose_role_ends_finds_no_door_to_more(world: World) -> None:
    study = await found(world)
    bob = await dated_owner(study, later(1))
    await world.hear(user("bob00000", bob, groups=["staff"], version=2), user("eve00000"), user("cyd00000"))
    await study.add("dan00000")
    dan = (await world.sql("SELECT user_id FROM memberships WHERE username = 'dan00000'"))[0].user_id
    actor = study.as_owner(bob)
    await world.said()
    mine = f"{study.path}/members/{bob}"
    for method, path, body, slug in (
        ("PATCH", mine, {"ends_at": later(2)}, "raises-yourself"),
        ("PATCH", mine, {"ends_at": None}, "raises-yourself"),
        ("PATCH", mine, {"role": "data_scientist", "ends_at": None}, "raises-yourself"),
        ("POST", f"{study.path}/members", {"username": "bob00000", "role": "data_owner"}, "raises-yourself"),
        ("POST", f"{study.path}/invitations", {"username": "bob00000", "role": "data_scientist"}, "raises-yourself"),
        ("POST", f"{study.path}/group-roles", {"group": "staff", "role": "data_owner", "ends_at": later(0.5)}, "raises-yourself"),
        ("POST", f"{study.path}/group-roles", {"group": "staff", "role": "data_scientist"}, "raises-yourself"),
        ("POST", f"{study.path}/group-roles", {"group": "others", "role": "data_owner"}, "longer-than-yours"),
        ("POST", f"{study.path}/members", {"username": "eve00000", "role": "data_owner"}, "longer-than-yours"),
        ("POST", f"{study.path}/invitations", {"username": "eve00000", "role": "data_owner", "ends_at": later(2)}, "longer-than-yours"),
        ("PATCH", f"{study.path}/members/{dan}", {"role": "data_owner"}, "longer-than-yours"),
    ):
        answer = await world.request(method, path, actor, json=body, version=1)
        assert (answer.status_code, reason(answer)) == (403, slug), (path, body)
    assert await world.said() == []
    for path, body in (
        (f"{study.path}/members", {"username": "eve00000", "role": "data_owner", "ends_at": later(0.5)}),
        (f"{study.path}/members", {"username": "cyd00000", "role": "data_scientist"}),
        (f"{study.path}/group-roles", {"group": "staff", "role": "data_scientist", "ends_at": later(0.5)}),
    ):
        assert (await world.post(path, actor, json=body)).status_code == 201


async def test_an_owner_makes_their_own_role_less(world: World) -> None:
    study = await found(world)
    bob = await dated_owner(study, later(2))
    mine = f"{study.path}/members/{bob}"
    assert (await world.patch(mine, study.as_owner(bob), json={"ends_at": later(1), "purpose": "Less"}, version=1)).status_code == 200
    assert (await world.patch(mine, study.as_owner(bob), json={"role": "data_scientist"}, version=2)).status_code == 200


# Leaving


async def test_a_member_leaves_by_themselves(world: World) -> None:
    study = await found(world)
    bob = UUID((await study.add("bob00000"))["user_id"])
    await world.said()
    answer = await world.delete(f"{study.path}/members/me", study.as_scientist(bob))
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["hortus-facts"] == f"memberships:{study.project_id}%3A{bob}:2"
    assert [(fact.version, getattr(fact, "role", 0)) for fact in await world.said()] == [(2, None)]
    assert (await world.delete(f"{study.path}/members/me", study.as_scientist(bob))).status_code == 404
    (_, record) = (await world.recorded())[-2:]
    assert record["action"] == "member.leave"


async def test_an_owner_leaves_with_a_fresh_factor_only(world: World) -> None:
    study = await found(world)
    bob = UUID((await study.add("bob00000", Role.DATA_OWNER))["user_id"])
    cyd = UUID((await study.add("cyd00000"))["user_id"])
    await world.said()
    leave = f"{study.path}/members/me"
    answer = await world.delete(leave, stale(study.as_owner(bob)))
    assert (answer.status_code, reason(answer)) == (401, "factor-too-old")
    assert await world.said() == []
    assert (await world.delete(leave, study.as_owner(bob))).status_code == 204
    assert (await world.delete(leave, stale(study.as_scientist(cyd)))).status_code == 204


async def test_the_last_owner_does_not_leave(world: World) -> None:
    study = await found(world)
    await dated_owner(study, later(1))
    answer = await world.delete(f"{study.path}/members/me", study.owner)
    assert (answer.status_code, reason(answer)) == (409, "last-owner-stays")


async def test_whoever_is_no_member_leaves_nothing(world: World) -> None:
    study = await found(world)
    assert (await world.delete(f"{study.path}/members/me", person(project_id=study.project_id))).status_code == 404
    assert (await world.delete(f"{study.path}/members/me", study.as_scientist(uuid7()))).status_code == 404


async def test_who_is_a_member_by_a_group_leaves_the_group_instead(world: World) -> None:
    study = await found(world)
    bob = uuid7()
    await world.hear(user("bob00000", bob, groups=["staff"]))
    await world.post(f"{study.path}/group-roles", study.owner, json={"group": "staff", "role": "data_scientist"})
    answer = await world.delete(f"{study.path}/members/me", study.as_scientist(bob))
    assert (answer.status_code, reason(answer)) == (409, "role-comes-by-group")


async def test_a_scientist_does_not_become_an_owner_by_leaving(world: World) -> None:
    study = await found(world)
    bob = UUID((await study.add("bob00000"))["user_id"])
    await world.hear(user("bob00000", bob, groups=["leads"], version=2))
    await world.post(f"{study.path}/group-roles", study.owner, json={"group": "leads", "role": "data_owner"})
    answer = await world.delete(f"{study.path}/members/me", study.as_scientist(bob))
    assert (answer.status_code, reason(answer)) == (403, "raises-yourself")
    assert (await world.delete(f"{study.path}/members/{bob}", study.owner)).json()["role"] == "data_owner"


async def test_ending_a_role_that_leaves_an_owner_by_a_group_makes_one(world: World) -> None:
    """By taking it away, or by an end: it asks for what making one asks for."""
    study = await found(world)
    bob = UUID((await study.add("bob00000"))["user_id"])
    dated = UUID((await study.add("cyd00000", Role.DATA_OWNER, ends_at=later(2)))["user_id"])
    by_group = uuid7()
    await world.hear(user("bob00000", bob, groups=["leads"], version=2), user("dan00000", by_group, groups=["leads"]))
    await world.post(f"{study.path}/group-roles", study.owner, json={"group": "leads", "role": "data_owner"})
    await world.said()
    path = f"{study.path}/members/{bob}"
    for actor, status, slug in (
        (stale(study.owner), 401, "factor-too-old"),
        (study.as_owner(dated), 403, "longer-than-yours"),
        (study.as_owner(by_group), 403, "owners-by-group-make-none"),
    ):
        for method, body in (("DELETE", None), ("PATCH", {"ends_at": later(1)})):
            answer = await world.request(method, path, actor, json=body, version=1)
            assert (answer.status_code, reason(answer)) == (status, slug), method
    assert await world.said() == []
    assert (await world.patch(path, stale(study.owner), json={"purpose": "Checks"}, version=1)).status_code == 200
    assert (await world.patch(path, study.owner, json={"ends_at": later(1)}, version=2)).status_code == 200
    assert (await world.delete(path, study.owner)).json()["role"] == "data_owner"


async def test_an_owner_by_a_group_is_made_less_with_a_fresh_factor_only(world: World) -> None:
    study = await found(world)
    await world.hear(user("bob00000", groups=["leads"]))
    await world.post(f"{study.path}/group-roles", study.owner, json={"group": "leads", "role": "data_owner"})
    body = {"username": "bob00000", "role": "data_scientist"}
    answer = await world.post(f"{study.path}/members", stale(study.owner), json=body)
    assert (answer.status_code, reason(answer)) == (401, "factor-too-old")
    assert (await world.post(f"{study.path}/members", study.owner, json=body)).status_code == 201


async def test_an_owner_by_a_group_becomes_less_by_an_invitation_with_a_fresh_factor_only(world: World) -> None:
    study = await found(world)
    bob, cyd = uuid7(), uuid7()
    await world.hear(user("bob00000", bob, groups=["leads"]), user("cyd00000", cyd))
    await world.post(f"{study.path}/group-roles", study.owner, json={"group": "leads", "role": "data_owner"})
    invited = {}
    for username in ("bob00000", "cyd00000"):
        body = {"username": username, "role": "data_scientist"}
        answer = await world.post(f"{study.path}/invitations", stale(study.owner), json=body)
        invited[username] = f"/project-invitations/{answer.json()['invitation_id']}/acceptance"
    answer = await world.post(invited["bob00000"], stale(person(bob, "bob00000")))
    assert (answer.status_code, reason(answer)) == (401, "factor-too-old")
    assert (await study.member(bob)).role == "data_owner"
    assert (await world.post(invited["bob00000"], person(bob, "bob00000"))).json()["role"] == "data_scientist"
    assert (await world.post(invited["cyd00000"], stale(person(cyd, "cyd00000")))).status_code == 200


async def test_two_owners_who_leave_at_once_by_themselves_leave_one(world: World) -> None:
    study = await found(world)
    bob = UUID((await study.add("bob00000", Role.DATA_OWNER))["user_id"])
    leave = f"{study.path}/members/me"
    answers = await asyncio.gather(world.delete(leave, study.owner), world.delete(leave, study.as_owner(bob)))
    assert sorted(answer.status_code for answer in answers) == [204, 409]


# Every sequence of one owner's deeds

role_names = st.sampled_from(["data_owner", "data_scientist"])
ends = st.sampled_from(ENDS)
deeds = st.one_of(
    st.tuples(st.just("change"), st.sampled_from(["me", "other"]), role_names, ends),
    st.tuples(st.just("add"), st.sampled_from(["me", "other", "third"]), role_names, ends),
    st.tuples(st.just("invite"), st.sampled_from(["me", "third"]), role_names, ends),
    st.tuples(st.just("accept"), st.just("me"), role_names, ends),
    st.tuples(st.just("remove"), st.sampled_from(["me", "other", "third"]), role_names, ends),
    st.tuples(st.just("leave"), st.just("me"), role_names, ends),
    st.tuples(st.just("give"), st.sampled_from(["staff", "leads", "others"]), role_names, ends),
    st.tuples(st.just("take"), st.sampled_from(["staff", "leads", "others"]), role_names, ends),
    st.tuples(st.sampled_from(["come into", "go out of"]), st.sampled_from(["staff", "leads"]), role_names, ends),
)
starts = st.tuples(
    st.none() | st.tuples(role_names, ends),
    st.dictionaries(st.sampled_from(["staff", "leads"]), st.tuples(role_names, ends), max_size=2),
)
_count = iter(range(10**6))


async def rights(world: World, study: Study, user_id: UUID, groups: Collection[str] = ()) -> list[int]:
    """What somebody is now, and in the middle of each hour from now on, if nobody does anything more."""
    rows = await world.sql("SELECT * FROM memberships WHERE project_id = :p AND user_id = :u", p=study.project_id, u=user_id)
    if not rows or rows[0].role is None:
        return [0] * 5
    (row,) = rows
    given = await world.sql("SELECT * FROM group_roles WHERE project_id = :p", p=study.project_id)
    now = await world.now()
    is_now = []
    for hours in (0.0, 0.5, 1.5, 2.5, 3.5):
        at = now + timedelta(hours=hours)
        if row.by_group is None and at < (row.ends_at or NEVER):
            is_now.append(RANK[row.role])
        else:
            is_now.append(max((RANK[each.role] for each in given if each.group_name in groups and at < (each.ends_at or NEVER)), default=0))
    return is_now


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=starts, done=st.lists(deeds, min_size=1, max_size=8))
async def test_from_any_sequence_of_ones_own_deeds_ones_own_right_never_grows(world: World, start: Any, done: Any) -> None:
    """Nor does anybody whom they made a Data Owner stay one for longer than they were one themselves, whatever becomes of their groups."""
    number = next(_count)
    own, by_groups = start
    study = await found(world, f"p{number}")
    names = {"me": f"mee{number:05}", "other": f"oth{number:05}", "third": f"thi{number:05}"}
    ids = {who: uuid7() for who in names}
    groups = {"staff", "leads"}
    theirs = {"other": {"leads"}, "third": set[str]()}
    for who, name in names.items():
        await world.hear(user(name, ids[who], groups=groups if who == "me" else theirs[who]))
    now = await world.now()
    if own is not None:
        body = {"username": names["me"], "role": own[0], "ends_at": instant(now, own[1])}
        assert (await world.post(f"{study.path}/members", study.owner, json=body)).status_code == 201
    for group, (role, end) in by_groups.items():
        body = {"group": group, "role": role, "ends_at": instant(now, end)}
        assert (await world.post(f"{study.path}/group-roles", study.owner, json=body)).status_code == 201
    await world.post(f"{study.path}/members", study.owner, json={"username": names["other"], "role": "data_scientist"})
    own_first = await rights(world, study, ids["me"])
    before = await rights(world, study, ids["me"], groups)
    for version, deed in enumerate(done, 2):
        if deed[0] in ("come into", "go out of"):
            groups = groups | {deed[1]} if deed[0] == "come into" else groups - {deed[1]}
            await world.hear(user(names["me"], ids["me"], groups=groups, version=version))
            before = await rights(world, study, ids["me"], groups)
            continue
        await do(world, study, names, ids, *deed)
        after = await rights(world, study, ids["me"], groups)
        assert all(new <= old for new, old in zip(after, before, strict=True)), (deed, before, after)
        before = after
    for who, in_groups in theirs.items():
        made = await rights(world, study, ids[who], in_groups)
        assert all(its < RANK["data_owner"] or own == RANK["data_owner"] for its, own in zip(made, own_first, strict=True)), (
            made,
            own_first,
        )


def instant(now: datetime, end: timedelta | None) -> str | None:
    return None if end is None else (now + end).isoformat()


async def do(
    world: World, study: Study, names: dict[str, str], ids: dict[str, UUID], what: str, whom: str, role: str, end: timedelta | None
) -> None:
    """One deed of the person as the gateway would let them ask it: as a Data Owner, whatever their row says."""
    me = study.as_owner(ids["me"]).model_copy(update={"username": names["me"]})
    at = instant(await world.now(), end)
    if what == "change":
        rows = await world.sql("SELECT version FROM memberships WHERE project_id = :p AND user_id = :u", p=study.project_id, u=ids[whom])
        version = rows[0].version if rows else 1
        await world.patch(f"{study.path}/members/{ids[whom]}", me, json={"role": role, "ends_at": at}, version=version)
    elif what in ("add", "invite"):
        path = "members" if what == "add" else "invitations"
        await world.post(f"{study.path}/{path}", me, json={"username": names[whom], "role": role, "ends_at": at})
    elif what == "accept":
        for item in (await world.get("/project-invitations", me)).json()["items"]:
            await world.post(f"/project-invitations/{item['invitation_id']}/acceptance", me)
    elif what == "remove":
        await world.delete(f"{study.path}/members/{ids[whom]}", me)
    elif what == "leave":
        await world.delete(f"{study.path}/members/me", me)
    elif what == "give":
        await world.post(f"{study.path}/group-roles", me, json={"group": whom, "role": role, "ends_at": at})
    else:
        rows = await world.sql(
            "SELECT group_role_id FROM group_roles WHERE project_id = :p AND group_name = :g", p=study.project_id, g=whom
        )
        for row in rows:
            await world.delete(f"{study.path}/group-roles/{row.group_role_id}", me)
