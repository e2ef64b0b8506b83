"""Answers of an identity provider that do not hold: none of them signs anybody in."""

import asyncio
import base64
import hashlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import pyotp
import pytest
from joserfc.jwk import ECKey, OctKey, RSAKey

from chassis import guard
from services.auth.provider import BadProviderFile, read_file
from services.auth.routes import cookies
from services.auth.service import oidc, pending
from tests.auth.identity import CLIENT_ID, SECRET, Browser, FakeProvider, Tls, faking, public, settings_for
from tests.world import World, Worlds, reason

LOGOUT: dict[str, dict[str, str]] = {"http://schemas.openid.net/event/backchannel-logout": {}}
ACCESS = "an access token"


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return Tls.make(tmp_path_factory.mktemp("provider"))


@pytest.fixture
def fake(tls: Tls) -> Iterator[FakeProvider]:
    with faking(tls) as made:
        yield made


@pytest.fixture
async def world(worlds: Worlds, settings: dict[str, Any], tmp_path: Path, fake: FakeProvider) -> World:
    return await worlds.open("auth", **settings, **settings_for(tmp_path, fake.issuer, fake.tls, algorithms=["RS256", "ES256"]))


@pytest.fixture
async def browser(world: World, tls: Tls) -> AsyncIterator[Browser]:
    made = Browser(world, tls)
    yield made
    await made.close()


async def asked_of(browser: Browser, **how: str) -> dict[str, str]:
    """Begin; what the browser is sent to the provider with."""
    answer = await browser.begin(**how)
    assert answer.status_code == 303, answer.text
    return {name: values[0] for name, values in parse_qs(urlsplit(answer.headers["location"]).query).items()}


async def come_back(browser: Browser, state: str, **other: str) -> Any:
    return await browser.client.get("/api/v1/oidc/hospital/callback", params={"state": state, "code": "c0de", **other})


async def sign_in_with(
    browser: Browser,
    fake: FakeProvider,
    header: dict[str, Any] | None = None,
    key: Any = None,
    how: dict[str, str] | None = None,
    **claims: Any,
) -> Any:
    """Sign in, the provider answering with these claims in place of the right ones."""
    asked = await asked_of(browser, **(how or {}))
    token = fake.sign(fake.claims(**{"nonce": asked["nonce"], **claims}), header, key)
    fake.answers["/token"] = lambda _: (200, {"id_token": token, "access_token": ACCESS, "token_type": "Bearer"})
    return await come_back(browser, asked["state"])


def half_hash(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()[:16]).rstrip(b"=").decode()


async def refused(world: World, answer: Any, slug: str = "provider-not-believed", status: int = 403) -> None:
    assert (answer.status_code, answer.headers["hortus-reason"]) == (status, slug)
    assert answer.headers["content-type"].startswith("text/html")
    assert cookies.REFRESH not in str(answer.headers)
    assert cookies.PENDING not in str(answer.headers)
    assert await world.said() == []
    assert await world.sql("SELECT 1 FROM users") == []


async def test_with_everything_right_the_same_provider_signs_in(world: World, browser: Browser, fake: FakeProvider) -> None:
    answer = await sign_in_with(browser, fake, at_hash=half_hash(ACCESS), aud=[CLIENT_ID], azp=CLIENT_ID, sid="s1")
    assert answer.status_code == 303, answer.text
    assert "#enrolment=" in answer.headers["location"]
    _, form, headers = next(each for each in fake.asked if each[0] == "/token")
    assert (form["grant_type"], form["code"]) == ("authorization_code", "c0de")
    assert len(form["code_verifier"]) >= 43
    assert "client_secret" not in form
    shown = base64.b64decode(headers["Authorization"].removeprefix("Basic ")).decode()
    assert shown == f"{CLIENT_ID}:{SECRET.replace('%', '%25').replace(' ', '%20').replace(':', '%3A')}"  # RFC 6749 section 2.3.1


@pytest.mark.parametrize("said", [{"email": "other@x.org", "email_verified": True}, {"email_verified": None}, {"email_verified": False}])
async def test_an_address_that_the_provider_does_not_say_to_be_verified_is_none(
    world: World, browser: Browser, fake: FakeProvider, said: dict[str, Any]
) -> None:
    about = {"sub": "mallory", "email": "mallory@x.org", **said}
    fake.answers["/userinfo"] = lambda _: (200, {name: value for name, value in about.items() if value is not None})
    await refused(world, await sign_in_with(browser, fake), "no-address")


