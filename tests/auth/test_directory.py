"""A directory: signing in with it, and what follows here from what changes there. Against a real OpenLDAP server."""

import asyncio
import json
import socket
import ssl
import statistics
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx2
import ldap3
import pyotp
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as bounded
from hypothesis import strategies as st
from structlog.testing import capture_logs
from uuid_utils.compat import uuid7

from contracts.events import ApiKey, Fact, Membership, Session, User, UserStatus
from contracts.roles import Actor
from services.auth import domain, repository
from services.auth.app import follow
from services.auth.directory import Away, Directory
from services.auth.domain.directory import NEVER_EXPIRES
from services.auth.domain.flows import s256
from services.auth.routes.cookies import DEVICE
from services.auth.service import directory as following
from services.auth.service import guesses, patience, vouching
from services.auth.settings import BadDirectoryFile, DirectorySettings, read_directory
from tests.auth import slapd as openldap
from tests.auth.factors import letters, recovery_codes, register, reset, shown
from tests.auth.passkeys import Authenticator
from tests.auth.people import Account, another_code, cookie, join, passing_by
from tests.auth.slapd import GROUPS, LOOKING_PASSWORD, PASSWORD, PEOPLE, Slapd, configuration, group, person, written
from tests.projects.people import found
from tests.world import World, Worlds, administrator, reason

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slapd]:
    with openldap.running(tmp_path_factory.mktemp("slapd")) as running:
        yield running


@pytest.fixture
def slapd(server: Slapd) -> Slapd:
    server.fill()
    return server


@pytest.fixture
def settings(settings: dict[str, Any], slapd: Slapd, tmp_path: Path) -> dict[str, Any]:
    return settings | {"ldap_file": written(configuration(slapd, tmp_path), tmp_path)}


@pytest.fixture
def source(slapd: Slapd, tmp_path: Path) -> Iterator[Directory]:
    made = Directory(DirectorySettings(**configuration(slapd, tmp_path)))
    yield made
    made.close()


async def show(world: World, name: str = "ada", password: str = PASSWORD, *, source: str | None = None, **more: Any) -> httpx2.Response:
    headers = {"Hortus-Source": source} if source else {}
    return await world.post("/sessions", json={"username": name, "password": password, **more}, headers=headers)


async def enrol(world: World, name: str = "ada", password: str = PASSWORD) -> Account:
    """Somebody's first sign-in with the directory, and their second factor."""
    answer = await show(world, name, password)
    assert (answer.status_code, reason(answer)) == (401, "factor-enrolment-needed"), answer.text
    token = answer.json()["enrolment"]
    totp = pyotp.TOTP((await world.post("/factor-enrolments/acceptance", json={"token": token})).json()["totp_secret"])
    confirmed = await world.post("/factor-enrolments/confirmation", json={"token": token, "code": totp.now()})
    assert confirmed.status_code == 200, confirmed.text
    return Account(world, confirmed.json(), totp, password)


async def sync(world: World) -> None:
    tools = world.runtime.extra["tools"]
    await following.sync(tools, tools.directory)


async def make_group(world: World, name: str, *external: str, roles: tuple[str, ...] = ()) -> UUID:
    body = {"name": name, "cluster_roles": list(roles), "external": list(external)}
    answer = await world.post("/groups", administrator(), json=body)
    assert answer.status_code == 201, answer.text
    return UUID(answer.json()["group_id"])


def change(slapd: Slapd, dn: str, **attributes: Any) -> None:
    """An independent client replaces attributes; None takes one away."""
    with slapd.root() as root:
        modify = {name: [(ldap3.MODIFY_REPLACE, [] if value is None else [value])] for name, value in attributes.items()}
        root.modify(dn, modify)


def people(facts: list[Fact]) -> list[tuple[str, list[str], list[str]]]:
    return [
        (fact.status.value, sorted(fact.groups), sorted(role.value for role in fact.cluster_roles))
        for fact in facts
        if isinstance(fact, User)
    ]


async def row(world: World, user_id: UUID) -> Any:
    return (await world.sql("SELECT * FROM users WHERE user_id = :id", id=user_id))[0]


# Signing in


async def test_the_first_sign_in_makes_an_account_that_enrols_a_second_factor_and_then_opens_sessions(world: World) -> None:
    ada = await enrol(world)
    user = await row(world, ada.user_id)
    assert (user.username, user.email, user.status) == ("ada00000", "ada@example.org", "active")
    assert (user.source, user.provider, str(UUID(user.external_id))) == ("ldap", "hospital", user.external_id)
    for name in ("ada", "ADA ", "ada@example.org", "Ada@Example.org", user.username):
        answer = await ada.sign_in(username=name)
        assert answer.status_code == 201, answer.text
        assert answer.json()["user"]["user_id"] == str(ada.user_id)
    assert {each.method for each in await world.sql("SELECT method FROM sessions")} == {"ldap+totp"}
    assert [each.count for each in await world.sql("SELECT count(*) FROM users WHERE source = 'ldap'")] == [1]
    hashes = await world.sql("SELECT password_hash FROM credentials WHERE user_id = :id", id=ada.user_id)
    assert [each.password_hash for each in hashes] == [None]


@pytest.mark.parametrize("scheme", ["ldaps", "starttls"])
@pytest.mark.parametrize("style", ["memberOf", "member"])
async def test_over_either_kind_of_tls_and_either_way_to_find_groups(
    worlds: Worlds, settings: dict[str, Any], slapd: Slapd, tmp_path: Path, scheme: str, style: str
) -> None:
    reach = {"urls": [slapd.plain], "starttls": True} if scheme == "starttls" else {}
    file = written(configuration(slapd, tmp_path, group_style=style, **reach), tmp_path)
    world = await worlds.open("auth", **(settings | {"ldap_file": file}))
    await make_group(world, "everybody", group("all"))
    await make_group(world, "staff", f"CN=Staff, {GROUPS.upper()}")
    ada = await enrol(world)
    assert (await row(world, ada.user_id)).groups == ["everybody", "staff"]


async def test_without_nesting_a_group_of_groups_brings_only_its_own_people(
    worlds: Worlds, settings: dict[str, Any], slapd: Slapd, tmp_path: Path
) -> None:
    world = await worlds.open("auth", **(settings | {"ldap_file": written(configuration(slapd, tmp_path, nested=False), tmp_path)}))
    await make_group(world, "everybody", group("all"))
    ada, bob = await enrol(world), await enrol(world, "bob")
    assert ((await row(world, ada.user_id)).groups, (await row(world, bob.user_id)).groups) == ([], ["everybody"])


async def test_groups_that_hold_each_other_end(world: World, slapd: Slapd) -> None:
    with slapd.root() as root:
        root.modify(group("staff"), {"member": [(ldap3.MODIFY_ADD, [group("all")])]})
    await make_group(world, "everybody", group("all"))
    ada = await enrol(world)
    assert (await row(world, ada.user_id)).groups == ["everybody"]


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("ada", "wrong horse"),
        ("nobody", PASSWORD),
        ("*", PASSWORD),
        ("ada)(uid=*", PASSWORD),
        ("a*", PASSWORD),
        (f"uid=ada,{PEOPLE}", PASSWORD),
        ("\\61da", PASSWORD),
        ("hortus", LOOKING_PASSWORD),
    ],
)
async def test_whatever_is_wrong_is_refused_in_one_way_and_makes_no_account(world: World, name: str, password: str) -> None:
    answer = await show(world, name, password)
    assert answer.status_code == 401, answer.text
    assert reason(answer) == "sign-in-refused"
    assert (await world.sql("SELECT count(*) AS n FROM users WHERE source = 'ldap'"))[0].n == 0


async def test_an_empty_password_never_reaches_the_directory(world: World, source: Directory) -> None:
    assert (await show(world, "ada", "")).status_code == 422
    assert not await source.check(person("ada"), "")
    assert not await source.check("", PASSWORD)
    assert await source.check(person("ada"), PASSWORD)
    assert not await source.check(None, PASSWORD)


async def test_a_right_password_with_a_wrong_code_is_refused_like_anything_wrong(world: World) -> None:
    ada = await enrol(world)
    answer = await ada.sign_in(code="000000" if ada.totp.now() != "000000" else "000001")
    assert (answer.status_code, reason(answer)) == (401, "sign-in-refused")


async def test_failures_are_slowed_down_before_the_directory_is_asked(world: World, slapd: Slapd) -> None:
    for _ in range(5):
        assert (await show(world, "ada", "wrong horse")).status_code == 401
    with slapd.away():
        answer = await show(world, "ada", PASSWORD)
    assert (answer.status_code, reason(answer)) == (429, "slow-down")


