"""The keys that sign access tokens: they follow one another without a gap, a restart, or a token that nobody knows."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet

from chassis import tokens
from contracts import events
from contracts.roles import NOBODY, Actor
from services.auth import domain
from services.auth.app import set_up, tend
from services.auth.models import SigningKey
from services.auth.routes.cookies import REFRESH
from services.auth.service import signing
from services.auth.vault import Vault
from tests.auth.people import Account, begin, cookie, join, refresh
from tests.world import World, Worlds, administrator, agent, auditor, job, person, reason

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
TOKEN_LIFE = timedelta(minutes=5)
KEY_LIFE = timedelta(days=30)

# The rules


class Succession(RuleBasedStateMachine):
    """Keys are rotated, withdrawn and tended as anybody likes, and tokens are signed all the while."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.keys: list[SigningKey] = [domain.signing.succeed([], "0", b"", {}, NOW)]
        self.told: dict[str, datetime] = {"0": NOW}
        self.signed: list[tuple[str, datetime]] = []
        self.compromised: set[str] = set()

    def live(self) -> list[SigningKey]:
        return [key for key in self.keys if key.live]

    @rule(seconds=st.sampled_from([1, 30, 59, 60, 61, 300, 425, 430, 86400, 31 * 86400]))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule()
    def a_token_is_signed(self) -> None:
        key = domain.signing.signs(self.keys, self.now)
        assert key is not None
        self.signed.append((key.key_id, self.now + TOKEN_LIFE))

    @rule()
    def an_administrator_rotates(self) -> None:
        waits = any(key.signs_from > self.now for key in self.live())
        try:
            key = domain.signing.succeed(self.live(), str(len(self.keys)), b"", {}, self.now)
        except domain.signing.NextKeyWaits:
            assert waits
            return
        assert not waits
        self.keys.append(key)
        self.told[key.key_id] = self.now

    @rule()
    def the_service_tends(self) -> None:
        for key in domain.signing.outlived(self.keys, TOKEN_LIFE, self.now):
            assert domain.signing.withdraw(key, self.live(), self.now)
        if domain.signing.is_due(self.keys, KEY_LIFE, self.now):
            self.an_administrator_rotates()

    @precondition(lambda self: len(self.keys) > 1)
    @rule(data=st.data())
    def an_administrator_withdraws(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(self.keys))
        signing_now = domain.signing.signs(self.keys, self.now)
        try:
            if domain.signing.withdraw(key, self.live(), self.now):
                self.compromised.add(key.key_id)
        except domain.signing.SigningKeySigns:
            assert key is signing_now

    @invariant()
    def exactly_one_key_signs_and_at_most_one_waits(self) -> None:
        assert domain.signing.signs(self.keys, self.now) is not None
        assert len([key for key in self.live() if key.signs_from > self.now]) <= 1

    @invariant()
    def a_key_is_known_for_a_minute_before_it_signs(self) -> None:
        assert all(key.signs_from - self.told[key.key_id] >= timedelta(seconds=60) for key in self.keys if key.key_id != "0")

    @invariant()
    def a_token_verifies_until_it_expires_unless_somebody_withdrew_its_key(self) -> None:
        live = {key.key_id for key in self.live()}
        for key_id, expires in self.signed:
            assert key_id in live or key_id in self.compromised or expires + timedelta(seconds=5) <= self.now

    @invariant()
    def the_key_that_signs_is_not_on_its_way_out_while_none_follows(self) -> None:
        signing_now = domain.signing.signs(self.keys, self.now)
        assert signing_now is not None
        follows = any(key.signs_from > self.now for key in self.live())
        assert (signing_now.replaced_at is not None) == follows