async def test_where_that_is_configured_an_address_counts_unless_the_provider_says_that_it_is_not_verified(
    worlds: Worlds, settings: dict[str, Any], tmp_path: Path, fake: FakeProvider, tls: Tls
) -> None:
    trusting = await worlds.open("auth", **settings, **settings_for(tmp_path, fake.issuer, tls, trusts_email=True))
    browser = Browser(trusting, tls)
    await refused(trusting, await sign_in_with(browser, fake, email_verified=False), "no-address")
    fake.answers["/userinfo"] = lambda _: (200, {"sub": "mallory"})
    assert (await sign_in_with(browser, fake)).status_code == 303
    await browser.close()


NOW = int(time.time())


WRONG_CLAIMS: list[dict[str, Any]] = [
    {"iss": "https://evil.example.org"},
    {"iss": None},
    {"aud": "another client"},
    {"aud": [CLIENT_ID, "another client"]},
    {"aud": None},
    {"azp": "another client"},
    {"exp": NOW - 3600},
    {"exp": None},
    {"exp": "tomorrow"},
    {"iat": NOW + 3600},
    {"iat": NOW - 7200},
    {"iat": None},
    {"iat": True},
    {"nbf": NOW + 3600},
    {"nonce": "another nonce"},
    {"nonce": None},
    {"nonce": 5},
    {"sub": None},
    {"sub": ""},
    {"sub": "x" * 256},
    {"sub": "a\x00b"},
    {"sub": 5},
    {"at_hash": half_hash("another token")},
    {"sid": 5},
    {"auth_time": NOW + 3600},
    {"auth_time": -1},
    {"auth_time": -1e300},
    {"auth_time": float("nan")},
    {"auth_time": "now"},
]


async def test_a_claim_that_does_not_hold_signs_nobody_in(world: World, browser: Browser, fake: FakeProvider) -> None:
    for claims in WRONG_CLAIMS:
        print(claims)
        await refused(world, await sign_in_with(browser, fake, **claims))


async def test_a_signature_of_another_key_signs_nobody_in(world: World, browser: Browser, fake: FakeProvider) -> None:
    await refused(world, await sign_in_with(browser, fake, key=RSAKey.generate_key(2048)))


async def test_no_other_algorithm_is_taken_than_those_configured(world: World, browser: Browser, fake: FakeProvider) -> None:
    await refused(world, await sign_in_with(browser, fake, {"alg": "PS256"}))
    await refused(world, await sign_in_with(browser, fake, {"alg": "HS256"}, OctKey.import_key(public(fake.key)["n"])))
    asked = await asked_of(browser)
    parts = [json.dumps(part).encode() for part in ({"alg": "none"}, fake.claims(nonce=asked["nonce"]))]
    unsigned = ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts) + "."
    fake.answers["/token"] = lambda _: (200, {"id_token": unsigned, "access_token": ACCESS})
    await refused(world, await come_back(browser, asked["state"]))


async def test_a_key_of_another_kind_or_use_or_too_short_does_not_count(world: World, browser: Browser, fake: FakeProvider) -> None:
    for key in (
        {**public(fake.key), "use": "enc"},
        {**public(fake.key), "alg": "PS256"},
        public(ECKey.generate_key("P-256", {"kid": "one"})),
    ):
        fake.answers["/jwks"] = lambda _, key=key: (200, {"keys": [key, "nonsense", {"kty": "oct", "k": "AAAA", "kid": "one"}]})  # type: ignore[misc]
        world.runtime.extra["tools"].providers["hospital"]._keys.clear()
        await refused(world, await sign_in_with(browser, fake))


async def test_a_key_name_that_nobody_has_makes_us_ask_once_and_not_again_and_again(
    world: World, browser: Browser, fake: FakeProvider
) -> None:
    assert (await sign_in_with(browser, fake)).status_code == 303
    await world.said()
    for number in range(5):
        answer = await sign_in_with(browser, fake, {"kid": f"invented {number}"})
        assert answer.headers["hortus-reason"] == "provider-not-believed"
    assert fake.asks("/jwks") <= 2
    assert fake.asks("/.well-known/openid-configuration") == 1


