"""The command as a person meets it: run as a process, against a door."""

import functools
import hashlib
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.hortus.conftest import Run
from tests.hortus.door import SESSION, USER, Answer, Asked, Door, ledger, problem
from tests.hortus.test_client import chain_of, described, stored

P = "01890000-0000-7000-8000-000000000001"
D = "01890000-0000-7000-8000-000000000002"


def test_signing_in_keeps_the_sign_in_where_only_its_owner_can_read_it(door: Door, signed_in: Run, environment: dict[str, str]) -> None:
    path = Path(environment["HORTUS_CONFIG"])
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    door.on("GET", "/users/me", USER)
    door.on("GET", "/sessions", {"items": [{"session_id": "s1", "current": True}], "next": None})
    ended = signed_in("whoami", "--json")
    assert (json.loads(ended.stdout)["username"], json.loads(ended.stdout)["session"]["session_id"]) == ("ada", "s1")
    assert door.asked[0].headers["authorization"] == "Bearer the-t0ken"


def test_a_password_comes_from_a_file_and_is_never_printed(door: Door, run: Run, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("from the file\n")
    door.on("POST", "/sessions", Answer(201, SESSION))
    ended = run("login", "ada", "--address", door.address, "--code", "1", "--password-file", str(tmp_path / "password"), "--json")
    assert door.asked[0].json["password"] == "from the file"
    assert "from the file" not in ended.stdout + ended.stderr
    assert "the-t0ken" not in ended.stdout + ended.stderr


def test_there_is_no_option_that_takes_a_password(run: Run, door: Door) -> None:
    ended = run("login", "ada", "--address", door.address, "--password", "secret")
    assert ended.returncode == 2


def test_a_sign_in_that_others_can_read_is_not_used(signed_in: Run, door: Door, environment: dict[str, str]) -> None:
    Path(environment["HORTUS_CONFIG"]).chmod(0o644)
    ended = signed_in("whoami")
    assert ended.returncode == 1
    assert "chmod 600" in ended.stderr
    assert door.asked == []


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (problem(403, "role-may-not", "Your role may not do this"), 1),
        (problem(401, "not-signed-in", "Sign in first"), 3),
        (problem(404, "not-found", "There is no such project"), 4),
        (problem(409, "name-taken", "The name is taken"), 5),
        (problem(503, "not-fresh", "Cannot decide now"), 6),
        (problem(503, "answer-held-back", "It was done"), 7),
        (Answer(lose=True), 6),
    ],
    ids=["refused", "not signed in", "not found", "conflict", "cannot decide", "done", "lost"],
)
def test_every_error_is_a_sentence_and_a_number(door: Door, signed_in: Run, answer: Answer, code: int) -> None:
    door.on("GET", f"/projects/{P}", answer)
    ended = signed_in("projects", "show", P, "--json")
    assert ended.returncode == code
    assert ended.stdout == ""
    assert ended.stderr.endswith(".\n")
    assert "Traceback" not in ended.stderr


def test_without_a_sign_in_the_number_is_three(run: Run) -> None:
    ended = run("projects", "list")
    assert ended.returncode == 3
    assert ended.stderr == "You are not signed in: run `hortus login`.\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["nothing"],
        ["datasets", "put"],
        ["members", "add", "bob", "king", "-p", "x"],
        ["setup", "http://x/#y"],
        ["jobs", "run", "/none", "-p", "x"],
    ],
)
def test_what_is_not_understood_is_two(run: Run, arguments: list[str]) -> None:
    ended = run(*arguments)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr


def test_the_next_command_is_answered_by_parts_that_know_what_the_last_one_did(door: Door, signed_in: Run) -> None:
    door.on("POST", "/projects", Answer(201, {"project_id": P, "name": "study"}, {"Hortus-Facts": f"projects:{P}:1"}))
    door.on("GET", "/projects", {"items": [], "next": None})
    assert signed_in("projects", "create", "study").returncode == 0
    assert signed_in("projects", "list").returncode == 0
    assert door.asked[1].headers["hortus-after"] == f"projects:{P}:1"