TestSuccession = Succession.TestCase
TestSuccession.settings = hypothesis_settings(max_examples=80, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize(("age", "due"), [(timedelta(days=29), False), (timedelta(days=30), True)])
def test_another_key_is_due_when_the_newest_has_signed_long_enough(age: timedelta, due: bool) -> None:
    keys = [domain.signing.succeed([], "0", b"", {}, NOW)]
    assert domain.signing.is_due(keys, KEY_LIFE, NOW + age) is due
    keys.append(domain.signing.succeed(keys, "1", b"", {}, NOW + age))
    assert not domain.signing.is_due(keys, KEY_LIFE, NOW + age)


def test_a_private_key_is_open_only_while_it_signs() -> None:
    safe = Vault(bytes(range(32)))
    first, second = (safe.new_signing_key(name)[0] for name in "ab")
    assert safe.signing_key("a", first) is safe.signing_key("a", first)
    safe.signing_key("b", second)
    assert list(safe._signing) == ["b"]
    safe.forget_signing_keys_but({"a"})
    assert safe._signing == {}


# At the doors

PATHS = [("GET", "/signing-keys"), ("POST", "/signing-keys"), ("DELETE", f"/signing-keys/{UUID(int=1)}")]


@pytest.mark.parametrize(("method", "path"), PATHS)
@pytest.mark.parametrize(("actor", "status"), [(NOBODY, 401), (person(), 403), (auditor(), 403), (agent(), 403), (job(UUID(int=5)), 403)])
async def test_only_administrators_look_after_signing_keys(world: World, method: str, path: str, actor: Actor, status: int) -> None:
    assert (await world.request(method, path, actor)).status_code == status
    assert await world.said() == []


@pytest.mark.parametrize(("method", "path"), PATHS[1:])
async def test_changing_signing_keys_asks_for_a_fresh_factor(world: World, method: str, path: str) -> None:
    stale = administrator().model_copy(update={"factor_fresh": False})
    answer = await world.request(method, path, stale)
    assert (answer.status_code, reason(answer)) == (401, "factor-too-old")


def said_keys(facts: Sequence[events.Fact]) -> list[events.SigningKey]:
    return [fact for fact in facts if isinstance(fact, events.SigningKey)]


async def verifying(world: World) -> dict[str, dict[str, str]]:
    """What everybody who heard all facts verifies tokens with."""
    return {row.key_id: row.jwk for row in await world.sql("SELECT key_id, jwk FROM signing_keys WHERE live")}


async def let_pass(world: World, seconds: int) -> None:
    for column in ("created_at", "signs_from", "replaced_at"):
        await world.sql(f"UPDATE signing_keys SET {column} = {column} - :by * interval '1 second'", by=seconds)


async def tended(world: World) -> None:
    async with world.work(action="signing-key.tend") as uow:
        await signing.tend(uow, world.runtime.extra["tools"])


async def access_token(world: World, token: str) -> tuple[str, str]:
    """A new access token and the next refresh token."""
    answer = await refresh(world, token)
    return answer.json()["access_token"], str(cookie(answer, REFRESH))


async def test_a_rotation_leaves_no_token_behind(world: World) -> None:
    await set_up(world.runtime)
    ada = await join(world)
    _, token = await begin(ada)
    before, token = await access_token(world, token)
    await world.said()
    made = await world.post("/signing-keys", administrator())
    assert made.status_code == 201
    (said,) = said_keys(await world.said())
    assert (said.key_id, said.live, said.version) == (made.json()["signing_key_id"], True, 1)
    assert "d" not in said.jwk
    during, token = await access_token(world, token)
    assert tokens.key_id(during) == tokens.key_id(before) != said.key_id
    await let_pass(world, 61)
    after, token = await access_token(world, token)
    assert tokens.key_id(after) == said.key_id
    for each in (before, during, after):
        tokens.verify(each, await verifying(world))
    await let_pass(world, 360)
    await tended(world)
    assert len(await verifying(world)) == 2
    await let_pass(world, 10)
    await world.said()
    await tended(world)
    (gone,) = said_keys(await world.said())
    assert (gone.key_id, gone.live, gone.version) == (tokens.key_id(before), False, 2)
    with pytest.raises(tokens.InvalidToken):
        tokens.verify(before, await verifying(world))
    tokens.verify(after, await verifying(world))


async def test_the_service_rotates_by_itself_and_only_once_on_two_replicas(world: World, worlds: Worlds, settings: dict[str, Any]) -> None:
    replica = await worlds.open("auth", beside=world, **settings)
    await set_up(world.runtime)
    await let_pass(world, 30 * 86400)
    await world.said()
    await asyncio.gather(*[tended(each) for each in (world, replica, world, replica)])
    assert [(fact.live, fact.version) for fact in said_keys(await world.said())] == [(True, 1)]
    await asyncio.gather(tended(world), tended(replica))
    assert await world.said() == []


async def test_two_administrators_who_rotate_at_once_make_one_key(world: World, worlds: Worlds, settings: dict[str, Any]) -> None:
    replica = await worlds.open("auth", beside=world, **settings)
    await set_up(world.runtime)
    await world.said()
    answers = await asyncio.gather(*[each.post("/signing-keys", administrator()) for each in (world, replica, world)])
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409]
    assert {reason(answer) for answer in answers if answer.status_code == 409} == {"next-key-waits"}
    assert len(said_keys(await world.said())) == 1


