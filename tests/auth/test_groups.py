"""Groups: who may change them, and what follows for their people."""

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ldap3.utils.dn import escape_rdn, parse_dn

from contracts.events import Fact, User
from contracts.roles import NOBODY, Actor
from services.auth import domain, repository
from services.auth.service import groups
from tests.auth.people import Account, join
from tests.world import World, Worlds, administrator, agent, auditor, job, person, reason

STAFF = "cn=staff,ou=groups,dc=example,dc=org"
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def stale() -> Actor:
    return administrator().model_copy(update={"factor_fresh": False})


async def make(world: World, name: str = "staff", **more: Any) -> dict[str, Any]:
    answer = await world.post("/groups", administrator(), json={"name": name, **more})
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def put(world: World, group: dict[str, Any], account: Account) -> None:
    answer = await world.put(f"/groups/{group['group_id']}/members/{account.user_id}", administrator())
    assert answer.status_code == 204, answer.text


async def from_directory(world: World, account: Account, *names: str) -> None:
    async with world.work() as uow:
        user = await repository.accounts.user(uow.session, account.user_id)
        assert user is not None
        await groups.set_from_directory(uow, user, names)


def told(facts: list[Fact]) -> list[tuple[UUID, list[str], list[str], int]]:
    return [
        (fact.user_id, sorted(fact.groups), sorted(role.value for role in fact.cluster_roles), fact.version)
        for fact in facts
        if isinstance(fact, User)
    ]


# Who may


async def test_only_administrators_see_and_change_groups(world: World) -> None:
    group = await make(world)
    path = f"/groups/{group['group_id']}"
    callers = [(NOBODY, 401), (person(), 403), (auditor(), 403), (agent(), 403), (job(uuid4()), 403)]
    for actor, status in callers:
        for method, door, body in (
            ("POST", "/groups", {"name": "other"}),
            ("GET", "/groups", None),
            ("PATCH", path, {}),
            ("DELETE", path, None),
            ("GET", f"{path}/members", None),
            ("PUT", f"{path}/members/{uuid4()}", None),
            ("DELETE", f"{path}/members/{uuid4()}", None),
        ):
            answer = await world.request(method, door, actor, json=body, version=1)
            assert answer.status_code == status, (method, door)
    assert await world.said() == []


async def test_groups_are_changed_with_a_fresh_factor_only(world: World) -> None:
    ada = await join(world)
    group = await make(world)
    path = f"/groups/{group['group_id']}"
    await world.said()
    for method, door, body in (
        ("POST", "/groups", {"name": "more"}),
        ("PATCH", path, {"factor_policy": "optional"}),
        ("PUT", f"{path}/members/{ada.user_id}", None),
        ("DELETE", f"{path}/members/{ada.user_id}", None),
        ("DELETE", path, None),
    ):
        answer = await world.request(method, door, stale(), json=body, version=1)
        assert (answer.status_code, reason(answer)) == (401, "factor-too-old"), door
    assert await world.said() == []


async def test_an_administrator_opens_no_project_by_putting_people_into_groups(world: World) -> None:
    ada = await join(world)
    staff = await make(world, external=[STAFF])
    await world.said()
    await put(world, staff, ada)
    assert [fact.groups for fact in await world.said() if isinstance(fact, User)] == [frozenset()]
    assert (await world.get(f"/users/{ada.user_id}", administrator())).json()["groups"] == ["staff"]
    await from_directory(world, ada, STAFF)
    assert [fact.groups for fact in await world.said() if isinstance(fact, User)] == [frozenset({"staff"})]


# Groups


