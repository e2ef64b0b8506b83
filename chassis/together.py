"""Requests that share a transaction: what many ask for at the same moment is done in one piece, and each has its own answer and record.

A commit waits for the disk, and each statement for the database; both cost as much for a hundred as for one. Nobody waits for others to
come: while one group is under way, the next one gathers, and begins beside it when it has grown large, or when the first takes long.
Keys that make requests be done once (``chassis.idempotency``) are claimed for a whole group, and its answers kept in its transaction.
A request whose key is under way elsewhere waits for that end apart from the others, who do not wait for it.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from sqlalchemy.ext.asyncio import AsyncEngine

from chassis import idempotency
from chassis.db import is_away
from chassis.errors import CallerLeft, ChangedMeanwhile, Problem
from chassis.idempotency import Answer, Claim, UnderWay
from chassis.outbox import Caller, UnitOfWork, units_of_work

MOST = 128
AT_ONCE = 2
BESIDE_S = 0.05
GROUP_S = 1.0
ALONE_S = 0.02
APART_S = 15.0  # less than a gateway waits for an answer

A = TypeVar("A")
I = TypeVar("I")  # noqa: E741 - an item
R = TypeVar("R")

Work = Callable[[Sequence[UnitOfWork], Sequence[I]], Awaitable[Sequence[R | Problem]]]
"""Does what is asked for in units of work that share a session: for each item its result, or the problem it ends with, of which nothing is stored."""


class Groups(Generic[A]):
    """Who is served together: at this moment ``most`` in a group, ``at_once`` groups. ``serve`` raises nothing."""

    def __init__(
        self, serve: Callable[[Sequence[A]], Awaitable[None]], most: Callable[[], int] = lambda: MOST, at_once: int = AT_ONCE
    ) -> None:
        self._serve = serve
        self._most = most
        self._at_once = at_once
        self._waiting: deque[A] = deque()
        self._under_way: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, each: A) -> None:
        """Serve this one, with a group that begins now or later."""
        self._waiting.append(each)
        self._begin()

    def _begin(self, *, beside: bool = False) -> None:
        if not self._waiting or len(self._under_way) >= self._at_once:
            return
        if self._under_way and not beside and len(self._waiting) < self._most() // 2:
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(BESIDE_S, self._begin_beside)
            return
        if self._timer is not None:  # it was for those who come along now, beside the group before this one
            self._timer.cancel()
            self._timer = None
        task = asyncio.create_task(self._next())
        self._under_way.add(task)
        task.add_done_callback(self._done)

    def _begin_beside(self) -> None:
        self._timer = None
        self._begin(beside=True)

    async def _next(self) -> None:
        await asyncio.sleep(0)  # those whose requests arrived in the same turn of the loop come along
        group = [self._waiting.popleft() for _ in range(min(self._most(), len(self._waiting)))]
        if group:
            await self._serve(group)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._begin()


@dataclass(frozen=True)
class Once(Generic[R]):
    """What makes a request one that is done once: its key, and what is answered, which is kept with what was done."""

    claim: Claim
    answer: Callable[[UnitOfWork, R], Answer]


@dataclass(frozen=True)
class _Asked(Generic[I, R]):
    caller: Caller
    item: I
    once: Once[R] | None
    end: "asyncio.Future[tuple[UnitOfWork, R]]"


class Together(Generic[I, R]):
    """One thing that is done for many at once; at this moment ``most`` in a transaction, ``at_once`` transactions."""

    def __init__(
        self,
        engine: AsyncEngine,
        service: str,
        action: str,
        work: Work[I, R],
        most: Callable[[], int] = lambda: MOST,
        at_once: int = AT_ONCE,
    ) -> None:
        self._work = work
        self._engine = engine
        self._service = service
        self._action = action
        self._groups: Groups[_Asked[I, R]] = Groups(self._serve, most, at_once)
        self._apart: Groups[_Asked[I, R]] = Groups(self._serve_apart, lambda: 1)

    async def ask(self, caller: Caller, item: I, once: Once[R] | None = None) -> tuple[UnitOfWork, R]:
        """The result for an item, and its unit of work, which is committed by then. Raises what its work ended with, and AnsweredBefore."""
        asked: _Asked[I, R] = _Asked(caller, item, once, asyncio.get_running_loop().create_future())
        self._groups.add(asked)
        return await asked.end

    async def _serve(self, asked: Sequence[_Asked[I, R]]) -> None:
        """Of those with one key, the first: the others come later, to its answer or into its place."""
        group: list[_Asked[I, R]] = []
        keys: set[tuple[str, str]] = set()
        for each in asked:
            key = (each.once.claim.owner, each.once.claim.key) if each.once else None
            if key is not None and key in keys:
                self._groups.add(each)
                continue
            group.append(each)
            if key is not None:
                keys.add(key)
        await self._do(group)

    async def _serve_apart(self, asked: Sequence[_Asked[I, R]]) -> None:
        await self._do(asked, apart=True)

    async def _do(self, asked: Sequence[_Asked[I, R]], *, apart: bool = False) -> None:
        group = [each for each in asked if not _has_left(each)]
        if not group:
            return
        try:
            await self._transaction(group, APART_S if apart else GROUP_S if len(group) > 1 else ALONE_S)
        except CallerLeft:
            await self._do(group, apart=apart)
        except Exception as error:  # noqa: BLE001 - it is raised to whoever asked
            await self._failed(group, error, apart=apart)
        except BaseException:
            for each in group:
                each.end.cancel()
            raise

    async def _failed(self, group: Sequence[_Asked[I, R]], error: Exception, *, apart: bool) -> None:
        if len(group) > 1 and not _is_everybodys(error):
            for each in group:  # what breaks one must not break the others
                await self._do([each])
        elif isinstance(error, UnderWay) and not apart:
            self._apart.add(group[0])
        else:
            for each in group:
                if not each.end.done():
                    each.end.set_exception(error)

    async def _transaction(self, group: Sequence[_Asked[I, R]], key_s: float) -> None:
        async with units_of_work(self._engine, self._service, self._action, [each.caller for each in group]) as uows:
            own = list(uows)
            keyed = any(each.once for each in group)
            ends = await self._once(own, group, key_s) if keyed else await self._work(own, [each.item for each in group])
            if any(each.caller.left() for each in group):
                raise CallerLeft
            uows[:] = [uow for uow, end in zip(own, ends, strict=True) if not isinstance(end, Exception)]
        for each, uow, end in zip(group, own, ends, strict=True):
            if each.end.done():
                continue
            if isinstance(end, Exception):
                each.end.set_exception(end)
            else:
                each.end.set_result((uow, end))

    async def _once(self, uows: Sequence[UnitOfWork], group: Sequence[_Asked[I, R]], key_s: float) -> list[R | Exception]:
        """Work that is done for those whose keys are free, and for those without one; what they are answered is kept with it.

        A key that is under way elsewhere is waited for so many seconds. Raises UnderWay.
        """
        session = uows[0].session
        claimed = iter(await idempotency.claim_within(session, [each.once.claim for each in group if each.once], key_s))
        before = [next(claimed) if each.once else None for each in group]
        free = [(uow, each) for uow, each, end in zip(uows, group, before, strict=True) if end is None]
        done = list(await self._work([uow for uow, _ in free], [each.item for _, each in free])) if free else []
        answers: list[tuple[Claim, Answer]] = []
        refused: list[Claim] = []
        for (uow, each), result in zip(free, done, strict=True):
            if each.once and isinstance(result, Problem):
                refused.append(each.once.claim)
            elif each.once and not isinstance(result, Problem):
                answers.append((each.once.claim, each.once.answer(uow, result)))
        await idempotency.keep(session, answers)
        await idempotency.give_up(session, refused)
        ends = iter(done)
        return [next(ends) if end is None else end for end in before]


Asking = Callable[[Together[I, R], I], Awaitable[A]]
"""Asks for an item, and gives what is made of its result."""


def _has_left(asked: _Asked[I, R]) -> bool:
    """Whether nobody waits for this any more; then it ends here."""
    gone = asked.caller.left()
    if gone and not asked.end.done():
        asked.end.set_exception(CallerLeft())
    return gone


def _is_everybodys(error: Exception) -> bool:
    """Whether each of a group would meet the same: the database is away, or the work says itself what keeps it from being done at all."""
    return is_away(error) or (isinstance(error, Problem) and not isinstance(error, (ChangedMeanwhile, UnderWay)))
