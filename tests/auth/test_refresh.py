"""Refresh tokens: rotated, given again for 10 s, and the end of the session when one is in two hands."""

import asyncio
import base64
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from chassis import guard, tokens
from chassis.errors import CannotDecide
from contracts.events import Session as SessionFact
from contracts.events import SigningKey, UserStatus
from services.auth import domain
from services.auth.models import Session, User
from services.auth.routes.cookies import DEVICE, REFRESH
from services.auth.vault import Vault, new_seed
from tests.auth.people import begin, cookie, hear_all, join, refresh
from tests.world import World, Worlds, administrator, reason

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
ADA = UUID(int=1)

# The rules


def session(**values: object) -> Session:
    made = Session(
        session_id=UUID(int=7),
        user_id=ADA,
        created_at=NOW,
        expires_at=NOW + timedelta(hours=12),
        ended_at=None,
        version=1,
        seed=b"s",
        generation=5,
        rotated_at=NOW,
        factor_at=NOW,
        last_used_at=NOW,
    )
    for name, value in values.items():
        setattr(made, name, value)
    return made


def ada(status: UserStatus = UserStatus.ACTIVE) -> User:
    return User(
        user_id=ADA,
        username="ada00000",
        email="a@x.org",
        status=status.value,
        cluster_roles=[],
        version=1,
        created_at=NOW,
        confirmed_at=NOW,
    )


