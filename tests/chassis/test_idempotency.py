"""Keyed requests that share transactions, on a real database: each is done once, and whoever asks again gets the answer that was given."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any
from uuid import UUID

import httpx2
import pytest
from fastapi import Response
from pydantic import BaseModel
from sqlalchemy import text
from uuid_utils.compat import uuid7

from chassis import idempotency, together
from chassis.app import Runtime, Spec, create_app
from chassis.errors import CallerLeft, ChangedMeanwhile, NotFound, Problem
from chassis.guard import SharedUow, doors, may
from chassis.hears import Hears
from chassis.idempotency import Answer, AnsweredBefore, Claim
from chassis.outbox import Caller, UnitOfWork
from chassis.settings import Settings
from chassis.together import Once, Together
from contracts.policy import Action, Service
from contracts.roles import Actor
from tests.chassis.conftest import Side, membership, until
from tests.chassis.test_guard import as_, count
from tests.world import person, reason

Make = Callable[..., Any]
SOMEBODY = person(UUID(int=1))
EFFECT = text("INSERT INTO effect (key, version) VALUES (:key, 1)")
WAITS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
LONG = f"clock_timestamp() - query_start > interval '{10 * together.ALONE_S} s'"
TRANSACTIONS = "SELECT count(DISTINCT xmin::text) FROM idempotency"


class Name(BaseModel):
    """What the test's door takes."""

    name: str


async def work(uows: Sequence[UnitOfWork], items: Sequence[str]) -> list[str | Problem]:
    """An effect and a fact for each; what is named so is refused, breaks, or is a secret."""
    done: list[str | Problem] = []
    for uow, item in zip(uows, items, strict=True):
        if item == "refused":
            done.append(NotFound())
            continue
        await uow.session.execute(EFFECT, {"key": item})
        uow.emit(membership(1, uuid7()))
        if item == "breaks":
            raise LookupError
        if item == "secret":
            uow.conceal()
        done.append(item)
    return done


numbers = itertools.count()


def shown(name: str) -> Response:
    """An answer that is never made twice."""
    return Response(f'{{"name": "{name}", "version": {next(numbers)}}}', 201, {"X-Said-Once": "yes"}, "application/json")


class Place:
    """A service with one door whose requests share transactions, on a database that others may share."""

    def __init__(self, side: Side, **more: Any) -> None:
        self.side = side
        self.together = Together[str, str](side.engine, "projects", Action.PROJECT_CREATE, work, **more)
        router = doors(Service.PROJECTS)

        @router.post("/projects", status_code=201, dependencies=[may(Action.PROJECT_CREATE)])
        async def create(order: Name, shared: SharedUow) -> Response:
            """A door that shares its transactions."""
            return await shared.answering(shown)(self.together, order.name)

        runtime = Runtime(side.settings, side.engine, frozenset())
        app = create_app(Spec(Service.PROJECTS, Settings, router, Hears("projects")), runtime)
        transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
        self.client = httpx2.AsyncClient(transport=transport, base_url="https://service/api/v1")

    async def ask(self, name: str, key: str | None, actor: Actor = SOMEBODY) -> httpx2.Response:
        headers = as_(actor, **({"Idempotency-Key": key} if key is not None else {}))
        return await self.client.post("/projects", json={"name": name}, headers=headers)

    async def begun_elsewhere(self, name: str, key: str) -> tuple[httpx2.Response, Claim]:
        """What a request was answered that another process has not committed yet, and its key, which is free."""
        first = await self.ask(name, key)
        [row] = await self.side.sql("DELETE FROM idempotency RETURNING owner, key, fingerprint")
        return first, Claim(*row)

    async def effects(self) -> list[str]:
        return sorted(row[0] for row in await self.side.sql("SELECT key FROM effect"))

    async def kept(self) -> list[str]:
        return sorted(row[0] for row in await self.side.sql("SELECT key FROM idempotency"))

    async def number(self, what: str) -> int:
        return int((await self.side.sql(what))[0][0])


@pytest.fixture
async def place(side: Make) -> AsyncIterator[Place]:
    made = Place(await side("projects"))
    yield made
    await made.client.aclose()


@pytest.fixture
async def replica(side: Make, place: Place) -> AsyncIterator[Place]:
    made = Place(await side("projects", "2", beside=place.side))
    yield made
    await made.client.aclose()