async def test_a_group_is_made_listed_changed_and_removed(world: World) -> None:
    group = await make(world, external=[" CN=Staff"[1:] + ", OU=Groups,DC=Example,DC=org", "urn:Hospital:Staff"])
    assert group["external"] == [STAFF, "urn:Hospital:Staff"]
    assert (group["factor_policy"], group["cluster_roles"], group["version"]) == (None, [], 1)
    assert (await world.get("/groups", administrator())).json()["items"] == [group]
    path = f"/groups/{group['group_id']}"
    answer = await world.patch(path, administrator(), json={"factor_policy": "passkey"}, version=1)
    assert (answer.json()["factor_policy"], answer.json()["version"], answer.json()["external"]) == ("passkey", 2, group["external"])
    assert (await world.patch(path, administrator(), json={"factor_policy": "passkey"}, version=2)).json()["version"] == 2
    answer = await world.patch(path, administrator(), json={"factor_policy": None}, version=2)
    assert (answer.json()["factor_policy"], answer.json()["version"]) == (None, 3)
    assert reason(await world.patch(path, administrator(), json={}, version=1)) == "precondition-failed"
    assert (await world.delete(path, administrator())).status_code == 204
    assert (await world.get("/groups", administrator())).json()["items"] == []
    assert (await world.delete(path, administrator())).status_code == 404
    actions = [record["action"] for record in await world.recorded()]
    assert actions == ["group.create", "group.change", "group.change", "group.remove"]


@pytest.mark.parametrize(
    "body",
    [
        {"name": ""},
        {"name": "Staff"},
        {"name": "a" * 65},
        {"name": "a/b"},
        {"name": "a\u0000"},
        {"name": "staff", "factor_policy": "none"},
        {"name": "staff", "cluster_roles": ["owner"]},
        {"name": "staff", "external": [""]},
        {"name": "staff", "external": ["a\u0000b"]},
        {"name": "staff", "external": ["x" * 1025]},
        {"name": "staff", "external": [str(number) for number in range(101)]},
        {"name": "staff", "members": []},
    ],
)
async def test_what_is_no_group_is_refused(world: World, body: dict[str, Any]) -> None:
    assert (await world.post("/groups", administrator(), json=body)).status_code == 422


async def test_one_name_is_given_once_also_at_once(world: World, worlds: Worlds) -> None:
    replica = await worlds.open(
        "auth", beside=world, **{name: getattr(world.runtime.settings, name) for name in ("master_key_file", "setup_file")}
    )
    answers = await asyncio.gather(*[each.post("/groups", administrator(), json={"name": "staff"}) for each in (world, replica) * 2])
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]


async def test_a_removed_groups_name_never_comes_back(world: World) -> None:
    group = await make(world)
    assert (await world.delete(f"/groups/{group['group_id']}", administrator())).status_code == 204
    answer = await world.post("/groups", administrator(), json={"name": "staff"})
    assert (answer.status_code, reason(answer)) == (409, "group-name-taken")
    await make(world, "staff2")


async def test_the_record_names_the_names_in_directories_before_and_after(world: World) -> None:
    group = await make(world, external=[STAFF])
    path = f"/groups/{group['group_id']}"
    assert (await world.patch(path, administrator(), json={"external": ["more"]}, version=1)).status_code == 200
    assert (await world.patch(path, administrator(), json={"factor_policy": "optional"}, version=2)).status_code == 200
    assert (await world.delete(path, administrator())).status_code == 204
    named = [[record["resource"].get(each) for each in ("external_before", "external")] for record in await world.recorded()]
    assert named == [[None, f'["{STAFF}"]'], [f'["{STAFF}"]', '["more"]'], [None, None], ['["more"]', None]]


# Members


async def test_who_is_put_into_a_group_has_its_roles_and_its_name_until_they_are_taken_out(world: World) -> None:
    ada = await join(world)
    group = await make(world, cluster_roles=["auditor"])
    await world.said()
    await put(world, group, ada)
    assert told(await world.said()) == [(ada.user_id, [], ["auditor"], 3)]
    await put(world, group, ada)
    assert await world.said() == []
    path = f"/groups/{group['group_id']}/members"
    (member,) = (await world.get(path, administrator())).json()["items"]
    assert member == {"user_id": str(ada.user_id), "username": ada.username, "by_hand": True, "by_directory": False}
    assert (await world.delete(f"{path}/{ada.user_id}", administrator())).status_code == 204
    assert told(await world.said()) == [(ada.user_id, [], [], 4)]
    assert (await world.delete(f"{path}/{ada.user_id}", administrator())).status_code == 404


async def test_nobody_and_no_group_are_not_found(world: World) -> None:
    ada = await join(world)
    group = await make(world)
    assert (await world.put(f"/groups/{group['group_id']}/members/{uuid4()}", administrator())).status_code == 404
    assert (await world.put(f"/groups/{uuid4()}/members/{ada.user_id}", administrator())).status_code == 404
    assert (await world.get(f"/groups/{uuid4()}/members", administrator())).status_code == 404


