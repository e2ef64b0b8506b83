"""Requests that share a transaction: what many ask for at the same moment is done in one piece, and each has its own answer and record.

A commit waits for the disk, and each statement for the database; both cost as much for a hundred as for one. Nobody waits for others to
come: while one group is under way, the next one gathers, and begins beside it when it has grown large, or when the first takes long.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from sqlalchemy.ext.asyncio import AsyncEngine

from chassis.db import is_away
from chassis.errors import CallerLeft, ChangedMeanwhile, Problem
from chassis.outbox import Caller, UnitOfWork, units_of_work

MOST = 128
AT_ONCE = 2
BESIDE_S = 0.05

I = TypeVar("I")  # noqa: E741 - an item
R = TypeVar("R")

Work = Callable[[Sequence[UnitOfWork], Sequence[I]], Awaitable[Sequence[R | Problem]]]
"""Does what is asked for in units of work that share a session: for each item its result, or the problem it ends with, of which nothing is stored."""


@dataclass(frozen=True)
class _Asked(Generic[I, R]):
    caller: Caller
    item: I
    answer: "asyncio.Future[tuple[UnitOfWork, R]]"


class Together(Generic[I, R]):
    """One thing that is done for many at once; ``most`` in a transaction, ``at_once`` transactions."""

    def __init__(self, engine: AsyncEngine, service: str, action: str, work: Work[I, R], most: int = MOST, at_once: int = AT_ONCE) -> None:
        self.work = work
        self._engine = engine
        self._service = service
        self._action = action
        self._most = most
        self._at_once = at_once
        self._waiting: deque[_Asked[I, R]] = deque()
        self._under_way: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def ask(self, caller: Caller, item: I) -> tuple[UnitOfWork, R]:
        """The result for an item, and its unit of work, which is committed by then. Raises what its work ended with."""
        asked: _Asked[I, R] = _Asked(caller, item, asyncio.get_running_loop().create_future())
        self._waiting.append(asked)
        self._begin()
        return await asked.answer

    def _begin(self, *, beside: bool = False) -> None:
        if not self._waiting or len(self._under_way) >= self._at_once:
            return
        if self._under_way and not beside and len(self._waiting) < self._most // 2:
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(BESIDE_S, self._begin_beside)
            return
        task = asyncio.create_task(self._next())
        self._under_way.add(task)
        task.add_done_callback(self._done)

    def _begin_beside(self) -> None:
        self._timer = None
        self._begin(beside=True)

    async def _next(self) -> None:
        await asyncio.sleep(0)  # those whose requests arrived in the same turn of the loop come along
        group = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
        if group:
            await self._do(group)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._begin()

    async def _do(self, asked: Sequence[_Asked[I, R]]) -> None:
        group = [each for each in asked if not _has_left(each)]
        if not group:
            return
        try:
            await self._transaction(group)
        except CallerLeft:
            await self._do(group)
        except Exception as error:  # noqa: BLE001 - it is raised to whoever asked
            if len(group) > 1 and not _is_everybodys(error):
                for each in group:  # what breaks one must not break the others
                    await self._do([each])
                return
            for each in group:
                if not each.answer.done():
                    each.answer.set_exception(error)
        except BaseException:
            for each in group:
                each.answer.cancel()
            raise

    async def _transaction(self, group: Sequence[_Asked[I, R]]) -> None:
        async with units_of_work(self._engine, self._service, self._action, [each.caller for each in group]) as uows:
            own = list(uows)
            results = await self.work(own, [each.item for each in group])
            if any(each.caller.left() for each in group):
                raise CallerLeft
            uows[:] = [uow for uow, result in zip(own, results, strict=True) if not isinstance(result, Problem)]
        for each, uow, result in zip(group, own, results, strict=True):
            if each.answer.done():
                continue
            if isinstance(result, Problem):
                each.answer.set_exception(result)
            else:
                each.answer.set_result((uow, result))


def _has_left(asked: _Asked[I, R]) -> bool:
    """Whether nobody waits for this any more; then it ends here."""
    gone = asked.caller.left()
    if gone and not asked.answer.done():
        asked.answer.set_exception(CallerLeft())
    return gone


def _is_everybodys(error: Exception) -> bool:
    """Whether each of a group would meet the same: the database is away, or the work says itself what keeps it from being done at all."""
    return is_away(error) or (isinstance(error, Problem) and not isinstance(error, ChangedMeanwhile))