def test_a_name_is_looked_up_and_an_ambiguous_one_is_asked_about(door: Door, signed_in: Run) -> None:
    two = {"items": [{"name": "study", "project_id": P}, {"name": "study", "project_id": D}], "next": None}
    one = {"items": [{"name": "study", "project_id": P}, {"name": "other", "project_id": D}], "next": None}
    door.on("GET", "/projects", two, one, one)
    door.on("GET", f"/projects/{P}", {"name": "study", "project_id": P})
    ambiguous = signed_in("projects", "show", "study")
    assert ambiguous.returncode == 2
    assert P in ambiguous.stderr
    assert signed_in("projects", "show", "study").returncode == 0
    assert signed_in("projects", "show", "nobody's").returncode == 4


def test_a_folder_is_put_in_with_its_tree(door: Door, signed_in: Run, tmp_path: Path) -> None:
    (tmp_path / "scans" / "a").mkdir(parents=True)
    (tmp_path / "scans" / "a" / "1.dcm").write_bytes(b"one")
    (tmp_path / "scans" / "2.dcm").write_bytes(b"two")
    for name in ("mri/a/1.dcm", "mri/2.dcm"):
        door.on("PUT", f"/projects/{P}/datasets/{D}/files/{name}", stored)
    ended = signed_in("datasets", "put", D, str(tmp_path / "scans"), "--project", P, "--to", "mri/", "--json")
    assert [file["path"] for file in json.loads(ended.stdout)] == ["mri/2.dcm", "mri/a/1.dcm"]


def test_files_come_out_to_a_folder_and_a_name_that_would_leave_it_is_an_error(door: Door, signed_in: Run, tmp_path: Path) -> None:
    files = f"/projects/{P}/datasets/{D}/files"
    door.on(
        "GET",
        files,
        {"items": [described(b"model", "a/model.pt")], "next": None},
        {"items": [described(b"evil", "../../evil")], "next": None},
    )
    door.on("GET", f"{files}/a/model.pt", Answer(body=b"model"))
    assert signed_in("datasets", "get", D, "-p", P, "--to", str(tmp_path / "out")).returncode == 0
    assert (tmp_path / "out" / "a" / "model.pt").read_bytes() == b"model"
    assert signed_in("datasets", "get", D, "-p", P, "--to", str(tmp_path / "out" / "a")).returncode == 1
    assert not list(tmp_path.glob("**/evil"))


def test_the_end_of_a_role_can_be_moved_and_taken_away(door: Door, signed_in: Run) -> None:
    members = f"/projects/{P}/members"
    door.on("GET", members, {"items": [{"username": "bob", "user_id": "u2", "version": 3}], "next": None})
    door.on("PATCH", f"{members}/u2", {"username": "bob"})
    assert signed_in("members", "change", "bob", "-p", P, "--ends", "2030-01-01T00:00:00Z").returncode == 0
    assert signed_in("members", "change", "bob", "-p", P, "--ends", "never").returncode == 0
    sent = [(asked.json, asked.headers["if-match"]) for asked in door.asked if asked.method == "PATCH"]
    assert sent == [({"ends_at": "2030-01-01T00:00:00Z"}, '"3"'), ({"ends_at": None}, '"3"')]


def test_a_watched_job_that_fails_makes_the_command_fail(door: Door, signed_in: Run, tmp_path: Path) -> None:
    program = tmp_path / "train.py"
    program.write_text("print('hello')\n")
    job: dict[str, Any] = {"job_id": D, "name": "train", "state": "queued", "reason": None, "metrics": {}}
    door.on("POST", f"/projects/{P}/jobs", Answer(201, job))
    door.on("GET", f"/projects/{P}/jobs/{D}", job, {**job, "state": "failed", "reason": "exit code 1"})
    ended = signed_in("jobs", "run", str(program), "-p", P, "--input", D, "--watch", "--json", "-a", "--epochs", "-a", "3")
    assert ended.returncode == 1
    assert json.loads(ended.stdout)["state"] == "failed"
    assert ended.stderr.splitlines() == [f"train is job {D}.", "train: queued", "train: failed", "The job failed: exit code 1."]
    sent = door.asked[0].json
    assert sent["program"] == "print('hello')\n"
    assert (sent["inputs"], sent["arguments"], sent["environment"]) == ([D], ["--epochs", "3"], "python")


