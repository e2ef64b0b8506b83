"""Commands for signing in, second factors, keys and people: what is typed, what is asked of Hortus, what is printed and kept."""

import contextlib
import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
import segno

from hortus.cli import app, asking, browser, qr
from hortus.client import FileKeeper, HortusError
from tests.hortus.conftest import Run
from tests.hortus.door import SESSION, USER, Answer, Door, Turning, problem

P = "01890000-0000-7000-8000-000000000001"
U = "01890000-0000-7000-8000-00000000000a"
BOB = {**USER, "user_id": U, "username": "bob", "email": "bob@example.org", "version": 3, "cluster_roles": ["auditor"]}
BOB |= {"own_roles": ["auditor"], "invitation": None, "mailed": False}
PASSWORD = "correct horse battery"
FACTOR = {"username": "ada", "totp_secret": "ABC", "totp_uri": "otpauth://totp/x", "totp_svg": "<svg/>"}
TOO_OLD = problem(401, "factor-too-old", "Show your second factor once more")


def page(*items: Any) -> dict[str, Any]:
    return {"items": list(items), "next": None}


@dataclass
class Typed:
    """The command in this process, with who is signed in."""

    capture: pytest.CaptureFixture[str]

    def __call__(self, *arguments: str) -> tuple[str, str]:
        with contextlib.suppress(SystemExit):
            app(list(arguments), standalone_mode=False)
        said = self.capture.readouterr()
        return said.out, said.err