async def test_those_with_keys_share_transactions_and_each_is_answered_again_to_the_letter(place: Place) -> None:
    asked = [(f"n{number}", f"k{number}") for number in range(40)]
    first = await asyncio.gather(*[place.ask(name, key) for name, key in asked])
    assert {answer.status_code for answer in first} == {201}
    assert await place.number(TRANSACTIONS) <= 4
    assert await count(place.side, "audit_outbox") == 40
    again = await asyncio.gather(*[place.ask(name, key) for name, key in asked])
    for one, other in zip(first, again, strict=True):
        assert (one.status_code, one.content) == (other.status_code, other.content)
        kept = [{name: answer.headers[name] for name in ("content-type", "etag", "hortus-facts")} for answer in (one, other)]
        assert kept[0] == kept[1]
        assert (one.headers.get("idempotency-replayed"), other.headers["idempotency-replayed"]) == (None, "true")
    assert len(await place.effects()) == len(set(await place.effects())) == 40
    assert await count(place.side, "audit_outbox") == 40


async def test_those_without_a_key_come_along_and_are_done_each_time(place: Place) -> None:
    answers = await asyncio.gather(*[place.ask("n", key) for key in ("a", None, "b", None)])
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 4
    assert (await place.effects(), await place.kept()) == (["n"] * 4, ["a", "b"])


async def test_one_key_many_times_at_one_moment_is_done_once_and_answered_to_all(place: Place) -> None:
    answers = await asyncio.gather(*[place.ask("n", "k") for _ in range(12)], place.ask("other", "k2"))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers[:12]}) == 1
    assert Counter(answer.headers.get("idempotency-replayed") for answer in answers[:12]) == {None: 1, "true": 11}
    assert await place.effects() == ["n", "other"]


async def test_one_key_for_two_requests_of_one_moment_serves_one_and_refuses_the_other(place: Place) -> None:
    *two, third = await asyncio.gather(place.ask("n", "k"), place.ask("m", "k"), place.ask("o", "k2"))
    served, refused = sorted(two, key=lambda answer: answer.status_code)
    assert (served.status_code, reason(refused), third.status_code) == (201, "idempotency-key-reused", 201)
    assert await place.effects() == sorted([served.json()["name"], "o"])