def test_a_log_cannot_steer_the_terminal(door: Door, signed_in: Run) -> None:
    log = {"text": "[red]loss\x1b]0;owned\x07 0.1", "truncated": True, "budget_left": 7, "run_state": "running"}
    door.on("GET", f"/projects/{P}/jobs/{D}/log", log)
    ended = signed_in("jobs", "log", D, "-p", P)
    assert "\x1b" not in ended.stdout
    assert "[red]loss" in ended.stdout
    assert "7 bytes" in ended.stderr


def test_accepting_an_invitation_shows_the_second_factor_and_asks_for_a_code(door: Door, run: Run) -> None:
    factor = {"username": "ada", "totp_secret": "ABC", "totp_uri": "otpauth://totp/x"}
    door.on("POST", "/invitations/acceptance", factor)
    door.on("POST", "/invitations/confirmation", USER)
    ended = run("accept", "t0ken", "--address", door.address, "--json", typed="654321\n", HORTUS_PASSWORD="correct horse battery")
    assert ended.returncode == 0
    assert json.loads(ended.stdout) == factor
    assert door.asked[1].json == {"token": "t0ken", "code": "654321"}


def test_the_one_time_link_names_the_place_and_carries_the_token(door: Door, run: Run) -> None:
    door.on("POST", "/invitations/acceptance", {"username": "admin", "totp_secret": "ABC", "totp_uri": "otpauth://totp/x"})
    door.on("POST", "/invitations/confirmation", {**USER, "username": "admin"})
    ended = run("setup", f"{door.address}/setup#t0ken", typed="1\n", HORTUS_PASSWORD="correct horse battery")
    assert ended.returncode == 0, ended.stderr
    assert door.asked[0].json["token"] == "t0ken"


def test_signing_out_ends_the_session_and_forgets_it(door: Door, signed_in: Run, environment: dict[str, str]) -> None:
    door.on("DELETE", "/sessions/s1", Answer(204))
    assert signed_in("logout").returncode == 0
    assert "the-t0ken" not in Path(environment["HORTUS_CONFIG"]).read_text()
    assert signed_in("whoami").returncode == 3


def test_the_list_of_records_shows_where_strangers_came_from(door: Door, signed_in: Run) -> None:
    known, stranger = ledger("gateway-1", 2)
    stranger |= {"actor": {"principal": "nobody"}, "action": "session.create", "outcome": "refused", "address": "198.51.100.7"}
    door.on("GET", "/audit/records", {"items": [known, stranger], "next": None})
    listed = signed_in("audit", "list", "--json")
    assert [record.get("address") for record in json.loads(listed.stdout)] == [None, "198.51.100.7"]
    heads, first, second = signed_in("audit", "list", COLUMNS="200").stdout.splitlines()
    assert heads.split()[:3] == ["at", "who", "address"]
    assert ("198.51.100.7" in first, second.split()[2:4]) == (False, ["nobody", "198.51.100.7"])


def test_verifying_says_what_does_not_hold_and_fails(door: Door, signed_in: Run, tmp_path: Path) -> None:
    records: Any = ledger("auth", 3)
    door.on("GET", "/audit/chains", {"items": [chain_of(records)], "next": None})
    door.on("GET", "/audit/records", {"items": records, "next": None})
    held = signed_in("audit", "verify", "--json")
    assert held.returncode == 0, held.stderr
    (tmp_path / "heads").write_text(held.stdout)
    assert signed_in("audit", "verify", "--earlier", str(tmp_path / "heads")).returncode == 0
    door.on("GET", "/audit/records", {"items": [*records[:1], *records[2:]], "next": None})
    broken = signed_in("audit", "verify", "--json")
    assert broken.returncode == 1
    assert "Where number 2 should stand there is number 3." in broken.stderr