async def test_whom_an_administrator_deactivated_while_a_directory_was_asked_is_put_into_no_group(world: World) -> None:
    ada = await join(world)
    await make(world, external=[STAFF], cluster_roles=["auditor"])
    await world.sql("UPDATE users SET source = 'ldap', provider = 'main', external_id = 'ada' WHERE user_id = :id", id=ada.user_id)
    left = await world.patch(f"/users/{ada.user_id}", administrator(), json={"status": "deactivated"}, version=2)
    assert left.status_code == 200, left.text
    await world.said()
    await from_directory(world, ada, STAFF)
    assert await world.said() == []
    assert await world.sql("SELECT 1 FROM group_members") == []


async def test_somebody_who_left_is_put_into_no_group(world: World) -> None:
    ada = await join(world)
    group = await make(world)
    answer = await world.patch(f"/users/{ada.user_id}", administrator(), json={"status": "deactivated"}, version=2)
    assert answer.status_code == 200, answer.text
    answer = await world.put(f"/groups/{group['group_id']}/members/{ada.user_id}", administrator())
    assert (answer.status_code, reason(answer)) == (409, "has-left")


async def test_a_role_that_a_group_loses_or_gets_reaches_everybody_in_it_in_one_transaction(world: World) -> None:
    people = [await join(world, f"p{number}@example.org") for number in range(3)]
    group = await make(world)
    for account in people:
        await put(world, group, account)
    await world.said()
    path = f"/groups/{group['group_id']}"
    assert (await world.patch(path, administrator(), json={"cluster_roles": ["auditor"]}, version=1)).status_code == 200
    assert sorted(told(await world.said())) == sorted((each.user_id, [], ["auditor"], 4) for each in people)
    assert (await world.delete(path, administrator())).status_code == 204
    assert sorted(told(await world.said())) == sorted((each.user_id, [], [], 5) for each in people)


async def test_own_roles_stay_when_a_groups_roles_go(world: World) -> None:
    ada = await join(world, roles=["auditor"])
    group = await make(world, cluster_roles=["administrator", "auditor"])
    await put(world, group, ada)
    await join(world, "root@example.org", roles=["administrator"])
    await world.said()
    assert (await world.delete(f"/groups/{group['group_id']}", administrator())).status_code == 204
    assert told(await world.said()) == [(ada.user_id, [], ["auditor"], 4)]


@pytest.mark.parametrize("how", ["leave", "remove", "change"])
async def test_the_last_administrator_stays_also_by_a_group(world: World, how: str) -> None:
    ada = await join(world)
    group = await make(world, cluster_roles=["administrator"])
    await put(world, group, ada)
    await world.said()
    path = f"/groups/{group['group_id']}"
    answer = await {
        "leave": lambda: world.delete(f"{path}/members/{ada.user_id}", administrator()),
        "remove": lambda: world.delete(path, administrator()),
        "change": lambda: world.patch(path, administrator(), json={"cluster_roles": []}, version=1),
    }[how]()
    assert (answer.status_code, reason(answer)) == (409, "last-administrator-stays")
    assert await world.said() == []
    assert [row.cluster_roles for row in await world.sql("SELECT cluster_roles FROM users")] == [["administrator"]]
    await join(world, "root@example.org", roles=["administrator"])
    assert (await world.delete(path, administrator())).status_code == 204


async def test_two_administrators_who_are_taken_out_of_two_groups_at_once_leave_one(world: World, worlds: Worlds) -> None:
    replica = await worlds.open(
        "auth", beside=world, **{name: getattr(world.runtime.settings, name) for name in ("master_key_file", "setup_file")}
    )
    ada, bob = await join(world), await join(world, "bob@example.org")
    first, second = [await make(world, name, cluster_roles=["administrator"]) for name in ("first", "second")]
    await put(world, first, ada)
    await put(world, second, bob)
    async with world.work(administrator()) as uow:
        await groups.remove_member(uow, UUID(first["group_id"]), ada.user_id)
        other = asyncio.create_task(replica.delete(f"/groups/{second['group_id']}/members/{bob.user_id}", administrator()))
        await world.somebody_waits()
    assert reason(await other) == "last-administrator-stays"


