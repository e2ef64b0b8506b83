"""Bodies on their way: streamed with back-pressure in both directions, recorded when they carry data, and cut when a right is lost."""

import asyncio
import contextlib
import hashlib
import resource
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from uuid_utils.compat import uuid7

from chassis import tokens
from contracts.events import SESSIONS, CertificateKind, Session, SigningKey, User, UserStatus
from contracts.roles import Role
from tests.gateway.stage import Certificates, Someone, Stage, opened, problem, public, read, say, until

PROJECT = uuid7()
DATASET = uuid7()
FILE = f"/projects/{PROJECT}/datasets/{DATASET}/files/a/b.bin"
PIECE = bytes(range(256)) * 256


class Endless:
    """A service that sends, or takes, a body without an end; it knows how much has passed and how it ended."""

    def __init__(self) -> None:
        self.passed = 0
        self.ended = asyncio.Event()
        self.gone = False

    async def sends(self, _scope: Any, receive: Any, send: Any) -> None:
        watching = asyncio.create_task(self._watch(receive))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not self.gone:
            await send({"type": "http.response.body", "body": PIECE, "more_body": True})
            self.passed += len(PIECE)
            await asyncio.sleep(0)
        await watching
        self.ended.set()

    async def takes(self, _scope: Any, receive: Any, _send: Any) -> None:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.ended.set()
                return
            self.passed += len(message["body"])

    async def _watch(self, receive: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.gone = True


async def pieces(pause: float = 0.0) -> AsyncIterator[bytes]:
    while True:
        yield PIECE
        await asyncio.sleep(pause)


async def test_a_download_arrives_whole_and_is_recorded_when_opened_and_when_closed(stage: Stage) -> None:
    ada = stage.signs_in()
    stage.joins(ada, PROJECT)
    body = PIECE * 300

    async def sends(_scope: object, receive: object, send: Any) -> None:
        await read(receive)
        await say(send, 200, body, (b"etag", b'"3"'))

    stage.answer = sends
    answer = await (await stage.client(ada)).get(FILE)
    assert answer.content == body
    assert answer.headers["content-length"] == str(len(body))
    opened, closed = await stage.records()
    assert (opened["outcome"], closed["outcome"]) == ("opened", "closed")
    assert opened["request_id"] == closed["request_id"]
    assert opened["record_id"] != closed["record_id"]
    assert closed["bytes_out"] == len(body)
    assert closed["sha256"] == hashlib.sha256(body).hexdigest()
    assert closed["resource"] == {"project_id": str(PROJECT), "dataset_id": str(DATASET)}, "names of files can name patients"


async def test_the_opened_record_is_on_disk_before_the_first_byte_leaves(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    ada = stage.signs_in()
    stage.joins(ada, PROJECT)
    spool = stage.gateway.spool
    gate = asyncio.Event()
    durable = spool.durable

    async def later(number: int) -> None:
        await gate.wait()
        await durable(number)

    monkeypatch.setattr(spool, "durable", later)
    asking = asyncio.create_task((await stage.client(ada)).get(FILE))
    await until(lambda: stage.seen)
    await asyncio.sleep(0.2)
    assert not asking.done()
    gate.set()
    assert (await asking).status_code == 200


async def test_a_refusal_of_the_service_carries_no_bytes_and_is_one_record(stage: Stage) -> None:
    ada = stage.signs_in()
    stage.joins(ada, PROJECT)

    async def refuses(_scope: object, _receive: object, send: Any) -> None:
        await say(send, 403, b"{}", (b"hortus-reason", b"origins-are-foreign"))

    stage.answer = refuses
    assert (await (await stage.client(ada)).get(FILE)).status_code == 403
    assert [(record["outcome"], record["reason"]) for record in await stage.records()] == [("refused", "origins-are-foreign")]


async def test_an_upload_arrives_whole_with_and_without_a_length(stage: Stage) -> None:
    ada = stage.signs_in()
    stage.joins(ada, PROJECT)
    client = await stage.client(ada)

    async def some() -> AsyncIterator[bytes]:
        for _ in range(200):
            yield PIECE

    assert (await client.put(FILE, content=PIECE * 200)).json()["size"] == len(PIECE) * 200
    assert (await client.put(FILE, content=some())).json()["size"] == len(PIECE) * 200
    assert stage.seen[-1]["headers"]["transfer-encoding"] == "chunked"
    assert [record["bytes_in"] for record in await stage.records()] == [len(PIECE) * 200] * 2


async def test_a_slow_reader_holds_the_service_back_and_fills_no_memory(stage: Stage) -> None:
    ada = stage.signs_in()
    stage.joins(ada, PROJECT)
    endless = Endless()
    stage.answer = endless.sends
    async with (await stage.client(ada)).stream("GET", FILE) as answer:
        received = answer.aiter_raw()
        await anext(received)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        stopped, since = -1, time.monotonic()
        while time.monotonic() - since < 1.0:
            if endless.passed != stopped:
                stopped, since = endless.passed, time.monotonic()
                assert stopped < 64 * 1024 * 1024
            await asyncio.sleep(0.05)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 48 * 1024
        more = 0
        async for piece in received:
            more += len(piece)
            if more > stopped + 8 * len(PIECE):
                break
    await asyncio.wait_for(endless.ended.wait(), 5)
    closed = (await stage.records())[-1]
    assert (closed["outcome"], closed["reason"]) == ("failed", "client-left")
    assert closed["bytes_out"] > 0


async def test_a_service_that_takes_nothing_holds_the_client_back(stage: Stage) -> None:
    ada = stage.signs_in()
    stage.joins(ada, PROJECT)
    sent = 0
    release = asyncio.Event()

    async def waits(_scope: object, receive: Any, send: Any) -> None:
        await release.wait()
        await read(receive)
        await say(send, 201)

    async def counted() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(600):
            yield PIECE
            sent += len(PIECE)

    stage.answer = waits
    uploading = asyncio.create_task((await stage.client(ada)).put(FILE, content=counted()))
    stopped, since = -1, time.monotonic()
    while time.monotonic() - since < 1.0:
        if sent != stopped:
            stopped, since = sent, time.monotonic()
        await asyncio.sleep(0.05)
    assert 0 < stopped < 32 * 1024 * 1024
    release.set()
    assert (await uploading).status_code == 201
    assert sent == 600 * len(PIECE)


async def cut(stage: Stage, client: httpx2.AsyncClient, lose: Any, *, upload: bool) -> float:
    """Begin a transfer, lose the right, and return the seconds until both sides had ended."""
    endless = Endless()
    stage.answer = endless.takes if upload else endless.sends

    received = 0

    async def transfer() -> None:
        nonlocal received
        if upload:
            await client.put(FILE, content=pieces(0.001))
        else:
            async with client.stream("GET", FILE) as answer:
                async for piece in answer.aiter_raw():
                    received += len(piece)

    running = asyncio.create_task(transfer())
    await until(lambda: (endless.passed if upload else received) > 10 * len(PIECE))
    began = time.monotonic()
    lose()
    with contextlib.suppress(httpx2.TransportError):
        await asyncio.wait_for(running, 5)
        pytest.fail("the transfer ended as if it were whole")
    await asyncio.wait_for(endless.ended.wait(), 5)
    took = time.monotonic() - began
    await until(lambda: len(stage.gateway.in_flight) == 0)
    last = (await stage.records())[-1]
    assert (last["outcome"], last["reason"]) == ("failed", "cut")
    return took


@pytest.mark.parametrize("upload", [False, True])
async def test_a_lost_right_cuts_a_transfer_on_both_sides_within_a_second(stage: Stage, upload: bool) -> None:
    now = datetime.now(UTC)

    def removed(ada: Someone) -> None:
        stage.joins(ada, PROJECT, None, version=2)

    def degraded(ada: Someone) -> None:
        stage.joins(ada, PROJECT, Role.DATA_SCIENTIST, version=2)

    def signed_out(ada: Someone) -> None:
        stage.tell(
            Session(
                version=2, session_id=ada.session_id, user_id=ada.user_id, live=False, factor_at=now, expires_at=now + timedelta(hours=1)
            )
        )

    def blocked(ada: Someone) -> None:
        stage.tell(User(version=2, user_id=ada.user_id, username="x", status=UserStatus.BLOCKED, cluster_roles=frozenset()))

    for lose in (removed, degraded, signed_out, blocked):
        ada = stage.signs_in()
        stage.joins(ada, PROJECT)
        assert await cut(stage, await stage.client(ada), lambda lose=lose, ada=ada: lose(ada), upload=upload) < 1.0, lose.__name__


async def test_a_revoked_certificate_cuts_its_transfer(stage: Stage) -> None:
    ada = stage.signs_in()
    stage.joins(ada, PROJECT)
    holder = stage.holds(CertificateKind.PROJECT, project_id=PROJECT, user_id=ada.user_id)
    client = await stage.client(holder=holder)
    took = await cut(stage, client, lambda: stage.tell(holder.fact.model_copy(update={"version": 2, "live": False})), upload=False)
    assert took < 1.0


async def test_a_transfer_ends_at_the_instant_when_the_membership_does(stage: Stage) -> None:
    ada = stage.signs_in()
    ends = datetime.now(UTC) + timedelta(seconds=3)
    stage.joins(ada, PROJECT, ends_at=ends)
    began: list[float] = []
    took = await cut(stage, await stage.client(ada), lambda: began.append(time.time()), upload=False)
    assert 0 <= began[0] + took - ends.timestamp() < 0.5


async def test_others_and_harmless_changes_cut_nothing(stage: Stage) -> None:
    ada, eve = stage.signs_in(), stage.signs_in()
    stage.joins(ada, PROJECT)
    stage.joins(eve, PROJECT)
    endless = Endless()
    stage.answer = endless.sends
    async with (await stage.client(ada)).stream("GET", FILE) as answer:
        received = answer.aiter_raw()
        await anext(received)
        stage.joins(eve, PROJECT, None, version=2)
        stage.joins(ada, uuid7())
        stage.joins(ada, PROJECT, version=2, ends_at=datetime.now(UTC) + timedelta(hours=1))
        goal = endless.passed + 100 * len(PIECE)
        async for _ in received:
            if endless.passed > goal:
                break
        assert len(stage.gateway.in_flight) == 1


@pytest.mark.parametrize("upload", [False, True])
async def test_a_transfer_stands_still_while_nothing_fresh_is_known_and_is_cut_when_that_lasts(stage: Stage, upload: bool) -> None:
    ada = stage.signs_in()
    stage.joins(ada, PROJECT)
    endless, received = Endless(), [0]
    stage.answer = endless.takes if upload else endless.sends
    client = await stage.client(ada)

    async def moves() -> None:
        if upload:
            await client.put(FILE, content=pieces())
            return
        async with client.stream("GET", FILE) as answer:
            async for piece in answer.aiter_raw():
                received[0] += len(piece)

    def moved() -> int:
        return endless.passed if upload else received[0]

    async def stands_still() -> bool:
        before = moved()
        await asyncio.sleep(0.2)
        return moved() == before

    moving = asyncio.create_task(moves())
    await until(lambda: moved() > 10 * len(PIECE))
    stage.pulsing = False
    await until(lambda: not stage.gateway.projection.is_fresh())
    # What was on its way arrives; whoever lets bytes pass lets them pass until the transfer is cut, 1 s later and more.
    assert any([await stands_still() for _ in range(3)])
    with pytest.raises(httpx2.TransportError):
        await asyncio.wait_for(moving, 6)
    await until(lambda: len(stage.gateway.in_flight) == 0)
    assert (await stage.records())[-1]["reason"] == "cannot-decide"


async def test_a_service_that_dies_in_the_middle_ends_the_clients_answer_too(stage: Stage) -> None:
    ada = stage.signs_in()
    stage.joins(ada, PROJECT)

    async def dies(_scope: object, receive: object, send: Any) -> None:
        await read(receive)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000000")]})
        await send({"type": "http.response.body", "body": PIECE, "more_body": True})
        raise ConnectionResetError

    stage.answer = dies
    with pytest.raises(httpx2.TransportError):
        await (await stage.client(ada)).get(FILE)
    await until(lambda: len(stage.gateway.in_flight) == 0)
    last = (await stage.records())[-1]
    assert (last["outcome"], last["reason"]) == ("failed", "upstream-broke")


async def test_an_early_refusal_of_an_upload_reaches_the_client(stage: Stage) -> None:
    ada = stage.signs_in()
    stage.joins(ada, PROJECT)

    async def full(_scope: object, _receive: object, send: Any) -> None:
        await say(send, 507, b"{}", (b"hortus-reason", b"out-of-space"), (b"content-type", b"application/problem+json"))

    stage.answer = full
    client = await stage.client(ada)
    answer = await client.put(FILE, content=PIECE * 100)
    assert answer.status_code == 507
    assert (await client.put(FILE, content=b"")).status_code == 507


async def test_a_client_that_expects_continue_is_told_so_only_when_let_in(stage: Stage) -> None:
    ada = stage.signs_in()
    stage.joins(ada, PROJECT)
    for token, line in ((ada.token, b"HTTP/1.1 100 Continue"), ("x.y.z", b"HTTP/1.1 401 Unauthorized")):
        reader, writer = await stage.raw()
        head = (
            f"PUT /api/v1{FILE} HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 5\r\nauthorization: Bearer {token}\r\n\r\n"
        )
        writer.write(head.encode())
        assert (await reader.readline()).strip() == line
        if b"100" in line:
            await reader.readline()
            writer.write(b"hello")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        else:
            assert b"connection: close" in (await reader.read()).lower()
        writer.close()


async def test_a_client_that_leaves_ends_the_request_at_the_service(stage: Stage) -> None:
    ada = stage.signs_in()
    stage.joins(ada, PROJECT)
    left = asyncio.Event()

    async def thinks(_scope: object, receive: Any, _send: object) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        left.set()

    stage.answer = thinks
    asking = asyncio.create_task((await stage.client(ada)).get(f"/projects/{PROJECT}"))
    await until(lambda: stage.seen)
    asking.cancel()
    await asyncio.wait_for(left.wait(), 5)
    await until(lambda: len(stage.gateway.in_flight) == 0)
    assert (await stage.records())[-1]["reason"] == "client-left"


async def test_nothing_in_flight_and_no_connection_is_left_behind(stage: Stage) -> None:
    ada = stage.signs_in()
    stage.joins(ada, PROJECT)
    client = await stage.client(ada)
    await asyncio.gather(*[client.get(f"/projects/{PROJECT}") for _ in range(50)])
    assert len(stage.gateway.in_flight) == 0
    assert all(not replica.busy for upstream in stage.gateway.forwarder._upstreams.values() for replica in upstream.replicas)
    for server in stage.upstreams.values():
        server.should_exit = True
    await until(lambda: not any(server.server_state.connections for server in stage.upstreams.values()))
    refused = await client.get(f"/projects/{PROJECT}")
    assert (refused.status_code, problem(refused)) == (503, "upstream-unavailable")


async def test_a_full_disk_closes_the_doors_that_carry_bytes_and_no_others(certificates: Certificates, small_disk: Path) -> None:
    async with opened(certificates, small_disk) as stage:
        ada = stage.signs_in()
        stage.joins(ada, PROJECT)
        client = await stage.client(ada)
        assert (await client.get(FILE)).status_code == 200
        ballast = small_disk / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while file.write(b"x" * 512):
                pass
        on_disk = len(await stage.records())

        async def closes() -> bool:
            refused = await client.get(FILE)
            return refused.status_code == 503 and problem(refused) == "spool-unavailable"

        async with asyncio.timeout(10):
            while not await closes():
                on_disk += 1
        assert (await client.get(f"/projects/{PROJECT}")).status_code == 200
        assert await closes()
        numbers = stage.gateway.spool.number
        assert stage.gateway.spool.missing() == ["the spool cannot be written: No space left on device"]
        ballast.unlink()
        await until(lambda: not stage.gateway.spool.missing())
        assert (await client.get(FILE)).status_code == 200
        records = await stage.records()
        assert [record["number"] for record in records] == list(range(1, len(records) + 1))
        assert len(records) > numbers >= on_disk


async def test_a_request_that_only_waits_for_its_answer_is_refused_when_its_right_is_lost(stage: Stage) -> None:
    ada = stage.signs_in()
    stage.joins(ada, PROJECT)
    dropped = asyncio.Event()

    async def thinks(_scope: object, receive: Any, _send: object) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        dropped.set()

    stage.answer = thinks
    client = await stage.client(ada)
    asking = [asyncio.create_task(client.post(f"/projects/{PROJECT}/members", content=b"{}")), asyncio.create_task(client.get("/projects"))]
    await until(lambda: len(stage.seen) == 2)
    stage.joins(ada, PROJECT, None, version=2)
    member, listing = await asyncio.gather(*asking)
    assert (member.status_code, problem(member)) == (404, "not-found")
    assert (listing.status_code, problem(listing)) == (503, "cannot-decide")
    await asyncio.wait_for(dropped.wait(), 5)
    assert {record["reason"] for record in await stage.records()} == {"cut"}


@pytest.mark.parametrize("own", [True, False])
async def test_an_answer_outlives_its_right_only_when_the_request_itself_took_it_away(stage: Stage, own: bool) -> None:
    ada = stage.signs_in()
    session = stage.gateway.projection.get(SESSIONS, str(ada.session_id))
    go_on = asyncio.Event()

    async def ends_the_session(_scope: object, receive: Any, send: Any) -> None:
        await read(receive)
        await go_on.wait()
        said = f"sessions:{ada.session_id}:2" if own else "users:somebody:1"
        await say(send, 204, b"", (b"hortus-facts", said.encode()))

    stage.answer = ends_the_session
    client = await stage.client(ada)
    asking = asyncio.create_task(client.delete(f"/sessions/{ada.session_id}"))
    await until(lambda: len(stage.seen) == 1)
    stage.tell(session.model_copy(update={"version": 2, "live": False}))
    stage.tell(User(version=1, user_id=uuid7(), username="other000", status=UserStatus.ACTIVE, cluster_roles=frozenset()))
    go_on.set()
    answer = await asking
    assert answer.status_code == (204 if own else 401)
    assert (await client.get("/projects")).status_code == 401


async def test_whoever_took_their_own_right_away_is_answered_also_where_the_rest_of_it_is_heard_later(stage: Stage) -> None:
    ada = stage.signs_in()
    session = stage.gateway.projection.get(SESSIONS, str(ada.session_id))
    other = session.model_copy(update={"session_id": uuid7(), "version": 2, "live": False})

    async def ends_both_sessions(_scope: object, receive: Any, send: Any) -> None:
        await read(receive)
        stage.tell(session.model_copy(update={"version": 2, "live": False}))
        await say(send, 204, b"", (b"hortus-facts", f"sessions:{ada.session_id}:2,sessions:{other.session_id}:2".encode()))

    stage.answer = ends_both_sessions
    asking = asyncio.create_task((await stage.client(ada)).delete(f"/sessions/{ada.session_id}"))
    await until(lambda: any(flight.done for flight in stage.gateway.in_flight))
    (flight,) = stage.gateway.in_flight
    assert flight.timer is not None
    assert flight.timer.cancelled(), "nothing ends it but what it waits for"
    stage.tell(other)
    assert (await asking).status_code == 204


async def ending_their_session(stage: Stage) -> tuple[asyncio.Task[Any], Session]:
    """Somebody asks to end their session, where nothing is ever answered; no position comes any more, and what would tell that it ended."""
    ada = stage.signs_in()
    session: Session = stage.gateway.projection.get(SESSIONS, str(ada.session_id))

    async def never_comes_to_its_answer(_scope: object, receive: Any, _send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    stage.answer = never_comes_to_its_answer
    asking = asyncio.create_task((await stage.client(ada)).delete(f"/sessions/{ada.session_id}"))
    await until(lambda: len(stage.seen) == 1)
    stage.pulsing = False
    return asking, session.model_copy(update={"version": 2, "live": False})


async def test_an_answer_is_not_waited_for_past_the_second_for_which_a_lost_right_may_be_used(stage: Stage) -> None:
    asking, ended = await ending_their_session(stage)
    await until(lambda: not stage.gateway.projection.is_fresh())
    stage.tell(ended)
    assert [flight.over for flight in stage.gateway.in_flight] == ["cut"]
    assert (await asking).status_code == 401


async def test_the_wait_for_an_answer_is_as_short_as_what_is_left_of_that_second(stage: Stage) -> None:
    asking, ended = await ending_their_session(stage)
    stage.pulse(age=0.8)
    told = asyncio.get_running_loop().time()
    stage.tell(ended)
    (flight,) = stage.gateway.in_flight
    assert flight.over is None, "there is a moment left for its answer"
    assert flight.timer is not None
    assert flight.timer.when() - told < 0.3
    assert (await asking).status_code == 401
    assert flight.over == "cut"


async def test_a_transfer_that_outlasts_the_drain_is_ended_and_recorded(certificates: Certificates, tmp_path: Path) -> None:
    async with opened(certificates, tmp_path) as stage:
        ada = stage.signs_in()
        stage.joins(ada, PROJECT)
        endless = Endless()
        stage.answer = endless.sends
        for server in stage.gateway.servers:
            server.config.timeout_graceful_shutdown = 1
        async with (await stage.client(ada)).stream("GET", FILE) as answer:
            received = answer.aiter_raw()
            await anext(received)
            stage.gateway.stop()
            with pytest.raises(httpx2.TransportError):
                async for _ in received:
                    pass
        await asyncio.wait_for(endless.ended.wait(), 5)
        last = (await stage.records())[-1]
        assert (last["outcome"], last["reason"]) == ("failed", "gateway-stopped")


@pytest.mark.parametrize("upload", [False, True])
async def test_a_withdrawn_signing_key_cuts_the_transfers_of_its_tokens(stage: Stage, upload: bool) -> None:
    ada = stage.signs_in()
    stage.joins(ada, PROJECT)
    fact = SigningKey(version=2, key_id="k1", jwk=public(stage.key), live=False)
    assert await cut(stage, await stage.client(ada), lambda: stage.tell(fact), upload=upload) < 1.0


async def test_a_withdrawn_signing_key_cuts_a_token_beside_a_certificate_and_no_other_callers(stage: Stage) -> None:
    ada = stage.signs_in()
    stage.joins(ada, PROJECT)
    holder = stage.holds(CertificateKind.PROJECT, project_id=PROJECT, user_id=ada.user_id)
    newer = tokens.private_jwk(ec.generate_private_key(ec.SECP256R1()))
    stage.tell(SigningKey(version=1, key_id="k2", jwk=public(newer), live=True))
    token = tokens.issue(newer, "k2", ada.user_id, ada.session_id, datetime.now(UTC), timedelta(minutes=5))[0]
    others = [
        await stage.client(Someone(ada.user_id, ada.session_id, token)),
        await stage.client(stage.makes_key(ada)),
        await stage.client(holder=holder),
    ]
    endless = Endless()
    stage.answer = endless.sends
    async with contextlib.AsyncExitStack() as stack:
        going = [(await stack.enter_async_context(client.stream("GET", FILE))).aiter_raw() for client in others]
        both = (await stack.enter_async_context((await stage.client(ada, holder)).stream("GET", FILE))).aiter_raw()
        for received in (*going, both):
            await anext(received)
        stage.tell(SigningKey(version=2, key_id="k1", jwk=public(stage.key), live=False))
        async with asyncio.timeout(5):
            with pytest.raises(httpx2.TransportError):
                async for _ in both:
                    pass
        for received in going:
            for _ in range(200):
                await anext(received)
        assert len(stage.gateway.in_flight) == 3