def test_interrupting_ends_cleanly_and_leaves_no_half_file(door: Door, signed_in: Run, environment: dict[str, str], tmp_path: Path) -> None:
    held = threading.Event()
    released = threading.Event()

    def slow(_: Asked) -> Answer:
        held.set()
        released.wait(30)
        return Answer(body=b"model")

    files = f"/projects/{P}/datasets/{D}/files"
    door.on("GET", files, {"items": [described(b"model", "model.pt")], "next": None})
    door.on("GET", f"{files}/model.pt", slow)
    command = [sys.executable, "-m", "hortus.cli", "datasets", "get", D, "-p", P, "--to", str(tmp_path / "out")]
    # In a shell's background job SIGINT is ignored, and children inherit that.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=heed)  # noqa: PLW1509 - one thread's worth of work between fork and exec
    assert held.wait(30)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    released.set()
    assert process.returncode == 130
    assert "Traceback" not in said
    assert list((tmp_path / "out").iterdir()) == []


def test_the_hash_of_a_put_file_is_shown(door: Door, signed_in: Run, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"content")
    door.on("PUT", f"/projects/{P}/datasets/{D}/files/f", stored)
    ended = signed_in("datasets", "put", D, str(tmp_path / "f"), "-p", P, "--json")
    assert json.loads(ended.stdout)[0]["sha256"] == hashlib.sha256(b"content").hexdigest()


def test_an_agent_is_withdrawn_by_its_name(door: Door, signed_in: Run) -> None:
    gone, there = [{"agent_id": f"0198c0de-0000-7000-8000-00000000000{n}", "name": "node", "live": bool(n)} for n in (0, 1)]
    door.on("GET", "/agents", {"items": [gone, there], "next": None})
    door.on("DELETE", f"/agents/{there['agent_id']}", Answer(204))
    ended = signed_in("agents", "withdraw", "node")
    assert (ended.returncode, ended.stdout) == (0, ""), ended.stderr
    assert door.paths()[-1] == f"DELETE /agents/{there['agent_id']}"
    assert "withdrawn" in ended.stderr


def test_a_one_time_token_is_taken_from_the_environment(door: Door, run: Run) -> None:
    door.on("POST", "/invitations/acceptance", problem(404, "invitation-not-open", "This invitation is not known"))
    ended = run("accept", "--address", door.address, HORTUS_INVITATION="invitation_x", HORTUS_PASSWORD="correct horse battery")
    assert ended.returncode == 4
    assert json.loads(door.asked[-1].body)["token"] == "invitation_x"


def test_a_project_is_made_changed_archived_and_restored_with_all_that_is_known_of_it(door: Door, signed_in: Run) -> None:
    shown = {"project_id": P, "name": "wdbc", "state": "active", "version": 3}
    door.on("POST", "/projects", Answer(201, shown))
    door.on("GET", f"/projects/{P}", shown)
    door.on("PATCH", f"/projects/{P}", shown)
    door.on("POST", f"/projects/{P}/archive", shown)
    door.on("POST", f"/projects/{P}/restoration", shown)
    lawful = ("--legal-basis", "consent", "--ethics-approval", "EK 7", "--ends", "2030-01-01T00:00:00Z")
    for words in (
        ("create", "wdbc", *lawful),
        ("change", P, "--purpose", "Study 8", "--ends", "never"),
        ("archive", P),
        ("restore", P),
        ("restore", P, "--ends", "never"),
    ):
        ended = signed_in("projects", *words, "--json")
        assert (ended.returncode, json.loads(ended.stdout)) == (0, shown), ended.stderr
    sent = [(asked.path.rpartition("/")[2], asked.json if asked.body else None) for asked in door.asked if asked.method != "GET"]
    ends = "2030-01-01T00:00:00Z"
    assert sent == [
        (
            "projects",
            {"name": "wdbc", "description": "", "purpose": "", "legal_basis": "consent", "ethics_approval_id": "EK 7", "ends_at": ends},
        ),
        (P, {"purpose": "Study 8", "ends_at": None}),
        ("archive", None),
        ("restoration", {}),
        ("restoration", {"ends_at": None}),
    ]