@pytest.fixture
def typed(door: Door, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    for name in [name for name in os.environ if name.startswith("HORTUS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HORTUS_CONFIG", environment["HORTUS_CONFIG"])
    keeper = FileKeeper(Path(environment["HORTUS_CONFIG"]))
    with keeper.alone() as kept:
        keeper.write(replace(kept, address=door.address, trust=door.root.read_text(), token="t0ken", session_id="s1", username="ada"))
    return Typed(capsys)


@pytest.mark.parametrize(
    ("arguments", "asked", "body"),
    [
        ("sessions end s2", "DELETE /sessions/s2", None),
        ("sessions end-all", "DELETE /sessions", None),
        ("factors remove-totp", "DELETE /users/me/totp", None),
        ("factors remove-passkey laptop", "DELETE /users/me/passkeys/k1", None),
        ("keys end nightly", "DELETE /keys/k2", None),
        ("users show bob", f"GET /users/{U}", None),
        (f"users show {U}", f"GET /users/{U}", None),
        ("users block bob", f"PATCH /users/{U}", {"status": "blocked"}),
        ("users unblock bob", f"PATCH /users/{U}", {"status": "active"}),
        ("users deactivate bob@example.org", f"PATCH /users/{U}", {"status": "deactivated"}),
        ("users reactivate bob", f"PATCH /users/{U}", {"status": "active"}),
        ("users roles bob --give administrator --take auditor", f"PATCH /users/{U}", {"cluster_roles": ["administrator"]}),
        ("users sessions bob", f"GET /users/{U}/sessions", None),
        ("users end-sessions bob", f"DELETE /users/{U}/sessions", None),
        ("users keys bob", f"GET /users/{U}/keys", None),
        ("users end-keys bob", f"DELETE /users/{U}/keys", None),
        ("users reset-password bob", f"POST /users/{U}/password-reset", None),
        ("users reset-factors bob", f"POST /users/{U}/factor-reset", None),
        (
            "users create carl@example.org --cluster-role auditor",
            "POST /users",
            {"email": "carl@example.org", "cluster_roles": ["auditor"]},
        ),
        ("registrations approve dora@example.org", "POST /registrations/r1/approval", {"cluster_roles": []}),
        ("registrations decline dora@example.org", "DELETE /registrations/r1", None),
        ("register dora@example.org --note please", "POST /registrations", {"email": "dora@example.org", "note": "please"}),
        ("password forgot ada", "POST /password-resets", {"name": "ada"}),
        (
            "groups create staff --policy passkey --external cn=staff",
            "POST /groups",
            {"name": "staff", "factor_policy": "passkey", "cluster_roles": [], "external": ["cn=staff"]},
        ),
        ("groups change staff --policy none --no-external", "PATCH /groups/g1", {"factor_policy": None, "external": []}),
        ("groups change staff --cluster-role auditor", "PATCH /groups/g1", {"cluster_roles": ["auditor"]}),
        ("groups remove staff", "DELETE /groups/g1", None),
        ("groups members staff", "GET /groups/g1/members", None),
        ("groups add staff bob", f"PUT /groups/g1/members/{U}", None),
        ("groups take staff bob", f"DELETE /groups/g1/members/{U}", None),
        (
            f"members groups give staff data_scientist -p {P} --purpose research",
            f"POST /projects/{P}/group-roles",
            {"group": "staff", "role": "data_scientist", "purpose": "research"},
        ),
        (f"members groups list -p {P}", f"GET /projects/{P}/group-roles", None),
        (f"members groups remove x1 -p {P}", f"DELETE /projects/{P}/group-roles/x1", None),
        ("signing-keys list", "GET /signing-keys", None),
        ("signing-keys rotate", "POST /signing-keys", None),
        ("signing-keys withdraw y1", "DELETE /signing-keys/y1", None),
    ],
)
def test_a_command_asks_its_door(door: Door, typed: Typed, arguments: str, asked: str, body: Any) -> None:
    door.on("GET", "/users", page(BOB))
    door.on("GET", f"/users/{U}", BOB)
    door.on("GET", "/registrations", page({"registration_id": "r1", "email": "dora@example.org"}))
    door.on("GET", "/groups", page({"group_id": "g1", "name": "staff", "version": 7}))
    door.on("GET", "/users/me/factors", {"passkeys": [{"passkey_id": "k1", "name": "laptop"}]})
    old, new = ({"key_id": f"k{n}", "name": "nightly", "created_at": f"2030-01-0{n}T00:00:00Z"} for n in (1, 2))
    door.on("GET", "/keys", page(new, old))
    method, path = asked.split()
    shown = {**BOB, "invitation": None, "link_token": "l1nk", "mailed": False}
    if asked != "GET /users":
        door.on(
            method, path, page() if method == "GET" and path != f"/users/{U}" else Answer(204) if method in {"DELETE", "PUT"} else shown
        )
    out, err = typed(*arguments.split())
    assert door.paths()[-1] == asked
    last = door.asked[-1]
    if body is not None:
        assert last.json == body
    if method == "PATCH":
        assert last.headers["if-match"] == ('"3"' if "users" in path else '"7"')
    assert out or err


def test_a_link_is_shown_where_it_was_not_mailed_and_not_where_it_was(door: Door, typed: Typed) -> None:
    door.on("GET", "/users", page(BOB))
    door.on("GET", f"/users/{U}", BOB)
    door.on(
        "POST",
        f"/users/{U}/factor-reset",
        {"user_id": U, "link_token": "l1nk", "mailed": False},
        {"user_id": U, "link_token": None, "mailed": True},
    )
    out, err = typed("users", "reset-factors", "bob")
    assert "l1nk" in out
    assert "hortus factors enrol" in err
    out, err = typed("users", "reset-factors", "bob")
    assert (out.strip(), err) == ("", "The person is told by letter.\n")


def test_who_comes_back_is_invited_anew(door: Door, typed: Typed) -> None:
    door.on("GET", f"/users/{U}", {**BOB, "status": "deactivated"})
    door.on("PATCH", f"/users/{U}", {**BOB, "status": "invited", "invitation": "1nvitation"})
    out, err = typed("users", "reactivate", U)
    assert "1nvitation" in out
    assert "hortus accept" in err


def test_whoami_says_until_when_and_how_old_the_second_factor_is(door: Door, typed: Typed) -> None:
    session = {
        "session_id": "s1",
        "current": True,
        "method": "password+totp",
        "session_expires_at": "2030-01-01T12:00:00Z",
        "last_used_at": "2030-01-01T00:00:00Z",
        "factor_at": "1970-01-01T00:00:00Z",
    }
    door.on("GET", "/users/me", USER)
    door.on("GET", "/sessions", page({**session, "session_id": "s0", "current": False}, session))
    out, _ = typed("whoami")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert {"groups staff", "signed in by password+totp", "second factor not shown"} <= set(lines)


def test_a_key_is_made_for_some_days_and_its_secret_goes_to_a_file_that_only_its_owner_reads(
    door: Door, typed: Typed, tmp_path: Path
) -> None:
    key = {"key_id": "k1", "name": "nightly", "scopes": ["job.list"], "project_id": P, "secret": "hortus_0a_s3cret"}
    door.on("POST", "/keys", Answer(201, key))
    file = tmp_path / "key"
    out, err = typed("keys", "create", "nightly", "-s", "job.*", "-p", P, "--expires", "2030-02-01", "--out", str(file), "--json")
    assert door.asked[-1].json == {"name": "nightly", "scopes": ["job.*"], "project_id": P, "expires_at": "2030-02-01T00:00:00+00:00"}
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("hortus_0a_s3cret\n", 0o600)
    assert "s3cret" not in out + err
    out, _ = typed("keys", "create", "nightly", "-s", "job.*", "--json")
    assert json.loads(out)["secret"] == "hortus_0a_s3cret"


def test_a_time_can_be_given_in_days() -> None:
    assert asking.when("2030-01-31T12:00:00Z") == "2030-01-31T12:00:00+00:00"
    assert asking.when("1d") > asking.when("0d")
    for wrong in ("soon", "d", "99999999999d", "2030-13-01"):
        with pytest.raises(Exception, match="is no time"):
            asking.when(wrong)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("https://hortus.example/api/v1/sign-in#enrolment=t0ken", ("https://hortus.example", "t0ken")),
        (" t0ken\n", (None, "t0ken")),
        ("https://hortus.example:8443/setup#t0ken", ("https://hortus.example:8443", "t0ken")),
        ("https://hortus.example/factor-enrolment#token=t0ken", ("https://hortus.example", "t0ken")),
    ],
)
def test_a_one_time_link_is_read_as_it_is_written_in_letters(text: str, read: tuple[str | None, str]) -> None:
    assert asking.link(text) == read


