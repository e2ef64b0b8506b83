"""A real browser signs in: Debian's Chromium at a real gateway with the real auth behind it, with Kafka's place taken by the test."""

import asyncio
import base64
import contextlib
import hashlib
import os
import secrets
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import httpx2
import pyotp
import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from chassis import tokens
from contracts.policy import API
from services.auth.app import set_up
from services.auth.routes import cookies
from tests.auth.factors import under
from tests.auth.identity import RealProvider, Tls, settings_for
from tests.auth.people import PASSWORD, Account, join, passing_by
from tests.gateway.stage import Certificates, Stage, opened
from tests.world import World, Worlds, administrator

FLAGS = [
    "--no-sandbox",
    "--ignore-certificate-errors",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-sync",
    "--no-first-run",
    "--no-pings",
]
PEOPLE = {
    "alice": {"email": "alice@example.org", "email_verified": True, "groups": ["staff"]},
    "gold": {"email": "gold@example.org", "email_verified": True, "groups": [], "acr": "gold"},
}
EVIL = "https://evil.example.org"


@pytest.fixture(scope="session")
def chromium() -> str:
    """Debian's Chromium, installed where that is possible."""
    if shutil.which("chromium") is None:
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            pytest.skip("Chromium is not here, and only root can install it (apt-get install chromium)")
        install = ["apt-get", "-o", "DPkg::Lock::Timeout=300", "-qq", "-y"]
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for work in (["update"], ["install", "--no-install-recommends", "chromium"]):
            subprocess.run([*install, *work], env=environment, capture_output=True, check=False, timeout=600)
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("Chromium cannot be installed here")
    return found


@pytest.fixture(scope="module")
async def browser(chromium: str) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        made = await playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield made
        await made.close()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return Tls.make(tmp_path_factory.mktemp("provider"))


@pytest.fixture
async def stage(certificates: Certificates, tmp_path: Path) -> AsyncIterator[Stage]:
    async with opened(certificates, tmp_path) as made:
        yield made


@pytest.fixture
def provider(tls: Tls, stage: Stage) -> Iterator[RealProvider]:
    made = RealProvider(tls, PEOPLE, origin=stage.people)
    made.start()
    yield made
    made.stop()


