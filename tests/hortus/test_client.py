"""The library's side of the doors."""

import hashlib
import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from hortus.client import Altered, Client, FileMemory, HortusError, Memory, Refused, Unreachable, check_records, inside, new_key
from tests.hortus.door import Answer, Asked, Door, ledger, make_certificates, problem, with_hashes


def test_a_problem_becomes_a_refusal_with_its_slug_and_sentences(door: Door, client: Client) -> None:
    door.on("GET", "/projects/p", problem(403, "role-may-not", "Your role may not do this", "Ask a Data Owner."))
    with pytest.raises(Refused) as caught:
        client.projects.get("p")
    assert (caught.value.status, caught.value.slug) == (403, "role-may-not")
    assert str(caught.value) == "Your role may not do this: Ask a Data Owner."


def test_an_answer_that_is_no_problem_document_is_still_one_sentence(door: Door, client: Client) -> None:
    door.on("GET", "/users/me", Answer(500, b"<html>\x1b[31m", {"Content-Type": "text/html"}))
    with pytest.raises(Refused) as caught:
        client.users.me()
    assert str(caught.value) == "Internal Server Error."


def test_escape_sequences_in_a_problem_do_not_reach_the_terminal(door: Door, client: Client) -> None:
    door.on("GET", "/users/me", problem(403, "x", "bad\x1b[2Jthing"))
    with pytest.raises(Refused) as caught:
        client.users.me()
    assert "\x1b" not in str(caught.value)


def test_the_token_is_shown_and_identity_headers_are_not_invented(door: Door, client: Client) -> None:
    door.on("GET", "/users/me", {"username": "ada"})
    client.users.me()
    headers = door.asked[0].headers
    assert headers["authorization"] == "Bearer t0ken"
    assert not [name for name in headers if name.startswith("hortus-")]


def test_the_facts_of_an_answer_are_sent_back_with_the_next_request(door: Door, client: Client) -> None:
    facts = "projects:p1:1, memberships:p1%3Au1:3"
    door.on("POST", "/projects", Answer(201, {"project_id": "p1"}, {"Hortus-Facts": facts}))
    door.on("GET", "/projects/p1", {})
    client.projects.create("study")
    client.projects.get("p1")
    assert "hortus-after" not in door.asked[0].headers
    assert door.asked[1].headers["hortus-after"] == facts


def test_an_older_version_of_a_fact_does_not_replace_a_newer_one() -> None:
    memory = Memory()
    memory.learn("projects:p:7")
    memory.learn("projects:p:3, nonsense, a:b, c:d:-1")
    assert memory.header() == "projects:p:7"


def test_a_memory_keeps_only_the_newest_facts() -> None:
    memory = Memory()
    for number in range(100):
        memory.learn(f"jobs:{number}:1")
    kept = (memory.header() or "").split(", ")
    assert len(kept) == 24
    assert kept[-1] == "jobs:99:1"


def test_the_next_command_knows_what_the_last_one_caused_and_another_sign_in_does_not(tmp_path: Path) -> None:
    path = tmp_path / "facts"
    FileMemory(path, "session-1").learn("projects:p:2")
    assert FileMemory(path, "session-1").header() == "projects:p:2"
    assert FileMemory(path, "session-2").header() is None
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_torn_memory_file_is_an_empty_memory(tmp_path: Path) -> None:
    path = tmp_path / "facts"
    path.write_text('{"sign_in": "s", "facts": {"a:b"')
    memory = FileMemory(path, "s")
    assert memory.header() is None
    memory.learn("a:b:1")
    assert FileMemory(path, "s").header() == "a:b:1"


def test_a_creating_post_is_repeated_after_a_lost_connection_with_the_same_idempotency_key(door: Door, client: Client) -> None:
    door.on("POST", "/projects", Answer(lose=True), Answer(201, {"project_id": "p"}))
    assert client.projects.create("study")["project_id"] == "p"
    keys = [asked.headers["idempotency-key"] for asked in door.asked]
    assert len(keys) == 2
    assert keys[0] == keys[1]


def test_two_creations_have_two_idempotency_keys(door: Door, client: Client) -> None:
    door.on("POST", "/projects", Answer(201, {}))
    client.projects.create("study")
    client.projects.create("study")
    assert door.asked[0].headers["idempotency-key"] != door.asked[1].headers["idempotency-key"]


def test_a_sign_in_is_not_repeated_after_a_lost_connection_because_its_code_counts_once(door: Door, client: Client) -> None:
    door.on("POST", "/sessions", Answer(lose=True))
    with pytest.raises(Unreachable):
        client.sessions.create("ada", "a long password", "123456")
    assert door.paths() == ["POST /sessions"]