def test_recovery_codes_are_shown_once_or_written_for_their_owner(door: Door, typed: Typed, tmp_path: Path) -> None:
    door.on("POST", "/users/me/recovery-codes", Answer(201, {"codes": ["aaaaa-bbbbb", "ccccc-ddddd"]}))
    out, _ = typed("factors", "recovery-codes")
    assert out == "aaaaa-bbbbb\nccccc-ddddd\n"
    out, err = typed("factors", "recovery-codes", "--out", str(tmp_path / "codes"))
    assert "bbbbb" not in out + err
    assert (tmp_path / "codes").read_text() == "aaaaa-bbbbb\nccccc-ddddd\n"
    assert (tmp_path / "codes").stat().st_mode & 0o777 == 0o600


def test_the_sign_in_of_the_command_is_renewed_in_its_file(door: Door, turning: Turning, run: Run, environment: dict[str, str]) -> None:
    door.on("GET", "/projects", page())
    ended = run("login", "ada", "--address", door.address, "--code", "123456", HORTUS_PASSWORD=PASSWORD)
    assert ended.returncode == 0, ended.stderr
    path = Path(environment["HORTUS_CONFIG"])
    kept = json.loads(path.read_text())
    path.write_text(json.dumps(kept | {"renew_at": 1.0}))
    assert run("projects", "list").returncode == 0
    assert door.paths() == ["POST /sessions", "GET /projects", "POST /sessions/refresh", "GET /projects"]
    renewed = json.loads(path.read_text())
    assert (renewed["token"], renewed["refresh_token"]) == (turning.access, "refresh-1-1")
    assert (renewed["address"], path.stat().st_mode & 0o777) == (door.address, 0o600)
    assert "refresh-1" not in ended.stdout + ended.stderr


def test_after_an_ended_session_the_number_is_three_and_the_reason_is_told_once(
    door: Door, turning: Turning, run: Run, environment: dict[str, str]
) -> None:
    run("login", "ada", "--address", door.address, "--code", "123456", HORTUS_PASSWORD=PASSWORD)
    path = Path(environment["HORTUS_CONFIG"])
    path.write_text(json.dumps(json.loads(path.read_text()) | {"renew_at": 1.0}))
    turning.reused = True
    ended = run("projects", "list")
    assert (ended.returncode, ended.stderr) == (3, "The session has ended.\nSign in with `hortus login`.\n")
    assert run("projects", "list").stderr == "You are not signed in: run `hortus login`.\n"