async def test_strangers_who_type_a_name_stop_neither_its_owner_nor_who_has_the_link_of_a_reset(world: World) -> None:
    ada = await enrol(world)
    many = domain.patience.FREE_OF_NAME + 5
    for number in range(many):
        tried = await ada.sign_in(username="ada", password="wrong", code=another_code(ada.totp), source=f"198.51.100.{number}")
        assert tried.status_code == 401
    assert (await ada.sign_in(username="ada", source=f"198.51.100.{many - 1}")).status_code == 429
    assert (await ada.sign_in(username="ada", source="203.0.113.7")).status_code == 201
    token = await reset(ada)
    accepted = await world.post("/factor-enrolments/acceptance", json={"token": token, "password": PASSWORD})
    assert accepted.status_code == 200, accepted.text


async def stretch(world: World) -> None:
    """Make waits that were imposed half a minute longer, so that a slow machine meets them too."""
    await world.sql("UPDATE attempts SET next_at = next_at + interval '30 seconds' WHERE next_at > seen_at")


async def test_whoever_fails_behind_their_address_a_known_device_is_heard_with_the_name_that_only_the_directory_knows(world: World) -> None:
    ada = await enrol(world)
    device = cookie(await ada.sign_in(username="ada"), DEVICE)
    for _ in range(domain.patience.FREE_OF_NAME_FROM_SOURCE):
        assert (await ada.sign_in(username="ada", password="wrong")).status_code == 401
    await stretch(world)
    assert (await ada.sign_in(username="ada")).status_code == 429
    assert (await ada.sign_in(username="ada", device=device, password="wrong")).status_code == 401
    assert (await ada.sign_in(username="ada", device=device)).status_code == 201
    assert (await ada.sign_in(username=ada.username, device=device)).status_code == 201


async def test_a_known_device_knows_that_name_still_after_its_person_signed_in_another_way_and_only_theirs(world: World) -> None:
    ada, bob = await enrol(world), await enrol(world, "bob")
    authenticator = Authenticator()
    await register(ada, authenticator)
    first = cookie(await ada.sign_in(username="ada"), DEVICE)
    by_name = cookie(await ada.sign_in(device=first), DEVICE)
    alone = await world.post("/sessions", json={"passkey": await shown(world, authenticator)}, jar={DEVICE: str(by_name)})
    device = cookie(alone, DEVICE)
    assert device not in (None, first, by_name)
    others = cookie(await bob.sign_in(username="bob", device=device), DEVICE)
    unnamed = cookie(await ada.sign_in(), DEVICE)
    for name in ("ada", "bob"):
        for _ in range(domain.patience.FREE_OF_NAME_FROM_SOURCE):
            await show(world, name, "wrong", source="192.0.2.1")
    await stretch(world)
    assert (await ada.sign_in(username="ada", device=others)).status_code == 429
    assert (await ada.sign_in(username="ada", device=unnamed)).status_code == 429
    assert (await bob.sign_in(username="bob", device=device)).status_code == 429
    assert (await ada.sign_in(username="ada", device=device)).status_code == 201
    assert (await bob.sign_in(username="bob", device=others)).status_code == 201


