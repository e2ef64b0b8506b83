"""How fresh a sign-in at an identity provider is: as fresh as the provider says, and where it does not say, not at all."""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyotp
import pytest

from contracts.events import Session
from tests.auth.factors import recovery_codes
from tests.auth.identity import Browser, FakeProvider, Tls, faking, settings_for
from tests.auth.people import Account
from tests.auth.test_oidc_forged import asked_of, refused, sign_in_with
from tests.world import World, Worlds

ANEW = {"fresh": "true"}


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return Tls.make(tmp_path_factory.mktemp("provider"))


@pytest.fixture
def fake(tls: Tls) -> Iterator[FakeProvider]:
    with faking(tls) as made:
        yield made


@pytest.fixture
async def world(worlds: Worlds, settings: dict[str, Any], tmp_path: Path, fake: FakeProvider) -> World:
    trusting = settings_for(tmp_path, fake.issuer, fake.tls, trusts_factor=["otp"])
    return await worlds.open("auth", **settings, **trusting, factor_policy="optional")


@pytest.fixture
async def browser(world: World, tls: Tls) -> AsyncIterator[Browser]:
    made = Browser(world, tls)
    yield made
    await made.close()


async def shown_at(world: World, answer: Any) -> datetime:
    """When the session that was just opened says that the second factor was shown."""
    assert answer.headers["location"] == "/api/v1/sign-in#signed-in", answer.text
    (session,) = [fact for fact in await world.said() if isinstance(fact, Session)]
    return session.factor_at


async def whole_seconds(world: World, **ago: float) -> datetime:
    return (await world.now() - timedelta(**ago)).replace(microsecond=0)


async def test_only_a_sign_in_that_is_to_be_new_asks_the_provider_for_that(browser: Browser) -> None:
    assert {"prompt", "max_age"} & set(await asked_of(browser)) == set()
    asked = await asked_of(browser, **ANEW)
    assert (asked["prompt"], asked["max_age"]) == ("login", "0")


@pytest.mark.parametrize("factor", [{}, {"amr": ["pwd", "otp"]}], ids=["none", "trusted"])
async def test_a_sign_in_is_as_old_as_the_provider_says(world: World, browser: Browser, fake: FakeProvider, factor: dict[str, Any]) -> None:
    assert (await shown_at(world, await sign_in_with(browser, fake, **factor))).year == 1970
    an_hour_ago = await whole_seconds(world, hours=1)
    answer = await sign_in_with(browser, fake, auth_time=an_hour_ago.timestamp(), **factor)
    assert await shown_at(world, answer) == an_hour_ago
    just_now = await whole_seconds(world, seconds=1)
    answer = await sign_in_with(browser, fake, how=ANEW, auth_time=just_now.timestamp(), **factor)
    assert await shown_at(world, answer) == just_now


async def test_a_provider_whose_clock_is_ahead_makes_nothing_fresh_in_the_future(
    world: World, browser: Browser, fake: FakeProvider
) -> None:
    ahead = await whole_seconds(world, seconds=-30)
    answer = await sign_in_with(browser, fake, auth_time=ahead.timestamp())
    assert await shown_at(world, answer) <= await world.now()


async def test_where_the_provider_does_not_say_that_the_sign_in_is_new_nobody_is_let_in(
    world: World, browser: Browser, fake: FakeProvider
) -> None:
    told: list[dict[str, Any]] = [{}, {"auth_time": (await whole_seconds(world, minutes=2)).timestamp()}]
    for claims in told:
        await refused(world, await sign_in_with(browser, fake, how=ANEW, **claims))
    assert await world.sql("SELECT 1 FROM sessions") == []


async def test_who_has_recovery_codes_shows_one_and_the_providers_word_is_not_enough(
    world: World, browser: Browser, fake: FakeProvider
) -> None:
    now = datetime.now(UTC).timestamp()
    assert (await shown_at(world, await sign_in_with(browser, fake, how=ANEW, auth_time=now))).year != 1970
    (user,) = await world.sql("SELECT user_id, username FROM users")
    await recovery_codes(
        Account(world, {"user_id": str(user.user_id), "username": user.username, "cluster_roles": []}, pyotp.TOTP("A" * 32))
    )
    await world.said()
    assert (await shown_at(world, await sign_in_with(browser, fake, how=ANEW, auth_time=now))).year == 1970
