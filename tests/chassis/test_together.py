"""Requests that share a transaction, without a database: who is grouped with whom, and who hears of what went wrong."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from chassis import together
from chassis.errors import CallerLeft, CannotDecide, ChangedMeanwhile, NotFound, Problem
from chassis.outbox import Caller, UnitOfWork
from chassis.together import Together


class Transactions:
    """Stands where the database is: what was in each transaction, and which of its units of work were committed."""

    def __init__(self) -> None:
        self.committed: list[list[str]] = []

    @contextlib.asynccontextmanager
    async def units_of_work(self, _engine: Any, _service: str, _action: str, callers: Sequence[Caller]) -> AsyncIterator[list[Any]]:
        uows = [SimpleNamespace(request_id=caller.request_id) for caller in callers]
        yield uows
        self.committed.append([uow.request_id for uow in uows])


@pytest.fixture
def transactions(monkeypatch: pytest.MonkeyPatch) -> Transactions:
    made = Transactions()
    monkeypatch.setattr(together, "units_of_work", made.units_of_work)
    return made


def doing(work: Any, **more: Any) -> Together[str, str]:
    return Together[str, str](None, "ca", "test", work, **more)  # type: ignore[arg-type]


async def shout(_uows: Sequence[UnitOfWork], items: Sequence[str]) -> list[str | Problem]:
    await asyncio.sleep(0)
    return [item.upper() for item in items]


async def ask(asked: Together[str, str], *items: str) -> list[Any]:
    answers = await asyncio.gather(*[asked.ask(Caller(request_id=item), item) for item in items], return_exceptions=True)
    return [answer if isinstance(answer, BaseException) else answer[1] for answer in answers]


async def test_nobody_waits_for_others_and_those_who_come_meanwhile_go_together(transactions: Transactions) -> None:
    began, goes_on = asyncio.Event(), asyncio.Event()

    async def slowly(_uows: Sequence[UnitOfWork], items: Sequence[str]) -> list[str | Problem]:
        began.set()
        await goes_on.wait()
        return [item.upper() for item in items]

    asked = doing(slowly, at_once=1)
    first = asyncio.create_task(ask(asked, "a"))
    await began.wait()
    others = asyncio.create_task(ask(asked, *"bcdef"))
    await asyncio.sleep(0.01)
    assert transactions.committed == []
    goes_on.set()
    assert (await first, await others) == (["A"], list("BCDEF"))
    assert transactions.committed == [["a"], ["b", "c", "d", "e", "f"]]


async def test_a_group_begins_beside_another_when_it_has_grown_large(transactions: Transactions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "BESIDE_S", 60.0)
    first, goes_on = asyncio.Event(), asyncio.Event()

    async def first_slowly(_uows: Sequence[UnitOfWork], items: Sequence[str]) -> list[str | Problem]:
        if not first.is_set():
            first.set()
            await goes_on.wait()
        return [item.upper() for item in items]

    asked = doing(first_slowly, most=lambda: 4)
    slow = asyncio.create_task(ask(asked, "a"))
    await first.wait()
    early = asyncio.create_task(ask(asked, "b"))
    await asyncio.sleep(0.01)
    assert transactions.committed == []
    late = asyncio.create_task(ask(asked, "c"))
    assert (await early, await late) == (["B"], ["C"])
    assert transactions.committed == [["b", "c"]]
    goes_on.set()
    assert await slow == ["A"]


async def test_a_group_that_hangs_keeps_nobody_waiting(transactions: Transactions) -> None:
    async def first_hangs(_uows: Sequence[UnitOfWork], items: Sequence[str]) -> list[str | Problem]:
        if items == ["a"]:
            await asyncio.Event().wait()
        return [item.upper() for item in items]

    asked = doing(first_hangs)
    hanging = asyncio.create_task(ask(asked, "a"))
    await asyncio.sleep(0.01)
    async with asyncio.timeout(10):
        assert await ask(asked, "b", "c") == ["B", "C"]
    assert transactions.committed == [["b", "c"]]
    hanging.cancel()


async def test_a_group_begins_beside_none_that_is_younger_than_the_time_that_it_is_given(transactions: Transactions) -> None:
    loop = asyncio.get_running_loop()
    began: dict[str, float] = {}
    goes_on = {item: asyncio.Event() for item in "abc"}

    async def slowly(_uows: Sequence[UnitOfWork], items: Sequence[str]) -> list[str | Problem]:
        began.update(dict.fromkeys(items, loop.time()))
        await goes_on[items[0]].wait()
        return list(items)

    async def has_begun(item: str) -> None:
        async with asyncio.timeout(10):
            while item not in began:
                await asyncio.sleep(0)

    asked = doing(slowly)
    asking = [asyncio.create_task(ask(asked, "a"))]
    await has_begun("a")
    asking.append(asyncio.create_task(ask(asked, "b")))
    await asyncio.sleep(together.BESIDE_S * 0.6)  # the group before takes most of that time
    goes_on["a"].set()
    await has_begun("b")
    asking.append(asyncio.create_task(ask(asked, "c")))
    await has_begun("c")
    for each in goes_on.values():
        each.set()
    assert await asyncio.gather(*asking) == [["a"], ["b"], ["c"]]
    assert began["c"] - began["b"] >= together.BESIDE_S * 0.99


async def test_those_of_one_moment_go_together_and_a_group_is_bounded(transactions: Transactions) -> None:
    assert await ask(doing(shout, most=lambda: 2), *"abcde") == list("ABCDE")
    assert sorted(transactions.committed) == [["a", "b"], ["c", "d"], ["e"]]


async def test_what_is_refused_leaves_no_record_and_the_others_do(transactions: Transactions) -> None:
    async def but_b(_uows: Sequence[UnitOfWork], items: Sequence[str]) -> list[str | Problem]:
        return [NotFound() if item == "b" else item for item in items]

    answers = await ask(doing(but_b, at_once=1), *"abc")
    assert isinstance(answers[1], NotFound)
    assert (answers[0], answers[2]) == ("a", "c")
    assert transactions.committed == [["a", "c"]]


async def test_what_breaks_one_does_not_break_the_others(transactions: Transactions) -> None:
    async def breaks(_uows: Sequence[UnitOfWork], items: Sequence[str]) -> list[str | Problem]:
        if "c" in items:
            raise LookupError
        return list(items)

    answers = await ask(doing(breaks, at_once=1), *"abcd")
    assert [type(answer) for answer in answers] == [str, str, LookupError, str]
    assert transactions.committed == [["a"], ["b"], ["d"]]


async def test_a_problem_of_the_whole_work_goes_to_everybody_at_the_first_try(transactions: Transactions) -> None:
    tries = []

    async def cannot(_uows: Sequence[UnitOfWork], items: Sequence[str]) -> list[str | Problem]:
        tries.append(list(items))
        raise CannotDecide("The key is away.")

    assert {type(answer) for answer in await ask(doing(cannot, at_once=1), *"abcd")} == {CannotDecide}
    assert (tries, transactions.committed) == ([["a", "b", "c", "d"]], [])


async def test_a_change_that_came_first_is_the_matter_of_one(transactions: Transactions) -> None:
    async def late(_uows: Sequence[UnitOfWork], items: Sequence[str]) -> list[str | Problem]:
        if "c" in items:
            raise ChangedMeanwhile
        return list(items)

    answers = await ask(doing(late, at_once=1), *"abcd")
    assert [type(answer) for answer in answers] == [str, str, ChangedMeanwhile, str]


async def test_while_the_database_is_away_everybody_is_told_so_at_once(transactions: Transactions) -> None:
    async def away(_uows: Sequence[UnitOfWork], _items: Sequence[str]) -> list[str | Problem]:
        raise ConnectionError

    assert {type(answer) for answer in await ask(doing(away), *"abcd")} == {ConnectionError}
    assert transactions.committed == []


async def test_whoever_hangs_up_takes_nothing_from_the_others(transactions: Transactions) -> None:
    asked = doing(shout, at_once=1)
    tasks = [asyncio.create_task(asked.ask(Caller(request_id=item), item)) for item in "abc"]
    await asyncio.sleep(0)
    tasks[1].cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(answers[1], asyncio.CancelledError)
    assert [answer[1] for answer in (answers[0], answers[2]) if isinstance(answer, tuple)] == ["A", "C"]


async def test_what_is_asked_for_by_who_has_left_is_not_done_and_the_others_go_on_together(transactions: Transactions) -> None:
    left: set[str] = set()
    worked: list[list[str]] = []

    async def work(_uows: Sequence[UnitOfWork], items: Sequence[str]) -> list[str | Problem]:
        worked.append(list(items))
        left.add("c")
        return list(items)

    asked = doing(work, at_once=1)
    left.add("a")
    callers = [Caller(request_id=item, left=functools.partial(left.__contains__, item)) for item in "abcd"]
    answers = await asyncio.gather(*[asked.ask(caller, caller.request_id) for caller in callers], return_exceptions=True)
    assert [type(answer) for answer in answers] == [CallerLeft, tuple, CallerLeft, tuple]
    assert worked == [["b", "c", "d"], ["b", "d"]]
    assert transactions.committed == [["b", "d"]]
