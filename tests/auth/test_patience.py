"""Waits after failed tries: they grow, they end, and nobody can aim them at somebody else."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from services.auth import domain
from services.auth.models import Attempts
from tests.auth.people import another_code, join
from tests.world import World, reason

NOW = datetime(2026, 3, 1, 12, 0, 10, tzinfo=UTC)

# The rules


def waits(failures: int, free: int) -> list[float]:
    tries = Attempts(name=b"n", failures=0, next_at=NOW, seen_at=NOW)
    found = []
    for _ in range(failures):
        domain.patience.fail(tries, free, NOW)
        found.append((tries.next_at - NOW).total_seconds())
    return found


def test_after_the_free_failures_the_wait_doubles_up_to_a_minute() -> None:
    assert waits(14, free=5) == [0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60]
    assert waits(12, free=10) == [0] * 9 + [1, 2, 4]


def test_no_number_of_failures_locks_for_good() -> None:
    tries = Attempts(name=b"n", failures=10**6, next_at=NOW, seen_at=NOW)
    domain.patience.fail(tries, 5, NOW)
    assert tries.next_at == NOW + timedelta(seconds=60)


def test_quiet_makes_the_count_begin_anew() -> None:
    tries = Attempts(name=b"n", failures=9, next_at=NOW, seen_at=NOW)
    domain.patience.fail(tries, 5, NOW + timedelta(minutes=15, seconds=1))
    assert tries.failures == 1


def test_who_waits_is_told_how_long_the_longest_of_their_waits_is() -> None:
    tries = [Attempts(name=b"n", failures=9, next_at=NOW + timedelta(seconds=left), seen_at=NOW) for left in (2, 6.2, -1)]
    with pytest.raises(domain.patience.SlowDown) as refused:
        domain.patience.demand(tries, NOW)
    assert refused.value.retry_after == 7


def test_who_has_waited_may_try() -> None:
    domain.patience.demand([], NOW)
    domain.patience.demand([Attempts(name=b"n", failures=9, next_at=NOW, seen_at=NOW)], NOW)


@pytest.mark.parametrize(
    ("source", "prefix"),
    [
        ("192.0.2.7", "192.0.2.7/32"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7/32"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", "nowhere"),
        ("localhost", "nowhere"),
    ],
)
def test_a_source_is_an_address_or_the_network_of_one_household(source: str, prefix: str) -> None:
    assert domain.patience.source_prefix(source) == prefix


def test_a_device_cookie_alone_is_judged() -> None:
    (bucket,) = domain.patience.for_sign_in("ada00000", "192.0.2.7", "abc")
    assert (bucket.free, bucket.resets) == (10, True)


def test_without_one_the_name_here_the_name_anywhere_and_the_address_are_judged() -> None:
    buckets = domain.patience.for_sign_in("ada00000", "192.0.2.7", None)
    assert [(bucket.free, bucket.resets) for bucket in buckets] == [(5, True), (20, False), (50, False)]
    elsewhere = domain.patience.for_sign_in("ada00000", "192.0.2.8", None)
    assert [a.name == b.name for a, b in zip(buckets, elsewhere, strict=True)] == [False, True, False]
    other = domain.patience.for_sign_in("bob00000", "192.0.2.7", None)
    assert [a.name == b.name for a, b in zip(buckets, other, strict=True)] == [False, False, True]


def test_a_try_without_a_name_counts_for_its_address() -> None:
    assert [bucket.name for bucket in domain.patience.for_sign_in(None, "192.0.2.7", None)] == ["source 192.0.2.7/32"]


def test_in_a_session_only_its_own_failures_count() -> None:
    assert domain.patience.in_session(UUID(int=1)) != domain.patience.in_session(UUID(int=2))


# At the door


async def stretch(world: World) -> None:
    """Make waits that were imposed half a minute longer, so that a slow machine meets them too."""
    await world.sql("UPDATE attempts SET next_at = next_at + interval '30 seconds' WHERE next_at > seen_at")


async def test_after_five_failures_in_a_row_even_the_right_password_waits(world: World) -> None:
    ada = await join(world)
    for _ in range(5):
        assert (await ada.sign_in(password="wrong password")).status_code == 401
    await stretch(world)
    refused = await ada.sign_in()
    assert (refused.status_code, reason(refused)) == (429, "slow-down")
    assert 25 <= int(refused.headers["retry-after"]) <= 31
    await world.sql("UPDATE attempts SET next_at = now() - interval '1 second'")
    assert (await ada.sign_in()).status_code == 201
    assert sorted(row.failures for row in await world.sql("SELECT failures FROM attempts")) == [5, 5]


async def test_the_two_names_of_an_account_wait_each_for_itself_so_that_no_wait_says_whose_they_are(world: World) -> None:
    ada = await join(world)
    for name in ("ada00000", "nobody00"):
        for _ in range(5):
            await ada.sign_in(username=name, password="wrong password")
    await stretch(world)
    assert (await ada.sign_in(username="ada00000")).status_code == 429
    assert (await ada.sign_in(username="nobody00")).status_code == 429
    assert (await ada.sign_in(username="nobody@example.org")).status_code == 401
    assert (await ada.sign_in(username="ada@example.org")).status_code == 201


async def test_an_unknown_name_is_slowed_down_like_a_known_one(world: World) -> None:
    ada = await join(world)
    answers = [await ada.sign_in(username="nobody00") for _ in range(5)]
    await stretch(world)
    answers.append(await ada.sign_in(username="nobody00"))
    assert [answer.status_code for answer in answers] == [401] * 5 + [429]
    stored = (await world.sql("SELECT name FROM attempts"))[0].name
    assert b"nobody00" not in stored


async def test_guesses_sent_at_once_do_not_get_around_the_wait(world: World) -> None:
    ada = await join(world)
    await world.sql("UPDATE credentials SET last_step = -1")
    wrong = another_code(ada.totp)
    await ada.sign_in(code=wrong)
    await world.sql("UPDATE attempts SET failures = 60")
    answers = await asyncio.gather(*[ada.sign_in(code=wrong) for _ in range(8)])
    assert sorted(answer.status_code for answer in answers) == [401] + [429] * 7


async def test_somebody_elses_failures_slow_nobody_down(world: World) -> None:
    ada = await join(world)
    bob = await join(world, "bob@x.org")
    for _ in range(5):
        await ada.sign_in(password="wrong password")
    assert (await bob.sign_in()).status_code == 201