async def test_a_key_that_is_under_way_elsewhere_for_long_keeps_nobody_else_waiting_and_gets_the_answer_of_there(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(together, "GROUP_S", 0.05)
    first, claim = await place.begun_elsewhere("n", "k")
    async with place.side.unit() as uow:
        assert await idempotency.claim(uow.session, [claim]) == [None]
        waits, *others = [asyncio.create_task(place.ask("n", key)) for key in ("k", "k2", None)]
        assert [answer.status_code for answer in await asyncio.gather(*others)] == [201, 201]
        assert not waits.done()
        await idempotency.keep(uow.session, [(claim, Answer(201, {"X-Kept": "there"}, first.content))])
    answer = await waits
    assert (answer.status_code, answer.content, answer.headers["X-Kept"]) == (201, first.content, "there")
    assert await place.effects() == ["n"] * 3


@pytest.mark.parametrize("others", [(), ("k2", None)], ids=["alone", "in a group"])
async def test_whoever_waits_in_vain_for_a_key_that_is_under_way_elsewhere_is_told_to_come_again(
    place: Place, others: tuple[str | None, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(together, "GROUP_S", 0.05)
    monkeypatch.setattr(together, "APART_S", 0.05)
    _, claim = await place.begun_elsewhere("n", "k")
    async with place.side.unit() as uow:
        assert await idempotency.claim(uow.session, [claim]) == [None]
        told, *served = await asyncio.gather(*[place.ask("n", key) for key in ("k", *others)])
        assert (told.status_code, reason(told), told.headers["Retry-After"]) == (503, "cannot-decide", "1")
        assert [answer.status_code for answer in served] == [201] * len(others)
        await idempotency.give_up(uow.session, [claim])
    assert (await place.ask("n", "k")).status_code == 201


async def test_a_key_belongs_to_one_person_also_in_a_group(place: Place) -> None:
    answers = await asyncio.gather(*[place.ask("n", "k", person(UUID(int=user))) for user in (1, 2, 3)])
    assert [answer.headers.get("idempotency-replayed") for answer in answers] == [None] * 3
    assert len(await place.effects()) == 3


@pytest.mark.parametrize(("name", "status"), [("refused", 404), ("breaks", 500)])
async def test_what_ended_badly_leaves_its_key_free_and_nothing_to_the_others(place: Place, name: str, status: int) -> None:
    names = ["a", name, "b"]
    answers = await asyncio.gather(*[place.ask(each, f"k-{each}") for each in names])
    assert [answer.status_code for answer in answers] == [201, status, 201]
    assert (await place.effects(), await place.kept()) == (["a", "b"], ["k-a", "k-b"])
    assert (await place.ask("c", f"k-{name}")).status_code == 201
    assert await place.effects() == ["a", "b", "c"]


async def test_whoever_comes_with_the_key_of_one_that_is_refused_takes_its_place(place: Place) -> None:
    refused, served = await asyncio.gather(place.ask("refused", "k"), place.ask("n", "k"))
    assert (refused.status_code, served.status_code) == (404, 201)
    assert (await place.effects(), await place.kept()) == (["n"], ["k"])


async def test_an_answer_that_held_a_secret_is_not_kept_in_a_group_either(place: Place) -> None:
    assert [answer.status_code for answer in await asyncio.gather(place.ask("secret", "k"), place.ask("n", "k2"))] == [201, 201]
    assert reason(await place.ask("secret", "k")) == "answer-was-secret"
    assert await place.number("SELECT count(*) FROM idempotency WHERE position('secret' in encode(body, 'escape')) > 0") == 0


async def test_a_key_that_is_too_long_is_refused_and_the_others_are_served(place: Place) -> None:
    answers = await asyncio.gather(place.ask("n", "k" * 129), place.ask("m", "k"), place.ask("o", "k" * 128))
    assert [answer.status_code for answer in answers] == [422, 201, 201]


@pytest.mark.parametrize("ends", ["commit", "rollback"])
async def test_whoever_comes_with_a_key_that_is_under_way_elsewhere_waits_for_its_end(place: Place, ends: str) -> None:
    first, claim = await place.begun_elsewhere("n", "k")
    async with place.side.unit() as uow:
        assert await idempotency.claim(uow.session, [claim]) == [None]
        waiting = asyncio.create_task(place.ask("n", "k"))
        await until(lambda: place.side.sql(f"SELECT 1 FROM ({WAITS} AND {LONG}) AS w (n) WHERE n = 1"))
        if ends == "rollback":
            await idempotency.give_up(uow.session, [claim])
        else:
            await idempotency.keep(uow.session, [(claim, Answer(201, {}, first.content))])
    answer = await waiting
    assert (answer.status_code, answer.content == first.content) == (201, ends == "commit")
    assert len(await place.effects()) == (1 if ends == "commit" else 2)


async def test_what_two_processes_get_with_the_same_keys_is_done_once(place: Place, replica: Place) -> None:
    keys = [f"k{number:03}" for number in range(60)]
    ours, theirs = await asyncio.gather(
        asyncio.gather(*[place.ask(key, key) for key in keys]),
        asyncio.gather(*[replica.ask(key, key) for key in reversed(keys)]),
    )
    assert {answer.status_code for answer in ours + theirs} == {201}
    assert [answer.content for answer in ours] == [answer.content for answer in reversed(theirs)]
    assert await place.effects() == keys


async def test_two_groups_that_have_the_same_keys_in_another_order_do_not_wait_in_a_circle(place: Place) -> None:
    claims = [Claim("somebody", key, key) for key in "abc"]

    async def claim(claims: Sequence[Claim]) -> list[Exception | None]:
        async with place.side.unit() as uow:
            return await idempotency.claim(uow.session, claims)

    async with place.side.unit() as between:
        await idempotency.claim(between.session, claims[1:2])
        both = [asyncio.create_task(claim(order)) for order in (claims, claims[::-1])]
        await until(lambda: place.side.sql(f"SELECT 1 FROM ({WAITS}) AS w (n) WHERE n = 2"))
        await idempotency.give_up(between.session, claims[1:2])
    ends = [{type(end) for end in await each} for each in both]
    assert sorted(ends, key=str) == sorted([{type(None)}, {ChangedMeanwhile}], key=str)


async def test_the_key_of_whoever_left_is_free_and_the_others_are_served(place: Place) -> None:
    left: set[str] = set()
    leaves = {"gone"}

    def answered(_uow: UnitOfWork, item: str) -> Answer:
        left.update(leaves)
        return Answer(201, {}, item.encode())

    def asked(name: str) -> Any:
        caller = Caller(SOMEBODY, name, left=lambda: name in left)
        return place.together.ask(caller, name, Once(Claim("somebody", name, ""), answered))

    ends = await asyncio.gather(asked("gone"), asked("stays"), return_exceptions=True)
    assert isinstance(ends[0], CallerLeft)
    assert isinstance(ends[1], tuple)
    assert ends[1][1] == "stays"
    assert (await place.effects(), await place.kept()) == (["stays"], ["stays"])
    left.clear()
    leaves.clear()
    assert (await asked("gone"))[1] == "gone"
    with pytest.raises(AnsweredBefore) as before:
        await asked("stays")
    assert before.value.body == b"stays"


async def test_a_key_that_is_claimed_twice_in_one_transaction_is_taken_once(place: Place) -> None:
    claims = [Claim("somebody", key, key) for key in ("b", "a", "b")]
    async with place.side.unit() as uow:
        ends = await idempotency.claim(uow.session, claims)
    assert [type(end).__name__ for end in ends] == ["NoneType", "NoneType", "ChangedMeanwhile"]