async def test_a_burst_of_tries_does_not_use_up_those_after_which_the_directory_locks(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    binds = counted(world, monkeypatch)
    answers = await asyncio.gather(*[show(world, "ada", f"wrong {number}") for number in range(20)])
    assert {answer.status_code for answer in answers} == {401, 429}
    assert len(binds) <= 7


def counted(world: World, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """As whom binds are tried, from here on."""
    source = world.runtime.extra["tools"].directory
    binds: list[str] = []
    check = source._check

    def note(dn: str, password: str) -> bool:
        binds.append(dn)
        return bool(check(dn, password))

    monkeypatch.setattr(source, "_check", note)
    return binds


async def test_failed_binds_as_one_person_are_few_by_whichever_of_their_names_and_from_wherever(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await enrol(world)
    device = cookie(await ada.sign_in(username="ada"), DEVICE)
    binds = counted(world, monkeypatch)
    names, wrong = ("ada", "ada@example.org", ada.username), another_code(ada.totp)
    await asyncio.gather(
        *[ada.sign_in(username=name, password="wrong", code=wrong, source=f"192.0.2.{number}") for name in names for number in range(4)]
    )
    assert binds.count(person("ada")) == 3
    assert len(binds) == 12
    elsewhere = await ada.sign_in(username="ada", code=wrong, source="203.0.113.7")
    assert (elsewhere.status_code, reason(elsewhere)) == (401, "sign-in-refused")
    assert binds.count(person("ada")) == 3
    assert (await ada.sign_in(username="ada", device=device)).status_code == 201


async def use_up_binds(ada: Account, binds: list[str]) -> None:
    """Somebody without ada's second factor fails as often as anybody may."""
    before = binds.count(person("ada"))
    for number in range(5):
        await ada.sign_in(username="ada", password="wrong", code=another_code(ada.totp), source=f"198.51.100.{number}")
    assert binds.count(person("ada")) == before + 3


@pytest.mark.parametrize("kind", ["code", "recovery_code", "passkey"])
async def test_who_shows_their_second_factor_signs_in_also_after_others_used_up_the_binds(
    world: World, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    ada = await enrol(world)
    authenticator = Authenticator()
    await register(ada, authenticator)
    code = (await recovery_codes(ada))[0]
    await use_up_binds(ada, counted(world, monkeypatch))
    right: dict[str, Any] = {"code": await ada.new_code(), "recovery_code": code, "passkey": await shown(world, authenticator)}
    assert (await show(world, **{kind: right[kind]})).status_code == 201
    again = await show(world, **{kind: right[kind]})
    assert (again.status_code, reason(again)) == (401, "sign-in-refused")


async def test_who_shows_their_second_factor_and_not_their_password_has_three_binds_of_their_own_and_waits_then(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await enrol(world)
    binds = counted(world, monkeypatch)
    await use_up_binds(ada, binds)
    for number in range(5):
        assert (await ada.sign_in(username="ada", password="wrong", source=f"192.0.2.{number}")).status_code == 401
    assert binds.count(person("ada")) == 6
    assert reason(await ada.sign_in(username="ada", source="203.0.113.7")) == "sign-in-refused"
    assert binds.count(person("ada")) == 6
    await world.sql("UPDATE attempts SET seen_at = now() - interval '30 minutes', next_at = now()")
    async with world.work() as uow:
        await patience.forget(uow)
    assert (await ada.sign_in(username="ada")).status_code == 201


async def test_a_second_factor_that_was_used_or_is_anothers_gives_no_binds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ada, bob = await enrol(world), await enrol(world, "bob")
    authenticator = Authenticator()
    await register(bob, authenticator)
    used, codes = await ada.new_code(), await recovery_codes(bob)
    assert (await show(world, code=used)).status_code == 201
    binds = counted(world, monkeypatch)
    await use_up_binds(ada, binds)
    for factor in ({"code": used}, {"recovery_code": codes[0]}, {"passkey": await shown(world, authenticator)}, {}):
        assert reason(await show(world, **factor)) == "sign-in-refused"
    assert binds.count(person("ada")) == 3


async def test_a_device_cookie_that_was_stolen_uses_up_no_binds_of_who_shows_the_second_factor_beside_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await enrol(world)
    stolen = cookie(await ada.sign_in(username="ada"), DEVICE)
    binds = counted(world, monkeypatch)
    for _ in range(12):
        await ada.sign_in(username="ada", code=another_code(ada.totp), device=stolen)
        await world.sql("UPDATE attempts SET next_at = now()")
    assert binds.count(person("ada")) == 10
    assert (await ada.sign_in(username="ada", device=stolen)).status_code == 201


@pytest.mark.parametrize("kind", ["code", "recovery_code", "passkey"])
async def test_the_look_ahead_of_a_bind_uses_no_second_factor_up(world: World, kind: str) -> None:
    ada = await enrol(world)
    authenticator = Authenticator()
    await register(ada, authenticator)
    code = (await recovery_codes(ada))[0]
    right: dict[str, Any] = {"code": await ada.new_code(), "recovery_code": code, "passkey": await shown(world, authenticator)}
    factor = {kind: right[kind]}
    assert [(await show(world, password=password, **factor)).status_code for password in ("wrong", PASSWORD, PASSWORD)] == [401, 201, 401]


async def test_of_two_sign_ins_at_once_with_one_code_one_wins(world: World) -> None:
    ada = await enrol(world)
    code = await ada.new_code()
    answers = await asyncio.gather(*[ada.sign_in(username=name, code=code) for name in ("ada", ada.username)])
    assert sorted(answer.status_code for answer in answers) == [201, 401]


@pytest.fixture
def asked_of_directory(world: World, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the directory is asked to do, in order."""
    source = world.runtime.extra["tools"].directory
    asked: list[str] = []
    run = source._run

    async def note(work: Callable[..., object], *arguments: object) -> object:
        asked.append(work.__name__)
        return await run(work, *arguments)

    monkeypatch.setattr(source, "_run", note)
    return asked


@pytest.mark.parametrize("kind", ["code", "recovery_code", "passkey", "nothing"])
async def test_without_the_second_factor_nothing_says_that_the_password_is_right(
    world: World, asked_of_directory: list[str], statements: list[str], kind: str
) -> None:
    ada, bob, local = await enrol(world), await enrol(world, "bob"), await join(world, "local@elsewhere.org")
    await make_group(world, "staff", group("staff"))
    mine, others = Authenticator(), Authenticator()
    await register(ada, mine)
    await register(bob, others)
    await recovery_codes(ada)
    work = {}
    for name, password in (
        ("ada", "wrong"),
        ("ada", PASSWORD),
        (ada.username, PASSWORD),
        ("nobody", PASSWORD),
        (local.username, PASSWORD),
        (local.username, local.password),
    ):
        wrong: dict[str, dict[str, Any]] = {
            "code": {"code": another_code(ada.totp)},
            "recovery_code": {"recovery_code": "aaaaa-aaaaa"},
            "passkey": {"passkey": await shown(world, others)},
            "nothing": {},
        }
        await world.sql("DELETE FROM attempts")
        asked_of_directory.clear()
        statements.clear()
        assert reason(await show(world, name, password, **wrong[kind])) == "sign-in-refused"
        work[name, password] = (tuple(asked_of_directory), tuple(statements))
    first = work["ada", "wrong"]
    assert first[0] == ("_find", "_check")
    assert {who: done for who, done in work.items() if done != first} == {}
    asked_of_directory.clear()
    assert (await ada.sign_in(username="ada")).status_code == 201
    assert asked_of_directory == ["_find", "_check", "_groups_of_one"]
    assert (await row(world, ada.user_id)).groups == ["staff"]


async def test_a_right_password_without_the_second_factor_forgets_no_failed_bind(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ada = await enrol(world)
    binds = counted(world, monkeypatch)
    for _ in range(5):
        assert (await ada.sign_in(username="ada", code=another_code(ada.totp))).status_code == 401
        await world.sql("UPDATE attempts SET next_at = now()")
    assert binds.count(person("ada")) == 3
    assert (await ada.sign_in(username="ada")).status_code == 201


@pytest.mark.parametrize("password", [PASSWORD, "wrong"])
async def test_who_guesses_at_the_second_factor_of_somebody_of_a_directory_needs_two_codes_after_a_hundred_tries(
    world: World, mailed: World, password: str
) -> None:
    """Past the binds that may fail nobody is asked whether the password is right, so whatever is tried then counts."""
    ada = await enrol(world)
    device = cookie(await ada.sign_in(username="ada"), DEVICE)
    for number in range(5):
        await ada.sign_in(username="ada", password=password, code=another_code(ada.totp), source=f"198.51.100.{number}")
    (found,) = await world.sql("SELECT failures FROM attempts WHERE length(name) = 16")
    assert found.failures == (5 if password == PASSWORD else 2)
    assert (await ada.sign_in(username="ada", device=device, source="203.0.113.7")).status_code == 201
    await world.sql("UPDATE attempts SET failures = 99 WHERE length(name) IN (16, 17)")
    await guesses.tell(mailed.runtime.extra["tools"])
    assert reason(await ada.sign_in(username=ada.username, password=password, code=another_code(ada.totp))) == "sign-in-refused"
    await world.recorded()
    await guesses.tell(mailed.runtime.extra["tools"])
    assert [record["action"] for record in await world.recorded()] == ["factor.find_guessed"]
    assert await letters(world) == []
    assert reason(await ada.sign_in(username="ada", source="203.0.113.8")) == "sign-in-refused"
    assert (await ada.sign_in(username="ada", device=device, source="203.0.113.7")).status_code == 201
    assert (await ada.sign_in(username="ada@example.org", source="203.0.113.8")).status_code == 201


async def test_a_copied_passkey_of_somebody_of_a_directory_is_recorded_and_told(world: World, mailed: World) -> None:
    ada = await enrol(world)
    authenticator = Authenticator()
    await register(ada, authenticator)
    await world.sql("UPDATE passkeys SET sign_count = 9")
    await world.recorded()
    assert reason(await show(mailed, passkey=await shown(world, authenticator))) == "sign-in-refused"
    assert "passkey.find_copied" in [record["action"] for record in await world.recorded()]
    assert len(await letters(world)) == 1


async def test_who_has_no_second_factor_and_need_not_have_one_signs_in_and_steps_up_with_the_directorys_password(
    worlds: Worlds, settings: dict[str, Any]
) -> None:
    world = await worlds.open("auth", **settings, factor_policy="optional")
    for enrolled_at in ("NULL", "now()"):
        await show(world)
        await world.sql(f"UPDATE users SET factor_enrolled_at = {enrolled_at}")
        opened = await show(world)
        assert opened.status_code == 201, opened.text
        ada = Account(world, opened.json()["user"], pyotp.TOTP(pyotp.random_base32()), PASSWORD)
        actor = ada.actor(session_id=opened.json()["session_id"])
        answers = [await world.post("/sessions/current/factor", actor, json={"password": each}) for each in ("wrong", PASSWORD)]
        assert [answer.status_code for answer in answers] == [401, 200]
    assert reason(await show(world, code="000000")) == "sign-in-refused"


async def without_a_factor(worlds: Worlds, settings: dict[str, Any]) -> tuple[World, Account, Actor]:
    """Somebody of the directory who has no second factor and need not have one, and their session."""
    world = await worlds.open("auth", **settings, factor_policy="optional")
    opened = await show(world)
    assert opened.status_code == 201, opened.text
    ada = Account(world, opened.json()["user"], pyotp.TOTP(pyotp.random_base32()), PASSWORD)
    return world, ada, ada.actor(session_id=UUID(opened.json()["session_id"]))


async def test_nobody_outside_a_session_uses_up_the_binds_with_which_its_person_shows_their_password(
    worlds: Worlds, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    world, ada, actor = await without_a_factor(worlds, settings)
    binds = counted(world, monkeypatch)
    for number in range(5):
        await show(world, ada.username, "wrong", source=f"198.51.100.{number}")
    assert binds.count(person("ada")) == 3
    stepped = await world.post("/sessions/current/factor", actor, json={"password": PASSWORD})
    assert stepped.status_code == 200, stepped.text


async def test_in_a_session_as_few_binds_fail_as_outside_and_another_session_has_its_own(
    worlds: Worlds, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    world, ada, actor = await without_a_factor(worlds, settings)
    other = ada.actor(session_id=UUID((await show(world)).json()["session_id"]))
    binds = counted(world, monkeypatch)
    answers = [await world.post("/sessions/current/factor", actor, json={"password": each}) for each in ("wrong",) * 4 + (PASSWORD,)]
    assert [(answer.status_code, reason(answer)) for answer in answers] == [(401, "sign-in-refused")] * 5
    assert binds.count(person("ada")) == 3
    made = await world.post("/client-codes", actor, json={"challenge": s256("v" * 43)})
    opened = await world.post("/sessions", json={"client_code": made.json()["code"], "verifier": "v" * 43})
    handed_over = ada.actor(session_id=UUID(opened.json()["session_id"]))
    assert reason(await world.post("/sessions/current/factor", handed_over, json={"password": "wrong"})) == "sign-in-refused"
    assert binds.count(person("ada")) == 3, "who hands a session over has no new binds in it"
    assert (await world.post("/sessions/current/factor", other, json={"password": PASSWORD})).status_code == 200
    assert (await show(world)).status_code == 201


async def test_the_link_of_a_reset_counts_beside_the_directorys_password_although_no_second_factor_is_shown(world: World) -> None:
    ada = await enrol(world)
    token = await reset(ada)
    assert reason(await show(world)) == "sign-in-refused"
    wrong, right = [
        await world.post("/factor-enrolments/acceptance", json={"token": token, "password": each}) for each in ("wrong", PASSWORD)
    ]
    assert (wrong.status_code, reason(wrong), right.status_code) == (422, "wrong-password", 200)
    ada.totp = pyotp.TOTP(right.json()["totp_secret"])
    confirmed = await world.post("/factor-enrolments/confirmation", json={"token": token, "code": ada.totp.now()})
    assert confirmed.status_code == 200, confirmed.text
    assert (await ada.sign_in()).status_code == 201


async def test_a_bind_that_succeeds_forgets_those_that_failed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ada = await enrol(world)
    binds = counted(world, monkeypatch)
    for _ in range(3):
        for _ in range(2):
            assert (await ada.sign_in(username="ada", password="wrong")).status_code == 401
        assert (await ada.sign_in(username="ada")).status_code == 201
    assert binds == [person("ada")] * 9


async def test_a_device_has_a_count_of_failed_binds_of_its_own(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ada = await enrol(world)
    stolen = cookie(await ada.sign_in(username="ada"), DEVICE)
    binds = counted(world, monkeypatch)
    for number in range(12):
        await ada.sign_in(username="ada", password="wrong", device=stolen, source=f"192.0.2.{number}")
    assert binds.count(person("ada")) == 10
    assert (await ada.sign_in(username="ada", source="203.0.113.7")).status_code == 201


async def test_a_name_that_is_anothers_login_in_the_directory_is_whose_username_it_is(
    world: World, slapd: Slapd, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await enrol(world)
    with slapd.root() as root:
        slapd.add_person(root, ada.username, mail="other@example.org", userPassword="the other one's")
    binds = counted(world, monkeypatch)
    assert (await show(world, ada.username, "the other one's")).status_code == 401
    assert (await ada.sign_in(username=ada.username)).json()["user"]["user_id"] == str(ada.user_id)
    assert binds == [person("ada")] * 2
    assert reason(await show(world, "other@example.org", "the other one's")) == "factor-enrolment-needed"


async def test_an_address_of_a_local_account_is_never_linked(world: World) -> None:
    await join(world, "ada@example.org")
    with capture_logs() as logs:
        answer = await show(world, "ada")
    assert (answer.status_code, reason(answer)) == (401, "sign-in-refused")
    assert any("another account has the address" in line["event"] for line in logs)
    assert (await world.sql("SELECT count(*) AS n FROM users WHERE source = 'ldap'"))[0].n == 0


async def test_a_local_account_signs_in_as_ever_and_its_password_never_goes_to_the_directory(world: World, slapd: Slapd) -> None:
    await join(world, "eve@elsewhere.org")
    eve = await join(world, "ada@elsewhere.org")
    with slapd.root() as root:
        slapd.add_person(root, eve.username, mail="other@example.org")
    assert (await eve.sign_in()).status_code == 201
    assert (await eve.sign_in(password=PASSWORD)).status_code == 401
    with slapd.away():
        assert (await eve.sign_in()).status_code == 201


async def test_when_the_directory_is_away_whatever_is_not_right_is_503(world: World, slapd: Slapd) -> None:
    ada, local = await enrol(world), await join(world, "local@elsewhere.org")
    with slapd.away():
        for answer in (
            await ada.sign_in(),
            await show(world, "nobody"),
            await local.sign_in(password="wrong horse battery"),
            await local.sign_in(code="000000" if local.totp.now() != "000000" else "000001"),
        ):
            assert (answer.status_code, reason(answer), answer.headers["retry-after"]) == (503, "directory-away", "5")
        assert (await local.sign_in()).status_code == 201


async def test_somebody_without_an_address_signs_in_where_a_domain_for_them_is_configured(
    world: World, worlds: Worlds, settings: dict[str, Any], slapd: Slapd, tmp_path: Path
) -> None:
    change(slapd, person("ada"), mail=None)
    assert reason(await show(world)) == "sign-in-refused"
    file = written(configuration(slapd, tmp_path, mail_domain="hospital.example"), tmp_path)
    other = await worlds.open("auth", beside=world, **(settings | {"ldap_file": file}))
    ada = await enrol(other)
    assert (ada.username, (await row(world, ada.user_id)).email) == ("ada00000", "ada@hospital.example")


async def test_a_sign_in_by_the_directory_is_its_word(world: World) -> None:
    ada = await enrol(world)
    await world.sql("UPDATE users SET vouched_at = now() - interval '31 days'")
    assert (await ada.sign_in()).status_code == 201
    assert await world.now() - (await row(world, ada.user_id)).vouched_at < timedelta(hours=1)


async def test_only_people_of_named_groups_sign_in(worlds: Worlds, settings: dict[str, Any], slapd: Slapd, tmp_path: Path) -> None:
    file = written(configuration(slapd, tmp_path, only_groups=[group("staff").upper()]), tmp_path)
    world = await worlds.open("auth", **(settings | {"ldap_file": file}))
    assert reason(await show(world, "bob")) == "sign-in-refused"
    ada = await enrol(world)
    await ada.sign_in()
    await world.said()
    with slapd.root() as root:
        root.modify(group("staff"), {"member": [(ldap3.MODIFY_REPLACE, [person("bob")])]})
    assert reason(await ada.sign_in()) == "sign-in-refused"
    await sync(world)
    assert people(await world.said()) == [("deactivated", [], [])]


async def test_two_first_sign_ins_at_once_make_one_account(world: World, worlds: Worlds, settings: dict[str, Any]) -> None:
    replica = await worlds.open("auth", beside=world, **settings)
    answers = await asyncio.gather(*[show(each) for each in (world, replica) * 2])
    assert {reason(answer) for answer in answers} == {"factor-enrolment-needed"}
    assert (await world.sql("SELECT count(*) AS n FROM users"))[0].n == 1


async def test_two_people_with_one_login_are_nobody(world: World, slapd: Slapd) -> None:
    with slapd.root() as root:
        slapd.add_person(root, "twin", mail="ada@example.org")
    assert reason(await show(world, "ada@example.org")) == "sign-in-refused"
    await enrol(world, "ada")


async def test_unknown_local_and_directory_names_take_about_the_same_time(world: World) -> None:
    await enrol(world)
    local = await join(world, "local@elsewhere.org")

    taken: dict[str, list[float]] = {"ada": [], "nobody": [], local.username: []}
    for _ in range(5):
        for name, seconds in taken.items():  # in turn, so that what else the machine does weighs on all alike
            await world.sql("DELETE FROM attempts")
            began = time.perf_counter()
            assert (await show(world, name, "wrong horse", code="000000")).status_code == 401
            seconds.append(time.perf_counter() - began)
    times = {name: statistics.median(seconds) for name, seconds in taken.items()}
    assert max(times.values()) < 2 * min(times.values()), times


# TLS


async def asked(slapd: Slapd, folder: Path, **other: Any) -> str:
    """What is said of a directory that cannot be asked like this."""
    made = Directory(DirectorySettings(**configuration(slapd, folder, **other)))
    try:
        with pytest.raises(Away) as caught:
            await made.find("ada")
    finally:
        made.close()
    return str(caught.value)


async def test_a_certificate_for_another_name_or_of_another_authority_is_not_believed(slapd: Slapd, tmp_path: Path) -> None:
    port = slapd.ldaps.rpartition(":")[2]
    assert "verified TLS" in await asked(slapd, tmp_path, urls=[f"ldaps://localhost:{port}"])
    assert "verified TLS" in await asked(slapd, tmp_path, trust_file=None)
    plain = slapd.plain.rpartition(":")[2]
    assert "verified TLS" in await asked(slapd, tmp_path, urls=[f"ldap://localhost:{plain}"], starttls=True)


async def test_a_server_without_tls_or_without_an_answer_gets_no_password(slapd: Slapd, tmp_path: Path) -> None:
    port = slapd.plain.rpartition(":")[2]
    assert "verified TLS" in await asked(slapd, tmp_path, urls=[f"ldaps://127.0.0.1:{port}"])
    with socket.create_server(("127.0.0.1", 0)) as silent:
        dead = silent.getsockname()[1]
        began = time.monotonic()
        assert "verified TLS" in await asked(slapd, tmp_path, urls=[f"ldaps://127.0.0.1:{dead}"], timeout_s=1)
        assert time.monotonic() - began < 4


@pytest.mark.parametrize(
    "said", [b"", b"\x00" * 64, b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x30\x0c\x02\x01\x01\x61\x07\x0a\x01\x00\x04\x00\x04\x01\xff"]
)
async def test_a_server_that_answers_anything_else_is_away(slapd: Slapd, tmp_path: Path, said: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(said)
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(slapd.folder / "server.pem", slapd.folder / "server.key")
    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        await asked(slapd, tmp_path, urls=[f"ldaps://127.0.0.1:{port}"], timeout_s=1)


async def test_another_server_is_asked_when_the_first_does_not_answer(slapd: Slapd, tmp_path: Path) -> None:
    urls = [f"ldaps://127.0.0.1:{openldap.free_port()}", slapd.ldaps]
    made = Directory(DirectorySettings(**configuration(slapd, tmp_path, urls=urls)))
    assert [entry.dn for entry in await made.find("ada")] == [person("ada")]
    made.close()


async def test_an_account_that_looks_people_up_with_a_wrong_password_is_no_answer(slapd: Slapd, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong")
    assert "refused" in await asked(slapd, tmp_path, password_file=str(wrong))


# Names


typed = st.one_of(
    st.text(max_size=20), st.text("adbove*()\\=,&|!<>~ \x00", max_size=12), st.sampled_from(["ada", "Bob", "eve@example.org"])
)


@bounded(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(typed)
def test_no_typed_name_finds_anybody_but_whose_login_it_is(source: Directory, name: str) -> None:
    async def find() -> list[str]:
        entries = await source.find(domain.accounts.normal_name(name) or "-")
        shown = [domain.directory.person(entry.dn, entry.attributes, source.settings, NOW) for entry in entries]
        return [each.dn for each in shown if each is not None and domain.directory.is_called(each, name)]

    normal = domain.accounts.normal_name(name)
    expected = [person(login) for login in openldap.NAMES if normal in (login, f"{login}@example.org")]
    assert asyncio.run(find()) == expected


# Following the directory


async def test_who_is_taken_out_of_a_group_loses_its_roles_with_the_next_sync(world: World, slapd: Slapd) -> None:
    await join(world, "root@elsewhere.org", ["administrator"])
    await make_group(world, "admins", group("staff"), roles=("administrator",))
    ada = await enrol(world)
    await enrol(world, "bob")
    assert (await row(world, ada.user_id)).cluster_roles == ["administrator"]
    await world.said()
    await sync(world)
    assert await world.said() == []
    with slapd.root() as root:
        root.modify(group("staff"), {"member": [(ldap3.MODIFY_REPLACE, [person("bob")])]})
    await sync(world)
    assert sorted(people(await world.said())) == [("active", [], []), ("active", ["admins"], ["administrator"])]
    await sync(world)
    assert await world.said() == []


async def test_who_is_taken_out_of_a_group_of_the_directory_is_out_of_the_projects_it_has_a_role_in(
    world: World, worlds: Worlds, slapd: Slapd
) -> None:
    projects = await worlds.open("projects")
    study = await found(projects, ada=uuid7())
    given = await projects.post(f"{study.path}/group-roles", study.owner, json={"group": "staff", "role": "data_scientist"})
    assert given.status_code == 201
    await make_group(world, "staff", group("staff"))
    ada = await enrol(world)
    await enrol(world, "bob")
    await projects.hear(*[fact for fact in await world.said() if isinstance(fact, User)])
    assert [(fact.user_id, fact.role) for fact in await projects.said() if isinstance(fact, Membership)] == [
        (ada.user_id, "data_scientist")
    ]
    assert (await projects.get(study.path, study.as_scientist(ada.user_id))).status_code == 200
    with slapd.root() as root:
        root.modify(group("staff"), {"member": [(ldap3.MODIFY_REPLACE, [person("eve")])]})
    await sync(world)
    await projects.hear(*[fact for fact in await world.said() if isinstance(fact, User)])
    assert [(fact.user_id, fact.role) for fact in await projects.said() if isinstance(fact, Membership)] == [(ada.user_id, None)]
    assert (await projects.get(study.path, study.as_scientist(ada.user_id))).status_code == 404


async def test_the_background_work_follows_the_directory_by_itself(worlds: Worlds, settings: dict[str, Any], slapd: Slapd) -> None:
    world = await worlds.open("auth", **settings, ldap_sync_s=0.05)
    await make_group(world, "staff", group("staff"))
    ada = await enrol(world)
    await world.said()
    async with world.running(follow):
        with slapd.root() as root:
            root.delete(group("staff"))
        said: list[Fact] = []
        async with asyncio.timeout(10):
            while not said:
                await asyncio.sleep(0.01)
                said = await world.said()
    assert people(said) == [("active", [], [])]
    assert (await row(world, ada.user_id)).groups == []


async def disable(slapd: Slapd, how: str) -> None:
    with slapd.root() as root:
        if how == "gone":
            root.delete(person("ada"))
        else:
            root.modify(person("ada"), {"pwdAccountLockedTime": [(ldap3.MODIFY_REPLACE, ["000001010000Z"])]})


@pytest.mark.parametrize("how", ["gone", "locked"])
async def test_who_is_gone_or_locked_in_the_directory_is_deactivated_and_their_sessions_end(world: World, slapd: Slapd, how: str) -> None:
    ada = await enrol(world)
    await enrol(world, "bob")
    assert (await ada.sign_in()).status_code == 201
    await world.said()
    await disable(slapd, how)
    await sync(world)
    said = await world.said()
    assert people(said) == [("deactivated", [], [])]
    assert [fact.live for fact in said if isinstance(fact, Session)] == [False]
    assert (await world.sql("SELECT ended_because FROM sessions"))[0].ended_because == "directory"
    assert reason(await ada.sign_in()) == "sign-in-refused"
    await sync(world)
    assert await world.said() == []


async def test_who_comes_back_is_active_again_unless_an_administrator_deactivated_them_too(world: World, slapd: Slapd) -> None:
    await make_group(world, "everybody", group("all"))
    ada, bob = await enrol(world), await enrol(world, "bob")
    await register(bob, Authenticator())
    locked = {"pwdAccountLockedTime": "000001010000Z"}
    for name in ("ada", "bob"):
        change(slapd, person(name), **locked)
    await sync(world)
    version = (await row(world, bob.user_id)).version
    await world.recorded()
    left = await world.patch(f"/users/{bob.user_id}", administrator(), json={"status": "deactivated"}, version=version)
    assert (left.status_code, left.json()["groups"]) == (200, []), left.text
    assert [(record["action"], record["resource"]["status"]) for record in await world.recorded()] == [("user.change", "deactivated")]
    for table in ("credentials", "passkeys", "links", "group_members"):
        assert await world.sql(f"SELECT 1 FROM {table} WHERE user_id = :id", id=bob.user_id) == [], table
    await sync(world)
    await world.said()
    for name in ("ada", "bob"):
        change(slapd, person(name), pwdAccountLockedTime=None)
    await sync(world)
    assert people(await world.said()) == [("active", ["everybody"], [])]
    assert ((await row(world, ada.user_id)).status, (await row(world, bob.user_id)).status) == ("active", "deactivated")
    assert (await ada.sign_in()).status_code == 201


async def test_taking_a_role_from_whom_only_the_directory_deactivated_erases_nothing_else(world: World, slapd: Slapd) -> None:
    await make_group(world, "everybody", group("all"))
    ada = await enrol(world)
    await enrol(world, "bob")
    await register(ada, Authenticator())

    async def give(*roles: str) -> httpx2.Response:
        version = (await row(world, ada.user_id)).version
        return await world.patch(f"/users/{ada.user_id}", administrator(), json={"cluster_roles": list(roles)}, version=version)

    assert (await give("auditor")).status_code == 200
    change(slapd, person("ada"), pwdAccountLockedTime="000001010000Z")
    await sync(world)
    await world.said()
    assert reason(await give("administrator")) == "has-left"
    taken = await give()
    assert (taken.status_code, taken.json()["status"], taken.json()["cluster_roles"]) == (200, "deactivated", []), taken.text
    assert people(await world.said()) == [("deactivated", ["everybody"], [])]
    change(slapd, person("ada"), pwdAccountLockedTime=None)
    await sync(world)
    assert people(await world.said()) == [("active", ["everybody"], [])]
    assert len(await world.sql("SELECT 1 FROM passkeys WHERE user_id = :id", id=ada.user_id)) == 1
    assert (await ada.sign_in()).status_code == 201, "the second factor of before counts"


async def test_links_of_whom_the_directory_drops_are_void_also_when_it_shows_them_again(world: World, slapd: Slapd) -> None:
    ada = await enrol(world)
    await enrol(world, "bob")
    token = await reset(ada)
    change(slapd, person("ada"), pwdAccountLockedTime="000001010000Z")
    await sync(world)
    change(slapd, person("ada"), pwdAccountLockedTime=None)
    await sync(world)
    assert (await row(world, ada.user_id)).status == "active"
    late = await world.post("/factor-enrolments/acceptance", json={"token": token, "password": PASSWORD})
    assert (late.status_code, reason(late)) == (404, "link-not-open")


async def test_an_account_that_an_administrator_blocked_stays_blocked(world: World) -> None:
    ada = await enrol(world)
    version = (await row(world, ada.user_id)).version
    assert (await world.patch(f"/users/{ada.user_id}", administrator(), json={"status": "blocked"}, version=version)).status_code == 200
    assert reason(await ada.sign_in()) == "sign-in-refused"
    await sync(world)
    assert (await row(world, ada.user_id)).status == "blocked"


async def test_whom_an_administrator_lets_in_again_sets_up_a_second_factor_anew(world: World) -> None:
    await make_group(world, "staff", group("staff"))
    ada = await enrol(world)
    for status in ("deactivated", "active"):
        version = (await row(world, ada.user_id)).version
        answer = await world.patch(f"/users/{ada.user_id}", administrator(), json={"status": status}, version=version)
        assert (answer.status_code, answer.json()["status"]) == (200, status), answer.text
        await sync(world)
        assert (await row(world, ada.user_id)).groups == (["staff"] if status == "active" else [])
    again = await enrol(world)
    assert again.user_id == ada.user_id
    assert (await again.sign_in()).status_code == 201


async def test_who_comes_back_between_two_syncs_signs_in_at_once(world: World, slapd: Slapd) -> None:
    ada = await enrol(world)
    await enrol(world, "bob")
    change(slapd, person("ada"), pwdAccountLockedTime="000001010000Z")
    await sync(world)
    change(slapd, person("ada"), pwdAccountLockedTime=None)
    assert (await ada.sign_in()).status_code == 201


async def test_a_new_address_in_the_directory_is_taken_up_and_somebody_elses_is_not(world: World, slapd: Slapd) -> None:
    ada = await enrol(world)
    change(slapd, person("ada"), mail="ada.l@example.org")
    await sync(world)
    assert (await row(world, ada.user_id)).email == "ada.l@example.org"
    other = await join(world, "taken@example.org")
    change(slapd, person("ada"), mail="taken@example.org")
    async with world.work(administrator()) as uow:
        await repository.accounts.user(uow.session, other.user_id, lock=True)
        async with asyncio.timeout(20):  # nobody waits for whoever holds the other's account: they may wait for this one
            await sync(world)
    assert (await row(world, ada.user_id)).email == "ada.l@example.org"


async def test_a_directory_that_is_away_changes_nothing_and_that_is_said_until_it_is_back(
    world: World, slapd: Slapd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.auth.directory.QUIET_S", 0.0)
    await make_group(world, "staff", group("staff"))
    ada = await enrol(world)
    await world.said()
    with slapd.away():
        await sync(world)
    assert await warnings(world) == ["directory: nothing follows from it: no server answers over verified TLS"]
    assert await world.said() == []
    assert ((await row(world, ada.user_id)).status, (await row(world, ada.user_id)).groups) == ("active", ["staff"])
    await sync(world)
    assert await warnings(world) == []


async def test_an_answer_without_anybody_changes_nothing(world: World, slapd: Slapd) -> None:
    await enrol(world)
    await world.said()
    with slapd.root() as root:
        for name in openldap.NAMES:
            root.delete(person(name))
    with capture_logs() as logs:
        await sync(world)
    assert any("nobody at all" in str(line.get("error")) for line in logs)
    assert await warnings(world) == ["directory: nothing follows from it: it shows nobody at all"]
    assert await world.said() == []


async def warnings(world: World) -> list[str]:
    return list((await world.client.get("/readyz")).json()["warnings"])


async def ten(world: World, slapd: Slapd, in_mri: int = 2) -> list[str]:
    """Ten people, p0 to p9, who came once; the last of them are in the group mri."""
    names = [f"p{number}" for number in range(10)]
    with slapd.root() as root:
        for name in names:
            slapd.add_person(root, name)
        root.add(group("mri"), ["groupOfNames"], {"member": [person(name) for name in names[-in_mri:]]})
    await make_group(world, "mri", group("mri"))
    for name in names:
        assert reason(await show(world, name)) == "factor-enrolment-needed"
    await world.said()
    return names


async def test_more_than_half_of_ten_are_not_deactivated_at_once_and_that_is_said(world: World, slapd: Slapd) -> None:
    names = await ten(world, slapd)
    with slapd.root() as root:
        slapd.add_person(root, "eleven")
    assert reason(await show(world, "eleven")) == "factor-enrolment-needed"
    await world.said()
    with slapd.root() as root:
        for name in names[:6]:
            root.delete(person(name))
        root.modify(group("mri"), {"member": [(ldap3.MODIFY_DELETE, [person("p9")])]})
    with capture_logs() as logs:
        await sync(world)
    assert people(await world.said()) == [("active", [], [])]  # p9 has left the group, whatever the others do
    assert any("too many would be deactivated" in line["event"] for line in logs)
    assert (await warnings(world))[0].startswith("directory: it lacks 6 of 11")
    with slapd.root() as root:
        slapd.add_person(root, names[0])
    await sync(world)  # a person with the same name is another person: six are still gone
    assert await world.said() == []
    with slapd.root() as root:
        root.delete(person(names[6]))
    await sync(world)  # one who leaves meanwhile is no part of what is not believed, but this answer may be no better
    assert await world.said() == []
    assert (await warnings(world))[0].startswith("directory: it lacks 7 of 11")
    await sync(world)
    assert people(await world.said()) == [("deactivated", [], [])]
    assert (await warnings(world))[0].startswith("directory: it lacks 6 of 11")
    change(slapd, person(names[7]), pwdAccountLockedTime="000001010000Z")
    await sync(world)
    assert people(await world.said()) == [("deactivated", [], [])], "shown as disabled: that is no gap in an answer"
    await world.sql("UPDATE users SET status = 'blocked' WHERE username IN ('p0000000', 'p1000000')")
    await sync(world)
    assert [status for status, _, _ in people(await world.said())] == ["deactivated"] * 4
    assert await warnings(world) == []


async def test_who_is_suddenly_in_no_group_with_most_others_stays_in_theirs_and_that_is_said(world: World, slapd: Slapd) -> None:
    """As an account that looks sees it when it may not see groups any more."""
    names = await ten(world, slapd, in_mri=10)
    await world.sql("UPDATE users SET vouched_at = now() - interval '7 hours'")
    with slapd.root() as root:
        root.delete(group("mri"))
    with capture_logs() as logs:
        await sync(world)
    assert await world.said() == []
    assert any("too many would leave all of their groups" in line["event"] for line in logs)
    shown_in_none = "directory: it shows 10 of 10 people who are in groups by it in no group at all; they stay in theirs"
    assert await warnings(world) == [shown_in_none]
    hours = await world.sql("SELECT DISTINCT round(extract(epoch FROM now() - vouched_at) / 3600) AS old FROM users")
    assert [each.old for each in hours] == [7]
    assert reason(await show(world, names[0])) == "factor-enrolment-needed"
    assert people(await world.said()) == [("active", [], [])]  # a sign-in asks about one person alone
    (mri,) = (await world.get("/groups", administrator())).json()["items"]
    answer = await world.patch(f"/groups/{mri['group_id']}", administrator(), json={"external": []}, version=mri["version"])
    assert answer.status_code == 200, answer.text
    assert people(await world.said()) == [("active", [], [])] * 9
    await sync(world)
    assert await warnings(world) == []


async def make_key(ada: Account) -> None:
    body = {"name": "k", "scopes": ["project.list"], "expires_at": (await ada.world.now() + timedelta(days=90)).isoformat()}
    async with passing_by(ada) as actor:
        answer = await ada.world.post("/keys", actor, json=body)
    assert answer.status_code == 201, answer.text


async def end_doubtful(world: World) -> list[Fact]:
    await vouching.end_doubtful(world.runtime.extra["tools"])
    return await world.said()


async def passkey_alone(world: World, authenticator: Authenticator) -> int:
    return (await world.post("/sessions", json={"passkey": await shown(world, authenticator)})).status_code


async def test_of_too_many_who_left_at_once_nobody_comes_in_and_their_keys_and_sessions_end_after_days(world: World, slapd: Slapd) -> None:
    names = await ten(world, slapd)
    await world.sql("UPDATE users SET factor_enrolled_at = NULL")
    somebody, authenticator = await enrol(world, "p8"), Authenticator()
    await register(somebody, authenticator)
    await make_key(somebody)
    assert await passkey_alone(world, authenticator) == 201
    away = names[3:9]
    for name in away:
        change(slapd, person(name), pwdAccountLockedTime="000001010000Z")
    await world.said()
    await sync(world)
    assert await passkey_alone(world, authenticator) == 401
    assert await end_doubtful(world) == []
    await world.sql("UPDATE users SET gone_at = gone_at - interval '71 hours'")
    await sync(world)
    assert await end_doubtful(world) == []
    await world.sql("UPDATE users SET gone_at = gone_at - interval '2 hours'")
    facts = await end_doubtful(world)
    assert people(facts) == [("active", [], [])]
    assert [fact.live for fact in facts if isinstance(fact, ApiKey | Session)] == [False, False]
    await world.recorded()
    assert (await end_doubtful(world), await world.recorded()) == ([], [])
    for name in away:
        change(slapd, person(name), pwdAccountLockedTime=None)
    await sync(world)
    assert people(await world.said()) == [("active", ["mri"], [])]
    assert await passkey_alone(world, authenticator) == 201
    assert [each.gone_at for each in await world.sql("SELECT gone_at FROM users")] == [None] * 10


async def test_for_whom_a_directory_that_is_away_has_not_vouched_for_long_keys_end_and_its_groups_go_until_it_is_back(
    world: World, worlds: Worlds, settings: dict[str, Any], slapd: Slapd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.auth.directory.QUIET_S", 0.0)
    await make_group(world, "staff", group("staff"))
    ada, bob, authenticator = await enrol(world), await enrol(world, "bob"), Authenticator()
    await register(ada, authenticator)
    await register(bob, Authenticator())
    await make_key(ada)
    file = written(configuration(slapd, tmp_path, vouch_days=5), tmp_path)
    again = await worlds.open("auth", beside=world, **(settings | {"ldap_file": file, "smtp_url": "smtps://localhost:1"}))
    await world.sql("UPDATE users SET vouched_at = now() - interval '121 hours'")
    await again.said()
    assert await end_doubtful(again) == []  # who has just started asks first
    await sync(again)
    assert await end_doubtful(again) == []
    with slapd.away():
        await sync(again)
        await world.sql("UPDATE users SET vouched_at = now() - interval '119 hours'")
        assert await end_doubtful(again) == []
        assert await passkey_alone(again, authenticator) == 201
        await world.sql("UPDATE users SET vouched_at = now() - interval '121 hours'")
        await letters(again)
        await again.said()
        await again.recorded()
        facts = await end_doubtful(again)
        assert people(facts) == [("active", [], [])]
        assert [fact.live for fact in facts if isinstance(fact, ApiKey | Session)] == [False, False]
        told = {letter["address"]: letter["text"] for letter in await letters(again)}
        assert "Your API keys (1) and sessions (1) ended" in told["ada@example.org"]
        assert "a passkey alone does not let you in" in told["bob@example.org"], "who had nothing else is told all the same"
        records = [record["resource"] for record in await again.recorded()]
        ended = {UUID(each["user_id"]): (each["keys"], each["sessions"]) for each in records}
        assert ended == {ada.user_id: ("1", "1"), bob.user_id: ("0", "0")}
        assert (await end_doubtful(again), await letters(again), await again.recorded()) == ([], [], [])
        assert await passkey_alone(again, authenticator) == 401
    await sync(again)
    assert people(await again.said()) == [("active", ["staff"], [])]
    assert await passkey_alone(again, authenticator) == 201


async def test_the_last_administrator_keeps_the_role_but_no_other_group(world: World, slapd: Slapd) -> None:
    await make_group(world, "admins", group("staff"), roles=("administrator",))
    await make_group(world, "mri-owners", group("all"))
    ada = await enrol(world)
    await world.said()
    with slapd.root() as root:
        root.delete(group("staff"))
    with capture_logs() as logs:
        await sync(world)
    assert people(await world.said()) == [("active", ["admins"], ["administrator"])]
    assert any("last administrator" in line["event"] for line in logs)
    assert (await ada.sign_in()).status_code == 201
    await world.said()
    await sync(world)
    assert await world.said() == []


async def test_the_last_administrator_keeps_the_account_but_no_session_no_group_and_no_way_in(world: World, slapd: Slapd) -> None:
    await make_group(world, "admins", group("staff"), roles=("administrator",))
    await make_group(world, "mri-owners", group("all"))
    ada = await enrol(world)
    authenticator = Authenticator()
    await register(ada, authenticator)
    assert (await world.post("/sessions", json={"passkey": await shown(world, authenticator)})).status_code == 201
    await world.said()
    change(slapd, person("ada"), pwdAccountLockedTime="000001010000Z")
    await sync(world)
    said = await world.said()
    assert people(said) == [("active", ["admins"], ["administrator"])]
    assert [fact.live for fact in said if isinstance(fact, Session)] == [False]
    for way in ({"passkey": await shown(world, authenticator)}, {"username": "ada", "password": PASSWORD, "code": await ada.new_code()}):
        assert reason(await world.post("/sessions", json=way)) == "sign-in-refused"
    await world.recorded()
    await sync(world)
    assert (await world.said(), await world.recorded()) == ([], [])
    change(slapd, person("ada"), pwdAccountLockedTime=None)
    await sync(world)
    assert people(await world.said()) == [("active", ["admins", "mri-owners"], ["administrator"])]
    assert (await world.post("/sessions", json={"passkey": await shown(world, authenticator)})).status_code == 201


async def test_a_directory_vouches_for_whom_it_shows_and_for_nobody_else(world: World, slapd: Slapd) -> None:
    ada, bob, eve = await enrol(world), await enrol(world, "bob"), await enrol(world, "eve")
    change(slapd, person("eve"), pwdAccountLockedTime="000001010000Z")
    for account, hours in ((ada, 7), (bob, 5), (eve, 7)):
        await world.sql(f"UPDATE users SET vouched_at = now() - interval '{hours} hours' WHERE user_id = :id", id=account.user_id)
    await sync(world)
    rows = await world.sql("SELECT user_id, round(extract(epoch FROM now() - vouched_at) / 3600) AS hours FROM users")
    assert {each.user_id: each.hours for each in rows} == {ada.user_id: 0, bob.user_id: 5, eve.user_id: 7}


async def test_a_directory_that_is_not_configured_any_more_vouches_for_nobody(
    world: World, worlds: Worlds, settings: dict[str, Any]
) -> None:
    await make_group(world, "staff", group("staff"))
    await enrol(world)
    alone = await worlds.open("auth", beside=world, **(settings | {"ldap_file": None}))
    await alone.said()
    for days in (29, 31):
        await world.sql(f"UPDATE users SET vouched_at = now() - interval '{days} days'")
        assert people(await end_doubtful(alone)) == [("active", [], [])] * (days > 30)


async def test_one_replica_at_a_time_compares(world: World, worlds: Worlds, settings: dict[str, Any], slapd: Slapd) -> None:
    from services.auth import repository  # noqa: PLC0415 - the lock as the other replica takes it

    replica = await worlds.open("auth", beside=world, **settings)
    await make_group(world, "staff", group("staff"))
    await enrol(world)
    with slapd.root() as root:
        root.delete(group("staff"))
    await world.said()
    async with repository.directory.alone(replica.runtime.engine) as mine:
        assert mine
        await sync(world)
        assert await world.said() == []
    await sync(world)
    assert people(await world.said()) == [("active", [], [])]


async def test_many_people_are_compared_page_by_page(source: Directory, slapd: Slapd) -> None:
    with slapd.root() as root:
        for number in range(120):
            slapd.add_person(root, f"p{number:03}")
        root.search(PEOPLE, "(uid=p*)", attributes=["entryUUID"])
        ids = [each["raw_attributes"]["entryUUID"][0] for each in root.response]
    assert len(ids) == 120
    assert len(await source.look_up(ids)) == 120
    assert await source.look_up([]) == []


async def test_others_have_their_turn_between_one_person_and_the_next_of_those_compared(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_group(world, "staff", group("staff"))
    for name in openldap.NAMES:
        await show(world, name)
    turns = 0
    looked_at: list[int] = []

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def note(work: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any) -> Any:
            looked_at.append(turns)
            return work(*arguments)

        return noted

    monkeypatch.setattr(domain.directory, "person", note(domain.directory.person))
    monkeypatch.setattr(domain.groups, "called", note(domain.groups.called))
    meanwhile = asyncio.create_task(others())
    await sync(world)
    meanwhile.cancel()
    assert len(looked_at) == 2 * len(openldap.NAMES)
    assert len(set(looked_at)) == len(looked_at)


async def test_more_calls_than_there_is_room_for_are_refused_at_once(source: Directory) -> None:
    source._room = 2
    answers = await asyncio.gather(*[source.find("ada") for _ in range(5)], return_exceptions=True)
    assert len([answer for answer in answers if isinstance(answer, Away)]) == 3


# The file


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"urls": ["ldap://127.0.0.1"]}, "TLS"),
        ({"urls": ["ldaps://127.0.0.1"], "starttls": True}, "TLS"),
        ({"urls": ["ldaps://a", "ldap://b"]}, "TLS"),
        ({"urls": ["https://a"]}, "urls.0"),
        ({"urls": ["ldaps://a/dc=x"]}, "urls.0"),
        ({"urls": []}, "urls"),
        ({"url": "ldaps://a"}, "url"),
        ({"name": "The Hospital"}, "name"),
        ({"login_attributes": ["cn"]}, "login_attributes"),
        ({"id_attribute": "uid"}, "id_attribute"),
        ({"password_file": "/nowhere"}, "password_file"),
        ({"trust_file": "/nowhere"}, "trust_file"),
        ({"group_base": None, "group_style": "member"}, "group_base"),
        ({"people_filter": "objectClass=person"}, "people_filter"),
        ({"timeout_s": 0}, "timeout_s"),
    ],
)
def test_a_file_that_is_not_right_is_refused_with_one_sentence(slapd: Slapd, tmp_path: Path, other: dict[str, Any], says: str) -> None:
    file = written(configuration(slapd, tmp_path, **other), tmp_path)
    with pytest.raises(BadDirectoryFile) as caught:
        read_directory(file)
    message = str(caught.value)
    assert says in message
    assert "\n" not in message
    assert LOOKING_PASSWORD not in message


def test_the_file_is_toml_or_json(slapd: Slapd, tmp_path: Path) -> None:
    values = configuration(slapd, tmp_path)
    file = tmp_path / "ldap.toml"
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    file.write_text("\n".join(lines))
    assert read_directory(file) == read_directory(written(values, tmp_path))
    file.write_text("name = ")
    with pytest.raises(BadDirectoryFile):
        read_directory(file)
    with pytest.raises(BadDirectoryFile):
        read_directory(tmp_path / "absent")


def test_what_is_no_dn_is_refused_at_the_start(slapd: Slapd, tmp_path: Path) -> None:
    with pytest.raises(BadDirectoryFile):
        Directory(DirectorySettings(**configuration(slapd, tmp_path, people_base="people")))


# The rules alone


@pytest.mark.parametrize(
    ("attributes", "lets_in"),
    [
        ({}, True),
        ({"useraccountcontrol": [b"512"]}, True),
        ({"useraccountcontrol": [b"514"]}, False),
        ({"useraccountcontrol": [b"x"]}, True),
        ({"accountexpires": [b"0"]}, True),
        ({"accountexpires": [b"9223372036854775807"]}, True),
        ({"accountexpires": [b"133000000000000000"]}, False),
        ({"accountexpires": [b"140000000000000000"]}, True),
        ({"pwdaccountlockedtime": [b"000001010000Z"]}, False),
        ({"pwdaccountlockedtime": [b"20260301110000Z"]}, True),
        ({"nsaccountlock": [b"TRUE"]}, False),
        ({"nsaccountlock": [b"false"]}, True),
    ],
)
def test_a_directory_lets_in_whom_it_has_not_disabled_for_good(attributes: dict[str, list[bytes]], lets_in: bool) -> None:
    assert domain.directory.enabled(attributes, NOW) is lets_in
    assert {0, 2**63 - 1} == set(NEVER_EXPIRES)


@pytest.mark.parametrize(("leaving", "active", "too_much"), [(9, 9, False), (5, 10, False), (6, 10, True), (0, 10, False), (51, 100, True)])
def test_more_than_half_of_ten_or_more_is_too_much(leaving: int, active: int, too_much: bool) -> None:
    assert domain.directory.is_too_much(leaving, active) is too_much


def test_a_failed_bind_counts_for_a_device_a_session_or_the_person_and_apart_for_who_shows_the_second_factor(source: Directory) -> None:
    buckets = [
        domain.patience.for_bind(source.settings, "ada", device, factor=factor) for device in ("d", None) for factor in (True, False)
    ]
    buckets += [domain.patience.for_bind(source.settings, "ada", "d", factor=False, sign_in=str(number)) for number in (1, 2)]
    assert [(bucket.free, bucket.resets) for bucket in buckets] == [(10, True), (10, True)] + [(3, True)] * 4
    assert len({bucket.name for bucket in buckets}) == 6


def somebody(status: str = "active", **more: Any) -> Any:
    from services.auth.models import User as Row  # noqa: PLC0415 - beside the fact of the same name

    values = {"user_id": UUID(int=1), "username": "ada00000", "email": "a@b", "cluster_roles": [], "version": 1, "confirmed_at": NOW}
    return Row(**{**values, "status": status, "source": "ldap", "created_at": NOW - timedelta(days=99), **more})


@pytest.mark.parametrize(
    ("gone", "vouched", "created", "in_doubt"),
    [
        (None, 4.9, 99, False),
        (None, 5.1, 99, True),
        (None, None, 4.9, False),
        (None, None, 5.1, True),
        (1.9, 4.9, 99, False),
        (2.1, 0, 99, True),
        (0, 5.1, 99, True),
    ],
)
def test_what_a_directory_gave_is_in_doubt_when_it_lacks_somebody_for_days_or_is_silent_for_longer(
    source: Directory, gone: float | None, vouched: float | None, created: float, in_doubt: bool
) -> None:
    settings = source.settings.model_copy(update={"missing_days": 2, "vouch_days": 5})
    gone_at, vouched_at = (None if days is None else NOW - timedelta(days=days) for days in (gone, vouched))
    user = somebody(gone_at=gone_at, vouched_at=vouched_at, created_at=NOW - timedelta(days=created))
    assert domain.directory.is_in_doubt(user, settings, NOW) is in_doubt
    user.source = "local"
    assert not domain.directory.is_in_doubt(user, settings, NOW)


def test_whom_an_administrator_deactivated_while_they_were_missed_does_not_come_back_by_the_directory() -> None:
    user = somebody("deactivated")
    domain.directory.miss(user, NOW)
    assert not domain.directory.come_back(user)
    assert (user.status, user.gone_at) == ("deactivated", None)


def test_every_status_leaves_and_comes_back_as_it_should() -> None:
    for status in UserStatus:
        user = somebody(status.value)
        assert domain.directory.leave(user, NOW) is (status is UserStatus.ACTIVE)
        assert user.status == ("deactivated" if status is UserStatus.ACTIVE else status)
        assert user.gone_at == (None if status is UserStatus.DEACTIVATED else NOW)
        assert domain.directory.come_back(user) is (status is UserStatus.ACTIVE)
        assert user.status == status
        assert user.gone_at is None
        assert not domain.directory.come_back(user)
        assert (user.stops, user.departures) == ((1, 1) if status is UserStatus.ACTIVE else (0, 0))


@pytest.mark.parametrize(
    ("without", "grouped", "stay"), [(1, 1, False), (9, 9, False), (5, 10, False), (6, 10, True), (10, 10, True), (51, 100, True)]
)
def test_more_than_half_of_ten_or_more_do_not_leave_all_groups_at_once(without: int, grouped: int, stay: bool) -> None:
    named = {UUID(int=number): [] if number < without else ["cn=staff"] for number in range(grouped)}
    assert domain.directory.doubted(named) == {UUID(int=number) for number in range(without if stay else 0)}


@pytest.mark.parametrize(
    ("missing", "fresh", "active", "stay"),
    [
        (0, 5, 10, "nobody"),
        (0, 6, 10, "everybody"),
        (6, 0, 10, "the missing"),
        (6, 1, 10, "the missing"),
        (6, 2, 10, "the missing"),
        (6, 3, 10, "everybody"),
        (6, 4, 10, "everybody"),
        (995, 5, 1000, "everybody"),
        (600, 190, 1000, "the missing"),
        (40, 31, 100, "everybody"),
        (40, 30, 100, "the missing"),
        (3, 2, 10, "nobody"),
    ],
)
def test_who_was_missing_before_does_not_keep_who_leaves_later(missing: int, fresh: int, active: int, stay: str) -> None:
    leaving = [somebody(user_id=UUID(int=number), gone_at=NOW if number < missing else None) for number in range(missing + fresh)]
    expected = {"nobody": 0, "the missing": missing, "everybody": missing + fresh}[stay]
    later = {UUID(int=number) for number in range(missing, missing + fresh)} if stay == "the missing" else set()
    stays = {UUID(int=number) for number in range(expected)}
    assert domain.directory.staying(leaving, active, set()) == (stays, later)
    assert domain.directory.staying(leaving, active, later) == (stays, set()), "two looks lack them"