def of_deletion(state: str, *awaited: str) -> dict[str, Any]:
    return {"project_id": P, "name": "wdbc", "state": state, "deletion": {"closed": [], "purged": [], "awaited": list(awaited)}}


ERASED = {
    "project_id": P,
    "asked_by": "u",
    "asked_at": "2026-01-01T00:00:00Z",
    "erased_at": "2026-01-01T00:01:00Z",
    "document": json.dumps({"services": {"jobs": {"closed_at": None, "purged_at": None, "removed": {"jobs": 3}, "kept": {}}}}),
}
ERASED["sha256"] = hashlib.sha256(ERASED["document"].encode()).hexdigest()


def test_a_project_is_deleted_by_who_repeats_its_name(door: Door, signed_in: Run) -> None:
    door.on("GET", f"/projects/{P}", {"project_id": P, "name": "wdbc", "state": "active"})
    door.on("POST", f"/projects/{P}/deletion", Answer(202, of_deletion("closing", "jobs")))
    asked = signed_in("projects", "delete", P)
    assert (asked.returncode, "--yes-delete NAME" in asked.stderr) == (1, True)
    assert [each.method for each in door.asked] == ["GET"]
    ended = signed_in("projects", "delete", P, "--yes-delete", "wdbc", "--json")
    assert (ended.returncode, json.loads(ended.stdout)["state"]) == (0, "closing"), ended.stderr
    assert door.asked[-1].json == {"name": "wdbc"}
    assert f"hortus projects erasure {P}" in ended.stderr


def test_a_deletion_is_watched_until_its_certificate_is_there(door: Door, signed_in: Run) -> None:
    door.on(
        "GET",
        f"/projects/{P}",
        {"project_id": P, "name": "wdbc", "state": "active"},
        of_deletion("closing", "ca", "jobs"),
        of_deletion("purging", "jobs"),
        problem(404, "not-found", "No such resource"),
    )
    door.on("POST", f"/projects/{P}/deletion", Answer(202, of_deletion("closing", "ca", "jobs")))
    door.on("GET", f"/erasure-certificates/{P}", ERASED)
    ended = signed_in("projects", "delete", P, "--yes-delete", "wdbc", "--watch")
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.splitlines() == ["closing, waits for ca, jobs", "purging, waits for jobs"]
    assert ERASED["sha256"] in ended.stdout
    assert "jobs 3" in ended.stdout


def test_the_certificate_of_erasure_is_shown_in_words_for_machines_and_as_it_was_hashed(door: Door, signed_in: Run) -> None:
    door.on("GET", f"/erasure-certificates/{P}", ERASED)
    assert json.loads(signed_in("projects", "erasure", P, "--json").stdout) == ERASED
    assert signed_in("projects", "erasure", P, "--document").stdout == ERASED["document"]
    assert "jobs 3" in signed_in("projects", "erasure", P).stdout


def test_the_list_of_erasures_shows_for_which_services_a_deletion_waits(door: Door, signed_in: Run) -> None:
    hangs = {**ERASED, "state": "purging", "awaited": ["datasets", "jobs"], "erased_at": None, "sha256": None, "document": None}
    listed = [hangs, {**ERASED, "state": "deleted", "awaited": []}]
    door.on("GET", "/erasure-certificates", {"items": listed, "next": None})
    assert json.loads(signed_in("projects", "erasure", "--json").stdout) == listed
    heads, first, second = signed_in("projects", "erasure", COLUMNS="220").stdout.splitlines()
    assert heads.split()[:4] == ["project", "id", "state", "awaited"]
    assert first.split()[:4] == [P, "purging", "datasets,", "jobs"]
    assert (second.split()[:2], ERASED["sha256"] in second) == ([P, "deleted"], True)
