"""Signing in by a real identity provider: npm's oidc-provider, over TLS."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.auth.identity import Browser, RealProvider, Tls, settings_for
from tests.world import World, Worlds

PEOPLE = {
    "alice": {"email": "alice@example.org", "email_verified": True, "groups": ["Staff", "MRI"]},
    "gold": {"email": "gold@example.org", "email_verified": True, "groups": ["staff"], "acr": "gold", "amr": ["pwd", "otp"]},
    "unverified": {"email": "alice@example.org", "email_verified": False, "groups": ["staff"]},
    "outsider": {"email": "out@example.org", "email_verified": True, "groups": ["elsewhere"]},
}


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return Tls.make(tmp_path_factory.mktemp("provider"))


@pytest.fixture(scope="module")
def provider(tls: Tls) -> Iterator[RealProvider]:
    made = RealProvider(tls, PEOPLE)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def told() -> dict[str, Any]:
    """What a test adds to the provider's configuration."""
    return {}


@pytest.fixture
async def world(worlds: Worlds, settings: dict[str, Any], tmp_path: Path, provider: RealProvider, told: dict[str, Any]) -> World:
    scopes = {"scopes": ["openid", "email", "groups"], "groups_claim": "groups"}
    return await worlds.open("auth", **settings, **settings_for(tmp_path, provider.issuer, provider.tls, **scopes, **told))


@pytest.fixture
async def browser(world: World, tls: Tls) -> AsyncIterator[Browser]:
    made = Browser(world, tls)
    yield made
    await made.close()


async def test_it(world: World, browser: Browser) -> None:
    answer = await browser.sign_in("alice")
    print(answer.status_code, answer.headers, answer.text[-300:])
    assert answer.status_code == 303
