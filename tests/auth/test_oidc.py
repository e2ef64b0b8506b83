"""Signing in by a real identity provider: npm's oidc-provider, over TLS."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit
from uuid import UUID

import pyotp
import pytest

from contracts.events import ApiKey, Session, User
from contracts.roles import ClusterRole
from services.auth import repository
from services.auth.routes import cookies
from services.auth.service import accounts, groups, vouching
from tests.auth.factors import letters, register, shown
from tests.auth.identity import ORIGIN, Browser, FakeProvider, RealProvider, Tls, faking, settings_for
from tests.auth.passkeys import Authenticator
from tests.auth.people import Account, join
from tests.world import World, Worlds, administrator, person, reason

PEOPLE = {
    "alice": {"email": "alice@example.org", "email_verified": True, "groups": ["Staff", "MRI"]},
    "gold": {"email": "gold@example.org", "email_verified": True, "groups": ["staff"], "acr": "gold"},
    "otp": {"email": "otp@example.org", "email_verified": True, "groups": ["staff"], "amr": ["pwd", "otp"]},
    "unverified": {"email": "alice@example.org", "email_verified": False, "groups": ["staff"]},
    "outsider": {"email": "out@example.org", "email_verified": True, "groups": ["elsewhere"]},
}
SCOPES = {"scopes": ["openid", "email", "groups"], "groups_claim": "groups"}


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return Tls.make(tmp_path_factory.mktemp("provider"))


@pytest.fixture(scope="module")
def ear(tls: Tls) -> Iterator[FakeProvider]:
    """Where the provider sends logout tokens to."""
    with faking(tls) as made:
        made.answers["/logout"] = lambda _: (200, {})
        yield made


@pytest.fixture(scope="module")
def provider(tls: Tls, ear: FakeProvider) -> Iterator[RealProvider]:
    made = RealProvider(tls, PEOPLE, client={"backchannel_logout_uri": f"{ear.issuer}/logout"})
    made.start()
    yield made
    made.stop()


@pytest.fixture
def told() -> dict[str, Any]:
    """What a test adds to the configuration of the provider, by parameter."""
    return {}


@pytest.fixture
async def world(worlds: Worlds, settings: dict[str, Any], tmp_path: Path, provider: RealProvider, told: dict[str, Any]) -> World:
    return await worlds.open("auth", **settings, **settings_for(tmp_path, provider.issuer, provider.tls, **SCOPES, **told))


@pytest.fixture
async def browser(world: World, tls: Tls) -> AsyncIterator[Browser]:
    made = Browser(world, tls)
    yield made
    await made.close()


async def enrol(world: World, browser: Browser, answer_place: str) -> pyotp.TOTP:
    """Set up the second factor that the page is asked for, and forget that its code was used."""
    token = answer_place.partition("#enrolment=")[2]
    assert token, answer_place
    accepted = await browser.post("/factor-enrolments/acceptance", {"token": token})
    totp = pyotp.TOTP(accepted.json()["totp_secret"])
    confirmed = await browser.post("/factor-enrolments/confirmation", {"token": token, "code": totp.now()})
    assert confirmed.status_code == 200, confirmed.text
    await world.sql("UPDATE credentials SET last_step = -1")
    return totp


def sessions(said: list[Any]) -> list[Session]:
    return [fact for fact in said if isinstance(fact, Session)]


# The way in


async def test_the_page_is_told_which_providers_there_are(world: World, browser: Browser) -> None:
    answer = await browser.get("/api/v1/oidc")
    assert answer.json() == {"items": [{"name": "hospital", "title": "The hospital"}], "next": None}


async def test_the_browser_is_sent_there_with_a_challenge_a_nonce_a_state_and_a_cookie_that_says_lax(
    world: World, browser: Browser, provider: RealProvider
) -> None:
    answer = await browser.begin()
    assert answer.status_code == 303
    place = urlsplit(answer.headers["location"])
    asked = {name: values[0] for name, values in parse_qs(place.query).items()}
    assert f"{place.scheme}://{place.netloc}" == provider.issuer
    assert (asked["response_type"], asked["code_challenge_method"], asked["client_id"]) == ("code", "S256", "hortus")
    assert asked["redirect_uri"] == f"{ORIGIN}/api/v1/oidc/hospital/callback"
    assert min(len(asked[name]) for name in ("state", "nonce", "code_challenge")) >= 43
    kept = answer.headers["set-cookie"]
    assert kept.startswith(f"{cookies.OIDC}=")
    assert all(word in kept for word in ("Max-Age=600", "Path=/", "Secure", "HttpOnly", "SameSite=lax"))
    assert asked["state"] not in kept
    assert "no-store" not in answer.headers  # the gateway's part


async def test_a_stranger_whom_the_provider_vouches_for_sets_up_a_second_factor_and_is_in(world: World, browser: Browser) -> None:
    first = await browser.sign_in("alice", "/api/v1/sign-in?client_port=4711")
    assert first.status_code == 303
    place = first.headers["location"]
    assert place.startswith("/api/v1/sign-in?client_port=4711#enrolment=")
    (user,) = [fact for fact in await world.said() if isinstance(fact, User)]
    assert (user.username, user.status, user.cluster_roles) == ("alice000", "active", frozenset())
    assert browser.cookie(cookies.REFRESH) is None
    assert browser.cookie(cookies.OIDC) is None
    totp = await enrol(world, browser, place)
    opened = await browser.post("/sessions", {"pending": True, "code": totp.now()})
    assert opened.status_code == 201, opened.text
    assert opened.json()["user"]["email"] == "alice@example.org"
    assert browser.cookie(cookies.REFRESH) is not None
    assert browser.cookie(cookies.PENDING) is None
    (row,) = await world.sql("SELECT method, provider, provider_session, id_token_sealed FROM sessions")
    assert (row.method, row.provider) == ("oidc:hospital+totp", "hospital")
    assert row.provider_session
    assert b"eyJ" not in row.id_token_sealed
    recorded = await world.recorded()
    assert recorded[-1]["actor"]["username"] == "alice000"
    assert "eyJ" not in str(recorded)


async def test_who_has_a_second_factor_shows_it_and_a_wrong_one_opens_nothing(world: World, browser: Browser) -> None:
    totp = await enrol(world, browser, (await browser.sign_in("alice")).headers["location"])
    again = await browser.sign_in("alice")
    assert again.headers["location"] == "/api/v1/sign-in#pending"
    assert (await world.sql("SELECT count(*) FROM users"))[0][0] == 1
    nothing = await browser.post("/sessions", {"pending": True, "code": "000000" if totp.now() != "000000" else "111111"})
    assert (nothing.status_code, reason(nothing)) == (401, "sign-in-refused")
    opened = await browser.post("/sessions", {"pending": True, "code": totp.now()})
    assert opened.status_code == 201
    assert opened.json()["user"]["username"] == "alice000"


async def test_a_pending_sign_in_is_good_for_five_minutes_and_only_for_who_began_it(world: World, browser: Browser, tls: Tls) -> None:
    totp = await enrol(world, browser, (await browser.sign_in("alice")).headers["location"])
    stranger = Browser(world, tls)
    refused = await stranger.post("/sessions", {"pending": True, "code": totp.now()})
    assert reason(refused) == "sign-in-refused"
    sealed = browser.cookie(cookies.PENDING)
    assert sealed is not None
    vault = world.runtime.extra["tools"].vault
    old = json.loads(vault.carried("oidc-pending", sealed))
    old["at"] -= 301
    stranger.client.cookies.set(cookies.PENDING, vault.carry("oidc-pending", json.dumps(old).encode()), domain="localhost.local")
    refused = await stranger.post("/sessions", {"pending": True, "code": totp.now()})
    assert reason(refused) == "sign-in-refused"
    await stranger.close()


@pytest.mark.parametrize("told", [{"trusts_factor": ["gold", "otp"]}])
@pytest.mark.parametrize("login", ["gold", "otp"])
async def test_a_second_factor_of_the_provider_counts_where_that_is_configured_and_is_fresh_after_a_new_sign_in(
    world: World, browser: Browser, told: dict[str, Any], login: str
) -> None:
    answer = await browser.sign_in(login)
    assert answer.headers["location"] == "/api/v1/sign-in#signed-in"
    (session,) = sessions(await world.said())
    assert (session.live, session.factor_at.year) == (True, 1970)
    (row,) = await world.sql("SELECT method FROM sessions")
    assert row.method == "oidc:hospital"
    assert browser.cookie(cookies.REFRESH) is not None
    assert (await browser.sign_in(login, fresh="true")).headers["location"] == "/api/v1/sign-in#signed-in"
    (session,) = sessions(await world.said())
    assert abs(session.factor_at.timestamp() - time.time()) < 60


@pytest.mark.parametrize("told", [{"trusts_factor": ["gold"]}])
async def test_another_factor_of_the_provider_does_not(world: World, browser: Browser, told: dict[str, Any]) -> None:
    assert "#enrolment=" in (await browser.sign_in("otp")).headers["location"]


@pytest.mark.parametrize("told", [{"trusts_factor": ["gold"]}])
async def test_where_groups_ask_for_a_passkey_the_providers_factor_is_not_enough(
    world: World, browser: Browser, told: dict[str, Any]
) -> None:
    made = await world.post("/groups", administrator(), json={"name": "strict", "factor_policy": "passkey", "external": ["hospital:staff"]})
    assert made.status_code == 201, made.text
    assert "#signed-in" not in (await browser.sign_in("gold")).headers["location"]
    assert sessions(await world.said()) == []


async def test_who_has_no_factor_signs_in_anew_at_the_provider_to_step_up_and_gets_their_first_one(
    worlds: Worlds, world: World, settings: Any, tmp_path: Path, tls: Tls
) -> None:
    given = world.runtime.settings.model_dump(include={"oidc_file", "origins"})
    optional = await worlds.open("auth", beside=world, **settings, **given, factor_policy="optional")
    browser = Browser(optional, tls)
    for _ in range(2):  # the second time the provider knows the browser, and asks nothing
        assert (await browser.sign_in("alice")).headers["location"] == "/api/v1/sign-in#signed-in"
        (session,) = sessions(await world.said())
        assert session.factor_at.year == 1970
    page = await browser.begin(fresh="true")
    while page.is_redirect:
        page = await browser.get(urljoin(str(page.url), page.headers["location"]))
    assert 'name="login"' in page.text
    before = await world.now()
    assert (await browser.get(await browser.sign_in_there("alice", page))).headers["location"] == "/api/v1/sign-in#signed-in"
    (session,) = sessions(await world.said())
    assert session.factor_at > before - timedelta(seconds=2)  # the provider counts in seconds
    (user,) = await world.sql("SELECT user_id, username FROM users")
    alice = Account(optional, {"user_id": str(user.user_id), "username": user.username, "cluster_roles": []}, pyotp.TOTP("A" * 32))
    authenticator = Authenticator()
    assert (await register(alice, authenticator)).status_code == 201
    assert (await browser.sign_in("alice", fresh="true")).headers["location"] == "/api/v1/sign-in#pending"
    await browser.close()


# Groups


async def test_a_change_of_groups_and_a_sign_in_never_wait_for_each_other_in_a_circle(world: World, browser: Browser) -> None:
    await browser.sign_in("alice")
    (alice,) = [fact for fact in await world.said() if isinstance(fact, User)]
    imaging = (await world.post("/groups", administrator(), json={"name": "imaging", "external": ["hospital:MRI"]})).json()
    place = await browser.sign_in_there("alice")
    async with world.work(administrator()) as uow:
        await repository.groups.lock(uow.session)
        coming = asyncio.create_task(browser.get(place))
        await world.somebody_waits()
        await groups.add_member(uow, UUID(imaging["group_id"]), alice.user_id)
    assert (await coming).status_code == 303
    assert [row.directory_groups for row in await world.sql("SELECT directory_groups FROM users")] == [["imaging"]]


@pytest.mark.parametrize("told", [{}, {"only_groups": ["MRI", "staff"]}])
@pytest.mark.parametrize("login", ["gold", "outsider"])
async def test_the_last_administrator_by_a_group_stays_one_and_is_let_in_or_turned_away_as_anybody(
    world: World, browser: Browser, told: dict[str, Any], login: str, tls: Tls
) -> None:
    body = {"name": "admins", "cluster_roles": ["administrator"], "external": ["hospital:MRI"]}
    assert (await world.post("/groups", administrator(), json=body)).status_code == 201
    totp = await enrol(world, browser, (await browser.sign_in("alice")).headers["location"])
    assert (await browser.post("/sessions", {"pending": True, "code": totp.now()})).status_code == 201
    await world.sql("UPDATE users SET external_id = :login", login=login)  # the same person, now without the group
    await world.said()
    elsewhere = Browser(world, tls)
    answer = await elsewhere.sign_in(login)
    await elsewhere.close()
    turned_away = bool(told) and login == "outsider"
    assert answer.status_code == (403 if turned_away else 303), answer.text
    assert [session.live for session in sessions(await world.said())] == [False] * turned_away
    assert [row.cluster_roles for row in await world.sql("SELECT cluster_roles FROM users")] == [["administrator"]]


async def test_groups_of_the_claim_become_groups_here_and_their_roles_go_with_them(world: World, browser: Browser, tls: Tls) -> None:
    body = {"name": "imaging", "cluster_roles": ["auditor"], "external": ["hospital:MRI", "MRI"]}
    assert (await world.post("/groups", administrator(), json=body)).status_code == 201
    await browser.sign_in("alice")
    user = [fact for fact in await world.said() if isinstance(fact, User)][-1]
    assert (user.groups, user.cluster_roles) == (frozenset({"imaging"}), frozenset({ClusterRole.AUDITOR}))
    await world.sql("UPDATE users SET external_id = 'gold' WHERE external_id = 'alice'")  # the same person, now without the group
    elsewhere = Browser(world, tls)
    await elsewhere.sign_in("gold")
    (user,) = [fact for fact in await world.said() if isinstance(fact, User)]
    assert (user.groups, user.cluster_roles) == (frozenset(), frozenset())
    await elsewhere.close()


async def test_a_name_of_another_directory_is_not_the_providers_to_give(world: World, browser: Browser) -> None:
    body = {"name": "imaging", "cluster_roles": ["auditor"], "external": ["MRI", "university:MRI", "cn=mri,dc=example,dc=org"]}
    assert (await world.post("/groups", administrator(), json=body)).status_code == 201
    await browser.sign_in("alice")
    (user,) = [fact for fact in await world.said() if isinstance(fact, User)]
    assert (user.groups, user.cluster_roles) == (frozenset(), frozenset())


@pytest.mark.parametrize("told", [{"only_groups": ["staff"]}])
async def test_who_is_in_none_of_the_groups_that_may_is_turned_away_and_loses_what_they_had(
    world: World, browser: Browser, told: dict[str, Any], tls: Tls
) -> None:
    refused = await browser.sign_in("outsider")
    assert (refused.status_code, refused.headers["hortus-reason"]) == (403, "group-missing")
    assert await world.said() == []
    elsewhere = Browser(world, tls)
    totp = await enrol(world, elsewhere, (await elsewhere.sign_in("gold")).headers["location"])
    opened = await elsewhere.post("/sessions", {"pending": True, "code": totp.now()})
    assert opened.status_code == 201
    await world.sql("UPDATE users SET external_id = 'outsider' WHERE external_id = 'gold'")
    await world.said()
    assert (await browser.sign_in("outsider")).headers["hortus-reason"] == "group-missing"
    (ended,) = sessions(await world.said())
    assert not ended.live
    await elsewhere.close()


# Who is who


async def test_a_sign_in_comes_back_to_its_page_alone(world: World, browser: Browser) -> None:
    answer = await browser.sign_in("alice", "/api/v1/oidc/other/start")
    assert answer.headers["location"].startswith("/api/v1/sign-in#enrolment=")


async def test_an_account_with_the_same_address_is_never_taken_over(
    world: World, browser: Browser, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    local = await join(world, "alice@example.org")
    await world.said()
    refused = await browser.sign_in("alice")
    assert (refused.status_code, refused.headers["hortus-reason"]) == (409, "address-in-use")
    assert "Another account has your e-mail address" in refused.text
    assert await world.said() == []
    assert (await world.sql("SELECT count(*) FROM users"))[0][0] == 1
    logged = capsys.readouterr().out
    assert str(local.user_id) in logged
    assert "alice@example.org" not in logged


async def test_letters_go_to_the_address_that_the_provider_names_now(world: World, browser: Browser, tls: Tls) -> None:
    await browser.sign_in("alice")
    await world.sql("UPDATE users SET email = 'alice@old.example.org'")
    again = Browser(world, tls)
    await again.sign_in("alice")
    assert [row.email for row in await world.sql("SELECT email FROM users")] == ["alice@example.org"]
    await again.close()


async def test_an_address_that_somebody_else_has_by_now_changes_nothing(world: World, browser: Browser, tls: Tls) -> None:
    await browser.sign_in("alice")
    await world.sql("UPDATE users SET email = 'alice@old.example.org'")
    other = await join(world, "alice@example.org")
    again = Browser(world, tls)
    place = await again.sign_in_there("alice")
    async with world.work(administrator()) as uow:
        await repository.accounts.user(uow.session, other.user_id, lock=True)
        async with asyncio.timeout(20):  # nobody waits for whoever holds the other's account: they may wait for this one
            assert (await again.get(place)).status_code == 303
    assert [row.email for row in await world.sql("SELECT email FROM users WHERE source = 'oidc'")] == ["alice@old.example.org"]
    await again.close()


async def test_an_address_that_somebody_else_is_given_at_this_moment_changes_nothing(world: World, browser: Browser, tls: Tls) -> None:
    await browser.sign_in("alice")
    await world.sql("UPDATE users SET email = 'alice@old.example.org'")
    again = Browser(world, tls)
    place = await again.sign_in_there("alice")
    async with world.work(administrator()) as uow:
        await accounts.invite(uow, world.runtime.extra["tools"], "alice@example.org", frozenset())
        coming = asyncio.create_task(again.get(place))
        await world.somebody_waits()
    assert (await coming).status_code == 303
    assert [row.email for row in await world.sql("SELECT email FROM users WHERE source = 'oidc'")] == ["alice@old.example.org"]
    await again.close()


async def test_an_address_that_the_provider_did_not_verify_makes_no_account(world: World, browser: Browser) -> None:
    refused = await browser.sign_in("unverified")
    assert (refused.status_code, refused.headers["hortus-reason"]) == (403, "no-address")
    assert await world.said() == []


@pytest.mark.parametrize("told", [{"creates_accounts": False}])
async def test_a_provider_that_makes_no_accounts_lets_in_only_who_has_one(world: World, browser: Browser, told: dict[str, Any]) -> None:
    refused = await browser.sign_in("alice")
    assert (refused.status_code, refused.headers["hortus-reason"]) == (403, "not-expected")
    (record,) = await world.recorded()
    assert (record["action"], record["resource"], record["reason"]) == ("session.refuse", {"account": "unknown"}, "not-expected")
    await world.sql(
        "INSERT INTO users (user_id, username, email, status, cluster_roles, version, created_at, confirmed_at, source, provider, external_id) "
        "VALUES (gen_random_uuid(), 'alice000', 'elsewhere@example.org', 'active', '{}', 1, now(), now(), 'oidc', 'hospital', 'alice')"
    )
    assert "#enrolment=" in (await browser.sign_in("alice")).headers["location"]


async def test_a_blocked_person_does_not_come_back_by_the_provider(world: World, browser: Browser) -> None:
    await browser.sign_in("alice")
    (user,) = [fact for fact in await world.said() if isinstance(fact, User)]
    blocked = await world.patch(f"/users/{user.user_id}", administrator(), json={"status": "blocked"}, version=user.version)
    assert blocked.status_code == 200, blocked.text
    await world.recorded()
    refused = await browser.sign_in("alice")
    assert (refused.status_code, refused.headers["hortus-reason"]) == (403, "account-not-open")
    (record,) = await world.recorded()
    assert (record["action"], record["outcome"], record["reason"]) == ("session.refuse", "refused", "account-not-open")
    assert record["resource"] == {"user_id": str(user.user_id), "provider": "hospital"}


# Whether the provider still vouches


async def test_a_passkey_counts_only_after_the_provider(world: World, browser: Browser) -> None:
    totp = await enrol(world, browser, (await browser.sign_in("alice")).headers["location"])
    opened = await browser.post("/sessions", {"pending": True, "code": totp.now()})
    authenticator = Authenticator()
    assert (await register(Account(world, opened.json()["user"], totp), authenticator)).status_code == 201
    alone = await world.post("/sessions", json={"passkey": await shown(world, authenticator)})
    assert (alone.status_code, reason(alone)) == (401, "sign-in-refused")
    assert (await browser.sign_in("alice")).headers["location"].endswith("#pending")
    opened = await browser.post("/sessions", {"pending": True, "passkey": await shown(world, authenticator)})
    assert opened.status_code == 201, opened.text


@pytest.mark.parametrize("told", [{"vouch_days": 5}])
async def test_for_whom_the_provider_has_not_vouched_for_long_keys_end_and_its_groups_go(
    world: World, worlds: Worlds, settings: dict[str, Any], browser: Browser, told: dict[str, Any]
) -> None:
    kept = world.runtime.settings.model_dump(include={"oidc_file", "origins"})
    mailed = await worlds.open("auth", beside=world, **settings, **kept, smtp_url="smtps://localhost:1")
    tools = mailed.runtime.extra["tools"]
    imaging = {"name": "imaging", "cluster_roles": ["auditor"], "external": ["hospital:MRI"]}
    assert (await world.post("/groups", administrator(), json=imaging)).status_code == 201
    totp = await enrol(world, browser, (await browser.sign_in("alice")).headers["location"])
    opened = (await browser.post("/sessions", {"pending": True, "code": totp.now()})).json()
    account = Account(world, opened["user"], totp)
    expires_at = (await world.now() + timedelta(days=90)).isoformat()
    made = await world.post(
        "/keys", account.actor(UUID(opened["session_id"])), json={"name": "k", "scopes": ["project.list"], "expires_at": expires_at}
    )
    assert made.status_code == 201, made.text
    await world.sql("UPDATE users SET vouched_at = now() - interval '119 hours'")
    await world.said()
    await vouching.end_doubtful(tools)
    assert await world.said() == []
    await world.sql("UPDATE users SET vouched_at = now() - interval '121 hours'")
    await world.recorded()
    await vouching.end_doubtful(tools)
    facts = await world.said()
    assert [(fact.groups, fact.cluster_roles) for fact in facts if isinstance(fact, User)] == [(frozenset(), frozenset())]
    assert [fact.live for fact in facts if isinstance(fact, ApiKey)] == [False]
    (record,) = await world.recorded()
    assert (record["action"], record["resource"]["keys"]) == ("account.end_doubtful", "1")
    text = (await letters(mailed))[-1]["text"]
    assert "You have not signed in to your account" in text
    assert "Your API keys (1) ended" in text
    assert "Your sessions and passkeys stay as they are" in text
    await vouching.end_doubtful(tools)
    assert await world.said() == []
    await browser.sign_in("alice")
    assert [fact.groups for fact in await world.said() if isinstance(fact, User)] == [frozenset({"imaging"})]


@pytest.mark.parametrize("told", [{"vouch_days": 5}])
async def test_the_last_administrator_stays_one_although_nobody_vouches(world: World, browser: Browser, told: dict[str, Any]) -> None:
    body = {"name": "admins", "cluster_roles": ["administrator"], "external": ["hospital:MRI"]}
    assert (await world.post("/groups", administrator(), json=body)).status_code == 201
    await browser.sign_in("alice")
    assert (await world.post("/groups", administrator(), json={"name": "mri-owners", "external": ["hospital:MRI"]})).status_code == 201
    await browser.sign_in("alice")
    await world.sql("UPDATE users SET vouched_at = now() - interval '6 days'")
    await world.said()
    for groups_then in ([["admins"]], []):
        await vouching.end_doubtful(world.runtime.extra["tools"])
        assert [sorted(fact.groups) for fact in await world.said() if isinstance(fact, User)] == groups_then
    assert [row.cluster_roles for row in await world.sql("SELECT cluster_roles FROM users")] == [["administrator"]]


# Answers that were not asked for


async def test_an_answer_counts_once(world: World, browser: Browser) -> None:
    place = await browser.sign_in_there("alice")
    sealed = browser.cookie(cookies.OIDC)
    assert (await browser.get(place)).status_code == 303
    browser.client.cookies.set(cookies.OIDC, sealed or "", domain="localhost.local")
    again = await browser.get(place)
    assert (again.status_code, again.headers["hortus-reason"]) == (403, "answer-not-expected")


async def test_an_answer_counts_only_in_the_browser_that_asked(world: World, browser: Browser, tls: Tls) -> None:
    place = await browser.sign_in_there("alice")
    victim = Browser(world, tls)
    refused = await victim.get(place)
    assert (refused.status_code, refused.headers["hortus-reason"]) == (403, "answer-not-expected")
    await victim.begin()  # one that asked for something else
    assert (await victim.get(place)).headers["hortus-reason"] == "answer-not-expected"
    assert await world.said() == []
    await victim.close()


async def test_the_provider_itself_refuses_a_code_with_another_verifier(world: World, browser: Browser, tls: Tls) -> None:
    place = await browser.sign_in_there("alice")
    vault = world.runtime.extra["tools"].vault
    flow = vault.carried("oidc-flow", browser.cookie(cookies.OIDC) or "")
    verifier = flow.split(b'"verifier": "')[1][:43]
    browser.client.cookies.set(cookies.OIDC, vault.carry("oidc-flow", flow.replace(verifier, b"A" * 43)), domain="localhost.local")
    refused = await browser.get(place)
    assert (refused.status_code, refused.headers["hortus-reason"]) == (403, "provider-not-believed")


async def test_a_refusal_of_the_provider_is_one_sentence_and_nothing_of_its_text(world: World, browser: Browser) -> None:
    refused = await browser.sign_in("refuse")
    assert (refused.status_code, refused.headers["hortus-reason"]) == (403, "provider-refused")
    assert refused.headers["content-type"].startswith("text/html")
    assert "script" not in refused.text
    assert "did not sign you in" in refused.text


# Keys


async def test_keys_that_the_provider_changed_are_read_anew(
    world: World, browser: Browser, provider: RealProvider, monkeypatch: Any
) -> None:
    assert (await browser.sign_in("alice")).status_code == 303
    provider.change_keys()
    monkeypatch.setattr("services.auth.provider.KEYS_PAUSE_S", 0.0)
    assert (await browser.sign_in("alice")).status_code == 303


# The way out


async def test_signing_out_says_where_the_providers_session_ends_and_its_word_ends_ours(
    world: World, browser: Browser, provider: RealProvider, ear: FakeProvider
) -> None:
    totp = await enrol(world, browser, (await browser.sign_in("alice")).headers["location"])
    await browser.sign_in("alice")
    first = (await browser.post("/sessions", {"pending": True, "code": totp.now()})).json()
    await world.sql("UPDATE credentials SET last_step = -1")
    await browser.sign_in("alice")
    second = (await browser.post("/sessions", {"pending": True, "code": totp.now()})).json()
    user_id = UUID(first["user"]["user_id"])
    await world.said()
    ended = await world.delete(f"/sessions/{first['session_id']}", person(user_id, session_id=UUID(first["session_id"])))
    assert ended.status_code == 204
    farewell = ended.headers["hortus-logout"]
    assert farewell.startswith(f"{provider.issuer}/session/end?")
    assert {"client_id", "id_token_hint"} == set(parse_qs(urlsplit(farewell).query))
    assert (await world.delete(f"/sessions/{first['session_id']}", person(user_id))).headers.get("hortus-logout") is None
    await world.said()

    form = await browser.get(farewell)
    assert form.status_code == 200, form.text
    secret = form.text.split('name="xsrf" value="')[1].split('"')[0]
    await browser.client.post(f"{provider.issuer}/session/end/confirm", data={"xsrf": secret, "logout": "yes"})
    (path, heard, _) = ear.asked[-1]
    assert path == "/logout"
    answer = await world.client.post("https://service/api/v1/oidc/hospital/logout", data=heard)
    assert answer.status_code == 200, answer.text
    (over,) = sessions(await world.said())
    assert (str(over.session_id), over.live) == (second["session_id"], False)
    again = await world.client.post("https://service/api/v1/oidc/hospital/logout", data=heard)
    assert (again.status_code, reason(again)) == (400, "bad-logout-token")
