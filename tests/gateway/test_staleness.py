"""While it is not known who may do what, nothing moves and nothing leaves for a service, whatever it waits for."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from uuid_utils.compat import uuid7

from chassis import tokens
from chassis.projection import FRESH_S
from contracts.events import Fact, Session, SigningKey, User, UserStatus
from contracts.policy import Action
from gateway import plane
from gateway.connection import Connection
from gateway.forward import Replica
from tests.forgeries import claims_of, sign
from tests.gateway.stage import Someone, Stage, problem, public, read, say, until
from tests.gateway.test_transfers import FILE, PIECE, PROJECT, Endless


async def test_a_transfer_whose_client_takes_nothing_is_cut_when_nothing_fresh_is_known_for_long(stage: Stage) -> None:
    """What is buffered must not go out as soon as the client takes more. Strangers' transfers rest on no knowledge, and who waits is told."""
    ada = stage.signs_in()
    stage.joins(ada, PROJECT)
    known, strangers, uploaded = Endless(), Endless(), asyncio.Event()

    async def answers(scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] == "PUT":
            await until(uploaded.is_set)
        elif scope["path"].endswith("/projects"):
            await until(known.ended.is_set, 30)
            await say(send, 200, b"[]")
        else:
            await (known if "/files/" in scope["path"] else strangers).sends(scope, receive, send)

    async def stands_still() -> bool:
        before = known.passed, strangers.passed
        await asyncio.sleep(0.2)
        return 0 < before[0] == known.passed and 0 < before[1] == strangers.passed

    stage.answer = answers
    shown = f"authorization: Bearer {ada.token}\r\n"
    lines = [
        f"GET /api/v1{FILE} HTTP/1.1\r\nhost: x\r\n{shown}\r\n",
        "GET /api/v1/issuers/people HTTP/1.1\r\nhost: x\r\n\r\n",
        f"PUT /api/v1{FILE} HTTP/1.1\r\nhost: x\r\n{shown}content-length: 100000000\r\n\r\n",
    ]
    opened = [await stage.raw() for _ in lines]
    try:
        for (_, writer), line in zip(opened, lines, strict=True):
            writer.write(line.encode())
        opened[2][1].write(PIECE * 1000)
        async with asyncio.timeout(20):
            while not await stands_still():
                pass
        asking = asyncio.create_task((await stage.client(ada)).get("/projects", timeout=30))
        await until(lambda: len(stage.seen) == len(lines) + 1)
        stage.pulsing = False
        await asyncio.wait_for(known.ended.wait(), 15)
        refused = await asking
        assert (refused.status_code, problem(refused)) == (503, "cannot-decide")
        await until(lambda: len(stage.gateway.in_flight) == 1)
        assert [flight.action for flight in stage.gateway.in_flight] == [Action.ISSUER_READ]
        ends = [record for record in await stage.records() if record["outcome"] == "failed"]
        assert sorted((record["action"], record["reason"]) for record in ends) == [
            ("file.download", "cannot-decide"),
            ("file.upload", "cannot-decide"),
            ("project.list", "cannot-decide"),
        ]
    finally:
        uploaded.set()
        for _, writer in opened:
            writer.transport.abort()


async def test_a_request_leaves_for_a_service_only_while_it_is_known_who_may_do_what(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connecting takes up to two seconds a replica, in which a right can end that nobody here hears of."""
    ada = stage.signs_in()
    stage.joins(ada, PROJECT)
    connect = Replica.connect

    async def slowly(replica: Replica) -> Connection:
        stage.pulsing = False
        await until(lambda: not stage.gateway.projection.is_fresh())
        return await connect(replica)

    with monkeypatch.context() as slow:
        slow.setattr(Replica, "connect", slowly)
        refused = await (await stage.client(ada)).post(f"/projects/{PROJECT}/members", content=b"{}")
        assert (refused.status_code, problem(refused), refused.headers["retry-after"]) == (503, "cannot-decide", "1")
        assert stage.seen == []
        assert (await (await stage.client()).get("/issuers/people")).status_code == 200, "what is anybody's rests on no knowledge"
    stage.pulsing = True
    await until(stage.gateway.projection.is_fresh)
    assert (await (await stage.client(ada)).post(f"/projects/{PROJECT}/members", content=b"{}")).status_code == 200
    assert (await stage.records())[0]["reason"] == "cannot-decide"
    assert len(stage.gateway.in_flight) == 0


async def test_who_asked_for_a_change_is_told_that_it_was_made_where_its_answer_cannot_be_shown(stage: Stage) -> None:
    ada = stage.signs_in()
    stage.joins(ada, PROJECT)

    async def is_done_when_nothing_is_known(_scope: object, receive: Any, send: Any) -> None:
        await read(receive)
        stage.pulsing = False
        await until(lambda: not stage.gateway.projection.is_fresh())
        await say(send, 200, b'{"secret": "shown once"}')

    stage.answer = is_done_when_nothing_is_known
    client = await stage.client(ada)
    asking = client.post(f"/projects/{PROJECT}/members", content=b"{}"), client.put(FILE, content=b"x"), client.get("/projects")
    made, stored, listing = await asyncio.gather(*asking)
    assert (made.status_code, problem(made), made.headers["retry-after"]) == (503, "answer-held-back", "1")
    assert (stored.status_code, problem(stored), stored.headers["retry-after"]) == (503, "answer-held-back", "1")
    assert "secret" not in made.text + stored.text
    assert (listing.status_code, problem(listing)) == (503, "cannot-decide"), "what changes nothing was not done"


@pytest.mark.parametrize("late", ["session", "signing key"])
async def test_what_has_not_come_while_nothing_fresh_is_known_is_not_called_wrong(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, late: str
) -> None:
    monkeypatch.setattr(plane, "WAIT_S", FRESH_S + 0.5)  # outlasts what is known, which is still fresh when it is asked
    user_id, session_id, newer = uuid7(), uuid7(), tokens.private_jwk(ec.generate_private_key(ec.SECP256R1()))
    now = datetime.now(UTC)
    facts: list[Fact] = [
        User(version=1, user_id=user_id, username="late", status=UserStatus.ACTIVE, cluster_roles=frozenset()),
        Session(version=1, session_id=session_id, user_id=user_id, live=True, factor_at=now, expires_at=now + timedelta(hours=1)),
    ]
    token = stage.sign(user_id, session_id)
    if late == "signing key":
        stage.tell(*facts)
        facts = [SigningKey(version=1, key_id="k2", jwk=public(newer), live=True)]
        token = sign(newer, {"alg": "ES256", "kid": "k2"}, claims_of(user_id, session_id))
    asking = asyncio.create_task((await stage.client(Someone(user_id, session_id, token))).get("/projects"))
    await until(lambda: stage.gateway.plane._waiting)
    stage.pulsing = False
    await until(lambda: not stage.gateway.plane._waiting)
    done, _ = await asyncio.wait([asking], timeout=0.3)
    assert not done
    stage.tell(*facts)
    stage.pulsing = True
    assert (await asking).status_code == 200