async def test_what_is_no_token_signs_nobody_in(world: World, browser: Browser, fake: FakeProvider) -> None:
    for token in ("", "x", "a.b.c", "a.b", "a.b.c.d.e", "." * 70_000, 5, None):
        asked = await asked_of(browser)
        fake.answers["/token"] = lambda _, token=token: (200, {"id_token": token, "access_token": ACCESS})  # type: ignore[misc]
        await refused(world, await come_back(browser, asked["state"]))


async def test_userinfo_of_somebody_else_signs_nobody_in(world: World, browser: Browser, fake: FakeProvider) -> None:
    fake.answers["/userinfo"] = lambda _: (200, {"sub": "somebody else", "email": "root@x.org"})
    await refused(world, await sign_in_with(browser, fake, email=None))


@pytest.mark.parametrize(
    "change", [{"issuer": "https://evil.example.org"}, {"token_endpoint": "http://127.0.0.1/token"}, {"jwks_uri": None}]
)
async def test_a_discovery_document_that_does_not_hold_is_not_believed(
    world: World, browser: Browser, fake: FakeProvider, change: dict[str, Any]
) -> None:
    fake.discovery |= change
    await refused(world, await browser.begin())


async def test_a_provider_that_names_itself_has_to_do_so_in_each_answer(world: World, browser: Browser, fake: FakeProvider) -> None:
    fake.discovery["authorization_response_iss_parameter_supported"] = True
    for other in ({}, {"iss": "https://evil.example.org"}):
        asked = await asked_of(browser)
        await refused(world, await come_back(browser, asked["state"], **other))
    assert fake.asks("/token") == 0


async def test_an_issuer_that_is_named_has_to_be_right_also_where_none_is_promised(
    world: World, browser: Browser, fake: FakeProvider
) -> None:
    asked = await asked_of(browser)
    await refused(world, await come_back(browser, asked["state"], iss="https://evil.example.org"))
    assert fake.asks("/token") == 0


async def test_a_state_that_is_not_this_browsers_is_not_even_asked_about(world: World, browser: Browser, fake: FakeProvider) -> None:
    await asked_of(browser)
    await refused(world, await come_back(browser, "state_another"), "answer-not-expected")
    answer = await browser.client.get("/api/v1/oidc/hospital/callback")
    await refused(world, answer, "answer-not-expected")
    assert fake.asks("/token") == 0


async def test_a_provider_that_is_not_configured_does_not_exist(world: World, browser: Browser) -> None:
    await refused(world, await browser.begin(provider="evil"), "unknown-provider", 404)
    unknown = await browser.client.post("/api/v1/oidc/evil/logout", data={"logout_token": "x"})
    assert (unknown.status_code, reason(unknown)) == (404, "unknown-provider")


@pytest.mark.parametrize(
    ("status", "content", "slug", "expected"),
    [
        (500, {}, "provider-away", 503),
        (400, {"error": "invalid_grant", "error_description": "<script>"}, "provider-not-believed", 403),
        (200, b"<html>not JSON</html>", "provider-not-believed", 403),
        (200, b"[]", "provider-not-believed", 403),
        (200, b" " * (2 << 20), "provider-not-believed", 403),
        (302, {}, "provider-away", 503),
    ],
)
async def test_an_exchange_that_fails_ends_on_a_page(
    world: World, browser: Browser, fake: FakeProvider, status: int, content: object, slug: str, expected: int
) -> None:
    asked = await asked_of(browser)
    fake.answers["/token"] = lambda _: (status, content)
    answer = await come_back(browser, asked["state"])
    await refused(world, answer, slug, expected)
    assert "script" not in answer.text


async def test_a_provider_that_is_away_is_said_to_be_and_not_asked_by_everybody_at_once(
    world: World, browser: Browser, fake: FakeProvider
) -> None:
    fake.answers["/.well-known/openid-configuration"] = lambda _: (503, {})
    for _ in range(3):
        answer = await browser.begin()
        await refused(world, answer, "provider-away", 503)
        assert answer.headers["retry-after"] == "5"
    assert fake.asks("/.well-known/openid-configuration") == 1