def test_an_update_is_not_repeated_after_a_lost_connection(door: Door, client: Client) -> None:
    door.on("PATCH", "/projects/p", Answer(lose=True))
    with pytest.raises(Unreachable):
        client.projects.change("p", description="new", version=3)
    assert len(door.asked) == 1


def test_a_503_with_retry_after_is_asked_again_and_one_without_is_not(door: Door, client: Client) -> None:
    door.on("GET", "/users/me", problem(503, "not-fresh", "Cannot decide now", Retry_After="0"), {"username": "ada"})
    assert client.users.me()["username"] == "ada"
    door.on("GET", "/users/me", problem(503, "not-fresh", "Cannot decide now"))
    with pytest.raises(Refused) as caught:
        client.users.me()
    assert caught.value.status == 503
    assert len(door.asked) == 3


def test_repeating_ends(door: Door, client: Client) -> None:
    door.on("GET", "/users/me", problem(503, "not-fresh", "Cannot decide now", Retry_After="0"))
    with pytest.raises(Refused):
        client.users.me()
    assert len(door.asked) == 4


def test_a_retry_after_longer_than_the_patience_is_not_waited_for(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    door.on("GET", "/users/me", problem(503, "not-fresh", "Cannot decide now", Retry_After="3600"))
    with Client(door.address, door.root, token="t", patience=1.0) as client, pytest.raises(Refused):
        client.users.me()
    assert (pauses, len(door.asked)) == ([], 1)


def test_a_removal_whose_answer_was_lost_has_happened(door: Door, client: Client) -> None:
    door.on("DELETE", "/projects/p/members/u", Answer(lose=True), problem(404, "not-found", "No such member"))
    client.members.remove("p", "u")
    assert len(door.asked) == 2


HELD_BACK = problem(503, "answer-held-back", "It was done; its answer cannot be shown at this moment", Retry_After="0")


def test_what_was_done_and_cannot_be_shown_is_not_done_again(door: Door, client: Client) -> None:
    door.on("DELETE", "/projects/p/certificates/c", HELD_BACK, problem(404, "not-found", "No such certificate"))
    client.certificates.revoke("p", "c")
    door.on("PATCH", "/projects/p", HELD_BACK, problem(412, "changed-meanwhile", "It was changed meanwhile"))
    with pytest.raises(Refused, match="It was done"):
        client.projects.change("p", description="new", version=3)
    assert door.paths() == ["DELETE /projects/p/certificates/c", "PATCH /projects/p"]


def test_nobody_is_said_to_be_no_member_any_more_where_it_is_not_known_what_remains_to_them(door: Door, client: Client) -> None:
    for path, deed in (
        ("/projects/p/members/u", lambda: client.members.remove("p", "u")),
        ("/projects/p/members/me", lambda: client.members.leave("p")),
        ("/break-glass/b", lambda: client.break_glass.end("b")),
    ):
        door.on("DELETE", path, HELD_BACK)
        with pytest.raises(Refused, match="It was done"):
            deed()
    assert len(door.asked) == 3


def test_a_removal_that_asks_for_a_fresh_factor_is_asked_for_again_where_the_answer_to_the_factor_cannot_be_shown(
    door: Door,
) -> None:
    too_old = problem(401, "factor-too-old", "Show your second factor again")
    door.on("DELETE", "/projects/p/certificates/c", too_old, Answer(204))
    door.on("POST", "/sessions/current/factor", HELD_BACK)
    with Client(door.address, door.root, token="t", factor=lambda: {"code": "123456"}) as client:
        client.certificates.revoke("p", "c")
    assert door.paths() == ["DELETE /projects/p/certificates/c", "POST /sessions/current/factor", "DELETE /projects/p/certificates/c"]


def test_what_was_made_and_could_not_be_shown_is_asked_for_again_with_its_key(door: Door, client: Client) -> None:
    door.on("POST", "/projects", HELD_BACK, Answer(201, {"project_id": "p"}))
    assert client.projects.create("study")["project_id"] == "p"
    assert len({asked.headers["idempotency-key"] for asked in door.asked}) == 1


def test_a_removal_of_what_never_was_is_refused(door: Door, client: Client) -> None:
    door.on("DELETE", "/projects/p/members/u", problem(404, "not-found", "No such member"))
    with pytest.raises(Refused):
        client.members.remove("p", "u")


def test_an_update_names_the_version_it_read(door: Door, client: Client) -> None:
    door.on("GET", "/projects/p", {"version": 7})
    door.on("PATCH", "/projects/p", {"version": 8})
    client.projects.change("p", description="new")
    assert door.asked[1].headers["if-match"] == '"7"'


def test_a_list_is_read_page_after_page(door: Door, client: Client) -> None:
    def page(asked: Asked) -> Answer:
        after = int(asked.query.get("after", 0))
        return Answer(body={"items": [{"name": str(after)}, {"name": str(after + 1)}], "next": str(after + 2) if after < 4 else None})

    door.on("GET", "/projects", page)
    assert [project["name"] for project in client.projects.list()] == ["0", "1", "2", "3", "4", "5"]
    assert len(door.asked) == 3


def stored(asked: Asked) -> Answer:
    path = asked.path.partition("/files/")[2]
    return Answer(201, {"path": path, "size": len(asked.body), "sha256": hashlib.sha256(asked.body).hexdigest(), "version": 1})


def test_a_file_arrives_whole_with_its_hash_named_before_and_progress_told(door: Door, client: Client, tmp_path: Path) -> None:
    source = tmp_path / "scan.bin"
    source.write_bytes(bytes(range(256)) * 10_000)
    door.on("PUT", "/projects/p/datasets/d/files/a b/ü#?.bin", stored)
    told: list[int] = []
    client.datasets.put("p", "d", source, "a b/ü#?.bin", told.append)
    asked = door.asked[0]
    assert asked.body == source.read_bytes()
    assert asked.headers["hortus-content-sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert sum(told) == source.stat().st_size


def test_a_file_is_sent_again_after_a_lost_connection(door: Door, client: Client, tmp_path: Path) -> None:
    source = tmp_path / "scan.bin"
    source.write_bytes(b"x" * 3_000_000)
    door.on("PUT", "/projects/p/datasets/d/files/f", Answer(lose=True), stored)
    assert client.datasets.put("p", "d", source, "f")["size"] == 3_000_000


def test_an_empty_file_can_be_put_in(door: Door, client: Client, tmp_path: Path) -> None:
    source = tmp_path / "empty"
    source.touch()
    door.on("PUT", "/projects/p/datasets/d/files/empty", stored)
    assert client.datasets.put("p", "d", source, "empty")["size"] == 0


def test_a_stream_that_was_stored_as_something_else_is_an_error(door: Door, client: Client) -> None:
    door.on("PUT", "/projects/p/datasets/d/files/f", Answer(201, {"path": "f", "sha256": "0" * 64}))
    with pytest.raises(Altered):
        client.datasets.put("p", "d", [b"one", b"two"], "f")
    assert door.asked[0].body == b"onetwo"


def test_a_stream_is_not_sent_again_where_it_is_asked_for_later(door: Door, client: Client) -> None:
    door.on("PUT", "/projects/p/datasets/d/files/f", problem(503, "cannot-decide", "Not now", Retry_After="0"), stored)
    with pytest.raises(Refused, match="Not now"):
        client.datasets.put("p", "d", [b"one", b"two"], "f")
    assert len(door.asked) == 1


def test_a_missing_file_is_one_sentence(client: Client, tmp_path: Path) -> None:
    with pytest.raises(HortusError, match="cannot be read"):
        client.datasets.put("p", "d", tmp_path / "none", "f")


def described(content: bytes, path: str = "f") -> Any:
    return {
        "path": path,
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "version": 1,
        "origins": [],
        "created_at": "",
    }


def test_a_download_appears_whole(door: Door, client: Client, tmp_path: Path) -> None:
    content = b"model" * 500_000
    door.on("GET", "/projects/p/datasets/d/files", {"items": [described(content)], "next": None})
    door.on("GET", "/projects/p/datasets/d/files/f", Answer(body=content))
    target = client.datasets.download("p", "d", "f", tmp_path / "out" / "f")
    assert target.read_bytes() == content
    assert [path.name for path in target.parent.iterdir()] == ["f"]


@pytest.mark.parametrize("answer", [Answer(body=b"moDel"), Answer(body=b"model", cut=2)], ids=["another content", "cut off"])
def test_a_download_that_is_not_what_was_stored_leaves_nothing_behind(door: Door, client: Client, tmp_path: Path, answer: Answer) -> None:
    door.on("GET", "/projects/p/datasets/d/files/f", answer)
    kept = tmp_path / "out" / "f"
    kept.parent.mkdir()
    kept.write_bytes(b"earlier")
    with pytest.raises((Altered, Unreachable)):
        client.datasets.download("p", "d", described(b"model"), kept)
    assert [path.name for path in kept.parent.iterdir()] == ["f"]
    assert kept.read_bytes() == b"earlier"


def test_a_refused_download_makes_no_file(door: Door, client: Client, tmp_path: Path) -> None:
    door.on("GET", "/projects/p/datasets/d/files/f", problem(403, "origins-are-foreign", "The bytes came from elsewhere"))
    with pytest.raises(Refused) as caught:
        client.datasets.download("p", "d", described(b"model"), tmp_path / "out" / "f")
    assert caught.value.slug == "origins-are-foreign"
    assert list((tmp_path / "out").iterdir()) == []


def test_a_file_that_is_not_listed_is_refused_with_the_servers_reason(door: Door, client: Client, tmp_path: Path) -> None:
    door.on("GET", "/projects/p/datasets/d/files", {"items": [], "next": None})
    door.on("GET", "/projects/p/datasets/d/files/f", problem(403, "origins-are-foreign", "The bytes came from elsewhere"))
    with pytest.raises(Refused) as caught:
        client.datasets.download("p", "d", "f", tmp_path / "out" / "f")
    assert caught.value.slug == "origins-are-foreign"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["../f", "/etc/passwd", "a/../../f", "", "."])
def test_a_file_name_that_would_leave_the_folder_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(HortusError):
        inside(tmp_path, name)


def test_a_server_that_the_root_does_not_vouch_for_is_not_spoken_to(door: Door, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    make_certificates(other)
    with Client(door.address, other / "root.pem", token="secret") as client, pytest.raises(Unreachable, match="does not vouch"):
        client.users.me()
    assert door.asked == []


def test_an_address_without_tls_is_refused(door: Door) -> None:
    with pytest.raises(HortusError, match="https"):
        Client("http://localhost:1", door.root)


def test_nobody_listening_is_one_sentence(door: Door) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"https://localhost:{free.getsockname()[1]}"
    with Client(address, door.root, patience=0.3) as client, pytest.raises(Unreachable, match="cannot be reached"):
        client.users.me()


def test_waiting_for_a_job_tells_each_state_once(door: Door, client: Client) -> None:
    states = ["queued", "queued", "running", "succeeded"]
    door.on("GET", "/projects/p/jobs/j", *({"state": state, "name": "n"} for state in states))
    told: list[str] = []
    job = client.jobs.wait("p", "j", changed=lambda job: told.append(job["state"]))
    assert job["state"] == "succeeded"
    assert told == ["queued", "running", "succeeded"]


def test_a_csr_is_for_a_key_that_stays_here() -> None:
    made = new_key("project__ada")
    assert made.key.startswith(b"-----BEGIN PRIVATE KEY-----")
    assert "PRIVATE" not in made.csr


def chain_of(records: list[Any]) -> Any:
    return {
        "source": "auth",
        "first": 1,
        "last": len(records),
        "count": len(records),
        "head": records[-1]["chain_hash"],
        "gaps": [],
    }


def test_a_right_ledger_holds() -> None:
    records: Any = ledger("auth", 20)
    check = check_records("auth", records, chain_of(records), (7, records[6]["chain_hash"]))
    assert check.findings == []
    assert check.head == records[-1]["chain_hash"]


def test_a_changed_record_is_found() -> None:
    records: Any = ledger("auth", 5)
    changed = json.loads(json.dumps({name: value for name, value in records[2].items() if name not in {"leaf_hash", "chain_hash"}}))
    changed["outcome"] = "refused"
    canonical = json.dumps({name: value for name, value in changed.items() if name != "canonical"}).encode()
    records[2] = with_hashes(changed, canonical, bytes.fromhex(records[1]["chain_hash"]))
    assert "The chain is broken at record 4." in check_records("auth", records).findings


def test_a_record_shown_with_another_content_than_was_hashed_is_found() -> None:
    records: Any = ledger("auth", 5)
    records[2] = {**records[2], "outcome": "refused"}
    assert check_records("auth", records).findings == ["Record 3 is shown with another content than was hashed."]


def test_a_record_taken_out_is_found() -> None:
    records: Any = ledger("auth", 5)
    del records[2]
    assert check_records("auth", records).findings == ["Where number 3 should stand there is number 4."]


def test_a_ledger_cut_short_is_found() -> None:
    records: Any = ledger("auth", 5)
    chain = chain_of(records)
    found = check_records("auth", records[:3], chain, (4, records[3]["chain_hash"])).findings
    assert found == [
        "The chain ends before the ledger's own head at record 5.",
        "The chain ends before the head noted before at record 4.",
    ]


def test_a_ledger_written_anew_does_not_pass_through_an_earlier_head() -> None:
    records: Any = ledger("auth", 5)
    assert check_records("auth", records, None, (3, "00" * 32)).findings == ["At record 3 the chain is not the head noted before."]


def test_verifying_asks_for_every_source_and_misses_one_that_is_gone(door: Door, client: Client) -> None:
    auth: Any = ledger("auth", 3)
    door.on("GET", "/audit/chains", {"items": [chain_of(auth)], "next": None})
    door.on("GET", "/audit/records", {"items": auth, "next": None})
    checks = client.audit.verify({"ca": (1, "00")})
    assert [(check.source, check.holds) for check in checks] == [("auth", True), ("ca", False)]
    assert door.asked[1].query["source"] == "auth"
