"""Guesses at the second factor by somebody who knows the password: few count alone, and neither their number nor strangers keep the owner out."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.auth import domain, repository
from services.auth.models import Attempts
from services.auth.routes.cookies import DEVICE
from services.auth.service import guesses
from tests.auth.factors import letters, recovery_codes, register, shown, sign_in, under
from tests.auth.passkeys import Authenticator
from tests.auth.people import PASSWORD, Account, another_code, cookie, join, present
from tests.world import World, administrator, reason

NOW = datetime(2026, 3, 1, 12, 0, 10, tzinfo=UTC)
FREE = 5
ADA = UUID(int=1)

# The rules


def count() -> Attempts:
    return Attempts(name=b"n", failures=0, next_at=NOW, seen_at=NOW)


@given(st.lists(st.one_of(st.floats(0, 60), st.floats(0, 90_000), st.floats(86_300, 86_500)), min_size=1, max_size=80))
def test_however_guesses_are_timed_no_more_than_five_a_day_are_at_one_code_alone(gaps: list[float]) -> None:
    bucket, tries, now = domain.patience.guessing("ada00000", ADA, at_directory=False), count(), NOW
    alone = []
    for gap in gaps:
        now += timedelta(seconds=gap)
        if not domain.patience.is_guessed_at(bucket, tries, now):
            alone.append(now)
        domain.patience.fail_together([(bucket, tries)], now)
    for began in alone:
        assert sum(began <= at < began + timedelta(days=1) for at in alone) <= FREE


@given(st.lists(st.floats(0, 90_000), max_size=40), st.floats(86_401, 10**7))
def test_a_day_without_a_guess_makes_one_code_enough_again(gaps: list[float], quiet: float) -> None:
    bucket, tries, now = domain.patience.guessing("ada00000", ADA, at_directory=False), count(), NOW
    for gap in gaps:
        now += timedelta(seconds=gap)
        domain.patience.fail_together([(bucket, tries)], now)
    assert not domain.patience.is_guessed_at(bucket, tries, now + timedelta(seconds=quiet))


@given(st.lists(st.floats(0.001, 90_000), min_size=1, max_size=80))
def test_what_counts_beside_wrong_passwords_adds_up_nowhere_and_is_no_accounts(gaps: list[float]) -> None:
    bucket, tries, now = domain.patience.guessing("ada00000", None, at_directory=False), count(), NOW
    for gap in gaps:
        now += timedelta(seconds=gap)
        domain.patience.fail_together([(bucket, tries)], now)
        assert (tries.failures, tries.next_at) == (1, now)
    assert bucket.name != domain.patience.guessing("ada00000", ADA, at_directory=False).name


def test_nobody_waits_for_guesses_and_more_are_free_where_strangers_can_add_to_them() -> None:
    buckets = [
        domain.patience.guessing("ada00000", ADA, at_directory=False),
        domain.patience.guessing("ada00000", ADA, at_directory=True),
        domain.patience.guessing("ada00000", None, at_directory=False),
    ]
    assert [(bucket.free, bucket.waits, bucket.resets) for bucket in buckets] == [(5, False, True), (100, False, True), (5, False, True)]


@given(st.lists(st.floats(0.001, 90_000), min_size=1, max_size=80))
def test_those_to_be_told_of_are_counted_by_the_day_and_no_success_forgets_them(gaps: list[float]) -> None:
    bucket, tries, now = domain.patience.telling("ada00000", ADA, at_directory=False), count(), NOW
    days: list[list[datetime]] = []
    for gap in gaps:
        now += timedelta(seconds=gap)
        domain.patience.fail_together([(bucket, tries)], now)
        if not days or now >= days[-1][0] + timedelta(days=1):
            days.append([])
        days[-1].append(now)
        assert (tries.failures, tries.next_at, tries.seen_at) == (len(days[-1]), days[-1][0] + timedelta(days=1), now)
        assert not domain.patience.is_guessed_at(bucket, tries, now)
    assert (bucket.resets, bucket.waits) == (False, False)
    nobodys = domain.patience.telling("ada00000", None, at_directory=False)
    domain.patience.fail_together([(nobodys, tries)], now + timedelta(days=2))
    assert (tries.failures, tries.next_at) == (1, now + timedelta(days=2))


# At the door


async def guess(ada: Account, times: int = FREE, *, name: str | None = None) -> None:
    """Somebody who knows the password, each time at another address."""
    for number in range(times):
        answer = await ada.sign_in(username=name or ada.username, code=another_code(ada.totp), source=f"198.51.100.{number}")
        assert refused(answer)


def refused(answer: httpx2.Response) -> bool:
    return (answer.status_code, reason(answer)) == (401, "sign-in-refused")


async def test_after_five_guesses_a_right_code_alone_opens_nothing_and_the_owner_is_in_with_the_next_one(world: World) -> None:
    ada = await join(world)
    await guess(ada, 3)
    await guess(ada, 2, name="ada@example.org")
    await world.said()
    code = await ada.new_code()
    await world.recorded()
    assert refused(await ada.sign_in(code=code, source="203.0.113.7"))
    (record,) = await world.recorded()
    assert (record["action"], record["outcome"], record["reason"]) == ("session.refuse", "refused", "sign-in-refused")
    assert record["resource"] == {"user_id": str(ada.user_id), "because": "another-code-needed"}
    assert await world.said() == []
    assert refused(await ada.sign_in(code=code, source="203.0.113.7")), "a code counts once"
    assert refused(await ada.sign_in(source="203.0.113.8")), "the first one at this address"
    assert (await ada.sign_in(source="203.0.113.7")).status_code == 201
    assert (await ada.sign_in(source="203.0.113.9")).status_code == 201, "the guesses are forgotten"


async def test_however_many_guess_the_owner_is_never_told_to_wait(world: World) -> None:
    ada = await join(world)
    await guess(ada, domain.patience.FREE_OF_NAME + 5)
    await world.sql("UPDATE attempts SET failures = 10000 WHERE failures > 1")
    assert refused(await ada.sign_in(source="203.0.113.7"))
    assert (await ada.sign_in(source="203.0.113.7")).status_code == 201


async def test_with_fewer_guesses_and_a_day_after_the_last_one_code_is_enough(world: World) -> None:
    ada = await join(world)
    await guess(ada, FREE - 1)
    assert (await ada.sign_in(source="203.0.113.7")).status_code == 201
    await guess(ada)
    await world.sql("UPDATE attempts SET seen_at = seen_at - interval '1 day 1 second', next_at = next_at - interval '1 day 1 second'")
    assert (await ada.sign_in(source="203.0.113.7")).status_code == 201


async def test_strangers_without_the_password_bring_nothing_about_nor_does_who_shows_no_second_factor(world: World, mailed: World) -> None:
    ada = await join(world)
    for number in range(4 * FREE):
        assert refused(await ada.sign_in(password="wrong password", code=another_code(ada.totp), source=f"198.51.100.{number}"))
        nothing_shown = {"username": ada.username, "password": PASSWORD}
        assert refused(await world.post("/sessions", json=nothing_shown, headers={"Hortus-Source": f"192.0.2.{100 + number}"}))
    await guesses.tell(mailed.runtime.extra["tools"])
    assert await letters(world) == []
    assert (await ada.sign_in(source="203.0.113.7")).status_code == 201


@pytest.mark.parametrize("kind", ["device", "passkey", "passkey alone", "recovery_code"])
async def test_a_known_device_a_passkey_and_a_recovery_code_count_at_once(world: World, kind: str) -> None:
    ada = await join(world)
    authenticator = Authenticator()
    await register(ada, authenticator)
    (code, *_) = await recovery_codes(ada)
    device = cookie(await ada.sign_in(), DEVICE)
    await guess(ada)
    if kind == "device":
        answer = await ada.sign_in(device=device, source="203.0.113.7")
    elif kind == "passkey alone":
        answer = await world.post("/sessions", json={"passkey": await shown(world, authenticator)})
    else:
        factor: dict[str, Any] = {"passkey": await shown(world, authenticator)} if kind == "passkey" else {"recovery_code": code}
        answer = await sign_in(ada, **factor)
    assert answer.status_code == 201, answer.text


async def test_guesses_on_a_known_device_are_its_own(world: World) -> None:
    ada = await join(world)
    device = cookie(await ada.sign_in(), DEVICE)
    for _ in range(FREE):
        assert refused(await ada.sign_in(code=another_code(ada.totp), device=device))
    assert (await ada.sign_in(source="203.0.113.7")).status_code == 201


async def test_a_guessed_code_leads_to_no_enrolment_either(world: World) -> None:
    ada = await join(world)
    await under(ada, "passkey")
    await guess(ada)
    assert refused(await ada.sign_in(source="203.0.113.7"))
    assert reason(await ada.sign_in(source="203.0.113.7")) == "factor-enrolment-needed"


@pytest.mark.parametrize("known", [False, True])
async def test_neither_the_answer_nor_the_work_says_that_the_password_is_right_before_five_guesses_and_after(
    world: World, statements: list[str], known: bool
) -> None:
    ada = await join(world)
    device = cookie(await ada.sign_in(), DEVICE) if known else None
    work = set()
    for number in range(FREE + 3):
        for password in ("wrong password", PASSWORD):
            await world.sql("UPDATE attempts SET failures = 1 WHERE length(name) = 32")
            statements.clear()
            answer = await ada.sign_in(password=password, code=another_code(ada.totp), source=f"198.51.100.{number}", device=device)
            work.add((answer.status_code, reason(answer), answer.headers.get("retry-after"), tuple(statements)))
    ((status, why, waits, asked),) = work
    assert (status, why, waits) == (401, "sign-in-refused", None)
    assert len(asked) > 5


# Who is told


async def test_the_person_is_told_by_letter_once_and_the_ledger_has_it(world: World, mailed: World) -> None:
    ada, bob = await join(world), await join(world, "bob@example.org")
    tools = mailed.runtime.extra["tools"]
    await guess(ada, FREE - 1)
    await guess(bob, FREE - 1)
    await guesses.tell(tools)
    assert await letters(world) == []
    await guess(ada, 1)
    await world.recorded()
    for _ in range(2):
        await guesses.tell(tools)
    (letter,) = await letters(world)
    assert (letter["address"], letter["subject"]) == ("ada@example.org", "Somebody seems to know your password for Hortus")
    assert "the right password of your account ada00000 several times" in letter["text"]
    (record,) = await world.recorded()
    assert (record["action"], record["resource"]) == ("factor.find_guessed", {"user_id": str(ada.user_id)})
    await world.sql("UPDATE attempts SET next_at = now() - interval '1 minute'")
    await guess(ada, FREE - 1)
    await guesses.tell(tools)
    assert await letters(world) == [], "the next day has no more than four"
    await guess(ada, 1)
    await guesses.tell(tools)
    assert len(await letters(world)) == 1, "it goes on"


async def test_who_signs_in_before_anybody_was_told_makes_nobody_forget_it(world: World, mailed: World) -> None:
    """The one who comes in may be the one who guessed, and may guess on."""
    ada = await join(world)
    await guess(ada, FREE + 3)
    assert [(await ada.sign_in(source="203.0.113.7")).status_code for _ in range(2)] == [401, 201]
    await guess(ada, 1)
    await world.recorded()
    await guesses.tell(mailed.runtime.extra["tools"])
    assert [record["action"] for record in await world.recorded()] == ["factor.find_guessed"]
    assert len(await letters(world)) == 1


async def test_guesses_on_a_known_device_are_told_of_whoever_signs_in_there_between(world: World, mailed: World) -> None:
    ada = await join(world)
    device = cookie(await ada.sign_in(), DEVICE)
    for _ in range(FREE - 1):
        assert refused(await ada.sign_in(code=another_code(ada.totp), device=device))
    await guesses.tell(mailed.runtime.extra["tools"])
    assert await letters(world) == []
    assert (await ada.sign_in(device=device)).status_code == 201
    assert refused(await ada.sign_in(code=another_code(ada.totp), device=device))
    await world.recorded()
    await guesses.tell(mailed.runtime.extra["tools"])
    assert [record["action"] for record in await world.recorded()] == ["factor.find_guessed"]
    assert len(await letters(world)) == 1


async def test_who_has_changed_their_password_is_told_nothing_of_the_old_one_and_shows_one_code(world: World, mailed: World) -> None:
    ada = await join(world)
    await guess(ada)
    await present(ada)
    await world.recorded()
    new_password = "seven green otters swim"
    changed = await world.post("/users/me/password", ada.actor(), json={"password": PASSWORD, "new_password": new_password})
    assert changed.status_code == 204, changed.text
    assert [record["resource"].get("guesses_before") for record in await world.recorded()] == [str(FREE)]
    ada.password = new_password
    await guess(ada, FREE - 1)
    await letters(world)
    await guesses.tell(mailed.runtime.extra["tools"])
    assert await letters(world) == []
    assert (await ada.sign_in(source="203.0.113.7")).status_code == 201


async def test_guesses_that_began_before_the_password_are_forgotten_and_those_after_it_told_of(world: World, mailed: World) -> None:
    """As they are left behind where an administrator who had lost theirs sets up a new one."""
    ada, tools = await join(world), mailed.runtime.extra["tools"]
    await guess(ada)
    await world.sql("UPDATE credentials SET password_at = clock_timestamp()")
    await world.recorded()
    await guesses.tell(tools)
    assert (await letters(world), await world.recorded()) == ([], [])
    await guess(ada, FREE - 1)
    assert (await ada.sign_in(source="203.0.113.7")).status_code == 201
    await guess(ada, 1)
    await guesses.tell(tools)
    assert len(await letters(world)) == 1


@pytest.mark.parametrize("how", ["changed", "reset"])
async def test_a_guess_that_is_under_way_while_the_password_changes_is_forgotten_with_the_others(world: World, how: str) -> None:
    ada = await join(world)
    await guess(ada)
    await present(ada)
    link = (await world.post(f"/users/{ada.user_id}/password-reset", administrator())).json()["link_token"]
    chosen = "seven green otters swim"

    async def change() -> httpx2.Response:
        if how == "changed":
            return await world.post("/users/me/password", ada.actor(), json={"password": PASSWORD, "new_password": chosen})
        return await world.post("/password-resets/acceptance", json={"token": link, "password": chosen})

    async with world.work() as uow:
        await repository.accounts.user(uow.session, ada.user_id, lock=True)
        changed = asyncio.create_task(change())
        await world.somebody_waits()
        late = asyncio.create_task(guess(ada, 1))
        await world.somebody_waits(2)
    assert (await changed).status_code == 204
    await late
    assert [row.failures for row in await world.sql("SELECT failures FROM attempts WHERE length(name) = 17")] == [1], "of a new day"
    ada.password = chosen
    assert (await ada.sign_in(source="203.0.113.7")).status_code == 201


async def test_without_mail_it_is_recorded_and_whoever_is_blocked_is_not_told(world: World) -> None:
    ada, bob = await join(world), await join(world, "bob@example.org")
    await guess(ada)
    await guess(bob)
    await world.patch(f"/users/{bob.user_id}", administrator(), json={"status": "blocked"}, version=2)
    await world.recorded()
    await guesses.tell(world.runtime.extra["tools"])
    assert [record["resource"] for record in await world.recorded()] == [{"user_id": str(ada.user_id)}]