async def test_answers_that_a_provider_away_could_not_give_are_nobodys_guesses(world: World, browser: Browser, fake: FakeProvider) -> None:
    asked = await asked_of(browser)
    fake.answers["/token"] = lambda _: (500, {})
    await refused(world, await come_back(browser, asked["state"]), "provider-away", 503)
    assert await world.sql("SELECT 1 FROM attempts") == []


async def test_signing_out_here_does_not_wait_for_a_provider_that_hangs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    async def found(*_: object) -> object:
        return SimpleNamespace(provider="hospital", id_token_sealed=None)

    tools = world.runtime.extra["tools"]
    monkeypatch.setattr(tools.providers["hospital"], "discovery", hang)
    monkeypatch.setattr("services.auth.repository.oidc.session_at_provider", found)
    async with asyncio.timeout(5 * oidc.FAREWELL_S):
        assert await oidc.farewell(tools, uuid4(), uuid4()) is None


async def test_answers_that_fail_are_counted_by_where_they_come_from(world: World, browser: Browser, fake: FakeProvider) -> None:
    fake.answers["/token"] = lambda _: (400, {})
    await world.sql("UPDATE attempts SET failures = 0")
    await come_back(browser, (await asked_of(browser))["state"])
    assert (await world.sql("SELECT sum(failures) FROM attempts"))[0][0] == 1
    await world.sql("UPDATE attempts SET next_at = now() + interval '30 s'")
    answer = await come_back(browser, (await asked_of(browser))["state"])
    assert (answer.status_code, answer.headers["hortus-reason"]) == (429, "slow-down")
    assert fake.asks("/token") == 1


# Back-channel logout


WRONG_LOGOUT: list[dict[str, Any]] = [
    {"nonce": "any"},
    {"events": None},
    {"events": {}},
    {"events": {"http://schemas.openid.net/event/backchannel-logout": True}},
    {"jti": None},
    {"sub": None},
    {"aud": "another client"},
    {"iss": "https://evil.example.org"},
    {"iat": NOW - 7200},
    {"exp": NOW - 3600},
    {"sid": ""},
]


async def test_a_logout_token_that_does_not_hold_ends_nothing(world: World, browser: Browser, fake: FakeProvider) -> None:
    for claims in WRONG_LOGOUT:
        token = fake.sign(fake.claims(**{"events": LOGOUT, "jti": "j1", **claims}))
        answer = await browser.client.post("/api/v1/oidc/hospital/logout", data={"logout_token": token})
        assert (answer.status_code, reason(answer)) == (400, "bad-logout-token"), claims
        assert await world.said() == []


async def test_a_logout_token_counts_once_and_needs_no_session_to_end(world: World, browser: Browser, fake: FakeProvider) -> None:
    token = fake.sign(fake.claims(events=LOGOUT, jti="j1"))
    assert (await browser.client.post("/api/v1/oidc/hospital/logout", data={"logout_token": token})).status_code == 200
    again = await browser.client.post("/api/v1/oidc/hospital/logout", data={"logout_token": token})
    assert (again.status_code, reason(again)) == (400, "bad-logout-token")


@pytest.mark.parametrize("said", [{}, {"sid": "s1"}, {"sub": None, "sid": "s1"}], ids=["subject", "both", "session"])
async def test_who_signs_out_there_before_their_second_factor_was_shown_here_is_out(
    world: World, browser: Browser, fake: FakeProvider, said: dict[str, Any]
) -> None:
    """As somebody else at a shared computer would go on where its person stopped."""
    came = await sign_in_with(browser, fake, sid="s1")
    link = came.headers["location"].partition("enrolment=")[2]
    totp = pyotp.TOTP((await browser.post("/factor-enrolments/acceptance", {"token": link})).json()["totp_secret"])
    if "sub" in said:  # of a session alone nobody knows whose link it was
        assert (await browser.post("/factor-enrolments/confirmation", {"token": link, "code": totp.now()})).status_code == 200
        await world.sql("UPDATE credentials SET last_step = -1")
    token = fake.sign(fake.claims(events=LOGOUT, jti="j1", **said))
    assert (await browser.client.post("/api/v1/oidc/hospital/logout", data={"logout_token": token})).status_code == 200
    if "sub" not in said:
        late = await browser.post("/factor-enrolments/confirmation", {"token": link, "code": totp.now()})
        assert (late.status_code, reason(late)) == (404, "link-not-open")
    out = await browser.post("/sessions", {"pending": True, "code": totp.now()})
    assert (out.status_code, reason(out)) == (401, "sign-in-refused")
    again = await sign_in_with(browser, fake, sid="s2")
    assert "#enrolment=" in again.headers["location"] or again.headers["location"].endswith("#pending")
    if "sub" in said:
        assert (await browser.post("/sessions", {"pending": True, "code": totp.now()})).status_code == 201


