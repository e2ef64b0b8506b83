"""Turns at a token that is slow, or hangs."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from services.ca.service import turns
from services.ca.service.turns import NoRoom, Turns
from services.ca.signer import SignerAway
from tests.ca.conftest import until

LONG_S, SHORT_S = 60.0, 0.1


@pytest.fixture
def goes() -> Iterator[threading.Event]:
    made = threading.Event()
    yield made
    made.set()


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch, goes: threading.Event) -> Iterator[Turns]:
    """A token that takes its time, whatever the machine does."""
    monkeypatch.setattr(turns, "SIGN_S", LONG_S)
    monkeypatch.setattr(turns, "BEHIND_S", LONG_S)
    made = Turns()
    yield made
    goes.set()
    made.close()


def at_20_ms(name: int) -> Callable[[], int]:
    def sign() -> int:
        time.sleep(0.02)
        return name

    return sign


async def test_signatures_of_two_groups_are_made_in_turns_and_in_the_order_of_each(token: Turns) -> None:
    batches = [[at_20_ms(batch + each) for each in range(12)] for batch in (100, 200)]
    assert await asyncio.gather(*(token.take(batch) for batch in batches)) == [list(range(first, first + 12)) for first in (100, 200)]


async def test_a_group_that_takes_too_long_together_is_given_up_although_each_signature_is_made_and_the_next_one_is_smaller(
    token: Turns,
) -> None:
    made: list[int] = []
    token._each_s = 0.001
    with pytest.raises(SignerAway) as away:
        await token.take([lambda: made.append(at_20_ms(1)())] * 100, SHORT_S)
    assert away.value.retry_after == 1
    assert len(made) < 20
    await until(lambda: token.fit(0.25) < 250)  # the call that was under way is counted a moment later
    assert await token.take([at_20_ms(2)]) == [2]
    assert len(made) < 20


async def test_of_what_was_given_up_nothing_more_is_made(token: Turns, goes: threading.Event) -> None:
    made: list[bool] = []
    with pytest.raises(SignerAway, match="does not answer"):
        await token.take([lambda: made.append(goes.wait())] * 2, SHORT_S)
    goes.set()
    assert await token.take([lambda: "healthy again"]) == ["healthy again"]
    assert made == [True]


async def test_of_what_nobody_waits_for_any_more_nothing_more_is_made(token: Turns, goes: threading.Event) -> None:
    begun: list[bool] = []

    def sign() -> None:
        begun.append(goes.is_set())
        goes.wait()

    left = asyncio.create_task(token.take([sign] * 2))
    await until(lambda: begun == [False])
    left.cancel()
    await asyncio.wait({left})
    goes.set()
    await token.take([goes.is_set])
    assert (left.cancelled(), begun) == (True, [False])


async def test_behind_a_call_that_hangs_nobody_begins_to_wait_and_no_call_is_begun(
    token: Turns, goes: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []

    def hangs() -> None:
        begun.append(1)
        goes.wait()

    monkeypatch.setattr(turns, "SIGN_S", SHORT_S)
    together = await asyncio.gather(*(token.take([hangs]) for _ in range(5)), return_exceptions=True)
    assert token.hanging
    async with asyncio.timeout(LONG_S / 2):
        after = await asyncio.gather(*(token.take([hangs], LONG_S) for _ in range(5)), return_exceptions=True)
    assert {type(each) for each in together + after} == {SignerAway}
    assert len(begun) == 1


async def test_what_is_urgent_goes_before_all_that_waited_longer(token: Turns, goes: threading.Event) -> None:
    made: list[str] = []
    token._each_s = 0.01
    first = asyncio.create_task(token.take([goes.wait]))
    behind = [asyncio.create_task(token.take_behind(lambda: made.append("behind"))) for _ in range(3)]
    await asyncio.sleep(0)
    urgent = asyncio.create_task(token.take([lambda: made.append("urgent")] * 2))
    await asyncio.sleep(0)
    goes.set()
    await asyncio.gather(first, *behind, urgent)
    assert made == ["urgent"] * 2 + ["behind"] * 3


async def test_no_more_wait_behind_than_are_answered_soon_and_the_others_are_told_at_once(token: Turns, goes: threading.Event) -> None:
    token._each_s = LONG_S / 10
    waiting = [asyncio.create_task(token.take_behind(goes.wait)) for _ in range(30)]
    await until(lambda: sum(task.done() for task in waiting) >= 20)
    goes.set()
    told = Counter(type(each) for each in await asyncio.gather(*waiting, return_exceptions=True))
    assert told == {NoRoom: 20, bool: 10}


async def test_as_long_as_nobody_knows_how_fast_a_token_is_all_who_come_wait_for_their_turn(token: Turns) -> None:
    assert await asyncio.gather(*(token.take_behind(at_20_ms(each)) for each in range(10))) == list(range(10))


async def test_who_waits_behind_what_is_urgent_for_too_long_is_told(
    token: Turns, goes: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    urgent = asyncio.create_task(token.take([goes.wait]))
    await until(lambda: token._began is not None)
    with monkeypatch.context() as short:
        short.setattr(turns, "BEHIND_S", SHORT_S)
        with pytest.raises(NoRoom):
            await token.take_behind(lambda: None)
    assert not urgent.done()
    goes.set()
    await urgent
    assert await token.take_behind(lambda: "in time") == "in time"


async def test_what_has_its_turn_is_made_however_much_longer_it_takes_than_others_wait_for_theirs(
    token: Turns, goes: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "BEHIND_S", 0.5)
    await token.take([lambda: None], counted=False)  # its thread has begun
    slowly = asyncio.create_task(token.take_behind(goes.wait))
    await until(lambda: slowly.done() or token._silent_s() > turns.BEHIND_S)
    goes.set()
    assert await slowly


async def test_only_signatures_that_were_made_tell_how_fast_a_token_is(token: Turns) -> None:
    def fails() -> None:
        raise SignerAway("the token is away")

    assert token.fit(0.5) == 1
    for _ in range(60):
        await asyncio.gather(token.take([fails]), token.take([lambda: "away"], counted=False), return_exceptions=True)
    assert token.fit(0.5) == 1
    await token.take([at_20_ms(1)])
    assert token.fit(0.5) <= 25


async def test_a_call_that_fails_is_told_to_whoever_waits_for_it_and_ends_nothing_else(token: Turns) -> None:
    def fails() -> int:
        raise SignerAway("the token is away")

    failed, fine = await asyncio.gather(token.take([at_20_ms(1), fails]), token.take([at_20_ms(2)] * 2), return_exceptions=True)
    assert isinstance(failed, SignerAway)
    assert failed.detail == "the token is away"
    assert fine == [2, 2]


async def test_when_it_closes_those_who_wait_are_let_go(token: Turns, goes: threading.Event) -> None:
    begun = threading.Event()

    def sign() -> bool:
        begun.set()
        return goes.wait()

    first = asyncio.create_task(token.take([sign]))
    behind = asyncio.create_task(token.take_behind(lambda: None))
    await until(begun.is_set)
    token.close()
    goes.set()
    await asyncio.wait({first, behind})
    assert await first == [True]
    assert behind.cancelled()
    with pytest.raises(SignerAway):
        await token.take([sign])
