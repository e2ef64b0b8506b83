"""Waits after failed tries: they grow, they end, and nobody can aim them at somebody else."""

import asyncio
import heapq
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.auth import domain
from services.auth.models import Attempts
from services.auth.routes.cookies import DEVICE, PENDING
from services.auth.service import devices, patience
from services.auth.service.pending import PENDING as PENDING_PURPOSE
from services.auth.service.tools import About
from services.auth.vault import Vault
from tests.auth.factors import reset
from tests.auth.hashing import COST, counted, older
from tests.auth.people import PASSWORD, Account, another_code, begin, cookie, invite, join
from tests.world import World, Worlds, administrator, reason

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
    domain.patience.fail(tries, 5, NOW + timedelta(minutes=18))
    assert tries.failures == 1


def test_one_failure_is_forgotten_in_each_part_of_the_time_and_what_is_left_over_counts_on() -> None:
    tries = Attempts(name=b"n", failures=4, next_at=NOW, seen_at=NOW)
    domain.patience.fail(tries, 5, NOW + timedelta(minutes=8))
    assert (tries.failures, tries.seen_at) == (3, NOW + timedelta(minutes=6))
    domain.patience.fail(tries, 5, NOW + timedelta(minutes=9))
    assert (tries.failures, tries.seen_at) == (3, NOW + timedelta(minutes=9))


def test_a_typo_of_somebody_every_nine_minutes_never_makes_a_house_behind_one_address_wait() -> None:
    tries = Attempts(name=b"n", failures=0, next_at=NOW, seen_at=NOW)
    for number in range(200):
        domain.patience.fail(tries, domain.patience.FREE_OF_SOURCE, NOW + number * timedelta(minutes=9))
        assert tries.next_at == NOW


@given(st.integers(2, 50), st.lists(st.floats(1, 100), min_size=1, max_size=120))
def test_failures_that_come_slower_than_they_are_forgotten_never_wait(free: int, gaps: list[float]) -> None:
    tries, now = Attempts(name=b"n", failures=0, next_at=NOW, seen_at=NOW), NOW
    for gap in gaps:
        now += domain.patience.QUIET / free * gap + timedelta(microseconds=1)
        domain.patience.fail(tries, free, now)
        assert tries.next_at == NOW


@given(st.integers(2, 50), st.integers(0, 40), st.floats(0, 10**6))
def test_a_burst_waits_as_soon_whatever_was_long_before(free: int, before: int, later: float) -> None:
    now = NOW + timedelta(minutes=30, seconds=later)
    tries = Attempts(name=b"n", failures=before, next_at=NOW, seen_at=NOW)
    for number in range(1, free + 3):
        domain.patience.fail(tries, free, now)
        assert (tries.next_at > now) == (number >= free)


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
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1::/56"),
        ("2001:db8:1:ff:ffff::", "2001:db8:1::/56"),
        ("2001:db8:1:100::", "2001:db8:1:100::/56"),
        ("::ffff:192.0.2.7", "192.0.2.7/32"),
        ("fe80::1%eth0", "fe80::/56"),
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


def test_beside_a_proof_nothing_counts_that_a_stranger_could_add_to() -> None:
    (bucket,) = domain.patience.beside("link 00", None)
    assert (bucket.name, bucket.free, bucket.resets) == ("link 00", 5, True)
    assert domain.patience.beside("link 00", "abc") == domain.patience.for_sign_in("ada00000", "192.0.2.7", "abc")


def test_a_try_without_a_name_counts_for_its_address() -> None:
    assert [bucket.name for bucket in domain.patience.for_sign_in(None, "192.0.2.7", None)] == ["source 192.0.2.7/32"]


def test_in_a_session_only_its_own_failures_count() -> None:
    assert domain.patience.in_session("1") != domain.patience.in_session("2")