async def test_a_group_of_ten_thousand_changes_in_one_transaction_and_takes_nobody_more(world: World) -> None:
    ada = await join(world)
    group = await make(world)
    await world.sql(
        """WITH people AS (INSERT INTO users (user_id, username, email, status, cluster_roles, version, created_at, confirmed_at)
               SELECT gen_random_uuid(), 'p' || lpad(n::text, 7, '0'), 'p' || n || '@example.org', 'active', '{}', 1, now(), now()
               FROM generate_series(1, 10000) AS n RETURNING user_id)
           INSERT INTO group_members SELECT :id, user_id, false FROM people""",
        id=UUID(group["group_id"]),
    )
    await world.said()
    path = f"/groups/{group['group_id']}"
    answer = await world.put(f"{path}/members/{ada.user_id}", administrator())
    assert (answer.status_code, reason(answer)) == (409, "too-many-members")
    answer = await world.patch(path, administrator(), json={"cluster_roles": ["auditor"]}, version=1)
    assert answer.status_code == 200
    assert len(answer.headers["hortus-facts"]) < 4096
    assert len(await world.said()) == 10_000


# By a directory


async def test_a_directory_puts_people_into_the_groups_that_it_names_and_takes_them_out(world: World) -> None:
    ada = await join(world)
    await make(world, external=[STAFF], cluster_roles=["auditor"])
    await make(world, "readers", external=["urn:hospital:readers"])
    await make(world, "others", external=["cn=others,dc=example,dc=org"])
    await world.said()
    await from_directory(world, ada, "CN=staff, OU=groups, DC=example, DC=org", "urn:hospital:readers", "urn:unknown")
    assert told(await world.said()) == [(ada.user_id, ["readers", "staff"], ["auditor"], 3)]
    await from_directory(world, ada, STAFF, "urn:hospital:readers")
    assert await world.said() == []
    await from_directory(world, ada, "urn:hospital:readers", "URN:HOSPITAL:READERS")
    assert told(await world.said()) == [(ada.user_id, ["readers"], [], 4)]
    await from_directory(world, ada)
    assert told(await world.said()) == [(ada.user_id, [], [], 5)]


async def test_who_was_put_in_by_hand_and_by_the_directory_leaves_when_both_let_go(world: World) -> None:
    ada = await join(world)
    group = await make(world, external=[STAFF])
    await put(world, group, ada)
    await from_directory(world, ada, STAFF)
    path = f"/groups/{group['group_id']}/members"
    (member,) = (await world.get(path, administrator())).json()["items"]
    assert (member["by_hand"], member["by_directory"]) == (True, True)
    await world.said()
    assert (await world.delete(f"{path}/{ada.user_id}", administrator())).status_code == 204
    assert await world.said() == []
    answer = await world.delete(f"{path}/{ada.user_id}", administrator())
    assert (answer.status_code, reason(answer)) == (409, "member-by-directory")
    await from_directory(world, ada)
    assert told(await world.said()) == [(ada.user_id, [], [], 5)]


async def test_a_name_that_a_group_loses_takes_the_directorys_people_out_at_once(world: World) -> None:
    ada, bob = await join(world), await join(world, "bob@example.org")
    group = await make(world, external=[STAFF])
    await put(world, group, bob)
    await from_directory(world, ada, STAFF)
    await world.said()
    path = f"/groups/{group['group_id']}"
    assert (await world.patch(path, administrator(), json={"external": [STAFF, "more"]}, version=1)).status_code == 200
    assert await world.said() == []
    assert (await world.patch(path, administrator(), json={"external": ["more"]}, version=2)).status_code == 200
    assert told(await world.said()) == [(ada.user_id, [], [], 4)]