def test_an_account_without_a_second_factor_sets_one_up_while_signing_in(door: Door, run: Run) -> None:
    needed = Answer(
        401,
        {"type": "urn:hortus:problem:factor-enrolment-needed", "title": "Set up a second factor", "enrolment": "enr0l"},
        {"Content-Type": "application/problem+json"},
    )
    door.on("POST", "/sessions", needed, Answer(201, SESSION))
    door.on("POST", "/factor-enrolments/acceptance", FACTOR)
    door.on("POST", "/factor-enrolments/confirmation", USER)
    ended = run("login", "ada", "--address", door.address, typed="\n111111\n222222\n", HORTUS_PASSWORD=PASSWORD)
    assert ended.returncode == 0, ended.stderr
    assert [asked.json for asked in door.asked if asked.method == "POST"] == [
        {"username": "ada", "password": PASSWORD},
        {"token": "enr0l"},
        {"token": "enr0l", "code": "111111"},
        {"username": "ada", "password": PASSWORD, "code": "222222"},
    ]
    assert "ABC" in ended.stdout
    assert "enr0l" not in ended.stdout + ended.stderr


def test_a_recovery_code_comes_from_the_environment_and_never_from_the_arguments(door: Door, run: Run) -> None:
    door.on("POST", "/sessions", Answer(201, {**SESSION, "recovery_codes_left": 9}))
    ended = run("login", "ada", "--address", door.address, "--recovery-code", HORTUS_PASSWORD=PASSWORD, HORTUS_RECOVERY_CODE="aaaaa-bbbbb")
    assert ended.returncode == 0, ended.stderr
    assert door.asked[0].json == {"username": "ada", "password": PASSWORD, "recovery_code": "aaaaa-bbbbb"}
    assert "Recovery codes left: 9." in ended.stderr


def test_without_a_terminal_a_factor_that_is_too_old_ends_with_three_and_says_what_to_do(door: Door, signed_in: Run) -> None:
    door.on("POST", "/users/me/recovery-codes", TOO_OLD)
    ended = signed_in("factors", "recovery-codes")
    assert ended.returncode == 3
    assert "hortus confirm" in ended.stderr
    assert door.paths() == ["POST /users/me/recovery-codes"]


def test_confirming_shows_a_code_a_recovery_code_or_the_password_of_who_has_none(door: Door, signed_in: Run, tmp_path: Path) -> None:
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    door.on("POST", "/sessions/current/factor", {"session_id": "s1", "factor_at": "2030-01-01T00:00:00Z", "version": 2})
    assert signed_in("confirm", typed="123456\n").returncode == 0
    assert signed_in("confirm", "--recovery-code", HORTUS_RECOVERY_CODE="aaaaa-bbbbb").returncode == 0
    assert signed_in("confirm", "--password", HORTUS_PASSWORD=PASSWORD).returncode == 0
    confirmed = signed_in("confirm", "--password-file", str(tmp_path / "password"), "--json")
    assert json.loads(confirmed.stdout)["version"] == 2
    shown = [{"code": "123456"}, {"recovery_code": "aaaaa-bbbbb"}, {"password": PASSWORD}, {"password": PASSWORD}]
    assert [asked.json for asked in door.asked] == shown
    assert PASSWORD not in confirmed.stdout + confirmed.stderr
    assert signed_in("confirm", "--password").returncode == 1


