"""A sign-in that goes on: renewed in time, once for all who share it, and never taken for a thief's."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from hortus.client import Client, FactorTooOld, FileKeeper, HortusError, Keeper, Refused, SignIn, Unreachable, renewal
from tests.hortus.door import Answer, Asked, Door, Turning, problem

AT_ONCE = 8


@pytest.fixture
def ada(door: Door, turning: Turning) -> Iterator[Client]:
    """Somebody who has signed in."""
    door.on("GET", "/users/me", turning.guarded)
    with Client(door.address, door.root, patience=5.0) as client:
        client.sessions.create("ada", "correct horse battery", "123456")
        door.asked.clear()
        yield client


def keeper_of(client: Client) -> Keeper:
    return client.wire._renewal._keeper


def end_soon(keeper: Keeper) -> None:
    """Let the token that is kept be one that ends soon."""
    with keeper.alone() as kept:
        keeper.write(replace(kept, renew_at=time.time() - 1))


def ends_soon(client: Client) -> Client:
    end_soon(keeper_of(client))
    client.wire._renewal.current = keeper_of(client).read()
    return client


@pytest.fixture
def shared(door: Door, turning: Turning, tmp_path: Path) -> FileKeeper:
    """The sign-in file of somebody whose token ends soon."""
    door.on("GET", "/users/me", turning.guarded)
    keeper = FileKeeper(tmp_path / "own" / "sign-in.json")
    with Client(door.address, door.root, refresh=keeper) as client:
        client.sessions.create("ada", "correct horse battery", "123456")
    end_soon(keeper)
    door.asked.clear()
    return keeper


def test_a_token_that_ends_soon_is_renewed_before_it_is_shown(door: Door, turning: Turning, ada: Client) -> None:
    assert ends_soon(ada).users.me()["username"] == "ada"
    assert ada.users.me()["username"] == "ada"
    assert door.paths() == ["POST /sessions/refresh", "GET /users/me", "GET /users/me"]
    assert turning.turned == 1


def test_a_token_is_renewed_thirty_seconds_before_its_end(turning: Turning, ada: Client) -> None:
    kept = keeper_of(ada).read()
    assert 0 < time.time() + turning.token_s - 30 - kept.renew_at < 5


def test_a_clock_that_is_ahead_does_not_have_the_token_renewed_with_each_request(turning: Turning, ada: Client) -> None:
    turning.token_s = -3600.0
    ends_soon(ada).users.me()
    ada.users.me()
    assert turning.turned == 1


def test_a_token_that_turns_out_to_have_ended_is_renewed_and_the_request_repeated(door: Door, turning: Turning, ada: Client) -> None:
    turning.turned += 1
    assert ada.users.me()["username"] == "ada"
    assert door.paths() == ["GET /users/me", "POST /sessions/refresh", "GET /users/me"]


def test_a_newer_token_that_is_refused_too_is_the_end_of_it(door: Door, ada: Client) -> None:
    door.on("GET", "/users/me", problem(401, "invalid-credential", "The credential is not valid"))
    with pytest.raises(Refused, match="not valid"):
        ada.users.me()
    assert door.paths() == ["GET /users/me", "POST /sessions/refresh", "GET /users/me"]


@pytest.mark.parametrize("slug", ["account-not-active", "not-signed-in", "sign-in-refused"])
def test_another_refusal_is_not_met_with_a_renewal(door: Door, ada: Client, slug: str) -> None:
    door.on("GET", "/users/me", problem(401, slug, "No"))
    with pytest.raises(Refused):
        ada.users.me()
    assert door.paths() == ["GET /users/me"]


def test_the_cookies_go_to_the_doors_that_take_them_and_to_no_other(door: Door, ada: Client) -> None:
    ends_soon(ada).users.me()
    assert set(door.asked[0].cookies) == {"__Host-hortus-refresh", "__Host-hortus-device"}
    assert "authorization" not in door.asked[0].headers
    assert door.asked[1].cookies == {}


def test_the_device_is_named_at_the_next_sign_in(door: Door, turning: Turning, ada: Client) -> None:
    ada.sessions.create("ada", "correct horse battery", "654321")
    assert turning.device == "d1"
    assert "authorization" not in door.asked[0].headers


def test_threads_of_one_client_renew_once(turning: Turning, ada: Client) -> None:
    ends_soon(ada)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        assert [user["username"] for user in pool.map(lambda _: ada.users.me(), range(AT_ONCE))] == ["ada"] * AT_ONCE
    assert (turning.turned, turning.reused) == (1, False)


def test_threads_that_are_refused_at_once_renew_once(door: Door, turning: Turning, ada: Client) -> None:
    together = threading.Barrier(AT_ONCE)

    def refused_together(asked: Asked) -> Answer:
        answer = turning.guarded(asked)
        if answer.status == 401:
            together.wait(30)
        return answer

    door.on("GET", "/users/me", refused_together)
    turning.turned += 1
    with ThreadPoolExecutor(AT_ONCE) as pool:
        assert [user["username"] for user in pool.map(lambda _: ada.users.me(), range(AT_ONCE))] == ["ada"] * AT_ONCE
    assert (turning.turned, turning.reused) == (2, False)


def test_clients_that_share_a_file_renew_once(door: Door, turning: Turning, shared: FileKeeper, tmp_path: Path) -> None:
    clients = [Client(door.address, door.root, refresh=FileKeeper(tmp_path / "own" / "sign-in.json")) for _ in range(AT_ONCE)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        assert len(list(pool.map(lambda client: client.users.me(), clients))) == AT_ONCE
    for client in clients:
        client.close()
    assert (turning.turned, turning.reused) == (1, False)
    assert shared.read().token == turning.access


def test_processes_that_share_a_file_renew_once(door: Door, turning: Turning, shared: FileKeeper, tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from hortus.client import Client, FileKeeper
with Client(sys.argv[1], sys.argv[2], refresh=FileKeeper(Path(sys.argv[3]))) as client:
    print("ready", flush=True)
    sys.stdin.readline()
    print(client.users.me()["username"])
"""
    command = [sys.executable, "-c", program, door.address, str(door.root), str(tmp_path / "own" / "sign-in.json")]
    running = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(AT_ONCE)]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.communicate(timeout=60)[0] for process in running] == ["ada\n"] * AT_ONCE
    assert (turning.turned, turning.reused) == (1, False)