class Rotation(RuleBasedStateMachine):
    """Two tabs of the owner and a thief show tokens as they like; a token is its generation, since nobody can make one."""

    def __init__(self) -> None:
        super().__init__()
        self.session = session(generation=1)
        self.now = NOW
        self.held = {"tab": 1, "other tab": 1, "thief": 1}
        self.given: list[tuple[datetime, int, int]] = []
        self.ended: datetime | None = None

    @rule(seconds=st.sampled_from([0.0, 0.1, 3.0, 9.9, 10.0, 10.1, 300.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(tab=st.sampled_from(["tab", "other tab"]))
    def the_thief_copies_a_token(self, tab: str) -> None:
        self.held["thief"] = self.held[tab]

    @rule(tab=st.sampled_from(["tab", "other tab"]))
    def the_tabs_share_their_cookie(self, tab: str) -> None:
        self.held["tab"] = self.held["other tab"] = self.held[tab]

    @rule(who=st.sampled_from(["tab", "other tab", "thief"]), lost=st.booleans())
    def somebody_shows_theirs(self, who: str, lost: bool) -> None:
        if self.ended is not None:
            return
        shown = self.held[who]
        if domain.sessions.rotate(self.session, shown, self.now):
            self.given.append((self.now, shown, self.session.generation))
            if not lost:
                self.held[who] = self.session.generation
        else:
            self.ended = self.now

    @invariant()
    def each_token_has_one_successor(self) -> None:
        assert all(successor == shown + 1 for _, shown, successor in self.given)

    @invariant()
    def no_token_leads_on_once_its_successor_was_shown(self) -> None:
        shown = [generation for _, generation, _ in self.given]
        assert shown == sorted(shown)

    @invariant()
    def nobody_is_given_what_another_got_more_than_ten_seconds_ago(self) -> None:
        first: dict[int, datetime] = {}
        for at, shown, _ in self.given:
            assert at - first.setdefault(shown, at) <= timedelta(seconds=10)

    @invariant()
    def the_newest_token_always_leads_on(self) -> None:
        assert self.session.generation == max([1, *(successor for _, _, successor in self.given)])


TestRotation = Rotation.TestCase
TestRotation.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize(("later", "again"), [(0.0, True), (10.0, True), (10.001, False)])
def test_the_token_before_leads_to_the_same_successor_for_ten_seconds(later: float, again: bool) -> None:
    made = session()
    assert domain.sessions.rotate(made, 4, NOW + timedelta(seconds=later)) is again
    assert (made.generation, made.rotated_at) == (5, NOW)


@pytest.mark.parametrize("generation", [1, 3, 6, 10**15])
def test_any_other_token_is_one_in_two_hands(generation: int) -> None:
    made = session()
    assert not domain.sessions.rotate(made, generation, NOW)
    assert made.generation == 5


@given(st.one_of(st.none(), st.text(max_size=120), st.from_regex(r"refresh_[0-9a-fA-F]{31,33}\.[0-9]{1,20}\.[A-Za-z0-9_=-]{42,44}")))
@example("refresh_" + "0" * 32 + ".01." + "A" * 43)
@example("refresh_" + "0" * 32 + ".1." + "A" * 43 + "\n")
def test_what_is_no_refresh_token_is_refused(text: str | None) -> None:
    try:
        session_id, generation = domain.sessions.generation_of(text)
    except domain.sessions.RefreshTokenInvalid:
        return
    assert text is not None
    assert text.startswith(f"refresh_{session_id.hex}.{generation}.")


def test_a_token_is_that_of_one_session_generation_seed_and_master_key() -> None:
    safe = Vault(bytes(range(32)))
    seed = new_seed()
    token = safe.refresh_token(ADA, 3, seed)
    assert safe.is_refresh_token(token, ADA, 3, seed)
    others = [
        safe.refresh_token(UUID(int=2), 3, seed),
        safe.refresh_token(ADA, 4, seed),
        safe.refresh_token(ADA, 3, new_seed()),
        Vault(bytes(32)).refresh_token(ADA, 3, seed),
    ]
    assert len({token, *others}) == 5
    assert not any(safe.is_refresh_token(other, ADA, 3, seed) for other in [*others, token[:-1], token + "A", "é"])


def test_a_session_from_before_there_were_refresh_tokens_has_none() -> None:
    safe = Vault(bytes(range(32)))
    assert not safe.is_refresh_token(safe.refresh_token(ADA, 1, b""), ADA, 1, b"")


IDLE = timedelta(minutes=15)


@pytest.mark.parametrize("status", [UserStatus.INVITED, UserStatus.BLOCKED, UserStatus.DEACTIVATED])
def test_only_an_active_account_has_sessions_that_count(status: UserStatus) -> None:
    with pytest.raises(domain.sessions.SessionEnded):
        domain.sessions.demand_open(session(), ada(status), None, IDLE, NOW)
    with pytest.raises(domain.sessions.SessionEnded):
        domain.sessions.demand_open(session(), None, None, IDLE, NOW)
    assert domain.sessions.demand_open(session(), ada(), None, IDLE, NOW).user_id == ADA


def test_a_session_is_idle_only_when_all_use_was_heard() -> None:
    unused = domain.sessions.unused_since
    later = NOW + timedelta(minutes=20)
    assert unused(None, IDLE) is None
    assert domain.sessions.why_over(session(), unused(NOW + timedelta(minutes=15, seconds=4), IDLE), later) is None
    assert domain.sessions.why_over(session(), unused(NOW + timedelta(minutes=15, seconds=5), IDLE), later) == "idle"
    assert domain.sessions.why_over(session(), None, NOW + timedelta(hours=12)) == "expired"


def test_while_it_is_not_known_whether_a_session_was_used_nothing_is_decided() -> None:
    with pytest.raises(CannotDecide):
        domain.sessions.demand_open(session(), ada(), NOW - timedelta(seconds=1), IDLE, NOW + timedelta(minutes=15))


# At the door


async def test_a_sign_in_sets_cookies_that_only_this_host_gets_and_no_script_reads(world: World) -> None:
    answer = await (await join(world)).sign_in()
    set_cookies = answer.headers.get_list("set-cookie")
    assert {each.split("=")[0]: int(each.split("Max-Age=")[1].split(";")[0]) for each in set_cookies} == {
        REFRESH: 12 * 3600,
        DEVICE: 180 * 24 * 3600,
    }
    for each in set_cookies:
        assert {part.strip().lower() for part in each.split(";")[1:]} >= {"secure", "httponly", "path=/", "samesite=strict"}
        assert "domain" not in each.lower()


async def test_a_refresh_gives_new_tokens_of_the_same_session_until_its_end(world: World) -> None:
    ada_ = await join(world)
    session_id, first = await begin(ada_)
    await world.sql("UPDATE sessions SET expires_at = created_at + interval '2 hours'")
    said = await world.said()
    key = next(fact for fact in said if isinstance(fact, SigningKey))
    answer = await refresh(world, first)
    assert answer.status_code == 200
    body = answer.json()
    assert body["session_id"] == str(session_id)
    assert tokens.verify(body["access_token"], {key.key_id: key.jwk}).session_id == session_id
    second = cookie(answer, REFRESH)
    assert second is not None
    assert second.startswith(f"refresh_{session_id.hex}.2.")
    assert 7100 < int(answer.headers["set-cookie"].split("Max-Age=")[1].split(";")[0]) <= 7200
    assert cookie(answer, DEVICE) is None
    assert await world.said() == []
    assert (await refresh(world, second)).status_code == 200


async def test_an_access_token_ends_with_its_session(world: World) -> None:
    _, token = await begin(await join(world))
    await world.sql("UPDATE sessions SET expires_at = now() + interval '60 seconds'")
    body = (await refresh(world, token)).json()
    assert body["expires_at"] == body["session_expires_at"]


async def test_a_second_tab_or_a_lost_answer_gets_the_same_successor(world: World) -> None:
    _, first = await begin(await join(world))
    answers = [await refresh(world, first) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert len({cookie(answer, REFRESH) for answer in answers}) == 1
    assert len({answer.json()["access_token"] for answer in answers}) == 3
    assert (await refresh(world, cookie(answers[0], REFRESH))).status_code == 200


async def test_tabs_that_refresh_at_once_on_two_replicas_get_one_successor(world: World, worlds: Worlds, settings: dict[str, Any]) -> None:
    replica = await worlds.open("auth", beside=world, **settings)
    _, token = await begin(await join(world))
    for number in range(2, 6):
        answers = await asyncio.gather(*[refresh(each, token) for each in (world, replica, world, replica)])
        assert {answer.status_code for answer in answers} == {200}
        (token,) = {str(cookie(answer, REFRESH)) for answer in answers}
        assert f".{number}." in token


async def test_a_token_in_two_hands_ends_the_session_and_says_so(world: World) -> None:
    ada_ = await join(world)
    session_id, first = await begin(ada_)
    second = cookie(await refresh(world, first), REFRESH)
    other, _ = await begin(ada_)
    await world.sql("UPDATE sessions SET rotated_at = rotated_at - interval '11 seconds'")
    await world.said()
    await world.recorded()
    stolen = await refresh(world, first)
    assert (stolen.status_code, reason(stolen)) == (401, "refresh-token-reused")
    assert cookie(stolen, REFRESH) == ""
    (said,) = await world.said()
    assert isinstance(said, SessionFact)
    assert (said.session_id, said.live, said.version) == (session_id, False, 2)
    (record,) = await world.recorded()
    assert (record["action"], record["actor"]["user_id"]) == ("session.refresh", str(ada_.user_id))
    assert (record["outcome"], record["reason"]) == ("refused", "refresh-token-reused")
    assert record["resource"] == {"session_id": str(session_id), "user_id": str(ada_.user_id), "because": "refresh-token-reused"}
    assert [row.ended_because for row in await world.sql("SELECT ended_because FROM sessions ORDER BY session_id")] == [
        "refresh-token-reused",
        None,
    ]
    for token in (first, second):
        after = await refresh(world, token)
        assert (after.status_code, reason(after)) == (401, "session-ended")
    assert await world.said() == []
    listed = (await world.get("/sessions", ada_.actor())).json()["items"]
    assert [item["session_id"] for item in listed] == [str(other)]


async def test_a_token_in_two_hands_ends_the_session_although_whoever_shows_it_hangs_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, first = await begin(await join(world))
    await refresh(world, first)
    await world.sql("UPDATE sessions SET rotated_at = rotated_at - interval '11 seconds'")
    monkeypatch.setattr(guard, "left", lambda _request: True)
    await refresh(world, first)
    assert [row.ended_because for row in await world.sql("SELECT ended_because FROM sessions")] == ["refresh-token-reused"]


async def test_the_owner_of_a_session_in_two_hands_gets_a_letter(world: World, worlds: Worlds, settings: dict[str, Any]) -> None:
    mailing = await worlds.open("auth", beside=world, **settings, smtp_url="smtp://localhost:1")
    _, first = await begin(await join(world), source="192.0.2.9")
    second = cookie(await refresh(world, first), REFRESH)
    await refresh(world, second)
    assert reason(await refresh(mailing, first)) == "refresh-token-reused"
    safe: Vault = world.runtime.extra["tools"].vault
    (row,) = await world.sql("SELECT letter_id, sealed FROM letters")
    letter = json.loads(safe.open_letter(row.sealed, row.letter_id))
    assert letter["address"] == "ada@example.org"
    assert "192.0.2.9" in letter["text"]
    assert first not in letter["text"]


@pytest.mark.parametrize("damage", ["none", "words", "last letter", "another session", "next generation", "unknown session", "another key"])
async def test_nobody_ends_a_session_by_guessing(world: World, damage: str) -> None:
    ada_ = await join(world)
    session_id, token = await begin(ada_)
    other, _ = await begin(await join(world, "bob@x.org"))
    head, generation, mac = token.split(".")
    forged = {
        "none": None,
        "words": "refresh_me",
        "last letter": token[:-1] + chr(ord(token[-1]) ^ 1),
        "another session": f"refresh_{other.hex}.{generation}.{mac}",
        "next generation": f"{head}.2.{mac}",
        "unknown session": f"refresh_{uuid4().hex}.{generation}.{mac}",
        "another key": Vault(bytes(32)).refresh_token(session_id, 1, b""),
    }[damage]
    await world.said()
    await world.recorded()
    answer = await refresh(world, forged)
    assert (answer.status_code, reason(answer)) == (401, "refresh-token-invalid")
    assert cookie(answer, REFRESH) is None
    assert await world.said() == []
    assert await world.recorded() == []
    assert (await refresh(world, token)).status_code == 200


async def test_no_refresh_token_lies_in_the_database(world: World) -> None:
    _, token = await begin(await join(world))
    rows = await world.sql("SELECT sessions::text AS row FROM sessions")
    mac = base64.urlsafe_b64decode(token.split(".")[2] + "=")
    assert not any(secret in row.row for row in rows for secret in (token, mac.hex()))


async def test_who_is_being_blocked_while_refreshing_ends_with_a_session_that_is_over(
    world: World, worlds: Worlds, settings: dict[str, Any]
) -> None:
    replica = await worlds.open("auth", beside=world, **settings)
    ada_ = await join(world)
    _, token = await begin(ada_)
    answers = await asyncio.gather(
        refresh(replica, token), world.patch(f"/users/{ada_.user_id}", administrator(), json={"status": "blocked"}, version=2)
    )
    assert answers[1].status_code == 200
    assert await world.sql("SELECT 1 FROM sessions WHERE ended_at IS NULL") == []
    after = await refresh(world, token)
    assert (after.status_code, reason(after)) == (401, "session-ended")


async def test_a_refresh_is_no_use(world: World) -> None:
    _, token = await begin(await join(world))
    await world.sql("UPDATE sessions SET last_used_at = last_used_at - interval '10 minutes'")
    token = str(cookie(await refresh(world, token), REFRESH))
    await world.sql("UPDATE sessions SET last_used_at = last_used_at - interval '6 minutes'")
    await hear_all(world)
    answer = await refresh(world, token)
    assert (answer.status_code, reason(answer)) == (401, "session-ended")


async def test_after_silence_of_the_bus_a_refresh_waits_until_it_is_known_whether_the_session_was_used(world: World) -> None:
    began = time.time()
    _, token = await begin(await join(world))
    await world.sql("UPDATE sessions SET last_used_at = last_used_at - interval '16 minutes'")
    await world.said()
    for _ in range(2):
        answer = await refresh(world, token)
        assert (answer.status_code, reason(answer), answer.headers["retry-after"]) == (503, "cannot-decide", "1")
    assert await world.said() == []
    subject = f"session:{(await world.sql('SELECT session_id FROM sessions'))[0][0]}"
    at = datetime.fromtimestamp(began, UTC)
    told = {"version": 1, "subject": subject, "at": at.isoformat()}
    assert await world.hear_raw("activity", json.dumps(told).encode()) == 1
    assert (await refresh(world, token)).status_code == 200