class Rules:
    """A name's sign-ins by the rules alone; every try is wrong."""

    def __init__(self) -> None:
        self.counts: dict[str, Attempts] = {}

    def next_at(self, source: str, now: datetime) -> datetime:
        """When a try from there is heard."""
        return max(attempts.next_at for bucket, attempts in self._counts(source, now) if bucket.waits)

    def tries(self, source: str, now: datetime) -> bool:
        """Whether the try is heard."""
        if self.next_at(source, now) > now:
            return False
        domain.patience.fail_together(self._counts(source, now), now)
        return True

    def _counts(self, source: str, now: datetime) -> list[tuple[domain.patience.Bucket, Attempts]]:
        buckets = domain.patience.for_sign_in("ada00000", source, None)
        return [(bucket, self.counts.setdefault(bucket.name, Attempts(bucket.name.encode(), 0, now, now))) for bucket in buckets]


def address(number: int) -> str:
    return f"2001:db8:{number:x}::1"


EAGER = st.lists(st.tuples(st.integers(1, 60), st.one_of(st.just(0.0), st.floats(0, 100), st.floats(0, 5000))), min_size=1, max_size=60)


@given(EAGER)
def test_whatever_strangers_do_a_newcomers_first_try_is_heard_and_their_next_one_when_they_were_told(
    tries: list[tuple[int, float]],
) -> None:
    rules, now = Rules(), NOW
    for number, pause in tries:
        now += timedelta(seconds=pause)
        rules.tries(address(number), now)
    assert rules.tries(address(0), now)
    told = rules.next_at(address(0), now)
    assert told <= now + domain.patience.LONGEST_TO_NEXT_SLOT
    for number, _ in tries:
        rules.tries(address(number), now)
    assert rules.next_at(address(0), now) == told
    assert rules.tries(address(0), told)


def most(addresses: int, over: timedelta = timedelta(days=1)) -> float:
    """How often a name can be tried from so many addresses, in no more than a day."""
    free = domain.patience.FREE_OF_NAME
    return over / (domain.patience.QUIET / free) + free + addresses