def test_a_renewal_whose_answer_was_lost_is_asked_for_again_and_brings_the_same_token(door: Door, turning: Turning, ada: Client) -> None:
    def lost_once(asked: Asked) -> Answer:
        door.on("POST", "/sessions/refresh", turning.refresh)
        turning.refresh(asked)
        return Answer(lose=True)

    door.on("POST", "/sessions/refresh", lost_once)
    assert ends_soon(ada).users.me()["username"] == "ada"
    assert (turning.turned, turning.reused) == (1, False)
    shown = [asked.cookies["__Host-hortus-refresh"] for asked in door.asked[:2]]
    assert shown == ["refresh-1-0", "refresh-1-0"]


def test_a_slow_server_is_asked_once_more_and_then_waited_for(
    door: Door, turning: Turning, ada: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    waiting: list[Answer] = []

    def slow(asked: Asked) -> Answer:
        waiting.append(turning.refresh(asked))
        if len(waiting) > 1:
            threading.Timer(0.5, released.set).start()
        released.wait(30)
        return waiting[-1]

    monkeypatch.setattr(renewal, "FIRST_ANSWER_S", 0.2)
    door.on("POST", "/sessions/refresh", slow)
    assert ends_soon(ada).users.me()["username"] == "ada"
    assert (turning.turned, turning.reused, len(waiting)) == (1, False, 2)


def test_the_next_command_asks_again_for_a_renewal_that_was_interrupted_a_moment_ago(turning: Turning, ada: Client) -> None:
    keeper = keeper_of(ada)
    turning.refresh(Asked("POST", "", {}, {"cookie": f"__Host-hortus-refresh={keeper.read().refresh_token}"}, b""))
    with keeper.alone() as kept:
        keeper.write(replace(kept, asked_at=time.time() - 1))
    assert ends_soon(ada).users.me()["username"] == "ada"
    assert (turning.turned, turning.reused) == (1, False)


def test_a_renewal_whose_outcome_stays_unknown_is_given_up_so_that_nobody_is_taken_for_a_thief(
    door: Door, turning: Turning, ada: Client
) -> None:
    keeper = keeper_of(ada)
    with keeper.alone() as kept:
        keeper.write(replace(kept, asked_at=time.time() - 11))
    with pytest.raises(Refused, match="lost while the sign-in was being renewed") as caught:
        ends_soon(ada).users.me()
    assert (caught.value.status, door.asked) == (401, [])
    assert (keeper.read().token, keeper.read().refresh_token, keeper.read().username) == ("", "", "ada")


def test_a_renewal_is_noted_before_it_is_sent(door: Door, turning: Turning, ada: Client) -> None:
    noted: list[float] = []

    def look(asked: Asked) -> Answer:
        noted.append(keeper_of(ada).read().asked_at)
        return turning.refresh(asked)

    door.on("POST", "/sessions/refresh", look)
    ends_soon(ada).users.me()
    assert noted[0] > 0
    assert keeper_of(ada).read().asked_at == 0


def test_a_renewal_that_was_certainly_not_carried_out_can_be_asked_for_at_any_time(
    door: Door, turning: Turning, ada: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    door.on("POST", "/sessions/refresh", problem(503, "not-fresh", "Cannot decide now"), turning.refresh)
    assert ends_soon(ada).users.me()["username"] == "ada"
    monkeypatch.setattr(renewal, "REPEAT_S", 0.5)
    door.on("POST", "/sessions/refresh", problem(503, "not-fresh", "Cannot decide now"))
    with pytest.raises(Refused, match="Cannot decide"):
        ends_soon(ada).users.me()
    assert keeper_of(ada).read().asked_at == 0
    with Client("https://localhost:1", door.root, refresh=keeper_of(ada)) as elsewhere, pytest.raises(Unreachable):
        elsewhere.users.me()
    assert keeper_of(ada).read().asked_at == 0


def test_a_renewal_that_was_done_and_could_not_be_shown_is_asked_for_again_only_for_a_while(
    door: Door, turning: Turning, ada: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewal, "REPEAT_S", 0.5)
    door.on("POST", "/sessions/refresh", problem(503, "answer-held-back", "It was done"))
    with pytest.raises(Refused, match="It was done"):
        ends_soon(ada).users.me()
    assert keeper_of(ada).read().asked_at > 0, "the token that was shown may have been used up"


def test_an_ended_session_is_forgotten_with_the_reason_told(door: Door, turning: Turning, ada: Client) -> None:
    turning.reused = True
    with pytest.raises(Refused, match="session has ended"):
        ends_soon(ada).users.me()
    kept = keeper_of(ada).read()
    assert (kept.token, kept.refresh_token, kept.device) == ("", "", "d1")


def test_a_program_that_runs_on_takes_up_the_new_sign_in_of_its_person(door: Door, turning: Turning, shared: FileKeeper) -> None:
    with Client(door.address, door.root, refresh=shared) as running, Client(door.address, door.root, refresh=shared) as login:
        login.sessions.create("ada", "correct horse battery", "654321")
        assert running.users.me()["username"] == "ada"
    assert (turning.opened, turning.turned) == (2, 0)


def test_a_program_that_runs_on_does_not_become_another_person(door: Door, shared: FileKeeper) -> None:
    with Client(door.address, door.root, refresh=shared) as running:
        with shared.alone() as kept:
            shared.write(replace(kept, token="bob's", user_id="u2"))
        with pytest.raises(Refused, match="not there any more"):
            running.users.me()
        with shared.alone() as kept:
            shared.write(kept.ended())
        with pytest.raises(Refused, match="not there any more"):
            running.users.me()
    assert door.asked == []


def test_a_renewal_without_a_new_token_is_an_error(door: Door, turning: Turning, ada: Client) -> None:
    door.on("POST", "/sessions/refresh", Answer(200, {}))
    with pytest.raises(HortusError, match="no new refresh token"):
        ends_soon(ada).users.me()
    door.on("POST", "/sessions/refresh", Answer(200, {}, cookies=["__Host-hortus-refresh=x; Path=/"]))
    with pytest.raises(HortusError, match="shape"):
        ends_soon(ada).users.me()


def test_a_stream_that_was_partly_sent_is_not_sent_again_from_its_middle(door: Door, ada: Client) -> None:
    door.on("PUT", "/projects/p/datasets/d/files/f", problem(401, "invalid-credential", "The credential is not valid"))
    with pytest.raises(Refused):
        ada.datasets.put("p", "d", iter([b"one", b"two"]), "f")
    assert len(door.asked) == 1


def test_an_api_key_is_shown_and_never_renewed(door: Door, turning: Turning, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HORTUS_ADDRESS", door.address)
    monkeypatch.setenv("HORTUS_ROOT", str(door.root))
    monkeypatch.setenv("HORTUS_API_KEY", "hortus_0a_secret")
    door.on("GET", "/projects", {"items": [], "next": None}, problem(401, "invalid-credential", "The credential is not valid"))
    with Client.from_environment() as client:
        assert list(client.projects.list()) == []
        with pytest.raises(Refused):
            list(client.projects.list())
    assert {asked.headers["authorization"] for asked in door.asked} == {"Bearer hortus_0a_secret"}
    assert len(door.asked) == 2


def test_an_environment_without_a_key_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HORTUS_ADDRESS", "https://localhost:1")
    for name in ("HORTUS_ROOT", "HORTUS_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(HortusError, match="HORTUS_ROOT and HORTUS_API_KEY"):
        Client.from_environment()


TOO_OLD = problem(401, "factor-too-old", "Show your second factor once more")


def test_a_door_that_wants_a_fresh_factor_says_so_by_a_refusal_of_its_own(door: Door, client: Client) -> None:
    door.on("POST", "/users/me/recovery-codes", TOO_OLD)
    with pytest.raises(FactorTooOld) as caught:
        client.factors.new_recovery_codes()
    assert caught.value.status == 401


def test_who_is_asked_for_a_fresh_factor_shows_it_once_and_the_request_goes_on(door: Door) -> None:
    door.on("POST", "/projects/p/members", TOO_OLD, Answer(201, {"username": "bob"}))
    stepped = {"session_id": "s", "factor_at": "2030-01-01T00:00:00Z", "version": 2}
    door.on("POST", "/sessions/current/factor", Answer(200, stepped, {"Hortus-Facts": "sessions:s:2"}))
    with Client(door.address, door.root, token="t", factor=lambda: {"code": "123456"}) as client:
        assert client.members.add("p", "bob", "data_owner")["username"] == "bob"
    assert door.paths() == ["POST /projects/p/members", "POST /sessions/current/factor", "POST /projects/p/members"]
    assert door.asked[1].json == {"code": "123456"}
    assert door.asked[0].headers["idempotency-key"] == door.asked[2].headers["idempotency-key"]
    assert door.asked[2].headers["hortus-after"] == "sessions:s:2"


def test_a_factor_that_is_not_right_or_does_not_help_is_not_asked_for_again(door: Door) -> None:
    shown: list[int] = []

    def factor() -> dict[str, str]:
        shown.append(1)
        return {"code": "000000"}

    door.on("POST", "/users/me/recovery-codes", TOO_OLD)
    door.on("POST", "/sessions/current/factor", problem(401, "sign-in-refused", "Not right"), Answer(200, {}))
    with Client(door.address, door.root, token="t", factor=factor) as client:
        with pytest.raises(Refused, match="Not right"):
            client.factors.new_recovery_codes()
        with pytest.raises(FactorTooOld):
            client.factors.new_recovery_codes()
    assert len(shown) == 2


def test_a_sign_in_with_a_recovery_code_or_through_a_browser_shows_just_that(door: Door, turning: Turning) -> None:
    with Client(door.address, door.root) as client:
        client.sessions.create("ada", "correct horse battery", recovery_code="abcde-fghij")
        client.sessions.create("ada", "correct horse battery")
        client.sessions.create(client_code="c", verifier="v")
    assert [asked.json for asked in door.asked] == [
        {"username": "ada", "password": "correct horse battery", "recovery_code": "abcde-fghij"},
        {"username": "ada", "password": "correct horse battery"},
        {"client_code": "c", "verifier": "v"},
    ]


def test_what_a_problem_says_beyond_its_sentences_is_there(door: Door) -> None:
    body = {"type": "urn:hortus:problem:factor-enrolment-needed", "title": "Set up a second factor", "enrolment": "t0ken"}
    door.on("POST", "/sessions", Answer(401, body, {"Content-Type": "application/problem+json", "Retry-After": "7"}))
    with Client(door.address, door.root) as client, pytest.raises(Refused) as caught:
        client.sessions.create("ada", "correct horse battery")
    assert (caught.value.members, caught.value.retry_after) == ({"enrolment": "t0ken"}, 7.0)
    assert "t0ken" not in str(caught.value)


def test_a_sign_in_keeps_what_the_file_knew_of_the_place(tmp_path: Path, door: Door, turning: Turning) -> None:
    keeper = FileKeeper(tmp_path / "sign-in.json")
    with keeper.alone():
        keeper.write(SignIn(address="https://there", trust="pem", device="d0"))
    with Client(door.address, door.root, refresh=keeper) as client:
        client.sessions.create("ada", "correct horse battery", "123456")
    kept = keeper.read()
    assert (kept.address, kept.trust, kept.username, kept.device) == ("https://there", "pem", "ada", "d1")
    assert turning.device == "d0"
    assert (tmp_path / "sign-in.json").stat().st_mode & 0o777 == 0o600