@pytest.mark.parametrize("first", ["the second factor", "the sign-out"])
async def test_of_a_second_factor_and_a_sign_out_of_that_session_at_one_moment_no_session_stays(
    world: World, browser: Browser, fake: FakeProvider, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """Each begins the other where it has looked already and has committed nothing."""
    came = await sign_in_with(browser, fake, sid="s1")
    link = came.headers["location"].partition("enrolment=")[2]
    totp = pyotp.TOTP((await browser.post("/factor-enrolments/acceptance", {"token": link})).json()["totp_secret"])
    assert (await browser.post("/factor-enrolments/confirmation", {"token": link, "code": totp.now()})).status_code == 200
    await world.sql("UPDATE credentials SET last_step = -1")
    token = fake.sign(fake.claims(events=LOGOUT, jti="j1", sub=None, sid="s1"))
    begun: list[asyncio.Task[Any]] = []

    async def show_factor() -> Any:
        return await browser.post("/sessions", {"pending": True, "code": totp.now()})

    async def sign_out() -> Any:
        return await browser.client.post("/api/v1/oidc/hospital/logout", data={"logout_token": token})

    def meanwhile(looks: Any, other: Any) -> Any:
        async def look(*given: Any) -> Any:
            seen = await looks(*given)
            begun.append(asyncio.create_task(other()))
            waits = asyncio.create_task(world.somebody_waits())
            await asyncio.wait([begun[0], waits], return_when=asyncio.FIRST_COMPLETED)
            waits.cancel()
            return seen

        return look

    if first == "the second factor":
        monkeypatch.setattr(pending, "counts", meanwhile(pending.counts, sign_out))
        answers = [await show_factor(), await begun[0]]
        assert [each.status_code for each in answers] == [201, 200]
    else:
        monkeypatch.setattr(pending, "end", meanwhile(pending.end, show_factor))
        answers = [await sign_out(), await begun[0]]
        assert [each.status_code for each in answers] == [200, 401]
    assert await world.sql("SELECT 1 FROM sessions WHERE ended_at IS NULL") == []


@pytest.mark.parametrize("said", [{}, {"sub": None, "sid": "s1"}], ids=["subject", "session"])
async def test_who_signs_out_there_while_the_provider_s_answer_is_under_way_is_not_let_in(
    world: World, browser: Browser, fake: FakeProvider, monkeypatch: pytest.MonkeyPatch, said: dict[str, Any]
) -> None:
    ask = oidc._ask

    async def asked(*given: Any) -> Any:
        told = await ask(*given)
        token = fake.sign(fake.claims(events=LOGOUT, jti="j1", **said))
        assert (await browser.client.post("/api/v1/oidc/hospital/logout", data={"logout_token": token})).status_code == 200
        return told

    with monkeypatch.context() as patched:
        patched.setattr(oidc, "_ask", asked)
        await refused(world, await sign_in_with(browser, fake, sid="s1"), "answer-not-expected")
    assert "#enrolment=" in (await sign_in_with(browser, fake, sid="s2")).headers["location"]


async def test_a_link_to_set_up_a_second_factor_is_for_the_browser_that_signed_in_there_until_it_signs_out_there(
    world: World, browser: Browser, fake: FakeProvider, tls: Tls
) -> None:
    came = await sign_in_with(browser, fake, sid="s1")
    link = {"token": came.headers["location"].partition("enrolment=")[2]}
    other = Browser(world, tls)
    try:
        assert reason(await other.post("/factor-enrolments/acceptance", link)) == "first-factor-needed"
    finally:
        await other.close()
    assert (await browser.post("/factor-enrolments/acceptance", link)).status_code == 200
    token = fake.sign(fake.claims(events=LOGOUT, jti="j1", sub=None, sid="s1"))
    assert (await browser.client.post("/api/v1/oidc/hospital/logout", data={"logout_token": token})).status_code == 200
    assert reason(await browser.post("/factor-enrolments/acceptance", link)) == "first-factor-needed"


async def test_who_signs_out_there_in_another_session_goes_on_here(world: World, browser: Browser, fake: FakeProvider) -> None:
    came = await sign_in_with(browser, fake, sid="s1")
    link = came.headers["location"].partition("enrolment=")[2]
    totp = pyotp.TOTP((await browser.post("/factor-enrolments/acceptance", {"token": link})).json()["totp_secret"])
    assert (await browser.post("/factor-enrolments/confirmation", {"token": link, "code": totp.now()})).status_code == 200
    await world.sql("UPDATE credentials SET last_step = -1")
    token = fake.sign(fake.claims(events=LOGOUT, jti="j1", sid="s0"))
    assert (await browser.client.post("/api/v1/oidc/hospital/logout", data={"logout_token": token})).status_code == 200
    assert (await browser.post("/sessions", {"pending": True, "code": totp.now()})).status_code == 201


async def test_a_logout_token_that_does_not_hold_is_counted_and_recorded_although_whoever_shows_it_hangs_up(
    world: World, browser: Browser, fake: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "left", lambda _request: True)
    token = fake.sign(fake.claims(events=LOGOUT))
    await browser.client.post("/api/v1/oidc/hospital/logout", data={"logout_token": token})
    assert [row.failures for row in await world.sql("SELECT failures FROM attempts")] == [1]
    (record,) = await world.recorded()
    assert (record["action"], record["outcome"], record["reason"]) == ("oidc.logout", "refused", "bad-logout-token")


async def test_a_form_without_one_logout_token_is_refused(world: World, browser: Browser) -> None:
    for body in (b"", b"logout_token=", b"logout_token=a&logout_token=b", b"\xff\xfe", b"other=1"):
        answer = await browser.client.post("/api/v1/oidc/hospital/logout", content=body)
        assert (answer.status_code, reason(answer)) == (400, "bad-logout-token"), body


# The file


@pytest.mark.parametrize(
    "change",
    [
        {"issuer": "http://127.0.0.1:1"},
        {"issuer": "https://user@x.org"},
        {"issuer": "https://x.org?a=b"},
        {"issuer": "ftp://x.org"},
        {"algorithms": ["HS256"]},
        {"algorithms": ["none"]},
        {"algorithms": []},
        {"scopes": ["email"]},
        {"name": "No Slug"},
        {"unknown": 1},
        {"client_secret_file": "/nowhere"},
        {"trust": "/nowhere"},
    ],
    ids=str,
)
def test_a_file_that_cannot_be_right_stops_the_service(tmp_path: Path, tls: Tls, change: dict[str, Any]) -> None:
    with pytest.raises(BadProviderFile) as caught:
        read_file(settings_for(tmp_path, "https://id.example.org", tls, **change)["oidc_file"])
    assert SECRET not in str(caught.value)


def test_two_providers_of_one_name_and_an_empty_secret_stop_the_service_too(tmp_path: Path, tls: Tls) -> None:
    file: Path = settings_for(tmp_path, "https://id.example.org", tls)["oidc_file"]
    one = json.loads(file.read_text())["provider"]
    file.write_text(json.dumps({"provider": one + one}))
    with pytest.raises(BadProviderFile, match="the same name"):
        read_file(file)
    (tmp_path / "client.secret").write_text("\n")
    file.write_text(json.dumps({"provider": one}))
    with pytest.raises(BadProviderFile, match="empty"):
        read_file(file)


async def test_the_file_may_be_toml_as_in_the_documentation(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs/architecture.md").read_text()
    example = text.split("```toml\n[[provider]]")[1].split("```")[0]
    (tmp_path / "secret").write_text("x")
    file = tmp_path / "providers.toml"
    file.write_text(
        "[[provider]]"
        + example.replace("/etc/hortus/hospital.secret", str(tmp_path / "secret")).replace('trust = "/etc/hortus/hospital-ca.pem"', "")
    )
    found = read_file(file)
    assert [each.config.name for each in found.values()] == ["hospital"]
    for each in found.values():
        await each.close()


async def test_without_a_file_there_is_no_provider(worlds: Worlds, settings: dict[str, Any]) -> None:
    world = await worlds.open("auth", **settings)
    assert (await world.get("/oidc")).json() == {"items": [], "next": None}