def in_front(world: World, stage: Stage) -> Any:
    """The service for the gateway: what it said is known there before its answer arrives, as Kafka and the gateway see to it."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        messages: list[Any] = []

        async def keep(message: Any) -> None:
            messages.append(message)

        await world.app(scope, receive, keep)
        stage.tell(*await world.said())
        for message in messages:
            await send(message)

    return app


@pytest.fixture
def settings(tmp_path: Path, stage: Stage) -> dict[str, Any]:
    master = tmp_path / "master.key"
    master.write_text(base64.urlsafe_b64encode(secrets.token_bytes(32)).decode())
    return {"master_key_file": master, "setup_file": tmp_path / "setup", "origins": (stage.people,)}


@pytest.fixture
async def world(worlds: Worlds, settings: dict[str, Any], stage: Stage) -> World:
    made = await worlds.open("auth", **settings)
    await set_up(made.runtime)
    stage.answer = in_front(made, stage)
    return made


@pytest.fixture
async def world_with_provider(worlds: Worlds, settings: dict[str, Any], stage: Stage, provider: RealProvider, tmp_path: Path) -> World:
    scopes = {"scopes": ["openid", "email", "groups"], "groups_claim": "groups", "trusts_factor": ["gold"]}
    made = await worlds.open("auth", **{**settings_for(tmp_path, provider.issuer, provider.tls, **scopes), **settings})
    await set_up(made.runtime)
    stage.answer = in_front(made, stage)
    return made


class Window:
    """A window of the browser, with what its console said."""

    def __init__(self, context: BrowserContext, page: Page) -> None:
        self.context = context
        self.page = page
        self.complaints: list[str] = []
        page.on("console", lambda message: self.complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    async def kept(self, name: str) -> dict[str, Any] | None:
        """A cookie as the browser itself knows it, also one that scripts do not see."""
        session = await self.context.new_cdp_session(self.page)
        every = (await session.send("Network.getAllCookies"))["cookies"]
        await session.detach()
        return next((cookie for cookie in every if cookie["name"] == name), None)

    async def has_authenticator(self) -> None:
        """From here on the machine has an authenticator for passkeys, whose person is always there."""
        session = await self.context.new_cdp_session(self.page)
        await session.send("WebAuthn.enable")
        about = {"protocol": "ctap2", "transport": "internal", "hasResidentKey": True, "hasUserVerification": True, "isUserVerified": True}
        await session.send("WebAuthn.addVirtualAuthenticator", {"options": {**about, "automaticPresenceSimulation": True}})

    def policy_complaints(self) -> list[str]:
        return [each for each in self.complaints if "Content Security Policy" in each]


@pytest.fixture
async def window(browser: Browser, stage: Stage) -> AsyncIterator[Window]:
    context = await browser.new_context(ignore_https_errors=True)
    context.set_default_timeout(15_000)
    yield Window(context, await context.new_page())
    await context.close()


async def enter(page: Page, ada: Account) -> None:
    await page.get_by_label("Username or e-mail address").fill(ada.username)
    await page.get_by_label("Password", exact=True).fill(ada.password)
    await page.locator("#shown").fill(await ada.new_code())
    await page.get_by_role("button", name="Sign in", exact=True).click()


@contextlib.contextmanager
def ten_minutes_ago() -> Iterator[None]:
    """Access tokens that are given meanwhile are 10 minutes old, and so have run out."""
    issue = tokens.issue

    def old(key: Any, key_id: str, user_id: UUID, session_id: UUID, now: datetime, lifetime: timedelta) -> tuple[str, datetime]:
        return issue(key, key_id, user_id, session_id, now - timedelta(minutes=10), lifetime)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tokens, "issue", old)
        yield


async def signed_in_as(page: Page, username: str) -> None:
    await page.get_by_role("heading", name=f"You are signed in as {username}").wait_for()


async def alerted(page: Page, said: str) -> None:
    await page.get_by_role("alert").get_by_text(said).wait_for()


async def sign_out(page: Page) -> None:
    """Sign out; nothing of who was there is left for the next person at the computer."""
    await page.get_by_role("button", name="Sign out").click()
    await alerted(page, "You are signed out.")
    assert await page.locator("input:not([type=radio])").evaluate_all("fields => fields.map(field => field.value).join('')") == ""
    assert await page.get_by_label("One-time code").locator("visible=true").count() == 2
    assert await page.locator("#password-form").get_by_role("radio", name="One-time code").is_checked()


async def still_open(world: World) -> int:
    return len(await world.sql("SELECT 1 FROM sessions WHERE ended_at IS NULL"))


async def test_password_and_code_on_the_page_with_cookies_that_no_script_and_no_other_site_sees(
    world: World, stage: Stage, window: Window
) -> None:
    ada = await join(world)
    page = window.page
    answer = await page.goto(f"{stage.people}{API}/sign-in")
    assert answer is not None
    headers = await answer.all_headers()
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert headers["cache-control"] == "no-store"
    await page.get_by_label("Username or e-mail address").fill(ada.username)
    await page.get_by_label("Password", exact=True).fill("not this one")
    await page.locator("#shown").fill("000000")
    await page.get_by_role("button", name="Sign in", exact=True).click()
    await page.get_by_text("That was not right").wait_for()
    with ten_minutes_ago():
        await enter(page, ada)
        await signed_in_as(page, ada.username)
    for name in (cookies.REFRESH, cookies.DEVICE):
        cookie = await window.kept(name)
        assert cookie is not None
        assert (cookie["secure"], cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, True, "Strict", "/")
        assert not cookie["domain"].startswith(".")
    assert await page.evaluate("document.cookie") == ""
    assert window.policy_complaints() == []
    await window.context.set_offline(True)
    await page.get_by_role("button", name="Sign out").click()
    await alerted(page, "It is not known whether you are signed out: Hortus does not answer.")
    await window.context.set_offline(False)
    await sign_out(page)
    assert await still_open(world) == 0
    await page.goto(f"{stage.people}{API}/sign-in?later#signed-in")
    await alerted(page, "Nobody is signed in here any more.")


async def test_a_page_in_whose_browser_somebody_else_signed_in_does_nothing_and_says_who(
    world: World, stage: Stage, window: Window
) -> None:
    ada, bob = await join(world), await join(world, "bob@example.org")
    other = await window.context.new_page()
    with ten_minutes_ago():
        for page, account in ((window.page, ada), (other, bob)):
            await page.goto(f"{stage.people}{API}/sign-in")
            await enter(page, account)
            await signed_in_as(page, account.username)
    await window.page.get_by_role("button", name="Sign out").click()
    await alerted(window.page, f"Nobody was signed out. Meanwhile {bob.username} signed in in this browser. Nothing was done.")
    await signed_in_as(window.page, bob.username)
    assert await still_open(world) == 2
    await sign_out(window.page)
    assert [row.user_id for row in await world.sql("SELECT user_id FROM sessions WHERE ended_at IS NULL")] == [ada.user_id]


async def test_the_policy_of_the_page_stops_what_is_not_its_own(world: World, stage: Stage, window: Window) -> None:
    await window.page.goto(f"{stage.people}{API}/sign-in")
    await window.page.evaluate("""() => {
        const script = document.createElement('script'); script.textContent = 'window.bad = 1'; document.body.append(script);
        const image = document.createElement('img'); image.src = '/api/v1/oidc'; document.body.append(image);
    }""")
    assert await window.page.evaluate("window.bad") is None
    assert len(window.policy_complaints()) >= 1


async def add_passkey(page: Page, name: str) -> None:
    """Name a new passkey and press Enter, as who uses the keyboard does."""
    await page.get_by_label("Name for a new passkey").fill(name)
    await page.get_by_label("Name for a new passkey").press("Enter")


async def test_a_passkey_is_added_and_signs_in_alone(world: World, stage: Stage, window: Window) -> None:
    ada = await join(world)
    page = window.page
    await window.has_authenticator()
    await page.goto(f"{stage.people}{API}/sign-in?fresh=true")
    await enter(page, ada)
    await signed_in_as(page, ada.username)
    await add_passkey(page, "laptop")
    await alerted(page, "The passkey “laptop” counts from now on.")
    await add_passkey(page, "once more")
    await alerted(page, "This device holds a passkey of yours already.")
    assert [row.name for row in await world.sql("SELECT name FROM passkeys")] == ["laptop"]
    await page.goto(f"{stage.people}{API}/sign-in?again")
    await page.get_by_role("button", name="Sign in with a passkey alone").click()
    await signed_in_as(page, ada.username)
    (row,) = await world.sql("SELECT method FROM sessions WHERE ended_at IS NULL ORDER BY created_at DESC LIMIT 1")
    assert row.method == "passkey"
    await page.goto(f"{stage.people}{API}/sign-in?both")
    await page.get_by_label("Username or e-mail address").fill(ada.username)
    await page.get_by_label("Password", exact=True).fill(ada.password)
    await page.locator("#password-form").get_by_label("Passkey").check()
    await page.get_by_role("button", name="Sign in", exact=True).click()
    await signed_in_as(page, ada.username)
    (row,) = await world.sql("SELECT method FROM sessions WHERE ended_at IS NULL ORDER BY created_at DESC LIMIT 1")
    assert row.method == "password+passkey"
    await sign_out(page)
    assert window.policy_complaints() == []


async def test_who_has_no_second_factor_shows_the_password_once_more_and_adds_a_passkey(world: World, stage: Stage, window: Window) -> None:
    ada = await join(world)
    await under(ada, "optional")
    async with passing_by(ada) as actor:
        assert (await world.delete("/users/me/totp", actor)).status_code == 204
    page = window.page
    await window.has_authenticator()
    await page.goto(f"{stage.people}{API}/sign-in?fresh=true")
    await page.get_by_label("Username or e-mail address").fill(ada.username)
    await page.get_by_label("Password", exact=True).fill(PASSWORD)
    await page.get_by_role("button", name="Sign in", exact=True).click()
    await signed_in_as(page, ada.username)
    await add_passkey(page, "laptop")
    await page.get_by_role("button", name="Not now").click()
    await page.get_by_role("button", name="Add a passkey").click()
    for password, said in (("not this one", "That was not right"), (PASSWORD, "The passkey “laptop” counts from now on.")):
        await page.get_by_label("Password of this account").fill(password)
        await page.get_by_label("Password of this account").press("Enter")
        await alerted(page, said)
    assert [row.name for row in await world.sql("SELECT name FROM passkeys")] == ["laptop"]
    (session,) = await world.sql("SELECT session_id FROM sessions WHERE ended_at IS NULL")
    after = [asked["headers"].get("hortus-after") for asked in stage.seen if asked["path"].endswith(b"/passkeys/options")]
    assert after[-1] == f"sessions:{session.session_id}:2"  # or a gateway that has not heard of the step-up yet would refuse again
    await sign_out(page)
    assert window.policy_complaints() == []


async def at_the_provider(page: Page, stage: Stage, login: str = "alice") -> None:
    """Choose the provider on the page, and sign in there."""
    await page.goto(f"{stage.people}{API}/sign-in")
    await page.get_by_role("link", name="The hospital").click()
    await page.get_by_label("Login").fill(login)
    await page.get_by_role("button", name="Continue").click()


async def test_an_identity_provider_a_second_factor_and_the_state_cookie_that_is_lax(
    world_with_provider: World, stage: Stage, window: Window
) -> None:
    world, page = world_with_provider, window.page
    await page.goto(f"{stage.people}{API}/sign-in")
    await page.get_by_role("link", name="The hospital").click()
    await page.get_by_label("Login").wait_for()
    cookie = await window.kept(cookies.OIDC)
    assert cookie is not None
    assert (cookie["secure"], cookie["httpOnly"], cookie["sameSite"]) == (True, True, "Lax")
    await page.get_by_label("Login").fill("alice")
    await page.get_by_role("button", name="Continue").click()
    await page.get_by_role("heading", name="Set up your second factor").wait_for()
    assert page.url == f"{stage.people}{API}/sign-in"  # the one-time token is gone from the address
    assert await page.locator("#qr svg").is_visible()
    cookie = await window.kept(cookies.PENDING)
    assert cookie is not None
    assert (cookie["secure"], cookie["httpOnly"], cookie["sameSite"]) == (True, True, "Strict")
    totp = pyotp.TOTP(await page.locator("#secret").inner_text())
    await page.get_by_label("One-time code").locator("visible=true").fill(totp.now())
    await page.get_by_role("button", name="Confirm").click()
    await page.get_by_text("Your second factor is set up").wait_for()
    await world.sql("UPDATE credentials SET last_step = -1")
    await page.locator("#pending-shown").fill(totp.now())
    await page.locator("#pending-form").get_by_role("button").click()
    await signed_in_as(page, "alice000")
    (row,) = await world.sql("SELECT method FROM sessions")
    assert row.method == "oidc:hospital+totp"
    assert window.policy_complaints() == []
    await page.get_by_role("button", name="Sign out").click()
    await page.wait_for_url("**/session/end?**")  # the provider asks whether its session ends, too


async def test_a_second_factor_of_the_provider_that_counts_is_enough(world_with_provider: World, stage: Stage, window: Window) -> None:
    await at_the_provider(window.page, stage, "gold")
    await signed_in_as(window.page, "gold0000")
    assert window.page.url == f"{stage.people}{API}/sign-in"
    assert window.policy_complaints() == []


async def test_who_has_no_factor_is_sent_to_the_provider_once_more_and_adds_a_passkey_then(
    world_with_provider: World, stage: Stage, window: Window
) -> None:
    free = {"name": "free", "factor_policy": "optional", "external": ["hospital:staff"]}
    assert (await world_with_provider.post("/groups", administrator(), json=free)).status_code == 201
    await window.has_authenticator()
    page = window.page
    with ten_minutes_ago():
        await at_the_provider(page, stage)
        await signed_in_as(page, "alice000")
    await add_passkey(page, "laptop")
    await alerted(page, "You are signed out: sign in once more")
    assert await still_open(world_with_provider) == 0
    await page.get_by_role("link", name="The hospital").click()
    await page.get_by_label("Login").fill("alice")  # asked for once more, although the provider knows the browser
    await page.get_by_role("button", name="Continue").click()
    await signed_in_as(page, "alice000")
    await add_passkey(page, "laptop")
    await alerted(page, "The passkey “laptop” counts from now on.")
    assert [row.name for row in await world_with_provider.sql("SELECT name FROM passkeys")] == ["laptop"]
    assert window.policy_complaints() == []


async def test_where_a_passkey_is_asked_for_the_page_sets_one_up(world_with_provider: World, stage: Stage, window: Window) -> None:
    strict = {"name": "strict", "factor_policy": "passkey", "external": ["hospital:staff"]}
    assert (await world_with_provider.post("/groups", administrator(), json=strict)).status_code == 201
    await window.has_authenticator()
    page = window.page
    await at_the_provider(page, stage)
    await page.get_by_role("heading", name="Set up your second factor").wait_for()
    assert not await page.locator("#authenticator").is_visible()
    await page.get_by_role("button", name="Set up a passkey").click()
    await page.get_by_text("Your passkey is set up").wait_for()
    await page.locator("#pending-form").get_by_label("Passkey").check()
    await page.locator("#pending-form").get_by_role("button").click()
    await signed_in_as(page, "alice000")
    (row,) = await world_with_provider.sql("SELECT method FROM sessions")
    assert row.method == "oidc:hospital+passkey"
    assert window.policy_complaints() == []


async def test_were_the_state_cookie_strict_the_browser_would_not_bring_it_back(
    world_with_provider: World, stage: Stage, window: Window, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = cookies.keep
    monkeypatch.setattr(
        cookies, "keep", lambda response, name, value, seconds, _same_site="": keep(response, name, value, seconds, "strict")
    )
    await at_the_provider(window.page, stage)
    await window.page.get_by_text("This sign-in was not begun in this browser").wait_for()
    assert window.page.url.startswith(f"{stage.people}{API}/oidc/hospital/callback?")
    assert window.policy_complaints() == []


async def test_the_page_asks_before_it_hands_the_sign_in_over_to_the_command(world: World, stage: Stage, window: Window) -> None:
    ada = await join(world)
    arrived: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def loopback(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = (await reader.readline()).decode()
        if not arrived.done():
            arrived.set_result(line.split()[1])
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 7\r\nConnection: close\r\n\r\nWelcome")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(loopback, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        verifier = secrets.token_urlsafe(32)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        await window.page.goto(f"{stage.people}{API}/sign-in?client_port={port}&challenge={challenge}&state=s-1")
        await enter(window.page, ada)
        await window.page.get_by_role("heading", name=f"Sign in the hortus command on this computer as {ada.username}?").wait_for()
        assert not arrived.done()
        await window.page.get_by_role("button", name="Yes, sign it in").click()
        asked = urlsplit(await asyncio.wait_for(arrived, 15))
        await window.page.get_by_text("Welcome").wait_for()
    told = {name: values[0] for name, values in parse_qs(asked.query).items()}
    assert (asked.path, told["state"], set(told)) == ("/", "s-1", {"code", "state"})
    client: httpx2.AsyncClient = await stage.client()
    redeemed = await client.post("/sessions", json={"client_code": told["code"], "verifier": verifier})
    assert redeemed.status_code == 201, redeemed.text
    rows = await world.sql("SELECT ended_because FROM sessions ORDER BY session_id")
    assert [row.ended_because for row in rows] == ["handed-over", None]
    assert window.policy_complaints() == []


async def test_no_is_told_to_the_command_at_once(world: World, stage: Stage, window: Window) -> None:
    ada = await join(world)
    arrived: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def loopback(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.set_result((await reader.readline()).decode().split()[1])
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nNo")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(loopback, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        await window.page.goto(f"{stage.people}{API}/sign-in?client_port={port}&challenge={'A' * 43}&state=s-1")
        await enter(window.page, ada)
        await window.page.get_by_role("button", name="No", exact=True).click()
        asked = urlsplit(await asyncio.wait_for(arrived, 15))
    assert {name: values[0] for name, values in parse_qs(asked.query).items()} == {"error": "access_denied", "state": "s-1"}
    assert [row.ended_because for row in await world.sql("SELECT ended_because FROM sessions")] == ["signed-out"]


async def test_the_link_of_an_invitation_leads_to_a_password_and_a_second_factor(world: World, stage: Stage, window: Window) -> None:
    token = (await world.post("/users", administrator(), json={"email": "ada@example.org"})).json()["invitation"]
    page = window.page
    await page.goto(f"{stage.people}/setup#{token}")
    await page.get_by_label("New password", exact=True).fill(PASSWORD)
    await page.get_by_label("Once more").fill(f"{PASSWORD}?")
    await page.get_by_role("button", name="Go on").click()
    await page.get_by_text("The two passwords differ.").wait_for()
    await page.get_by_label("Once more").fill(PASSWORD)
    await page.get_by_role("button", name="Go on").click()
    await page.get_by_role("heading", name="Set up your second factor").wait_for()
    totp = pyotp.TOTP(await page.locator("#secret").inner_text())
    await page.locator("#enrolment-code").fill(totp.now())
    await page.get_by_role("button", name="Confirm").click()
    await page.get_by_text("Your second factor is set up.").wait_for()
    assert token not in page.url
    ada = Account(world, (await world.get("/users?q=ada", administrator())).json()["items"][0], totp)
    assert ada.user["status"] == "active"
    await enter(page, ada)
    await signed_in_as(page, ada.username)
    assert window.policy_complaints() == []


async def test_the_link_of_a_reset_leads_to_a_new_password(world: World, stage: Stage, window: Window) -> None:
    ada = await join(world)
    token = (await world.post(f"/users/{ada.user_id}/password-reset", administrator())).json()["link_token"]
    page = window.page
    await page.goto(f"{stage.people}/password-reset#{token}")
    ada.password = "another correct horse battery"
    await page.get_by_label("New password", exact=True).fill(ada.password)
    await page.get_by_label("Once more").fill(ada.password)
    await page.get_by_role("button", name="Go on").click()
    await page.get_by_text("Your new password counts.").wait_for()
    await enter(page, ada)
    await signed_in_as(page, ada.username)
    assert (await world.delete(f"/users/{ada.user_id}/sessions", administrator())).status_code == 204
    stage.tell(*await world.said())
    await page.get_by_role("button", name="Sign out").click()
    await alerted(page, "Your session has ended: nobody is signed in here any more.")


async def test_the_link_of_a_factor_reset_leads_to_a_new_factor(world: World, stage: Stage, window: Window) -> None:
    ada = await join(world)
    token = (await world.post(f"/users/{ada.user_id}/factor-reset", administrator())).json()["link_token"]
    page = window.page
    await page.goto(f"{stage.people}/factor-enrolment#{token}")
    await page.get_by_role("button", name="Go on").click()
    await page.get_by_text("Show your password beside this link").wait_for()
    await page.get_by_label("Your password", exact=True).fill(PASSWORD)
    await page.get_by_role("button", name="Go on").click()
    await page.get_by_role("heading", name="Set up your second factor").wait_for()
    ada.totp = pyotp.TOTP(await page.locator("#secret").inner_text())
    await page.locator("#enrolment-code").fill(ada.totp.now())
    await page.get_by_role("button", name="Confirm").click()
    await page.get_by_text("Your second factor is set up.").wait_for()
    await enter(page, ada)
    await signed_in_as(page, ada.username)


async def test_a_link_with_another_place_than_this_computer_is_not_followed(world: World, stage: Stage, window: Window) -> None:
    for port in ("80", "65536", "4711@evil.example.org", "4711/x", "-1", "04711"):
        await window.page.goto(f"{stage.people}{API}/sign-in?client_port={port}&challenge={'A' * 43}&state=s")
        await window.page.get_by_text("This address was not made by the hortus command").wait_for()
        assert await window.page.locator("section:visible").count() == 0, port


async def test_another_sites_form_reaches_nothing(world: World, stage: Stage, window: Window) -> None:
    ada = await join(world)
    page = window.page
    await page.goto(f"{stage.people}{API}/sign-in")
    await enter(page, ada)
    await signed_in_as(page, ada.username)
    before = await world.sql("SELECT generation FROM sessions")
    form = f'<form method="post" action="{stage.people}{API}/sessions/refresh"><button>Win</button></form>'
    await window.context.route(f"{EVIL}/**", lambda route: route.fulfill(content_type="text/html", body=form))
    await page.goto(f"{EVIL}/")
    async with page.expect_response(lambda answer: answer.url.endswith("/sessions/refresh")) as answered:
        await page.get_by_role("button", name="Win").click()
    answer = await answered.value
    assert answer.status == 403
    assert (await answer.all_headers())["hortus-reason"] == "foreign-origin"
    assert await world.sql("SELECT generation FROM sessions") == before