def on_a_terminal(environment: dict[str, str], *arguments: str, answers: dict[str, str]) -> tuple[int, str]:
    """Run the command with a terminal and type an answer when its question stands there, with the space that ends it."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "hortus.cli", *arguments]
    process = subprocess.Popen(command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    shown, left = "", dict(answers)
    until = time.monotonic() + 30
    ready = select.poll()
    ready.register(ours, select.POLLIN)
    while time.monotonic() < until:
        if not ready.poll(100):
            continue
        try:
            shown += os.read(ours, 65536).decode(errors="replace")
        except OSError:  # nobody holds the other end any more
            break
        for question in [question for question in left if shown.endswith(f"{question}: ")]:
            os.write(ours, (left.pop(question) + "\n").encode())
    else:
        process.kill()
    os.close(ours)
    return process.wait(10), shown


def test_on_a_terminal_a_code_is_asked_for_once_and_the_command_goes_on(door: Door, signed_in: Run, environment: dict[str, str]) -> None:
    door.on("POST", "/users/me/recovery-codes", TOO_OLD, Answer(201, {"codes": ["aaaaa-bbbbb"]}))
    door.on("POST", "/sessions/current/factor", {"session_id": "s1", "factor_at": "2030-01-01T00:00:00Z", "version": 2})
    code, shown = on_a_terminal(environment, "factors", "recovery-codes", answers={"Code": "123456"})
    assert code == 0, shown
    assert "aaaaa-bbbbb" in shown
    assert door.paths() == ["POST /users/me/recovery-codes", "POST /sessions/current/factor", "POST /users/me/recovery-codes"]


def test_changing_the_password_asks_for_both_and_forgets_the_sign_in(door: Door, signed_in: Run, environment: dict[str, str]) -> None:
    door.on("POST", "/users/me/password", Answer(204))
    new = "another horse battery"
    questions = {"Password until now": PASSWORD, "New password": new, "Repeat for confirmation": new}
    code, shown = on_a_terminal(environment, "password", "change", answers=questions)
    assert code == 0, shown
    assert door.asked[-1].json == {"password": PASSWORD, "new_password": new}
    assert PASSWORD not in shown
    assert new not in shown
    assert signed_in("projects", "list").returncode == 3


def test_a_password_is_reset_with_the_link_of_a_letter(door: Door, run: Run) -> None:
    door.on("POST", "/password-resets/acceptance", Answer(204))
    link = f"{door.address}/password-reset#l1nk"
    ended = run("password", "reset", HORTUS_RESET_LINK=link, HORTUS_NEW_PASSWORD="another horse battery")
    assert ended.returncode == 0, ended.stderr
    assert door.asked[0].json == {"token": "l1nk", "password": "another horse battery"}


def test_a_lost_factor_is_replaced_with_a_link_and_drawn_to_a_file(door: Door, run: Run, tmp_path: Path) -> None:
    door.on("POST", "/factor-enrolments/acceptance", FACTOR)
    door.on("POST", "/factor-enrolments/confirmation", USER)
    link = f"{door.address}/factor-enrolment#l1nk"
    shown = {"HORTUS_ENROLMENT": link, "HORTUS_PASSWORD": "correct horse battery"}
    ended = run("factors", "enrol", "--svg", str(tmp_path / "qr.svg"), typed="111111\n", **shown)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "qr.svg").read_text() == "<svg/>"
    assert (tmp_path / "qr.svg").stat().st_mode & 0o777 == 0o600
    assert door.asked[0].json == {"token": "l1nk", "password": "correct horse battery"}
    assert door.asked[1].json == {"token": "l1nk", "code": "111111"}


def test_who_must_have_a_passkey_is_sent_to_the_browser(door: Door, run: Run) -> None:
    door.on("POST", "/factor-enrolments/acceptance", {**FACTOR, "policy": "passkey"})
    ended = run("factors", "enrol", HORTUS_ENROLMENT=f"{door.address}/factor-enrolment#l1nk", HORTUS_PASSWORD="correct horse battery")
    assert ended.returncode == 1
    assert "browser" in ended.stderr
    assert "ABC" not in ended.stdout


def test_an_api_key_in_the_environment_is_shown_instead_of_the_sign_in(door: Door, signed_in: Run) -> None:
    door.on("GET", "/projects", page(), problem(401, "invalid-credential", "The credential is not valid"))
    assert signed_in("projects", "list", HORTUS_API_KEY="hortus_0a_s3cret").returncode == 0
    ended = signed_in("projects", "list", HORTUS_API_KEY="hortus_0a_s3cret")
    assert (ended.returncode, ended.stderr) == (3, "The credential is not valid.\nThis was asked with the key in HORTUS_API_KEY.\n")
    assert {asked.headers["authorization"] for asked in door.asked} == {"Bearer hortus_0a_s3cret"}


def test_a_key_is_enough_without_a_sign_in_where_the_environment_names_the_place(door: Door, run: Run) -> None:
    door.on("GET", "/projects", page())
    ended = run("projects", "list", "--json", HORTUS_API_KEY="hortus_0a_s3cret", HORTUS_ADDRESS=door.address)
    assert (ended.returncode, ended.stdout) == (0, "[]\n"), ended.stderr


def test_too_many_attempts_are_told_with_the_time_to_wait(door: Door, run: Run) -> None:
    door.on("POST", "/sessions", problem(429, "slow-down", "Too many failed attempts; wait a moment", Retry_After="8"))
    ended = run("login", "ada", "--address", door.address, "--code", "1", HORTUS_PASSWORD=PASSWORD)
    assert (ended.returncode, ended.stderr.splitlines()[-1]) == (1, "Try again in 8 s.")


class Browsing:
    """A command that waits for a browser, and the page that it asked somebody to open."""

    def __init__(self, environment: dict[str, str], *arguments: str) -> None:
        command = [sys.executable, "-m", "hortus.cli", *arguments, "--browser", "--no-open"]
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        self.page = urlsplit(self.process.stderr.readline().split()[-1])
        self.asked = {name: values[0] for name, values in parse_qs(self.page.query).items()}
        self.back = f"http://127.0.0.1:{self.asked['client_port']}/"

    def come_back(self, **query: str) -> httpx2.Response:
        return httpx2.get(self.back, params=query, trust_env=False)

    def end(self) -> tuple[int, str]:
        _, said = self.process.communicate(timeout=60)
        return self.process.returncode, said

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def browsing(door: Door, environment: dict[str, str]) -> Iterator[Browsing]:
    made = Browsing(environment, "login", "--address", door.address)
    yield made
    made.stop()


@pytest.fixture
def confirming(signed_in: Run, environment: dict[str, str]) -> Iterator[Browsing]:
    """Who is signed in is to sign in anew."""
    made = Browsing(environment, "confirm")
    yield made
    made.stop()


def test_a_browser_signs_in_for_the_command(door: Door, turning: Turning, browsing: Browsing, run: Run) -> None:
    assert browsing.page.path == "/api/v1/sign-in"
    answer = browsing.come_back(code="c0de", state=browsing.asked["state"])
    assert (answer.status_code, answer.headers["content-security-policy"]) == (200, "default-src 'none'; frame-ancestors 'none'")
    assert browsing.end()[0] == 0
    shown = door.asked[0].json
    assert (shown["client_code"], browser.challenge(shown["verifier"])) == ("c0de", browsing.asked["challenge"])
    door.on("GET", "/projects", page())
    assert run("projects", "list").returncode == 0
    assert door.asked[-1].headers["authorization"] == f"Bearer {turning.access}"


@pytest.mark.parametrize("ended", [Answer(204), problem(404, "not-found", "There is no such session")], ids=["open", "gone"])
def test_signing_in_anew_takes_the_place_of_the_sign_in_before(
    door: Door, confirming: Browsing, environment: dict[str, str], ended: Answer
) -> None:
    assert (confirming.page.path, confirming.asked["fresh"]) == ("/api/v1/sign-in", "true")
    door.on("POST", "/sessions", Answer(201, {**SESSION, "session_id": "s2", "access_token": "t2"}))
    door.on("DELETE", "/sessions/s1", ended)
    confirming.come_back(code="c0de", state=confirming.asked["state"])
    assert confirming.end() == (0, "Signed in anew as ada.\n")
    assert door.paths() == ["POST /sessions", "DELETE /sessions/s1"]
    assert door.asked[-1].headers["authorization"] == "Bearer t2"
    kept = json.loads(Path(environment["HORTUS_CONFIG"]).read_text())
    assert (kept["session_id"], kept["token"]) == ("s2", "t2")


def test_a_sign_in_before_that_cannot_be_ended_is_named_and_the_new_one_counts(
    door: Door, confirming: Browsing, environment: dict[str, str]
) -> None:
    door.on("POST", "/sessions", Answer(201, {**SESSION, "session_id": "s2", "access_token": "t2"}))
    door.on("DELETE", "/sessions/s1", problem(403, "not-allowed", "Not now"))
    confirming.come_back(code="c0de", state=confirming.asked["state"])
    code, said = confirming.end()
    assert (code, said.splitlines()[-1]) == (0, "Signed in anew as ada.")
    assert "could not be ended" in said
    assert "hortus sessions end s1" in said
    assert json.loads(Path(environment["HORTUS_CONFIG"]).read_text())["session_id"] == "s2"


def test_somebody_else_who_signs_in_in_the_browser_takes_nobodys_place(
    door: Door, confirming: Browsing, environment: dict[str, str]
) -> None:
    before = Path(environment["HORTUS_CONFIG"]).read_text()
    door.on("POST", "/sessions", Answer(201, {**SESSION, "session_id": "s2", "access_token": "t2", "user": BOB}))
    door.on("DELETE", "/sessions/s2", Answer(204))
    confirming.come_back(code="c0de", state=confirming.asked["state"])
    assert confirming.end() == (1, "In the browser bob signed in; here ada still is.\n")
    assert door.paths() == ["POST /sessions", "DELETE /sessions/s2"]
    assert Path(environment["HORTUS_CONFIG"]).read_text() == before


def test_signing_in_anew_is_for_who_is_signed_in(run: Run) -> None:
    assert run("confirm", "--browser").returncode == 3


def test_a_passkey_is_added_on_the_page_after_a_new_sign_in(door: Door, typed: Typed) -> None:
    _, err = typed("factors", "add-passkey", "--no-open")
    assert err == f"Add it in your browser: {door.address}/api/v1/sign-in?fresh=true\n"
    assert door.asked == []


def test_what_does_not_know_the_state_does_not_sign_in_and_does_not_stop_who_does(turning: Turning, browsing: Browsing) -> None:
    state = browsing.asked["state"]
    assert browsing.come_back(code="evil", state="guessed").status_code == 400
    assert browsing.come_back(code="evil").status_code == 400
    assert browsing.come_back(state=state).status_code == 400
    assert (
        httpx2.get(browsing.back, params={"code": "evil", "state": state}, headers={"Host": "evil.example"}, trust_env=False).status_code
        == 400
    )
    assert httpx2.post(browsing.back, params={"code": "evil", "state": state}, trust_env=False).status_code == 501
    assert browsing.come_back(code="c0de", state=state).status_code == 200
    assert browsing.end()[0] == 0


def test_a_sign_in_declined_in_the_browser_is_one_sentence(browsing: Browsing, environment: dict[str, str]) -> None:
    browsing.come_back(error="access_denied", state=browsing.asked["state"])
    assert browsing.end() == (1, "The sign-in was declined in the browser.\n")
    assert not Path(environment["HORTUS_CONFIG"]).exists()


def test_waiting_for_the_browser_ends() -> None:
    with pytest.raises(HortusError, match="within 1 s"):
        browser.sign_in("https://localhost:1", opens=False, seconds=1)


def test_a_verifier_is_met_by_its_challenge_as_the_standard_says() -> None:
    # RFC 7636, appendix B
    assert browser.challenge("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk") == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"


def test_the_servers_picture_is_drawn_in_characters_module_by_module() -> None:
    code = segno.make("otpauth://totp/Hortus:ada?secret=ABCDEFGHIJKLMNOPABCDEFGHIJKLMNOP&issuer=Hortus")
    picture = qr.drawn(code.svg_inline(scale=4))
    assert picture is not None
    lines = picture.plain.splitlines()
    halves = {" ": (0, 0), "▀": (1, 0), "▄": (0, 1), "█": (1, 1)}
    drawn = [[halves[character][half] for character in line] for line in lines for half in (0, 1)]
    size = len(code.matrix)
    assert [row[qr.QUIET : qr.QUIET + size] for row in drawn[qr.QUIET : qr.QUIET + size]] == [list(row) for row in code.matrix]
    assert {len(line) for line in lines} == {size + 2 * qr.QUIET}


@pytest.mark.parametrize("svg", ["", "<svg/>", '<path d="M0 0h99999999"/>', '<path d="M0 0h1m9999 9999h1"/>', '<path d="M0 0h-5"/>'])
def test_a_picture_of_another_kind_is_not_drawn(svg: str) -> None:
    assert qr.drawn(svg) is None