async def test_a_directory_takes_the_last_administrator_out_of_all_groups_but_those_that_make_them_one(world: World) -> None:
    ada = await join(world)
    await make(world, "admins", external=[STAFF], cluster_roles=["administrator"])
    await make(world, "mri", external=[STAFF, "mri"], cluster_roles=["auditor"])
    await from_directory(world, ada, STAFF)
    await world.said()
    await from_directory(world, ada)
    assert told(await world.said()) == [(ada.user_id, ["admins"], ["administrator"], 4)]
    await world.recorded()
    await from_directory(world, ada)
    assert (await world.said(), await world.recorded()) == ([], [])
    await from_directory(world, ada, "mri")
    assert told(await world.said()) == [(ada.user_id, ["admins", "mri"], ["administrator", "auditor"], 5)]


@pytest.mark.parametrize("how", ["own", "by hand", "another"])
async def test_who_administers_otherwise_or_beside_others_leaves_also_the_groups_that_made_them_administrators(
    world: World, how: str
) -> None:
    ada = await join(world, roles=["administrator"] if how == "own" else [])
    await make(world, external=[STAFF], cluster_roles=["administrator"])
    if how == "by hand":
        council = await make(world, "council", cluster_roles=["administrator"])
        await put(world, council, ada)
    if how == "another":
        await join(world, "bob@example.org", roles=["administrator"])
    await from_directory(world, ada, STAFF)
    await world.said()
    await from_directory(world, ada)
    (fact,) = await world.said()
    assert isinstance(fact, User)
    assert (fact.groups, "administrator" in fact.cluster_roles) == (frozenset(), how != "another")


# Names in directories


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("CN=Staff,DC=example,DC=org", "cn=staff,dc=EXAMPLE,dc=org"),
        ("cn=staff , dc=example", "cn=staff,dc=example"),
        ("cn=a\\,b,dc=x", "cn=a\\2cb,dc=x"),
        ("cn=Lučić,dc=x", "cn=Lu\\c4\\8di\\c4\\87,dc=x"),
        ("cn=a  b,dc=x", "cn=A B,dc=x"),
        ("cn=a+ou=b,dc=x", "OU=b+CN=a,dc=x"),
    ],
)
def test_one_dn_in_two_spellings_is_one_name(one: str, other: str) -> None:
    assert domain.groups.compared(one) == domain.groups.compared(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("cn=staff,dc=example", "cn=staff"),
        ("cn=staff\\,dc=example", "cn=staff,dc=example"),
        ("cn=a\\+ou=b,dc=x", "cn=a+ou=b,dc=x"),
        ("cn=staff,dc=example", "ou=staff,dc=example"),
        ("Staff", "staff"),
        ("urn:a:b", "urn:a:B"),
    ],
)
def test_two_names_are_two(one: str, other: str) -> None:
    assert domain.groups.compared(one) != domain.groups.compared(other)


parts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12).filter(lambda text: text.strip())


@given(st.lists(parts, min_size=1, max_size=4), st.lists(parts, min_size=1, max_size=4))
def test_escaped_values_are_never_taken_for_more_parts_or_others(one: list[str], other: list[str]) -> None:
    def name(values: list[str]) -> str:
        return ",".join(f"cn={escape_rdn(value.strip())}" for value in values)

    def key(values: list[str]) -> list[str]:
        return [domain.groups._compared(escape_rdn(value.strip())) for value in values]

    first, second = domain.groups.compared(name(one)), domain.groups.compared(name(other))
    assert (first == second) == (key(one) == key(other))
    assert domain.groups.compared(first) == first


@given(st.text(max_size=40))
def test_any_text_has_one_form(name: str) -> None:
    assert domain.groups.compared(domain.groups.compared(name)) == domain.groups.compared(name)


def test_the_name_of_a_group_is_parsed_once_however_many_are_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []

    def note(name: str, **how: bool) -> Any:
        parsed.append(name)
        return parse_dn(name, **how)

    monkeypatch.setattr(domain.groups, "parse_dn", note)
    domain.groups.compared.cache_clear()
    names = [f"cn=g{number},ou=groups,dc=example,dc=org" for number in range(40)]
    groups = [domain.groups.create(UUID(int=number), f"g{number}", None, [], [name], NOW) for number, name in enumerate(names[:30])]
    for somebody in range(50):
        held = [names[(somebody + number) % 40] for number in range(20)]
        assert domain.groups.called(groups, held) == {group.group_id for group in groups if group.external[0] in held}
    assert sorted(parsed) == sorted(names)