async def test_tending_in_the_background_rotates_a_key_that_is_due(world: World) -> None:
    await set_up(world.runtime)
    await let_pass(world, 31 * 86400)
    async with world.running(tend) as task:
        async with asyncio.timeout(10):
            while len(await world.sql("SELECT 1 FROM signing_keys WHERE live")) < 2:
                assert not task.done()
                await asyncio.sleep(0.02)


async def test_a_compromised_key_is_replaced_and_then_withdrawn_with_all_its_tokens(world: World) -> None:
    await set_up(world.runtime)
    _, token = await begin(await join(world))
    before, token = await access_token(world, token)
    bad = str(tokens.key_id(before))
    answer = await world.delete(f"/signing-keys/{bad}", administrator())
    assert (answer.status_code, reason(answer)) == (409, "signing-key-signs")
    await world.post("/signing-keys", administrator())
    await let_pass(world, 61)
    after, token = await access_token(world, token)
    await world.said()
    assert (await world.delete(f"/signing-keys/{bad}", administrator())).status_code == 204
    (said,) = said_keys(await world.said())
    assert (said.key_id, said.live, said.version) == (bad, False, 2)
    assert bad not in world.runtime.extra["tools"].vault._signing
    with pytest.raises(tokens.InvalidToken):
        tokens.verify(before, await verifying(world))
    tokens.verify(after, await verifying(world))
    assert (await world.delete(f"/signing-keys/{bad}", administrator())).status_code == 204
    assert await world.said() == []


async def test_a_key_that_waits_can_be_withdrawn_and_the_one_that_signs_goes_on(world: World) -> None:
    await set_up(world.runtime)
    waits = (await world.post("/signing-keys", administrator())).json()["signing_key_id"]
    assert (await world.delete(f"/signing-keys/{waits}", administrator())).status_code == 204
    await let_pass(world, 86400)
    await tended(world)
    assert len(await verifying(world)) == 1
    assert (await world.post("/signing-keys", administrator())).status_code == 201


async def test_an_unknown_key_is_not_found(world: World) -> None:
    await set_up(world.runtime)
    for name in (str(uuid4()), "x", "%00"):
        assert (await world.delete(f"/signing-keys/{name}", administrator())).status_code in (404, 422)


async def test_keys_are_listed_in_pages_and_show_no_private_half(world: World) -> None:
    await set_up(world.runtime)
    for _ in range(2):
        assert (await world.post("/signing-keys", administrator())).status_code == 201
        await let_pass(world, 61)
    first = (await world.get("/signing-keys?limit=2", administrator())).json()
    second = (await world.get(f"/signing-keys?limit=2&after={first['next']}", administrator())).json()
    items = first["items"] + second["items"]
    assert [item["signs"] for item in items] == [False, False, True]
    assert [item["replaced_at"] is None for item in items] == [False, False, True]
    assert set(items[0]) == {"signing_key_id", "live", "signs", "created_at", "signs_from", "replaced_at", "version"}


async def test_an_independent_judge_verifies_tokens_of_both_keys_of_a_rotation(world: World) -> None:
    await set_up(world.runtime)
    ada: Account = await join(world)
    _, token = await begin(ada)
    before, token = await access_token(world, token)
    await world.post("/signing-keys", administrator())
    await let_pass(world, 61)
    after, token = await access_token(world, token)
    published = KeySet([ECKey.import_key(dict(jwk)) for jwk in (await verifying(world)).values()])
    for each in (before, after):
        claims = jwt.decode(each, published, algorithms=["ES256"]).claims
        assert claims["sub"] == str(ada.user_id)