@given(EAGER)
def test_however_strangers_time_their_tries_their_number_is_bounded(tries: list[tuple[int, float]]) -> None:
    rules, now = Rules(), NOW
    heard: list[datetime] = []
    for number, pause in tries:
        now += timedelta(seconds=pause)
        for each in range(number):  # all of them, from the first on
            heard += [now] * rules.tries(address(each), now)
    addresses = max(number for number, _ in tries)
    for began in {heard[0], heard[len(heard) // 2], heard[-1] - timedelta(hours=1)}:
        for over in (timedelta(minutes=15), timedelta(hours=1), timedelta(days=1)):
            assert sum(began <= at < began + over for at in heard) <= most(addresses, over)


@pytest.mark.parametrize(("addresses", "a_day"), [(1, 1440), (5, 1920), (100, 1920), (3000, 3000)])
def test_who_tries_as_often_as_they_may_has_so_many_tries_a_day(addresses: int, a_day: int) -> None:
    rules, heard = Rules(), [0, 0]
    upcoming = [(NOW, number) for number in range(addresses)]
    while upcoming[0][0] < NOW + timedelta(days=2):
        now, number = heapq.heappop(upcoming)
        heard[(now - NOW).days] += rules.tries(address(number), now)
        heapq.heappush(upcoming, (max(rules.next_at(address(number), now), now + timedelta(microseconds=1)), number))
    assert a_day <= heard[0] <= most(addresses)
    assert abs(heard[1] - a_day) <= 10


def test_a_networks_many_parts_are_one_address() -> None:
    rules = Rules()
    assert sum(rules.tries(f"2001:db8:0:{number:x}::1", NOW) for number in range(256)) == domain.patience.FREE_OF_NAME_FROM_SOURCE


def test_a_slot_of_a_name_is_waited_for_by_that_name_only() -> None:
    rules = Rules()
    for number in range(40):
        rules.tries(address(number), NOW)
    assert rules.next_at(address(39), NOW) == NOW + timedelta(minutes=15)
    others = domain.patience.for_sign_in("bob00000", address(39), None)
    assert {bucket.name for bucket in others} & {name for name, counted in rules.counts.items() if counted.next_at > NOW} == set()


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
    counts = ("name 192.0.2.1/32 ada00000", "name ada00000", "source 192.0.2.1/32")
    assert [await failures_of(world, name) for name in counts] == [None, 5, 5]


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


async def failures_of(world: World, bucket: str) -> int | None:
    rows = await world.sql("SELECT failures FROM attempts WHERE name = :name", name=world.runtime.extra["tools"].vault.blind(bucket))
    return rows[0].failures if rows else None


async def has_failed(world: World, bucket: str, failures: int, next_in: str = "0") -> None:
    """So many failures were counted before, and the wait for them is over, or its next slot is then."""
    await world.sql(
        """INSERT INTO attempts (name, failures, next_at, seen_at) VALUES (:name, :failures, now() + CAST(CAST(:next AS text) AS interval), now())
           ON CONFLICT (name) DO UPDATE SET failures = excluded.failures, next_at = excluded.next_at, seen_at = now()""",
        next=next_in,
        name=world.runtime.extra["tools"].vault.blind(bucket),
        failures=failures,
    )


async def test_strangers_at_many_addresses_wait_and_the_owner_does_not_wherever_they_are(world: World) -> None:
    ada = await join(world)
    device = cookie(await ada.sign_in(source="192.0.2.1"), DEVICE)
    many = domain.patience.FREE_OF_NAME + 5
    for number in range(many):
        assert (await ada.sign_in(source=f"198.51.100.{number}", password="wrong password")).status_code == 401
    last = f"198.51.100.{many - 1}"
    slow = await ada.sign_in(source=last)
    assert (slow.status_code, reason(slow)) == (429, "slow-down")
    assert 60 < int(slow.headers["retry-after"]) <= 225
    assert (await ada.sign_in(source="203.0.113.7")).status_code == 201
    for source in ("192.0.2.1", "203.0.113.8", last):
        assert (await ada.sign_in(source=source, device=device)).status_code == 201


async def hammered(ada: Account, name: str = "ada00000") -> None:
    """Strangers at many addresses have tried a name: its slots of the next ten minutes are given away. Others go on."""
    await has_failed(ada.world, f"name {name}", 40, next_in="10 minutes")
    for source in ("198.51.100.1", "198.51.100.2"):
        assert (await ada.sign_in(username=name, source=source, password="wrong password")).status_code == 401
        assert (await ada.sign_in(username=name, source=source)).status_code == 429


async def test_while_a_name_is_attacked_who_is_wrong_once_waits_be_it_known_or_not(world: World) -> None:
    ada = await join(world)
    for name in ("ada00000", "nobody00"):
        await hammered(ada, name)
        for source in ("203.0.113.7", "203.0.113.8"):
            assert (await ada.sign_in(username=name, source=source, password="wrong password")).status_code == 401
        answers = [await ada.sign_in(username=name, source=source) for source in ("203.0.113.7", "203.0.113.8")]
        assert [answer.status_code for answer in answers] == [429, 429]
        first, second = [int(answer.headers["retry-after"]) for answer in answers]
        assert 600 < first < second <= 600 + 4 * 45


async def test_a_wait_for_the_next_slot_ends_when_it_was_said_whatever_strangers_do(world: World) -> None:
    ada = await join(world)
    await hammered(ada)
    assert (await ada.sign_in(source="203.0.113.7", password="wrong password")).status_code == 401
    told = (await world.sql("SELECT max(next_at) AS at FROM attempts"))[0].at
    assert (await ada.sign_in(source="203.0.113.8", password="wrong password")).status_code == 401
    assert (await ada.sign_in(source="203.0.113.7")).status_code == 429
    await world.sql("UPDATE attempts SET next_at = next_at - (CAST(:told AS timestamptz) - now())", told=told)
    assert (await ada.sign_in(source="203.0.113.8")).status_code == 429
    assert (await ada.sign_in(source="203.0.113.7")).status_code == 201


async def pending(ada: Account, code: str, at: datetime | None = None, source: str = "192.0.2.1") -> Any:
    """Show a second factor where a provider vouched for somebody a moment ago."""
    when = (at or await ada.world.now()).timestamp()
    carried = {"user_id": str(ada.user_id), "provider": "hospital", "session": None, "token": None, "at": when}
    word = ada.world.runtime.extra["tools"].vault.carry(PENDING_PURPOSE, json.dumps(carried).encode())
    body = {"pending": True, "code": code}
    return await ada.world.post("/sessions", json=body, jar={PENDING: word}, headers={"Hortus-Source": source})


async def test_who_a_provider_vouched_for_is_not_stopped_by_strangers_who_type_their_name(world: World) -> None:
    ada = await join(world)
    await hammered(ada)
    await has_failed(world, "source 192.0.2.1/32", 60)
    await ada.sign_in(username="nobody00")
    await stretch(world)
    assert (await ada.sign_in()).status_code == 429
    assert (await pending(ada, await ada.new_code())).status_code == 201


async def test_codes_after_a_providers_word_are_guessed_slowly_from_wherever_and_stop_nobody_at_the_password(world: World) -> None:
    ada = await join(world)
    device = cookie(await ada.sign_in(), DEVICE)
    wrong = another_code(ada.totp)
    for number in range(5):
        refused = await pending(ada, wrong, source=f"198.51.100.{number}")
        assert (refused.status_code, reason(refused)) == (401, "sign-in-refused")
    await stretch(world)
    slow = await pending(ada, await ada.new_code(), source="203.0.113.7")
    assert (slow.status_code, reason(slow)) == (429, "slow-down")
    assert await failures_of(world, f"pending {ada.user_id}") == 5
    assert (await ada.sign_in(source="198.51.100.1")).status_code == 201
    assert (await ada.sign_in(device=device)).status_code == 201


async def test_a_providers_word_that_is_too_old_makes_nobody_wait_who_has_a_fresh_one(world: World) -> None:
    ada = await join(world)
    for _ in range(6):
        old = await pending(ada, await ada.new_code(), at=await world.now() - timedelta(minutes=6))
        assert (old.status_code, reason(old)) == (401, "sign-in-refused")
    assert await failures_of(world, "source 192.0.2.1/32") == 6
    assert await failures_of(world, f"pending {ada.user_id}") is None
    assert (await pending(ada, await ada.new_code())).status_code == 201


async def test_who_has_the_link_of_a_reset_is_not_stopped_by_strangers_who_type_their_name(world: World) -> None:
    ada = await join(world)
    token = await reset(ada)
    await hammered(ada)
    await has_failed(world, "name 192.0.2.1/32 ada00000", 9)
    await ada.sign_in(password="wrong password")
    await stretch(world)
    assert (await ada.sign_in()).status_code == 429
    body = {"token": token, "password": PASSWORD}
    assert (await world.post("/factor-enrolments/acceptance", json=body, headers={"Hortus-Source": "192.0.2.1"})).status_code == 200


async def test_a_success_forgets_failures_of_the_name_from_there_and_of_the_device_only(world: World) -> None:
    ada = await join(world)
    for _ in range(2):
        await ada.sign_in(password="wrong password")
    device = cookie(await ada.sign_in(), DEVICE)
    assert device is not None
    assert [await failures_of(world, f"{bucket}") for bucket in ("name 192.0.2.1/32 ada00000", "name ada00000", "source 192.0.2.1/32")] == [
        None,
        2,
        2,
    ]
    known = devices.device(world.runtime.extra["tools"].vault, device, await world.now())
    assert known is not None
    nonce = known.nonce
    await ada.sign_in(device=device, password="wrong password")
    assert await failures_of(world, f"device {nonce}") == 1
    await ada.sign_in(device=device)
    assert await failures_of(world, f"device {nonce}") is None
    assert await failures_of(world, "name ada00000") == 2


async def test_an_attacker_with_an_account_of_their_own_does_not_begin_anew_by_signing_in(world: World) -> None:
    ada, eve = await join(world), await join(world, "eve@x.org")
    await has_failed(world, "source 192.0.2.66/32", 49)
    assert (await eve.sign_in(source="192.0.2.66")).status_code == 201
    assert (await ada.sign_in(source="192.0.2.66", password="wrong password")).status_code == 401
    await stretch(world)
    device = cookie(await eve.sign_in(source="192.0.2.67"), DEVICE)
    for name in ("ada00000", "nobody00", "eve00000"):
        assert (await ada.sign_in(username=name, source="192.0.2.66")).status_code == 429
    assert (await eve.sign_in(source="192.0.2.66", device=device)).status_code == 201
    assert (await ada.sign_in(source="192.0.2.66", device=device)).status_code == 429
    assert (await ada.sign_in(source="192.0.2.67")).status_code == 201


async def test_the_addresses_of_one_household_are_one_source(world: World) -> None:
    ada = await join(world)
    for number in range(5):
        await ada.sign_in(source=f"2001:db8:0:7::{number}", password="wrong password")
    await stretch(world)
    assert (await ada.sign_in(source="2001:db8:0:ff:ffff::1")).status_code == 429
    assert (await ada.sign_in(source="2001:db8:0:107::1")).status_code == 201


async def test_an_abused_device_cookie_waits_as_well_and_slows_down_nobody_who_has_another(world: World) -> None:
    ada = await join(world)
    stolen = cookie(await ada.sign_in(), DEVICE)
    kept = cookie(await ada.sign_in(device=stolen), DEVICE)
    for _ in range(10):
        assert (await ada.sign_in(device=stolen, source="198.51.100.9", password="wrong password")).status_code == 401
    await stretch(world)
    assert (await ada.sign_in(device=stolen)).status_code == 429
    assert (await ada.sign_in(device=kept)).status_code == 201
    assert (await ada.sign_in()).status_code == 201


@pytest.mark.parametrize("kind", ["another account's", "changed", "words", "too old"])
async def test_a_device_cookie_that_is_not_the_accounts_own_is_none(world: World, kind: str) -> None:
    ada, bob = await join(world), await join(world, "bob@x.org")
    good = str(cookie(await ada.sign_in(), DEVICE))
    safe: Vault = world.runtime.extra["tools"].vault
    shown = {
        "another account's": cookie(await bob.sign_in(), DEVICE),
        "changed": good[:-9] + ("A" if good[-9] != "A" else "B") + good[-8:],
        "words": "remember me",
        "too old": devices.cookie(safe, ada.user_id, await world.now() - timedelta(days=180, seconds=5)),
    }[kind]
    await has_failed(world, "name 192.0.2.1/32 ada00000", 5)
    await ada.sign_in(device=shown, password="wrong password")
    await stretch(world)
    assert (await ada.sign_in(device=shown)).status_code == 429
    assert (await ada.sign_in(device=good)).status_code == 201


async def test_failures_count_across_replicas(world: World, worlds: Worlds, settings: dict[str, Any]) -> None:
    replica = await worlds.open("auth", beside=world, **settings)
    ada = await join(world)
    for each in (world, replica, world, replica, world):
        assert (await ada.sign_in(world=each, password="wrong password")).status_code == 401
    await stretch(world)
    assert {(await ada.sign_in(world=each)).status_code for each in (world, replica)} == {429}


async def test_known_and_unknown_names_are_answered_alike_however_often_they_are_tried(world: World) -> None:
    ada = await join(world)
    answers: dict[str, list[tuple[int, str | None]]] = {"ada00000": [], "ada@example.org": [], "nobody00": [], "no@example.org": []}
    for _ in range(7):
        for name, seen in answers.items():
            answer = await ada.sign_in(username=name, password="wrong password")
            seen.append((answer.status_code, answer.headers.get("retry-after")))
        await world.sql("UPDATE attempts SET next_at = next_at - interval '2 seconds' WHERE failures > 5")
        await world.sql("UPDATE attempts SET next_at = seen_at + interval '30 seconds' WHERE failures = 5")
    assert {len(set(seen)) > 1 for seen in answers.values()} == {True}
    assert len({tuple(status for status, _ in seen) for seen in answers.values()}) == 1


async def test_tries_that_share_some_counts_never_wait_for_each_other_in_a_circle(
    world: World, worlds: Worlds, settings: dict[str, Any]
) -> None:
    replica = await worlds.open("auth", beside=world, **settings)

    async def try_once(each: World, name: str, source: str) -> None:
        tools = each.runtime.extra["tools"]
        watched = await patience.look(tools, patience.sign_in(tools, About(source=source), name, None, NOW))
        async with each.work() as uow:
            await (await patience.take(uow, watched)).failed()

    tries = [(name, f"192.0.2.{number}") for name in "abc" for number in range(4)]
    await asyncio.gather(*[try_once(each, *one) for one in tries for each in (world, replica)])
    for _ in range(3):
        async with world.work() as uow:
            await patience.forget(uow)
    assert [await failures_of(world, f"name {name}") for name in "abc"] == [8, 8, 8]
    assert [await failures_of(world, f"source 192.0.2.{number}/32") for number in range(4)] == [6] * 4


async def test_a_count_that_is_forgotten_while_somebody_fails_begins_anew(world: World) -> None:
    await has_failed(world, "session 1", 3)
    await world.sql("UPDATE attempts SET seen_at = now() - interval '31 minutes'")
    watched = await patience.look(world.runtime.extra["tools"], patience.in_session("1"))
    async with world.work() as uow:
        turn = await patience.take(uow, watched)
        async with world.work() as other:
            await patience.forget(other)
        await turn.failed()
    assert await failures_of(world, "session 1") == 1


async def test_failures_in_a_session_make_that_session_wait_and_no_sign_in(world: World) -> None:
    ada = await join(world)
    session_id, _ = await begin(ada)
    actor = ada.actor(session_id)
    (opened,) = await world.sql("SELECT created_at FROM sessions")
    await has_failed(world, f"session {domain.sessions.sign_in_of(ada.user_id, opened.created_at)}", 9)
    wrong = await world.post("/sessions/current/factor", actor, json={"code": another_code(ada.totp)})
    assert wrong.status_code == 401
    await stretch(world)
    waits = await world.post("/sessions/current/factor", actor, json={"code": await ada.new_code()})
    assert (waits.status_code, reason(waits)) == (429, "slow-down")
    other, _ = await begin(ada)
    stepped = await world.post("/sessions/current/factor", ada.actor(other), json={"code": await ada.new_code()})
    assert stepped.status_code == 200


# The same work, whatever is wrong


@pytest.mark.parametrize("factor", ["code", "recovery_code"])
@pytest.mark.parametrize("stored", [None, (1, 1024)])
async def test_every_refusal_asks_the_database_the_same_and_hashes_the_same(
    world: World, statements: list[str], monkeypatch: pytest.MonkeyPatch, factor: str, stored: tuple[int, int] | None
) -> None:
    ada, bob = await join(world), await join(world, "bob@x.org")
    await invite(world, "cyd@x.org")
    await world.patch(f"/users/{bob.user_id}", administrator(), json={"status": "blocked"}, version=2)
    if stored is not None:
        await world.sql("UPDATE credentials SET password_hash = :old", old=older(PASSWORD, *stored))
    spent = counted(world.runtime.extra["tools"].passwords, monkeypatch)
    shown = {"code": another_code(ada.totp), "recovery_code": "aaaaa-aaaaa"}[factor]
    work = {}
    for who, password in (
        ("ada00000", "wrong password"),
        ("ada00000", PASSWORD),
        ("bob00000", PASSWORD),
        ("cyd00000", PASSWORD),
        ("nobody00", PASSWORD),
        ("nobody@example.org", PASSWORD),
    ):
        await world.sql("DELETE FROM attempts")
        statements.clear()
        spent.clear()
        answer = await world.post("/sessions", json={"username": who, "password": password, factor: shown})
        assert (answer.status_code, reason(answer)) == (401, "sign-in-refused")
        work[who, password] = (sum(spent), tuple(statements))
    assert {who: cost for who, (cost, _) in work.items() if cost != COST} == {}
    first = next(iter(work.values()))
    assert len(first[1]) > 5
    assert {who: asked for who, (_, asked) in work.items() if asked != first[1]} == {}


async def test_a_refusal_that_counts_is_remembered_although_it_is_refused(world: World) -> None:
    ada = await join(world)
    await ada.sign_in(code=another_code(ada.totp))
    assert await failures_of(world, "name 192.0.2.1/32 ada00000") == 1


async def test_somebody_elses_failures_slow_nobody_down(world: World) -> None:
    ada = await join(world)
    bob = await join(world, "bob@x.org")
    for _ in range(5):
        await ada.sign_in(password="wrong password")
    assert (await bob.sign_in()).status_code == 201
